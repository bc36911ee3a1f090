"""Exercises of chapter 12, benchmarks: a trace, two conventions, an interval, a number of utterances, a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

from decalign_core.lab.check.core import CheckError, answer
from decalign_core.lab.results import published

_Z, _ONE_SIDED, _UTTERANCES = 1.959963984540054, 1.6448536269514722, 686


def ex_12_1(accuracy: float) -> None:
    """The share of MOSI's 686 test utterances on the diagonal of DMD's matrix in Figure 4, in percent."""
    counts = published("figure4").query("model == 'DMD'")
    right, drawn = (counts.query(rule)["count"].sum() for rule in ("truth == pred", "count >= 0"))
    recalls = counts.query("truth == pred").set_index("truth")["count"] / counts.groupby("truth")["count"].sum()
    hints = {
        "In percent, as Table 1 prints it.": right / _UTTERANCES,
        f"That divides by the {drawn} utterances of the matrix; the question asks for the test split's 686.": (
            100 * right / drawn
        ),
        "That is the mean recall of the seven classes: add the counts first, then divide once.": 100 * recalls.mean(),
        "That is the number of utterances on the diagonal: divide it by 686.": float(right),
    }
    answer("Exercise 12.1", accuracy, 100 * right / _UTTERANCES, hints, tolerance=5e-3)


def ex_12_2(has0: Callable[[float, float, float], float]) -> None:
    """A function of Non0, of the share of the zeros that count as right, and of the share of zeros: Has0."""
    cases = [(0.85, 0.5, 0.04), (0.80, 1.0, 0.25), (0.90, 0.2, 0.0)]
    given = [_number("Exercise 12.2", has0(*case)) for case in cases]
    wrong = {
        "The two shares are weighted by how many utterances they speak for.": lambda a, q, z: (a + q) / 2,
        "The weights are the other way round: z is the share of the zeros.": lambda a, q, z: z * a + (1 - z) * q,
        "That counts every zero as wrong; the share q of them is right.": lambda a, q, z: (1 - z) * a,
        "That counts every zero as right; only the share q of them is.": lambda a, q, z: (1 - z) * a + z,
        "Non0 speaks for the share 1 - z of the utterances only.": lambda a, q, z: a + z * q,
    }
    hints = {hint: [f(*case) for case in cases] for hint, f in wrong.items()}
    answer("Exercise 12.2", given, [(1 - z) * a + z * q for a, q, z in cases], hints)


def ex_12_3(interval: Callable[[int, int], tuple[float, float]]) -> None:
    """A function of the right answers and of all answers: Wilson's 95 % interval."""
    cases = [(583, 686), (20, 20), (150, 204)]
    given = [_pair("Exercise 12.3", interval(*case)) for case in cases]
    hints = {
        "That is the normal interval, p ± z sqrt(p (1 - p) / n): at 20 of 20 it has no width.": [
            _normal(*case) for case in cases
        ],
        "z leaves 2.5 % on each side, not 5 %.": [_wilson(*case, _ONE_SIDED) for case in cases],
        "Centre and half width are both divided by 1 + z²/n.": [_undivided(*case) for case in cases],
        "The lower end comes first.": [_wilson(*case)[::-1] for case in cases],
        "Both ends are shares between 0 and 1, not percent.": [[100 * end for end in _wilson(*case)] for case in cases],
    }
    answer("Exercise 12.3", given, [_wilson(*case) for case in cases], hints)


def ex_12_4(utterances: Callable[[float, float], float]) -> None:
    """A function of a difference and of an accuracy: how many utterances each of two test sets must have."""
    cases = [(0.01, 0.85), (0.02, 0.75), (0.05, 0.5)]
    given = [_number("Exercise 12.4", utterances(*case)) for case in cases]
    one = [(_Z / delta) ** 2 * p * (1 - p) for delta, p in cases]
    hints = {
        "That is the interval of one accuracy; a difference of two independent ones has twice the variance.": one,
        "The standard deviations do not add up, the variances do.": [4 * n for n in one],
        "z leaves 2.5 % on each side, not 5 %.": [2 * n * (_ONE_SIDED / _Z) ** 2 for n in one],
        "The half width shrinks with the root of n: square the ratio.": [
            _Z / delta * math.sqrt(2 * p * (1 - p)) for delta, p in cases
        ],
        "An accuracy varies by p (1 - p) around its mean, not by its root.": [
            2 * (_Z / delta) ** 2 * math.sqrt(p * (1 - p)) for delta, p in cases
        ],
    }
    answer("Exercise 12.4", given, [2 * n for n in one], hints, tolerance=1.01)  # rounding up is welcome


def ex_12_5(verdict: Callable[[float, float, bool], str]) -> None:
    """A function of the interval of peer minus ours and of whether higher is better: ahead, behind or undecided."""
    cases = {
        "an MAE whose difference lies above 0": ((0.01, 0.05, False), "ahead"),
        "an accuracy whose difference lies above 0": ((0.01, 0.05, True), "behind"),
        "an MAE whose difference lies below 0": ((-0.05, -0.01, False), "behind"),
        "an accuracy whose difference lies below 0": ((-0.05, -0.01, True), "ahead"),
        "an interval around 0": ((-0.04, 0.01, False), "undecided"),
        "an interval that ends at 0": ((0.0, 0.03, True), "undecided"),
        "a single run, whose interval is nan": ((math.nan, math.nan, True), "undecided"),
    }
    for case, (arguments, wanted) in cases.items():
        given = verdict(*arguments)
        if given != wanted:
            raise CheckError(
                f"Exercise 12.5: not yet. For {case}, with the difference taken as the peer minus ours, "
                f"the word is {wanted!r}, not {given!r}."
            )
    print("PASS Exercise 12.5")


def _wilson(right: int, n: int, z: float = _Z) -> list[float]:
    p, shrink = right / n, 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / shrink
    return [centre - half, centre + half]


def _undivided(right: int, n: int) -> list[float]:
    return [end * (1 + _Z**2 / n) for end in _wilson(right, n)]


def _normal(right: int, n: int) -> list[float]:
    p = right / n
    half = _Z * math.sqrt(p * (1 - p) / n)
    return [p - half, p + half]


def _number(what: str, value: object) -> float:
    try:
        return float(value)
    except TypeError:
        raise CheckError(f"{what}: not yet. The function should return a number, it returned {value!r}.") from None


def _pair(what: str, value: object) -> list[float]:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise CheckError(f"{what}: not yet. The function should return low, high; it returned {value!r}.") from None
    return [_number(what, low), _number(what, high)]
