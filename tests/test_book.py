"""The book: notebooks in their committed form, pages, settings, and, where it is built, the HTML."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import papermill
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Parameters with which a notebook runs in seconds, where its smoke profile takes longer; by name.
TINY = {"00_quickstart": {"epochs": 1}}
# What readers rerun with parameters; `make book` runs every notebook, and stops at a check that does not hold.
RERUN = [path for path in NOTEBOOKS if path.stem[:2] in ("00", "08", "09", "10", "11", "12", "13")]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
built = pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="the book is not built: make book")


def tool(name: str):
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "book" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_lines(cell) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())


# --- notebooks as they are committed ---


@each_notebook
def test_notebook_is_stripped_and_normal(path):
    notebooks = tool("tools/notebooks.py")
    assert path.read_text(encoding="utf-8") == notebooks.text(notebooks.normal(read(path))), "run: make bootstrap"


@each_notebook
def test_notebook_is_valid_with_the_plain_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@each_notebook
def test_notebook_begins_with_one_title(path):
    first, *rest = read(path).cells
    assert first.cell_type == "markdown"
    assert re.search(r"^# \S", first.source, re.MULTILINE)
    assert not [cell.id for cell in rest if cell.cell_type == "markdown" and re.match(r"# ", cell.source)]


@each_notebook
def test_parameters_come_first_and_papermill_sees_them_all(path):
    cell = code_cells(path)[0]
    assert tags(cell) == ["parameters"]
    lines = cell.source.splitlines()
    names = [re.fullmatch(r"([a-z][a-z0-9_]*): [a-z\[\], ]+ = [^=|]+  # [^=]+", line) for line in lines]
    assert all(names), [line for line, found in zip(lines, names, strict=True) if not found]
    seen = papermill.inspect_notebook(str(path))
    assert list(seen) == [found[1] for found in names]
    assert all(about["help"] for about in seen.values())


@each_notebook
def test_bootstrap_comes_second_and_is_everywhere_the_same(path):
    cell = code_cells(path)[1]
    assert sorted(tags(cell)) == ["bootstrap", "hide-input"]
    assert cell.source == (ROOT / "book" / "bootstrap.py").read_text(encoding="utf-8").rstrip("\n")


@each_notebook
def test_code_cells_are_short(path):
    lengths = [code_lines(cell) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 30


def assert_described(cell) -> None:
    """A cell that shows a figure gives it a caption, a name to refer to and an alternative text."""
    held = cell.metadata.get("mystnb", {})
    figure, image = held.get("figure", {}), held.get("image", {})
    assert len(figure.get("caption", "")) >= 20, cell.id
    assert figure.get("name", "").startswith("fig-"), cell.id
    assert len(image.get("alt", "")) >= 20, cell.id


@each_notebook
def test_every_figure_has_a_caption_a_name_and_an_alternative_text(path):
    for cell in code_cells(path):
        if "mystnb" in cell.metadata or "plt.show()" in cell.source:
            assert_described(cell)


@pytest.mark.parametrize("path", RERUN, ids=lambda path: path.stem)
def test_notebook_runs_with_tiny_parameters(path, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(path),
        str(out),
        parameters=TINY.get(path.stem, {}),
        kernel_name="python3",
        cwd=str(path.parent),
        progress_bar=False,
        start_timeout=600,
        execution_timeout=600,
    )
    cells = [cell for cell in read(out).cells if cell.cell_type == "code"]
    shown = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    checks = [cell for cell in cells if "check" in tags(cell)]
    silent = [
        cell.id for cell in checks if not re.search("PASS|DETECTED", "".join(o.get("text", "") for o in cell.outputs))
    ]
    assert not silent
    assert "FAIL" not in shown
    assert "Traceback" not in shown
    for cell in cells:
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert_described(cell)


# --- table of contents and settings ---


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def files(entry) -> list[str]:
        if isinstance(entry, list):
            return [name for item in entry for name in files(item)]
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for key in ("parts", "chapters", "sections") for name in files(entry.get(key, []))]

    return files(toc)


def test_contents_list_what_is_there():
    listed = toc_files()
    assert len(set(listed)) == len(listed)
    missing = [name for name in listed if not any((ROOT / f"{name}{end}").is_file() for end in (".md", ".ipynb"))]
    assert not missing
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (*NOTEBOOKS, *(ROOT / "book").glob("*.md"))}
    assert pages == set(listed)


@pytest.fixture(scope="module")
def settings() -> dict:
    """The Sphinx settings that _config.yml becomes; misspelt keys are not in there."""
    from jupyter_book.config import get_final_config

    with contextlib.chdir(ROOT):
        found, _ = get_final_config(
            user_yaml=Path("_config.yml"), sourcedir=Path("."), cli_config={"latex_individualpages": False}
        )
    return found


def test_a_failed_cell_or_check_fails_the_build(settings):
    assert settings["nb_execution_mode"] == "cache"
    assert settings["nb_execution_raise_on_error"] is True
    assert settings["nb_execution_timeout"] == 600
    assert "-W" in (ROOT / "Makefile").read_text()


def test_pages_ask_nothing_of_the_network(settings):
    assert "sphinx-mathjax-offline" in settings["extensions"]
    assert not {"sphinx_thebe", "sphinx.ext.intersphinx"} & set(settings["extensions"])
    assert "mathjax_path" not in settings
    assert not [value for value in settings["html_css_files"] if "://" in str(value)]


def test_settings_that_the_pages_rely_on(settings):
    assert settings["html_theme"] == "sphinx_book_theme"
    assert settings["html_theme_options"]["navbar_persistent"] == []
    assert settings["nb_output_stderr"] == "remove"
    assert settings["nb_merge_streams"] is True
    assert settings["numfig"] is True


def test_launch_buttons_wait_for_the_address(settings):
    launch = tool("ext/launch.py")
    assert "launch" in settings["extensions"]
    buttons = settings["html_theme_options"]["launch_buttons"]
    assert not [name for name in buttons if name.endswith("_url") and buttons[name]]
    assert not buttons["thebe"]
    assert not settings["html_theme_options"]["repository_url"]
    assert not any(launch.theme_options("").values())
    known = launch.theme_options("https://host/book.git")
    assert known["repository_url"] == "https://host/book"
    assert known["launch_buttons"]["colab_url"]


def test_citation_and_pre_commit_follow_the_pins():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "MIT"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert next(iter(pins)) == "torch"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = {Path(hook["repo"]).name: hook["rev"].lstrip("v") for hook in hooks["repos"]}
    assert revisions == {"ruff-pre-commit": pins["ruff"], "nbstripout": pins["nbstripout"]}


def test_bounds_admit_the_pins():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    for wanted in map(Requirement, lines):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted
        assert {part.operator for part in wanted.specifier} == {">="}, wanted


# --- committed text ---

# Pieced together, so that this file does not hold what it looks for.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))]
HOSTS += [".".join(parts) for parts in (("registry", "npmjs", "org"), ("conda", "anaconda", "org"))]
ABSOLUTE = re.compile("(?<![\\w.:/}-])/(?:" + "|".join(("home", "root", "Users", "work", "tmp", "opt")) + ")/\\w")
TEXTS = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".txt", ".css", ".cff", ".cjs", ".bib", ".csv", ".svg", ""}


def committed() -> list[Path]:
    git = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXTS]


def test_texts_name_no_registry_and_no_place_on_one_machine():
    found = []
    for path in committed():
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host in text]
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in ABSOLUTE.finditer(text)]
    assert not found


# --- the HTML, where it is built ---


def pages() -> list[Path]:
    return [path for path in HTML.rglob("*.html") if not path.relative_to(HTML).parts[0].startswith("_")]


def loaded(page: str) -> list[str]:
    """What a page loads by itself; links that a reader may follow are not among it."""
    found = re.findall(r"<(?:script|img|iframe|source|audio|video)\b[^>]*?\bsrc=\"([^\"]*)\"", page)
    sheets = [tag for tag in re.findall(r"<link\b[^>]*>", page) if not re.search(r'rel="(canonical|next|prev)"', tag)]
    return found + [href for tag in sheets for href in re.findall(r'href="([^"]*)"', tag)]


@built
def test_built_pages_load_nothing_from_elsewhere():
    for path in pages():
        for address in loaded(path.read_text(encoding="utf-8")):
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{path.name}: {address}"
            assert not parts.netloc, f"{path.name}: {address}"
            if not parts.scheme and parts.path:
                assert (path.parent / unquote(parts.path)).exists(), f"{path.name}: {address}"


@built
def test_built_pages_carry_mathjax():
    scripts = [src for path in pages() for src in loaded(path.read_text(encoding="utf-8")) if "mathjax" in src]
    assert scripts
    assert (HTML / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert list((HTML / "_static" / "mathjax").rglob("*.woff"))


@built
def test_built_formulas_compile():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    count, bad = tool("tools/mathlint.py").bad_formulas(HTML)
    assert count
    assert not bad


@built
def test_built_pages_hold_no_failure_and_describe_their_images():
    for path in pages():
        page = path.read_text(encoding="utf-8")
        article = page.partition("<article")[2].partition("</article>")[0]
        assert not re.search(r"\bFAIL\b|Traceback \(most recent call last\)", article), path.name
        ours = "" if path.name == "py-modindex.html" else article  # Sphinx's own index folds by pictures
        for image in re.findall(r"<img\b[^>]*>", ours):
            alt = re.search(r'alt="([^"]*)"', image)
            assert alt and len(alt[1]) >= 20, f"{path.name}: {image}"
