"""Exercises of chapter 6, homogeneity: the bracket of Eq 10, the estimators and the bandwidth of Eq 11 and 12."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from decalign_core.alignment.matching import median_bandwidth, mmd
from decalign_core.lab.check.core import CheckError, answer

DIMENSIONS = tuple(2**power for power in range(9))
_SAMPLES, _SHIFT, _THRESHOLD = 32, 0.5, 1e-3


def ex_06_1(bracket: float) -> None:
    """The bracket of Eq 10 between 0, 0, 0, 4 and 0, 4, 4, 4."""
    hints = {
        "The bracket has no factor: 1 / (M (M - 1)) = 1/2 stands before the sum of Eq 10.": 14 / 3,
        "The third moments have opposite signs, so the skewness part is not 0.": 4.0,
        "That is the skewness part alone: the means differ too.": 16 / 3,
        "Every part is a squared norm: square the three differences before they are added.": 2 + 4 / math.sqrt(3),
        "Skewness takes the cube of the population deviation (over n); n - 1 belongs to the covariance.": 6.25,
    }
    answer("Exercise 6.1", bracket, 28 / 3, hints)


def ex_06_2(expected_mmd: Callable[[int, float], float]) -> None:
    """A function of n and kappa: the expectation of the biased MMD of two samples of one law."""
    cases = [(32, 0.25), (8, 0.9), (100, 0.0)]
    given = [_number("Exercise 6.2", expected_mmd(n, kappa)) for n, kappa in cases]
    hints = {
        "That holds where the kernel is saturated, kappa = 0; what do pairs of distinct points add?": lambda n, k: (
            2 / n
        ),
        "Both samples hold n pairs of a point with itself, not one of them.": lambda n, k: (1 - k) / n,
        "That is the unbiased one: the biased mean also counts the pairs of a point with itself.": lambda n, k: 0.0,
        "A pair of a point with itself contributes k = 1, not kappa.": lambda n, k: 2 * k / n,
    }
    wanted = [2 / n * (1 - kappa) for n, kappa in cases]
    answer("Exercise 6.2", given, wanted, {hint: [f(n, k) for n, k in cases] for hint, f in hints.items()})


def ex_06_3(limit: float) -> None:
    """The limit of sigma^2 MMD for growing sigma, of two samples whose means differ by (3, 4)."""
    hints = {
        "The brackets of Eq 11 add up to twice the squared distance, and 1 / (2 sigma^2) halves it again.": 50.0,
        "The three expectations together leave 2 |mu_x - mu_y|^2 before the division by 2 sigma^2.": 12.5,
        "The squared distance of the means, not the distance.": 5.0,
        "MMD itself goes to 0, but sigma^2 times MMD does not.": 0.0,
    }
    answer("Exercise 6.3", limit, 25.0, hints)


def ex_06_4(p_value: Callable[[Tensor, Tensor], float]) -> None:
    """A function of the observed statistic and of a sample of its null distribution: the permutation p-value."""
    null = torch.tensor([0.1, 0.2, 0.2, 0.3, 0.4, 0.4, 0.5, 0.6, 0.8], dtype=torch.float64)
    observed = torch.tensor([0.9, 0.4, 0.2, 0.05], dtype=torch.float64)
    given = [_number("Exercise 6.4", p_value(value, null)) for value in observed]
    above, strictly = ((compare(null, observed[:, None])).sum(1) for compare in (torch.ge, torch.gt))
    hints = {
        "The observed split is one of the splits: add 1 above and below, or p can be 0.": above / 9,
        "Add 1 to the count as well as to the number of permutations.": above / 10,
        "A permuted value that equals the observed one counts: use >=.": (1 + strictly) / 10,
        "That counts the smaller values: a large MMD speaks against one law.": (10 - strictly) / 10,
    }
    answer("Exercise 6.4", given, (1 + above) / 10, hints)


def ex_06_5(dimension: int) -> None:
    """The first of ``DIMENSIONS`` where bandwidth 1 leaves less than a thousandth of the median's gradient."""
    dead = [d for d in DIMENSIONS if _gradient_norm(d, 1.0) < _THRESHOLD * _gradient_norm(d, None)]
    hints = {
        "There the gradient is small, but above a thousandth of the median's: one step further.": dead[0] / 2,
        **{f"Below {d} dimensions the gradient is already gone: look for the first one.": d for d in dead[1:]},
    }
    answer("Exercise 6.5", dimension, dead[0], hints)


def wide_pair(dimension: int) -> tuple[Tensor, Tensor]:
    """Exercise 6.5's samples ``(32, d)``: standard normal, the second shifted by 1/2 in each coordinate."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(_SAMPLES, dimension, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, y + _SHIFT


def _gradient_norm(dimension: int, bandwidth: float | None) -> float:
    x, y = wide_pair(dimension)
    y.requires_grad_()
    sigma = median_bandwidth(x, y) if bandwidth is None else bandwidth
    (gradient,) = torch.autograd.grad(mmd(x, y, sigma), y)
    return float(gradient.norm())


def _number(what: str, value: object) -> float:
    try:
        return float(value)
    except TypeError:
        raise CheckError(f"{what}: not yet. The function should return a number, it returned {value!r}.") from None
