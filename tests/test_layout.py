"""The architecture as a test: arrows point down, and some rooms may not know of others (DESIGN, section 3)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "decalign_core"


def modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def imported(path):
    """Modules of the package that a file imports at run time, wherever in it; TYPE_CHECKING blocks are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def edges():
    known = modules()
    return {name: (imported(path) & set(known)) - {name, "decalign_core"} for name, path in known.items()}


def test_no_cycles():
    graph = {name: {target for target in targets if target != name} for name, targets in edges().items()}
    # a package's __init__ may import its own rooms; they do not import it back
    done, active = set(), []

    def visit(name):
        assert name not in active, f"cycle: {' -> '.join([*active[active.index(name) :], name])}"
        if name in done:
            return
        active.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(active.pop())

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("decalign_core.model", ["decalign_core.objective", "decalign_core.alignment", "decalign_core.lab"]),
        (
            "decalign_core.objective",
            ["decalign_core.model", "decalign_core.nn", "decalign_core.lab", "decalign_core.data"],
        ),
        (
            "decalign_core.alignment",
            [f"decalign_core.{x}" for x in ("model", "objective", "nn", "data", "lab", "types")],
        ),
        ("decalign_core.data", ["decalign_core.model", "decalign_core.objective", "decalign_core.lab"]),
        ("decalign_core.data.pickles", ["decalign_core"]),
        ("decalign_core.data.mosi_public", ["decalign_core.data.mmsa", "decalign_core.data.gcnet"]),
        ("decalign_core.nn", [f"decalign_core.{x}" for x in ("model", "objective", "alignment", "data", "lab")]),
        ("decalign_core.peers", [f"decalign_core.{x}" for x in ("model", "data", "lab")]),
        ("decalign_core.types", [f"decalign_core.{x}" for x in ("model", "objective", "alignment", "data", "lab")]),
        ("decalign_core.settings", ["decalign_core"]),
    ],
)
def test_rooms_do_not_know(room, forbidden):
    for name, targets in edges().items():
        if name == room or name.startswith(room + "."):
            bad = {t for t in targets for f in forbidden if t == f or t.startswith(f + ".")}
            assert not bad, f"{name} imports {sorted(bad)}"


def test_only_training_meets_model_and_objective():
    meeting = {
        name
        for name, targets in edges().items()
        if {"decalign_core.model", "decalign_core.objective"} <= targets and name != "decalign_core"
    }
    # experiment.py describes both (their configurations), training.py runs both
    assert meeting == {"decalign_core.lab.experiment", "decalign_core.lab.training"}


def test_alignment_needs_only_torch():
    allowed = {
        "__future__",
        "collections",
        "dataclasses",
        "itertools",
        "math",
        "typing",
        "torch",
        "numpy",
        "decalign_core",
    }
    for name, path in modules().items():
        if name.startswith("decalign_core.alignment"):
            extra = {"scipy"} if name.endswith("transport") else set()
            assert {module.split(".")[0] for module in imported(path)} <= allowed | extra, name


ENDINGS = ("_text", "_audio", "_vision", "_l", "_a", "_v")


def test_no_variable_is_named_after_a_modality_outside_data():
    for name, path in modules().items():
        if name.startswith("decalign_core.data"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node)}
        bad = {found for found in names if found.endswith(ENDINGS)}
        assert not bad, f"{name}: {sorted(bad)}"


def _is_self(node):
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def code_lines(function):
    docstring = ast.get_docstring(function) is not None
    body = function.body[docstring:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_stay_short():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules().values()]
    functions = [n for tree in trees for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = sorted((code_lines(function), function.name) for function in functions)
    assert lengths[-1][0] <= 45, lengths[-3:]
    assert lengths[len(lengths) // 2][0] <= 8


def test_everything_public_in_alignment_and_objective_names_its_equation():
    for path in [*sorted((PACKAGE / "alignment").glob("[a-z]*.py")), PACKAGE / "objective.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert "Eq " in ast.get_docstring(tree), path.name
