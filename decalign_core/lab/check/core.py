"""Inline checks: one line that says what was compared and how close it came, or a failed cell.

A check computes the difference itself, so a cell cannot print a number that it did not measure:

>>> equal("Eq 12", torch.tensor([1.0]), torch.tensor([1.0]))
PASS Eq 12: max |Δ| 0.0e+00 (tol 1e-10)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


class CheckError(AssertionError):
    """A check or an exercise that did not hold; the message says what was wanted and got."""


def equal(what: str, got: Tensor | ArrayLike, wanted: Tensor | ArrayLike, *, tolerance: float = 1e-10) -> None:
    """Check that two arrays agree everywhere within an absolute tolerance.

    Args:
        what: the claim, beginning with the equation: ``"Eq 7"`` or ``"Eq 7 against the linear programme"``.
        got: what the package computes.
        wanted: what an independent route computes.
        tolerance: largest absolute difference allowed.

    Raises:
        CheckError: where shapes differ, a value is not finite, or the difference is larger.
    """
    a, b = _array(got), _array(wanted)
    if a.shape != b.shape:
        raise CheckError(f"{what}: wanted shape {b.shape}, got {a.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CheckError(f"{what}: wanted finite values, got NaN or infinity")
    difference = float(np.abs(a - b).max(initial=0.0))
    if difference > tolerance:
        raise CheckError(f"{what}: max |Δ| {difference:.1e} is over the tolerance {tolerance:.0e}")
    print(f"PASS {what}: max |Δ| {difference:.1e} (tol {tolerance:.0e})")


def holds(what: str, condition: bool | Tensor, evidence: str = "") -> None:
    """Check a statement that is not an equality; ``evidence`` is shown beside it.

    Raises:
        CheckError: where ``condition`` is false.
    """
    shown = f": {evidence}" if evidence else ""
    if not bool(condition):
        raise CheckError(f"{what} does not hold{shown}")
    print(f"PASS {what}{shown}")


def gradient(
    what: str,
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    wanted: Tensor | None = None,
    *,
    step: float = 1e-6,
    tolerance: float = 1e-6,
) -> None:
    """Check a gradient against central finite differences of ``function``, a scalar of a float64 tensor.

    Args:
        what: the claim.
        function: from a tensor of ``at``'s shape to a scalar.
        at: where to differentiate.
        wanted: the gradient to check; that of automatic differentiation if None.
        step: of the differences, in units of ``at``.
        tolerance: largest absolute difference allowed.

    Raises:
        CheckError: as :func:`equal`.
    """
    x = at.detach().double()
    if wanted is None:
        leaf = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(function(leaf), leaf)
    steps = step * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    with torch.no_grad():
        slopes = [(function(x + delta) - function(x - delta)) / (2 * step) for delta in steps]
    equal(what, wanted, torch.stack(slopes).view(x.shape), tolerance=tolerance)


def detected(what: str, fired: bool | Tensor, evidence: str = "") -> None:
    """Show that a detector fires on a fault that was made on purpose.

    Raises:
        CheckError: where it does not fire.
    """
    shown = f": {evidence}" if evidence else ""
    if not bool(fired):
        raise CheckError(f"{what} went unnoticed{shown}")
    print(f"DETECTED {what}{shown}")


def answer(
    what: str,
    given: Tensor | ArrayLike,
    wanted: Tensor | ArrayLike,
    hints: Mapping[str, Tensor | ArrayLike],
    *,
    tolerance: float = 1e-6,
) -> None:
    """Check the answer to an exercise; a typical wrong answer gets the hint that helps.

    Args:
        what: the exercise, e.g. ``"Exercise 4.2"``.
        given: the reader's answer.
        wanted: the right one.
        hints: what to say to each typical wrong answer, by message.
        tolerance: largest absolute difference allowed.

    Raises:
        CheckError: where the answer is wrong; the message holds the hint, if one fits.
    """
    if _close(given, wanted, tolerance):
        print(f"PASS {what}")
        return
    fitting = [hint for hint, wrong in hints.items() if _close(given, wrong, tolerance)]
    raise CheckError(f"{what}: not yet. {_first(fitting) or _shape_hint(given, wanted)}")


def _close(given: Tensor | ArrayLike, wanted: Tensor | ArrayLike, tolerance: float) -> bool:
    a, b = _array(given), _array(wanted)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=tolerance))


def _shape_hint(given: Tensor | ArrayLike, wanted: Tensor | ArrayLike) -> str:
    a, b = _array(given), _array(wanted)
    return (
        f"Wanted shape {b.shape}, got {a.shape}." if a.shape != b.shape else "The shape is right, the values are not."
    )


def _first(hints: Sequence[str]) -> str:
    return hints[0] if hints else ""


def _array(values: Tensor | ArrayLike) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
