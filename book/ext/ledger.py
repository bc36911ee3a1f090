"""The ledgers of the book: read, checked against code, tests and pages, and shown.

Three YAML lists in ``book/ledger``, one item an entry:

- ``equations.yml``: every equation, table and figure of the paper, where the book has it, what computes and tests it;
- ``deviations.yml``: where paper, official code and this package differ, with what shows the effect;
- ``symbols.yml``: letter, meaning, shape and name in the code.

A page shows one by the directive ``ledger``. An entry that points to nothing (a symbol that cannot be imported, a test,
anchor, cell or file that is not there) is a warning, so that a strict build stops; ``tests/test_ledger.py`` checks the
same without a build. Two further links follow from the ledgers: the docstring of a symbol names the place of its
equation, and names of the package in running text lead to the reference.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.roles import XRefRole
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("book") / "ledger"
STATUSES = ("exact", "our choice", "ambiguous in the paper", "official code differs")
FIELDS = {
    "equations": ("id", "title", "where", "symbol", "test", "status", "note"),
    "deviations": ("id", "topic", "part", "paper", "official", "ours", "effect", "shown_by"),
    "symbols": ("symbol", "meaning", "shape", "code", "first", "part"),
}
LISTED = [
    *(f"eq-{number}" for number in range(1, 14)),
    *(f"table-{number}" for number in range(1, 5)),
    *(f"figure-{number}" for number in range(1, 8)),
]
Entry = Mapping[str, Any]

logger = logging.getLogger(__name__)


# --- what entries may point to ---------------------------------------------------------------------------------------


def read(name: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """The entries of a ledger."""
    return yaml.safe_load((root / FOLDER / f"{name}.yml").read_text(encoding="utf-8"))


def test_ids(root: Path = ROOT) -> frozenset[str]:
    """Every test of the suite as ``tests/file.py::test_name``, read from the sources without running them."""
    found = set()
    for path in (root / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        found |= {f"{path.relative_to(root).as_posix()}::{name}" for name in names if name.startswith("test_")}
    return frozenset(found)


def cells(path: Path) -> list[Any]:
    """The cells of a notebook; a page of prose is one markdown cell without an id."""
    if path.suffix == ".ipynb":
        return nbformat.read(path, as_version=4).cells
    return [nbformat.from_dict({"cell_type": "markdown", "id": "", "source": path.read_text("utf-8"), "metadata": {}})]


def anchors(path: Path) -> frozenset[str]:
    """Labels that a page sets: of headings, equations, directives and figures."""
    found: set[str] = set()
    for cell in cells(path):
        if cell.cell_type == "markdown":
            found |= set(re.findall(r"^\(([\w-]+)\)=", cell.source, re.MULTILINE))
            found |= set(re.findall(r"\$\$ \(([\w-]+)\)\s*$", cell.source, re.MULTILINE))
            found |= set(re.findall(r"^:(?:label|name): ([\w-]+)", cell.source, re.MULTILINE))
        found |= {cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")}
    return frozenset(found - {""})


def cell_ids(path: Path) -> frozenset[str]:
    """The ids of a notebook's cells."""
    return frozenset(cell.id for cell in cells(path))


def resolve(name: str) -> Any:
    """What a dotted name stands for; ``function(parameter)`` asks for the parameter, too.

    Raises:
        LookupError: where there is no such thing.
    """
    dotted, _, parameter = name.removesuffix(")").partition("(")
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = _member(found, part)
        if parameter and parameter not in inspect.signature(found).parameters:
            raise LookupError(f"{dotted} has no parameter {parameter!r}")
        return found
    raise LookupError(f"no module {parts[0]!r}")


