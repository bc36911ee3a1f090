"""The ledgers are complete and point to what is there; every check of them fires on a copy that is broken for it."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("equations", "deviations", "symbols")


def extension():
    spec = importlib.util.spec_from_file_location("ledger", ROOT / "book" / "ext" / "ledger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ledger = extension()
LEDGERS = {name: ledger.read(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_ledger_is_sound(name):
    assert ledger.problems(name, LEDGERS[name]) == []


def test_ids_are_those_that_pytest_collects(request):
    known = ledger.test_ids()
    collected = {item.nodeid.partition("[")[0] for item in request.session.items}
    assert {node for node in collected if node.count("::") == 1} <= known
    assert "tests/test_ledger.py::test_ledger_is_sound" in known


# --- every check fires ---


def broken(name, number=0, **changes):
    entries = copy.deepcopy(LEDGERS[name])
    for field, value in changes.items():
        if value is None and field != "where":
            del entries[number][field]
        else:
            entries[number][field] = value
    return entries


HERE = "notebooks/02_decoupling.ipynb"
FAULTS = {
    "dead symbol": ("equations", {"symbol": "decalign_core.objective.nothing"}, "dead symbol .*'nothing'"),
    "dead module": ("equations", {"symbol": "decalign_gone.objective"}, "dead symbol .*no module"),
    "dead field": ("equations", {"symbol": "decalign_core.types.Losses.gone"}, "dead symbol .*Losses has no 'gone'"),
    "equation without test": ("equations", {"test": None}, "lacks test"),
    "unknown test": ("equations", {"test": "tests/test_objective.py::test_gone"}, "unknown test .*test_gone"),
    "test that is no test": ("equations", {"test": "tests/test_objective.py::blocks"}, "unknown test .*blocks"),
    "unknown check cell": ("equations", {"check": f"{HERE}#gone"}, "no cell gone"),
    "anchor of another page": ("equations", {"where": {"page": HERE, "anchor": "eq-2"}}, "no anchor eq-2 in"),
    "page that is not there": ("equations", {"where": {"page": "notebooks/99.ipynb", "anchor": "eq-1"}}, "no page"),
    "nowhere": ("equations", {"where": None, "note": "Later."}, "stands nowhere"),
    "chapter that is there": ("equations", {"note": "chapter 2, in preparation"}, "no longer in preparation"),
    "no LaTeX": ("equations", {"latex": ""}, "without LaTeX"),
    "no file": ("equations", {"data": "data/published/table9.csv"}, "no file"),
    "unknown status": ("equations", {"status": ["exact", "fine"]}, "status 'fine'"),
    "missing note": ("equations", {"note": None}, "lacks note"),
    "missing effect": ("deviations", {"effect": None}, "lacks effect"),
    "empty effect": ("deviations", {"effect": " "}, "empty effect"),
    "nothing shows it": ("deviations", {"shown_by": []}, "nothing shows it"),
    "unknown cell": ("deviations", {"shown_by": [f"{HERE}#gone"]}, "no cell gone"),
    "no notebook": ("deviations", {"shown_by": ["notebooks/99_gone.ipynb#title"]}, "no notebook"),
    "bad line": ("deviations", {"official": "`config.py:here`"}, "lines 'here' of config.py"),
    "dead name": ("symbols", {"code": ["decalign_core.types.Batch.gone"]}, "dead symbol .*Batch has no 'gone'"),
    "dead parameter": ("symbols", {"code": ["decalign_core.objective.decoupling(gone)"]}, "no parameter 'gone'"),
    "unknown first place": ("symbols", {"first": {"page": HERE, "anchor": "gone"}}, "no anchor gone"),
    "missing meaning": ("symbols", {"meaning": None}, "lacks meaning"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_nothing_else(fault):
    name, changes, message = FAULTS[fault]
    found = ledger.problems(name, broken(name, **changes))
    assert len(found) == 1, found
    assert re.search(message, found[0])


def test_every_equation_table_and_figure_is_there_once():
    entries = LEDGERS["equations"]
    assert [entry["id"] for entry in entries] == ledger.LISTED
    assert len(ledger.LISTED) == 13 + 4 + 7
    for number, entry in enumerate(entries):
        rest = entries[:number] + entries[number + 1 :]
        assert ledger.problems("equations", rest) == [f"equations: {entry['id']} is not there"]
    assert ledger.problems("equations", [*entries, entries[3]]) == ["equations: eq-4 occurs twice"]
    other = [*entries, {**entries[0], "id": "table-5"}]
    assert ledger.problems("equations", other) == ["equations: table-5 is no equation, table or figure"]


def test_a_name_twice_is_found():
    for name in ("deviations", "symbols"):
        entries = LEDGERS[name]
        (found,) = ledger.problems(name, [*entries, entries[0]])
        assert "occurs twice" in found


# Points of comparison that concern method, data or evaluation; 37 and 38 are about scripts.
NEEDED = set(range(1, 49)) - {37, 38}
# Departures of our own, by the entry that tells them
OWN = {
    *("decoupling-sign", "covariance", "scale-by-width", "relative-epsilon", "bandwidth", "latent-encoder"),
    *("projection-ends", "positions", "norm-first", "contrastive-weight", "task-loss"),
    *("optimisation", "average", "input-dropout", "precision"),
}


def lacking(entries):
    covered = {item for entry in entries for item in entry["items"]}
    return NEEDED - covered, OWN - {entry["id"] for entry in entries}


def test_deviations_cover_every_point():
    entries = LEDGERS["deviations"]
    assert lacking(entries) == (set(), set())
    without = [entry for entry in entries if entry["id"] not in ("marginals", "average")]
    assert lacking(without) == ({14}, {"average"})


def test_arguments_that_the_letter_changes_are_deviations():
    """Whatever ``ObjectiveConfig.letter`` sets apart from the defaults is named by an entry."""
    from decalign_core.objective import ObjectiveConfig

    default, letter = vars(ObjectiveConfig()), vars(ObjectiveConfig.letter())
    changed = {name for name in default if default[name] != letter[name]}
    told = " ".join(entry["ours"] for entry in LEDGERS["deviations"])
    aside = {"bandwidth_multiples": "1/2, 1 and 2 times", "bandwidth": "median distance"}
    assert [name for name in sorted(changed) if aside.get(name, f"`{name}") not in told] == []


# --- what entries may point to ---


def test_symbols_resolve():
    for name in ("decalign_core.types", "decalign_core.model.DecAlign.projections", "decalign_core.types.Batch.masks"):
        assert ledger.resolve(name) is not None
    assert callable(ledger.resolve("decalign_core.alignment.transport.sinkhorn(epsilon)"))


def test_anchors_and_cells_of_a_notebook(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell(
            "(ch-99)=\n# T\n\n$$\nx\n$$ (eq-99)\n\n```{exercise}\n:label: ex-99-1\n```", id="a"
        ),
        nbformat.v4.new_code_cell("1  # (no-anchor)=", id="b", metadata={"mystnb": {"figure": {"name": "fig-99"}}}),
    ]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert ledger.anchors(path) == {"ch-99", "eq-99", "ex-99-1", "fig-99"}
    assert ledger.cell_ids(path) == {"a", "b"}


def test_equations_are_labelled_where_the_ledger_says_and_nowhere_else():
    places = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for anchor in ledger.anchors(path):
            if re.fullmatch(r"eq-\d+", anchor):
                places.setdefault(anchor, []).append(f"notebooks/{path.name}")
    told = {
        one["id"]: [one["where"]["page"]] for one in LEDGERS["equations"] if one["id"][:3] == "eq-" and one["where"]
    }
    assert places == told


# --- pages ---


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_every_entry(name):
    text = ledger.shown(name, LEDGERS[name])
    for entry in LEDGERS[name]:
        title = entry.get("title") or entry.get("topic") or entry["meaning"]
        assert title in text
    assert not re.search(r": None$", text, re.MULTILINE)


def test_reference_holds_every_module():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    held = re.findall(r"^\.\. automodule:: (\S+)$", page, re.MULTILINE)
    modules = set()
    for path in (ROOT / "decalign_core").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        has_own = not name.endswith(("__init__", "__main__")) and not re.search(r"\.check\.ch\d+$", name)
        modules |= {name} if has_own else set()
    assert sorted(held) == sorted(modules | {"decalign_core.data", "decalign_core.peers"})
