"""The parameters of a notebook, looked at before anything is computed with them.

papermill injects what it is given, known or not, in a cell behind the one that declares the parameters; a misspelt name
would change nothing, a wrong value would end in a traceback somewhere below. The cell that every notebook has next
calls :func:`validate`.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decalign_core.data import check_files, check_setting
from decalign_core.lab.experiment import VARIANTS
from decalign_core.lab.presets import PRESETS, preset
from decalign_core.lab.training import chosen_device

_TYPES: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda value: type(value) is str),
    bool: ("True or False", lambda value: type(value) is bool),
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
}
_CHOICES = {"profile": ("smoke", "full"), "variant": tuple(VARIANTS), "settings": PRESETS}
_LEAST = {"seed": 0, "epochs": 0, "worlds": 0, "strength": 0, "fold": -1, "components": -1}
_PLACES = ("data_dir", "results_dir")


class ParameterError(ValueError):
    """A parameter that a notebook cannot run with; a notebook shows the line alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def validate(namespace: Mapping[str, Any]) -> None:
    """Check the parameters of a running notebook.

    Args:
        namespace: its ``globals()``: the declared names are those with an annotation, what papermill was given is read
            from the cell that it has injected.

    Raises:
        ParameterError: in one line, for a name that is not declared, a value of another type, and a value that cannot
            be; papermill then ends with an error before anything is computed.
    """
    declared = namespace.get("__annotations__", {})
    for name in _injected(namespace.get("In", ())):
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1, cutoff=0.5)
            hint = f", did you mean {close[0]}?" if close else ""
            raise ParameterError(f"{name}: wanted one of the parameters {', '.join(declared)}, got another name{hint}")
    given = {name: namespace[name] for name in declared if name in namespace}
    for name, value in given.items():
        wanted, fits = _TYPES.get(declared[name], ("", lambda value: True))
        if not fits(value):
            raise ParameterError(f"{name}: wanted {wanted}, got {value!r}")
        _check_value(name, value, namespace.get("root", Path()))
    try:
        _check_together(given)
        _check_files(given, namespace.get("root", Path()))
    except ValueError as error:
        raise ParameterError(str(error)) from None


def _injected(cells: Any) -> list[str]:
    """The names that papermill's cell assigns."""
    trees = [ast.parse(source) for source in cells if source.startswith("# Parameters\n")]
    assigned = [node.targets[0] for tree in trees for node in tree.body if isinstance(node, ast.Assign)]
    return [target.id for target in assigned if isinstance(target, ast.Name)]


def _check_value(name: str, value: Any, root: Path) -> None:
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ParameterError(f"{name}: wanted one of {', '.join(_CHOICES[name])}, got {value!r}")
    if name in _LEAST and value < _LEAST[name]:
        raise ParameterError(f"{name}: wanted a number from {_LEAST[name]} on, got {value}")
    if name == "components" and value == 0:
        raise ParameterError("components: wanted a number from 1 on, or below 0 for the preset's, got 0")
    if name in _PLACES and value and not (Path(value).exists() or (root / value).exists()):
        raise ParameterError(f"{name}: wanted a folder that is there, got {value!r}")


def _check_together(given: Mapping[str, Any]) -> None:
    if "device" in given:
        chosen_device(given["device"])
    if "dataset" in given:
        fold = given.get("fold", -1)
        check_setting(given["dataset"], given.get("protocol"), fold if fold >= 0 else None)
    if given.get("fine_tune") and not given.get("text_encoder"):
        raise ParameterError("fine_tune: wanted a text_encoder beside it, got none")


def _check_files(given: Mapping[str, Any], root: Path) -> None:
    if given.get("dataset", "synthetic") == "synthetic":
        return
    place = Path(given.get("data_dir") or "data")
    place = place if given.get("data_dir") and place.exists() else root / place
    check_files(given["dataset"], place, preset(given.get("settings", "default"), given["dataset"]).data.aligned)
