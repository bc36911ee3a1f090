"""Checkers for the exercises of chapter 11, looking inside (Figures 4, 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from decalign_core.lab.check.core import answer


def ex_11_1(given: ArrayLike) -> None:
    """Exercise 11.1: accuracy, first class, mean over classes, of [[8, 2, 0], [3, 4, 3], [0, 0, 20]]."""
    counts = np.array([[8, 2, 0], [3, 4, 3], [0, 0, 20]])
    right, rows, columns = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    accuracy, recalls = right.sum() / counts.sum(), right / rows
    answer(
        "Exercise 11.1",
        given,
        [accuracy, recalls[0], recalls.mean()],
        {
            "Rows are truths: divide by the sum of the row, not of the column.": [
                accuracy,
                (right / columns)[0],
                (right / columns).mean(),
            ],
            "The last number gives every class the same weight, whatever its size.": [accuracy, recalls[0], accuracy],
            "The first number counts utterances, not classes: the diagonal over all of them.": [
                recalls.mean(),
                recalls[0],
                recalls.mean(),
            ],
            "Give shares between 0 and 1, not percent.": [100 * accuracy, 100 * recalls[0], 100 * recalls.mean()],
        },
        tolerance=5e-4,
    )


def ex_11_2(given: Callable[[NDArray], float]) -> None:
    """Exercise 11.2: Acc-5 from counts ``(7, 7)``, rows and columns -3 ... 3."""
    counts = np.random.default_rng(11).integers(0, 9, (7, 7))
    total, right = counts.sum(), counts.trace()
    inner = counts[1:-1, 1:-1]
    answer(
        "Exercise 11.2",
        given(counts.copy()),
        (right + counts[0, 1] + counts[1, 0] + counts[5, 6] + counts[6, 5]) / total,
        {
            "That is Acc-7: a truth of 3 and a prediction of 2 are one class after clipping to -2 ... 2.": right
            / total,
            "Clipping moves the outer classes inwards, it does not drop their utterances.": inner.trace() / inner.sum(),
            "Utterances of the outer classes stay in the total.": inner.trace() / total,
            "Clipping works on both sides: a truth of 2 with a prediction of 3 counts, and the reverse.": (
                right + counts[1, 0] + counts[5, 6]
            )
            / total,
            "Only neighbours on the same side fall together, not all neighbours.": (
                right + counts.diagonal(1).sum() + counts.diagonal(-1).sum()
            )
            / total,
            "Divide the count by the number of utterances.": right
            + counts[0, 1]
            + counts[1, 0]
            + counts[5, 6]
            + counts[6, 5],
        },
    )


def ex_11_3(given: Callable[[float, int], float]) -> None:
    """Exercise 11.3: expected share of masked pairs, from the chance p of each and the number of modalities."""
    cases = [(0.1, 2), (0.5, 2), (0.5, 3), (0.9, 3), (0.9, 4), (1.0, 5)]

    def over(function: Callable[[float, int], float]) -> list[float]:
        return [function(chance, count) for chance, count in cases]

    answer(
        "Exercise 11.3",
        [float(given(chance, count)) for chance, count in cases],
        over(lambda p, m: p - p**m / m),
        {
            "A sample that would lose everything keeps its luckiest modality: the share is smaller than p.": over(
                lambda p, m: p
            ),
            "All M modalities would be lost with chance p to the power M; one pair of M is given back then.": over(
                lambda p, m: p - p**m
            ),
            "Modalities are masked independently, so the chances multiply: p to the power M.": over(
                lambda p, m: p - p / m
            ),
            "That is the largest share possible, which p = 1 reaches.": over(lambda p, m: (m - 1) / m),
        },
        tolerance=1e-8,
    )


def ex_11_4(given: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 11.4: matching ``(R,)`` of x and y ``(N, d)`` after each reordering of y's rows, ``(R, N)``."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    y = x + 0.5 * torch.randn(9, 3, generator=generator, dtype=torch.float64) + 1
    orders = torch.stack([torch.randperm(9, generator=generator) for _ in range(6)])
    apart = torch.cdist(x, y)

    def matching(distances: Tensor) -> Tensor:
        n, own = len(distances), distances.diagonal()
        return own.mean() / ((distances.sum() - own.sum()) / (n * (n - 1)))

    def over(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([function(order) for order in orders])

    answer(
        "Exercise 11.4",
        given(x.clone(), y.clone(), orders.clone()),
        over(lambda order: matching(apart[:, order])),
        {
            "That is the matching of the true partners: reorder the rows of y, and of y alone.": over(
                lambda _: matching(apart)
            ),
            "The denominator leaves the new partners out: it is the mean over the other pairs.": over(
                lambda order: apart[:, order].diagonal().mean() / apart.mean()
            ),
            "That is the mean distance of the new partners: divide it by that of the strangers.": over(
                lambda order: apart[:, order].diagonal().mean()
            ),
        },
        tolerance=1e-8,
    )
