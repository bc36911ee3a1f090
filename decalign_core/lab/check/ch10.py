"""Exercises of chapter 10, sensitivity: a printed slope, the unit of a weight, free parameters, an honest choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from decalign_core.lab.check.core import answer
from decalign_core.lab.results import published


def ex_10_1(points: float) -> None:
    """Exercise 10.1: points of F1 that the printed grid of MOSI loses from alpha 0.05 to 0.5, averaged over beta."""
    table = published("figure7").pivot(index=["dataset", "beta"], columns="alpha", values="f1")
    fall = table[0.05] - table[0.5]
    hints = {
        "That is the fall at beta 0.05 alone; average over the five values of beta.": fall["mosi"][0.05],
        "A loss is a positive number here.": -fall["mosi"].mean(),
        "In points of percent, as the grid is printed.": fall["mosi"].mean() / 100,
        "That is CMU-MOSEI's; the question asks for CMU-MOSI.": fall["mosei"].mean(),
        "That begins at alpha 0.01.": (table[0.01] - table[0.5])["mosi"].mean(),
        "That goes along beta; alpha is the other axis.": table.loc["mosi"]
        .loc[0.05]
        .sub(table.loc["mosi"].loc[0.5])
        .mean(),
    }
    answer("Exercise 10.1", points, fall["mosi"].mean(), hints, tolerance=0.006)


def ex_10_2(weight: Callable[[float, int, int], float]) -> None:
    """Exercise 10.2: the weight of a sum over ``d_new`` dimensions for ``alpha``, that of a mean over ``d``."""
    cases = [(0.05, 64, 64), (0.05, 64, 32), (0.2, 16, 128)]
    wrong = {
        "A sum is larger than a mean: its weight is smaller, divide.": lambda alpha, d, new: alpha * new,
        "The new sum has the new number of dimensions.": lambda alpha, d, new: alpha / d,
        "That would be right if the term had been a sum before, too.": lambda alpha, d, new: alpha * d / new,
        "The weight stays only if the term stays a mean.": lambda alpha, d, new: alpha,
        "The sum has d terms, not d squared.": lambda alpha, d, new: alpha / new**2,
    }
    hints = {hint: [f(*case) for case in cases] for hint, f in wrong.items()}
    answer("Exercise 10.2", [weight(*case) for case in cases], [alpha / new for alpha, _, new in cases], hints)


def ex_10_3(parameters: Callable[[int, int, bool], int]) -> None:
    """Exercise 10.3: the free parameters of a mixture of K Gaussians in d dimensions, full or diagonal."""
    cases = [(7, 64, False), (7, 64, True), (1, 3, False), (2, 3, True)]

    def count(K: int, full: float, weights: int, means: int) -> float:
        return K * (means + full) + weights

    def all_of(matrix: Callable[[int], float], less: int = 1, centre: int = 1) -> list[float]:
        return [count(K, matrix(d) if full else d, K - less, centre * d) for K, d, full in cases]

    hints = {
        "The weights sum to 1, so one of them is not free.": all_of(lambda d: d * (d + 1) / 2, less=0),
        "A covariance is symmetric: d (d + 1) / 2 numbers, not d squared.": all_of(lambda d: d * d),
        "The diagonal belongs to the covariance too: d (d + 1) / 2.": all_of(lambda d: d * (d - 1) / 2),
        "The means are missing.": all_of(lambda d: d * (d + 1) / 2, centre=0),
        "The weights are missing.": [x - K + 1 for x, (K, _, _) in zip(all_of(_symmetric), cases, strict=True)],
        "A full covariance has more than its diagonal.": all_of(lambda d: d),
    }
    answer("Exercise 10.3", [parameters(*case) for case in cases], all_of(_symmetric), hints)


def ex_10_4(report: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """Exercise 10.4: the test error to report, of validation and test errors of all cells."""
    valid, test = [0.94, 0.88, 0.91, 0.97], [0.93, 0.90, 0.86, 0.99]
    hints = {
        "That is the best test error: choosing by it makes the best of noise. Choose on the validation split.": min(
            test
        ),
        "That is the validation error of the chosen cell; report its test error.": min(valid),
        "That is the mean over all cells; one cell is chosen.": sum(test) / len(test),
        "Errors should be low: choose the smallest.": test[3],
        "Return the error, not the cell's place.": 1,
    }
    answer("Exercise 10.4", report(valid, test), test[1], hints, tolerance=1e-9)


def _symmetric(d: int) -> float:
    return d * (d + 1) / 2
