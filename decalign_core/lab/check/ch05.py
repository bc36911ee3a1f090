"""Exercises of chapter 5: the heterogeneity loss (Eq 9)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.alignment.mixture import fit
from decalign_core.alignment.transport import exact, joint_cost, sinkhorn
from decalign_core.lab.check.core import CheckError, answer, equal


def ex_05_1(given: Tensor | ArrayLike) -> None:
    """Both terms of the toy without modality B: transport, then prototype."""
    hints = {
        "The prototype term pairs equal indices, A1 with C1, whatever the plan does.": [4.0, 4.0],
        "The plan pairs A1 with C2: it looks for the cheapest matching, not for equal indices.": [20.0, 20.0],
        "Both values are there, in the wrong order: transport first.": [20.0, 4.0],
        "The prototype term is the mean over the two ordered pairs, not their sum.": [4.0, 40.0],
        "Each prototype has the mass one half: weigh the squared distances.": [8.0, 40.0],
        "The distances are squared.": [2.0, 4.0],
    }
    answer("Exercise 5.1", given, [4.0, 20.0], hints)


def ex_05_2(lowest: Callable[[int, int, float], float]) -> None:
    """The entropic value minus epsilon at a cost of 0, of (components, modalities, epsilon)."""
    cases = [(7, 3, 0.1), (2, 2, 0.5), (5, 4, 2.0)]

    def each(formula: Callable[[int, int, float], float]) -> list[float]:
        return [formula(k, m, e) for k, m, e in cases]

    hints = {
        "That is the second reading. The third also subtracts epsilon times the mass of the plan, which is 1.": each(
            lambda k, m, e: -e * m * math.log(k)
        ),
        "That is a plan on the K diagonal tuples. At C = 0 the product of all M marginals has more entropy.": each(
            lambda k, m, e: -e * (math.log(k) + 1)
        ),
        "Mind the sign: the logarithm of a mass below 1 is negative.": each(lambda k, m, e: e * (m * math.log(k) + 1)),
        "Multiply by epsilon.": each(lambda k, m, e: -(m * math.log(k) + 1)),
        "log(K^M) is M log K, with the natural logarithm of the number of components.": each(
            lambda k, m, e: -e * (k * math.log(m) + 1)
        ),
    }
    answer("Exercise 5.2", each(lowest), each(lambda k, m, e: -e * (m * math.log(k) + 1)), hints)


def ex_05_3(matched: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """The prototype term of one pair, with the plan as the matching."""
    chance = torch.Generator().manual_seed(5)
    x, means = (torch.randn(size, 2, generator=chance, dtype=torch.float64) for size in (8, 3))
    weights = torch.randn(8, 3, generator=chance, dtype=torch.float64).softmax(1)
    plan = torch.rand(3, 3, generator=chance, dtype=torch.float64)
    plan = plan / plan.sum()

    def term(target: Tensor) -> Tensor:
        return (weights * (x[:, None] - target).square().sum(-1)).sum(1).mean()

    row, column = plan.sum(1, keepdim=True), plan.sum(0).unsqueeze(1)
    hints = {
        "The targets are still the means of equal index: the plan is not used.": term(means),
        "Divide by the plan's row sums: a target is a weighted mean.": term(plan @ means),
        "The plan's rows belong to the source, its columns to the target: it is transposed here.": term(
            plan.mT @ means / column
        ),
        "Divide by the row sums, the mass that the source's k sends, not by the column sums.": term(
            plan @ means / column
        ),
        "Take the mean over samples, the sum over prototypes.": term(plan @ means / row) * len(x),
    }
    answer("Exercise 5.3", matched(x, weights, means, plan), term(plan @ means / row), hints)


def ex_05_4(epsilon: float) -> None:
    """A relative epsilon that is near the linear programme and converges within 100 rounds."""
    what = "Exercise 5.4"
    if not epsilon > 0:
        raise CheckError(f"{what}: not yet. Wanted a positive number, got {epsilon}.")
    chance = torch.Generator().manual_seed(5)
    x = torch.randn(3, 32, 8, generator=chance, dtype=torch.float64)
    mixtures = [fit(rows, 7) for rows in x]
    cost, marginals = joint_cost(mixtures), [mixture.weights for mixture in mixtures]
    found = sinkhorn(cost, marginals, epsilon=epsilon * cost.mean(), iterations=100, tolerance=1e-4)
    best = exact(cost, marginals).value
    excess = float(found.value / best - 1)
    if not found.converged:
        error = float(found.marginal_error)
        raise CheckError(f"{what}: not yet. Too sharp for 100 rounds: the marginal error is still {error:.0e}.")
    if excess > 0.1:
        raise CheckError(f"{what}: not yet. Too blurred: the value is {excess:.0%} above the linear programme.")
    equal(what, found.value / best, 1.0, tolerance=0.1)
