"""Results reach the pages from cells, records and published tables: neither prose nor code has one that was typed.

Prose has no decimals. The code of the chapters on results has no number of three digits or more but what the published
files hold and the constants named here; so what these pages show is read from records and published tables, or is
computed from them before the reader's eyes.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from decalign_core.lab.results import published

ROOT = Path(__file__).resolve().parents[1]
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d{2,}(?![\w.])")
NOT_PROSE = (r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`]*`", r"\]\([^)]*\)")
# what is no result: the offered answers of a question, a setting of the official code, versions of Python
CONSTANTS = {
    "03_prototypes/eq-3-text": {"0.55", "0.75", "0.97"},
    "06_homogeneity/break-2-text": {"0.005"},
    "running": {"3.11", "3.12", "3.13"},
}


def typed(text):
    for pattern in NOT_PROSE:
        text = re.sub(pattern, "", text)
    return set(DECIMAL.findall(text))


def passages():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                yield f"{path.stem}/{cell.id}", cell.source
    for path in sorted((ROOT / "book").glob("*.md")):
        yield path.stem, path.read_text(encoding="utf-8")


def test_no_result_is_typed_into_prose():
    found = {where: typed(text) - CONSTANTS.get(where, set()) for where, text in passages()}
    assert not {where: numbers for where, numbers in found.items() if numbers}


@pytest.mark.parametrize("text", ["reaches an MAE of 0.865 here", "| ours | 0.82 |", "from 1.195 to 1.2"])
def test_a_typed_result_is_found(text):
    assert typed(text)


@pytest.mark.parametrize(
    "text", ["Eq 1.2 of `x = 0.865`", "$0.865$ and $$1.195$$", "half, 0.5, of it", "version 1.26.4"]
)
def test_code_formulas_and_versions_are_no_results(text):
    assert not typed(text)


CHAPTERS = ("08_training", "09_ablations", "10_sensitivity", "11_looking_inside", "12_benchmarks", "13_speed_and_scale")
PUBLISHED = ("table1", "table2", "table3", "table4", "figure4", "figure7", "mmsa_results", "mmsa_unseen")
NAMED = {
    "": {"0.975", "1.96", "1111"},  # the normal quantile of a 95 % interval and its share, the first seed
    "08_training": {"192", "1.18"},  # samples of a small data set; a place in a figure
    "09_ablations": {"192", "1.03"},  # the same; a value of the toy
    "10_sensitivity": {"192", "0.0501"},  # the same; a bound
    "11_looking_inside": {"1.15"},  # a place in a figure
    "12_benchmarks": {
        *("204", "457", "686", "1623", "4659"),  # utterances of test splits
        *("156", "145", "106", "113", "155", "148"),  # of CMU-MOSI's test split, by rounded score
        *("583", "173"),  # right answers of two examples
        *("678", "1.05"),  # what a check expects of Figure 4; a place in a figure
    },
    "13_speed_and_scale": set(),
}


def literals(code):
    """Numbers of three significant digits or more, as typed."""
    for node in ast.walk(ast.parse(re.sub(r"(?m)^[%!].*$", "", code))):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            text = ast.get_source_segment(code, node)
            if len(re.sub(r"\D", "", text.split("e")[0]).strip("0")) >= 3:
                yield text


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_result_is_typed_into_the_code_of_a_chapter_on_results(chapter):
    known = {float(value) for name in PUBLISHED for value in published(name).select_dtypes("number").to_numpy().flat}
    allowed = NAMED[""] | NAMED[chapter]
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    found = {text for source in code for text in literals(source)}
    assert not {text for text in found - allowed if float(text) not in known}


def test_a_result_typed_into_code_is_found():
    assert list(literals("mae = 0.865; n = 5; share = 0.5; rate = 1e-3; counts = [1234, 0x10]")) == ["0.865", "1234"]