def _member(owner: Any, name: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    if not inspect.isclass(owner):
        raise LookupError(f"{getattr(owner, '__name__', owner)} has no {name!r}")
    annotations = [vars(kind).get("__annotations__", {}) for kind in owner.__mro__]
    if any(name in known for known in annotations):
        return name
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    if any(node.attr == name and isinstance(node.value, ast.Name) and node.value.id == "self" for node in stored):
        return name
    raise LookupError(f"{owner.__name__} has no {name!r}")


def as_list(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty one, anything else as its only item."""
    return value if isinstance(value, list) else [] if value is None else [value]


# --- checks ----------------------------------------------------------------------------------------------------------


def problems(name: str, entries: Sequence[Entry], root: Path = ROOT) -> list[str]:
    """One sentence for each fault of a ledger; none where every entry is complete and points to what is there."""
    check = {"equations": _check_equation, "deviations": _check_deviation, "symbols": _check_symbol}[name]
    found = []
    for number, entry in enumerate(entries, 1):
        label = f"{name} {entry.get('id', entry.get('symbol', f'number {number}'))}"
        missing = [field for field in FIELDS[name] if field not in entry]
        faults = [f"lacks {', '.join(missing)}"] if missing else check(entry, root)
        found += [f"{label}: {fault}" for fault in faults]
    ids = [entry.get("id", (entry.get("symbol"), entry.get("code"))) for entry in entries]
    found += [f"{name}: {twice} occurs twice" for twice in sorted({str(one) for one in ids if ids.count(one) > 1})]
    if name == "equations":
        found += [f"equations: {wanted} is not there" for wanted in LISTED if wanted not in ids]
        found += [f"equations: {one} is no equation, table or figure" for one in ids if one not in LISTED]
    return found


def _check_equation(entry: Entry, root: Path) -> Iterator[str]:
    yield from _check_code(entry["symbol"])
    yield from _check_pointers([entry["test"], *as_list(entry.get("check"))], root)
    for status in as_list(entry["status"]):
        if status not in STATUSES:
            yield f"status {status!r} is none of {', '.join(STATUSES)}"
    if entry["id"].startswith("eq-") and not entry.get("latex"):
        yield "an equation without LaTeX"
    if "data" in entry and not (root / entry["data"]).is_file():
        yield f"no file {entry['data']}"
    if entry["where"] is None and not awaited(entry):
        yield "stands nowhere, and its note names no chapter in preparation"
    if entry["where"] is not None:
        page, anchor = entry["where"]["page"], entry["where"]["anchor"]
        if not (root / page).is_file():
            yield f"no page {page}"
        elif anchor not in anchors(root / page):
            yield f"no anchor {anchor} in {page}"
    for chapter in awaited(entry):
        if written := sorted((root / "notebooks").glob(f"{chapter:02}_*.ipynb")):
            yield f"chapter {chapter} is no longer in preparation: {written[0].name} is there"


def _check_deviation(entry: Entry, root: Path) -> Iterator[str]:
    shown = as_list(entry["shown_by"])
    if not shown:
        yield "nothing shows it"
    yield from _check_pointers(shown, root)
    for field in ("paper", "official", "ours", "effect"):
        if not str(entry[field] or "").strip():
            yield f"empty {field}"
    for place in re.findall(r"`([\w/]+\.(?:py|json|sh)):(.*?)`", entry["official"] or ""):
        if not re.fullmatch(r"\d+(-\d+)?(, \d+(-\d+)?)*", place[1]):
            yield f"lines {place[1]!r} of {place[0]}"


def _check_symbol(entry: Entry, root: Path) -> Iterator[str]:
    for code in as_list(entry["code"]):
        yield from _check_code(code)
    if not (root / entry["first"]["page"]).is_file():
        yield f"no page {entry['first']['page']}"
    elif entry["first"]["anchor"] not in anchors(root / entry["first"]["page"]):
        yield f"no anchor {entry['first']['anchor']} in {entry['first']['page']}"


def _check_code(name: str) -> Iterator[str]:
    try:
        resolve(name)
    except LookupError as error:
        yield f"dead symbol {name}: {error.args[0]}"


def _check_pointers(pointers: Iterable[str], root: Path) -> Iterator[str]:
    for pointer in pointers:
        page, _, cell = pointer.partition("#")
        if "::" in pointer:
            if pointer not in _cached_tests(root):
                yield f"unknown test {pointer}"
        elif not (root / page).is_file():
            yield f"no notebook {page}"
        elif cell not in cell_ids(root / page):
            yield f"no cell {cell} in {page}"


def awaited(entry: Entry) -> list[int]:
    """Numbers of the chapters that an entry's note calls "in preparation"."""
    return [int(number) for number in re.findall(r"chapter (\d+), in preparation", entry["note"] or "")]


@cache
def _cached_tests(root: Path) -> frozenset[str]:
    return test_ids(root)


# --- pages -----------------------------------------------------------------------------------------------------------


def shown(name: str, entries: Sequence[Entry], root: Path = ROOT, base: str = "..") -> str:
    """A ledger as MyST text whose headings begin at level 1; ``base`` leads from the page to the root."""
    text = {"equations": _equations, "deviations": _deviations, "symbols": _symbols}[name](entries, root, base)
    return "\n".join(text)


_GROUPS = {"eq": "Equations", "table": "Tables", "figure": "Figures"}


def _short(entry: Entry) -> str:
    kind, _, number = entry["id"].partition("-")
    return f"{'Eq' if kind == 'eq' else kind.capitalize()} {number}"


def _chapter(page: str) -> str:
    number = re.match(r"notebooks/(\d\d)_", page)
    return f"chapter {int(number[1])}" if number and int(number[1]) else Path(page).stem


def _place(entry: Entry, base: str) -> str:
    if entry["where"] is None:
        return " and ".join(f"chapter {number}, in preparation" for number in awaited(entry))
    page, anchor = entry["where"]["page"], entry["where"]["anchor"]
    if anchor.startswith("eq-"):
        return f"{{equation}}`{_chapter(page)} <{anchor}>`"
    return f"[{_chapter(page)}]({base}/{page})"


def _equations(entries: Sequence[Entry], root: Path, base: str) -> Iterator[str]:
    yield from ["| In the paper | What | Where | Status |", "|---|---|---|---|"]
    for entry in entries:
        status = ", ".join(as_list(entry["status"]))
        yield f"| [{_short(entry)}](#ledger-{entry['id']}) | {entry['title']} | {_place(entry, base)} | {status} |"
    for kind, title in _GROUPS.items():
        yield from ["", f"# {title}"]
        for entry in (one for one in entries if one["id"].startswith(f"{kind}-")):
            yield from ["", f"(ledger-{entry['id']})=", f"## {_short(entry)}: {entry['title']}", ""]
            if "latex" in entry:
                yield from ["$$", entry["latex"].strip(), "$$", ""]
            yield from _terms(_equation_fields(entry, root, base))


def _equation_fields(entry: Entry, root: Path, base: str) -> dict[str, str]:
    fields = {"Where": _place(entry, base), "Computed by": f"{{py:obj}}`~{entry['symbol']}`"}
    fields["Tested by"] = _pointers([entry["test"], *as_list(entry.get("check"))], root, base)
    if "data" in entry:
        fields["Published numbers"] = f"[`{entry['data']}`]({base}/{entry['data']})"
    fields["Status"] = ", ".join(as_list(entry["status"]))
    return fields | {"Note": entry["note"]}


def _deviations(entries: Sequence[Entry], root: Path, base: str) -> Iterator[str]:
    parts = list(dict.fromkeys(entry["part"] for entry in entries))
    for part in parts:
        yield from ["", f"# {part}"]
        for entry in (one for one in entries if one["part"] == part):
            yield from ["", f"(deviation-{entry['id']})=", f"## {entry['topic']}", ""]
            names = {"paper": "Paper", "official": "Official code", "ours": "Here", "effect": "Effect"}
            fields = {title: entry[field] for field, title in names.items()}
            yield from _terms(fields | {"Shown by": _pointers(as_list(entry["shown_by"]), root, base)})


def _symbols(entries: Sequence[Entry], root: Path, base: str) -> Iterator[str]:
    head = ["| Symbol | Meaning | Shape | In the code | First in |", "|---|---|---|---|---|"]
    for part in dict.fromkeys(entry["part"] for entry in entries):
        yield from ["", f"# {part}", "", *head]
        for entry in (one for one in entries if one["part"] == part):
            code = ", ".join(f"{{py:obj}}`{_shortened(one)} <{_documented(one)}>`" for one in as_list(entry["code"]))
            page, anchor = entry["first"]["page"], entry["first"]["anchor"]
            first = f"{{equation}}`{anchor.replace('eq-', 'Eq ')} <{anchor}>`, " if anchor.startswith("eq-") else ""
            first += f"[{_chapter(page)}]({base}/{page})"
            yield f"| {entry['symbol']} | {entry['meaning']} | {entry['shape']} | {code} | {first} |"


def _shortened(code: str) -> str:
    dotted, bracket, parameter = code.partition("(")
    parts = dotted.split(".")
    start = next((index for index, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    return ".".join(parts[start:]) + bracket + parameter


def _documented(code: str) -> str:
    """The name that the reference lists: of a parameter its function, of a field without description its class."""
    dotted = code.partition("(")[0]
    owner, _, name = dotted.rpartition(".")
    held, member = resolve(owner), resolve(dotted)
    if not inspect.isclass(held):
        return dotted
    described = re.search(rf"^\s+{name}:", inspect.getdoc(held) or "", re.MULTILINE)
    return dotted if described or callable(member) or isinstance(member, property) else owner


def _terms(fields: Mapping[str, str]) -> Iterator[str]:
    for title, text in fields.items():
        yield from [title, ": " + " ".join(str(text).split()), ""]


def _pointers(pointers: Iterable[str], root: Path, base: str) -> str:
    return "; ".join(_pointer(pointer, root, base) for pointer in pointers)


def _pointer(pointer: str, root: Path, base: str) -> str:
    page, _, cell = pointer.partition("#")
    if "::" in pointer:
        return f"`{pointer}`"
    return f"[{_chapter(page)}]({base}/{page}{_heading(root / page, cell)}), cell `{cell}`"


def _heading(path: Path, cell: str) -> str:
    """The address, within its page, of the last heading at or above a cell; "" for the title."""
    if not path.is_file():
        return ""
    titles: list[str] = []
    for one in cells(path):
        if one.cell_type == "markdown":
            text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", one.source, flags=re.MULTILINE | re.DOTALL)
            titles += re.findall(r"^#{2,3} (.+?)\s*$", text, re.MULTILINE)
        if one.id == cell:
            break
    if not titles or any(mark in titles[-1] for mark in "$`[{"):
        return ""
    slug = re.sub(r"[^\w\- ]", "", titles[-1].lower()).replace(" ", "-")
    return f"#{slug}" if titles.count(titles[-1]) == 1 else ""


class Ledger(SphinxDirective):
    """``{ledger} equations`` (or ``deviations``, ``symbols``): the ledger of that name, checked and shown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections of the ledger; a warning for each fault."""
        name = self.arguments[0]
        self.env.note_dependency(str(ROOT / FOLDER / f"{name}.yml"))
        self.env.note_dependency(__file__)
        entries = read(name)
        faults = problems(name, entries)
        for fault in faults:
            logger.warning("%s", fault, location=self.get_location(), type="ledger")
        if faults:
            return []
        base = "/".join([".."] * self.env.docname.count("/")) or "."
        root = self._tree(shown(name, entries, ROOT, base))
        for node in root.findall(lambda one: isinstance(one, (nodes.definition_list, nodes.table))):
            node["classes"].append("ledger")
        return root.children

    def _tree(self, text: str) -> nodes.section:
        """Text with headings as nested sections below the page's own."""
        stack, label, body = [nodes.section()], "", []
        for line in [*text.split("\n"), None]:
            heading = re.fullmatch(r"(#+) (.+)", line or "")
            anchor = re.fullmatch(r"\(([\w-]+)\)=", line or "")
            if line is not None and not heading and not anchor:
                body.append(line)
                continue
            if any(body):
                self.state.nested_parse(StringList(body, source=self.arguments[0]), 0, stack[-1])
            label, body = anchor[1] if anchor else label, []
            if heading:
                del stack[len(heading[1]) :]
                section = self._section(heading[2], label or f"{self.arguments[0]}-{nodes.make_id(heading[2])}")
                stack[-1] += section
                stack.append(section)
                label = ""
        return stack[0]

    def _section(self, title: str, label: str) -> nodes.section:
        section = nodes.section(names=[label])
        section += nodes.title(title, "", *self.state.inline_text(title, self.lineno)[0])
        self.state.document.note_explicit_target(section)
        return section


# --- links between pages and code ------------------------------------------------------------------------------------


def _link_missing(app: Any, env: Any, node: Any, contnode: nodes.Node) -> nodes.Node | None:
    """Links that Sphinx leaves open: equations by their label, names of the package by an unambiguous ending."""
    target = node.get("reftarget", "")
    if node.get("reftype") == "equation":
        held = env.get_domain("math").equations.get(target)
        place = nodes.make_id(f"equation-{target}")
        return held and make_refnode(app.builder, node["refdoc"], held[0], place, contnode)
    page, place = _documented_names(app).get(target, ("", "")) if node.get("refdomain") == "py" else ("", "")
    return make_refnode(app.builder, node["refdoc"], page, place, contnode) if page else None


def _plain_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write norms as ``|x|``; to reStructuredText that is a substitution, which none of them uses."""
    in_math = False
    for number, line in enumerate(lines):
        in_math = line.startswith(".. math::") or (in_math and (not line.strip() or line.startswith(" ")))
        if not in_math:
            spans = re.split(r"(``.*?``|:\w+:`.*?`)", line)
            lines[number] = "".join(span if odd % 2 else span.replace("|", "\\|") for odd, span in enumerate(spans))


def _name_place(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds to a docstring where the book derives what it computes."""
    for entry in read("equations"):
        if entry["symbol"] == name and entry["id"].startswith("eq-"):
            where = f":equation:`{_chapter(entry['where']['page'])} <{entry['id']}>`" if entry["where"] else ""
            place = f"{_short(entry)}, {where or _place(entry, '..')}; test ``{entry['test']}``."
            lines += ["", f"**In the book:** {place}", ""]


def _documented_names(app: Any) -> dict[str, tuple[str, str]]:
    """By unambiguous ending of a documented name, its page and place there."""
    if hasattr(app, "_ledger_names"):
        return app._ledger_names
    found: dict[str, set[tuple[str, str]]] = {}
    for name, entry in app.env.get_domain("py").objects.items():
        parts = name.removeprefix("decalign_core.").split(".")
        for start in range(len(parts)):
            ending = ".".join(parts[start:])
            alone = len(parts) - start == 1
            telling = entry.objtype in ("function", "class", "exception", "data") and re.search(r"_|[A-Z]", ending)
            if not alone or telling:
                found.setdefault(ending, set()).add((entry.docname, entry.node_id))
    app._ledger_names = {ending: next(iter(places)) for ending, places in found.items() if len(places) == 1}
    return app._ledger_names


def _link_names(app: Any, doctree: nodes.document, docname: str) -> None:
    """Makes names of the package in running text lead to the reference."""
    if not docname.startswith(("notebooks/", "book/")):
        return
    names = _documented_names(app)
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removeprefix("decalign_core.").removesuffix("()")
        page, place = names.get(name, ("", ""))
        if not page or page == docname or _within(literal, (nodes.reference, nodes.title, nodes.literal_block)):
            continue
        link = make_refnode(app.builder, docname, page, place, literal.deepcopy())
        link["classes"] += ["ledger-name"]
        literal.replace_self(link)


def _within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_css_file("ledger.css")
    app.add_directive("ledger", Ledger)
    app.add_role("equation", XRefRole(innernodeclass=nodes.inline, warn_dangling=True))
    app.connect("missing-reference", _link_missing)
    app.connect("autodoc-process-docstring", _plain_bars)
    app.connect("autodoc-process-docstring", _name_place)
    app.connect("doctree-resolved", _link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
