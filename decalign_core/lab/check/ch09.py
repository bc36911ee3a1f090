"""Exercises of chapter 9, ablations: a row's settings, what pairing saves, drawn videos, a verdict on an order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from decalign_core.lab.check.core import CheckError, answer
from decalign_core.lab.experiment import VARIANTS, configure

_Z = 1.96
_TERMS = ("transport", "prototype", "semantic", "mmd", "contrastive", "decoupling")


def ex_09_1(settings: Mapping[str, Any]) -> None:
    """Exercise 9.1: the settings of a row without the transport term of Eq 9, its prototype term kept."""
    if not isinstance(settings, Mapping):
        raise CheckError(f"Exercise 9.1: not yet. Wanted a dictionary like those of VARIANTS, got {settings!r}.")
    try:
        changed = configure(settings)
    except ValueError as error:
        raise CheckError(f"Exercise 9.1: not yet. No such setting or value: {error}.") from None
    base = configure({})
    if changed == base:
        raise CheckError("Exercise 9.1: not yet. Nothing changes: that is the full model.")
    if changed.hash() == configure(VARIANTS["no_proto_ot"]).hash():
        raise CheckError("Exercise 9.1: not yet. That is no_proto_ot, which drops the prototype term too.")
    if changed.objective.alpha != base.objective.alpha:
        raise CheckError("Exercise 9.1: not yet. alpha weighs both terms of Eq 9: set the weight within it.")
    off = [term for term in _TERMS if getattr(changed.objective, f"{term}_weight") == 0]
    if off != ["transport"]:
        raise CheckError(f"Exercise 9.1: not yet. Without {' and '.join(off) or 'no term'}; wanted without transport.")
    if changed.hash() != configure({"objective.transport_weight": 0.0}).hash():
        raise CheckError("Exercise 9.1: not yet. More changes than the weight of one term.")
    print("PASS Exercise 9.1")


def ex_09_2(seeds: Callable[[float, float, float], float]) -> None:
    """Exercise 9.2: the number of paired seeds for a difference, of a deviation over seeds and of a correlation."""
    cases = [(0.01, 0.02, 0.0), (0.01, 0.02, 0.8), (0.005, 0.03, 0.5)]
    wanted = [2 * (1 - rho) * (_Z * s / delta) ** 2 for delta, s, rho in cases]
    hints = {
        "That is the number without pairing: the correlation lowers the variance of the difference.": [
            2 * (_Z * s / delta) ** 2 for delta, s, _ in cases
        ],
        "A difference has the variance of both sides: s² twice, less twice the covariance.": [
            (1 - rho) * (_Z * s / delta) ** 2 for delta, s, rho in cases
        ],
        "The standard error shrinks with the root of n: square the ratio.": [math.sqrt(n) for n in wanted],
        "A positive correlation makes the difference less variable, not more.": [
            2 * (1 + rho) * (_Z * s / delta) ** 2 for delta, s, rho in cases
        ],
        "The covariance is rho s², the correlation enters once, not squared.": [
            2 * (1 - rho**2) * (_Z * s / delta) ** 2 for delta, s, rho in cases
        ],
    }
    answer("Exercise 9.2", [seeds(*case) for case in cases], wanted, hints, tolerance=1.01)  # rounding up is welcome


def ex_09_3(weights: Callable[[Sequence[str], Sequence[str]], Sequence[float]]) -> None:
    """Exercise 9.3: how often each utterance counts when whole videos are drawn with replacement."""
    videos, drawn = ["a", "a", "b", "c", "c", "c"], ["c", "a", "c"]
    wanted = [drawn.count(video) for video in videos]
    hints = {
        "A video that was drawn twice counts twice: count, do not ask whether it is there.": [
            float(video in drawn) for video in videos
        ],
        "Each utterance counts as often as its video was drawn, not that number divided by the video's size.": [
            drawn.count(video) / videos.count(video) for video in videos
        ],
        "No need to divide: the metric divides by the sum of the weights.": [n / len(drawn) for n in wanted],
        "Count among the drawn videos, not among the utterances.": [videos.count(video) for video in videos],
    }
    answer("Exercise 9.3", weights(videos, drawn), wanted, hints)


def ex_09_4(word: Callable[[float, float, bool], str]) -> None:
    """Exercise 9.4: a verdict on "A is worse than B" from the interval of A minus B."""
    cases = {
        "an MAE that is higher throughout": ((0.01, 0.05, False), "reproduced"),
        "an MAE that is lower throughout": ((-0.05, -0.01, False), "not reproduced"),
        "an F1 that is higher throughout": ((0.01, 0.05, True), "not reproduced"),
        "an F1 that is lower throughout": ((-0.05, -0.01, True), "reproduced"),
        "an interval around 0": ((-0.01, 0.04, False), "undecided"),
        "an interval that ends at 0": ((0.0, 0.03, False), "undecided"),
        "a single run, whose ends are nan": ((math.nan, math.nan, True), "undecided"),
    }
    for case, (arguments, wanted) in cases.items():
        given = word(*arguments)
        if given != wanted:
            raise CheckError(f"Exercise 9.4: not yet. For {case} the word is {wanted!r}, not {given!r}.")
    print("PASS Exercise 9.4")
