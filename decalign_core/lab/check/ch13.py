"""Exercises of chapter 13, speed and scale: a size, a share, a sum without pairs, an exponent, a chain, Amdahl."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from decalign_core.lab.check.core import CheckError, answer


def ex_13_1(modalities: int) -> None:
    """The largest M whose joint plan with K = 7 fits into 8 GiB of doubles."""
    exactly = 30 * math.log(2) / math.log(7)
    hints = {
        "Modalities are whole: what is the largest number that still fits?": exactly,
        "That is one too many: either rounded up, or counted with four bytes a number.": 11,
        "That fits the plan of bytes, not of doubles: a double takes eight.": 12,
    }
    answer("Exercise 13.1", modalities, 10, hints, tolerance=1e-3)


def ex_13_2(spread: Callable[[Tensor], Tensor]) -> None:
    """A function of points (M, r): the sum of squared distances over all pairs."""
    points = torch.arange(12, dtype=torch.float64).view(4, 3).square() / 10
    squares, whole = points.square().sum(), points.sum(0).square().sum()
    right = 4 * squares - whole
    hints = {
        "Each pair once: that counts (i, j) and (j, i).": 2 * right,
        "Each squared length occurs in M - 1 pairs, the cross terms give one more: the factor is M.": squares - whole,
        "With the factor M - 1 the cross terms must leave the squares out.": 3 * squares - whole,
        "That is the spread about the mean; the sum over pairs is M times it.": right / 4,
        "Sum the points first, then square: |sum z|^2, not (sum |z|)^2.": 4 * squares - points.sum() ** 2,
    }
    answer("Exercise 13.2", _called("Exercise 13.2", spread, points), right, hints)


def ex_13_3(exponent: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """A function of values and times: the slope on logarithmic axes."""
    values, times = np.array([1.0, 2.0, 4.0, 16.0]), np.array([3.0, 5.0, 17.0, 260.0])
    x, y = np.log(values), np.log(times)
    hints = {
        "That fits a line to the numbers themselves: take logarithms of both.": np.polyfit(values, times, 1)[0],
        "The axes are swapped: the value is given, the time depends on it.": np.polyfit(y, x, 1)[0],
        "That is the line's height at value 1, its slope is the exponent.": np.polyfit(x, y, 1)[1],
        "Only the times are logarithms there: a power needs both, that is an exponential.": np.polyfit(values, y, 1)[0],
        "That uses the first and last point only; fit all.": (y[-1] - y[0]) / (x[-1] - x[0]),
    }
    answer("Exercise 13.3", _called("Exercise 13.3", exponent, values, times), np.polyfit(x, y, 1)[0], hints)


def ex_13_4(plan: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function of two pair plans of a chain and of the marginal they share: the plan over all tuples."""
    first = torch.tensor([[0.2, 0.1, 0.1], [0.1, 0.3, 0.2]], dtype=torch.float64)
    middle = first.sum(0)
    second = middle[:, None] * torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], dtype=torch.float64)
    both = first[:, :, None] * second
    hints = {
        "Both pair plans hold the middle's mass: divide by it once.": both,
        "Divided once too often: the middle has two neighbours, deg - 1 is 1.": both / middle[:, None] ** 2,
        "The pairs share the middle modality: its index must be the same in both.": (
            first.sum(1)[:, None, None] * middle[:, None] * second.sum(0)
        ),
    }
    answer("Exercise 13.4", _called("Exercise 13.4", plan, first, second, middle), both / middle[:, None], hints)


def ex_13_5(faster: Callable[[float, float], float]) -> None:
    """A function of a part's share and of its own gain: the gain of the whole."""
    cases = [(0.5, 2.0), (0.9, 10.0), (0.3, 1.0)]
    wrong = {
        "That is the share of time that is left; the factor is one over it.": lambda p, s: 1 - p + p / s,
        "The rest of the step stays: its share 1 - p does not get faster.": lambda p, s: s,
        "Gains do not average; times do.": lambda p, s: 1 - p + p * s,
        "That forgets what is left of the part, p / s.": lambda p, s: 1 / (1 - p),
        "The share left is 1 - p + p / s, all of it below the bar.": lambda p, s: 1 / (1 - p) + s / p,
    }
    hints = {hint: [f(*case) for case in cases] for hint, f in wrong.items()}
    given = [float(_called("Exercise 13.5", faster, *case)) for case in cases]
    answer("Exercise 13.5", given, [1 / (1 - p + p / s) for p, s in cases], hints)


def ex_13_6(share: Callable[[Tensor], Tensor]) -> None:
    """A function of weights: the effective number of samples over their number."""
    weights = torch.tensor([4.0, 1.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    number = weights.sum() ** 2 / weights.square().sum()
    normal = weights / weights.sum()
    hints = {
        "That is the effective number; divide by how many samples there are.": number,
        "The weights need not sum to 1: take the square of their sum above.": 1 / (5 * weights.square().sum()),
        "That is one over it.": 5 / number,
        "That asks for the largest weight alone; square and add all of them.": 1 / (5 * normal.max()),
        "That counts the weights above 0, however small they are.": 0.8,
    }
    answer("Exercise 13.6", _called("Exercise 13.6", share, weights), number / 5, hints)


def _called(what: str, function: Callable, *arguments: object) -> Tensor | np.ndarray | float:
    value = function(*arguments)
    if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
        raise CheckError(f"{what}: not yet. The function should return a number or a tensor, it returned {value!r}.")
    return value
