"""Checkers for the exercises of chapter 8, full training (Eq 13)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from numpy.typing import ArrayLike

from decalign_core.lab.check.core import CheckError, answer
from decalign_core.objective import ObjectiveConfig
from decalign_core.types import Losses

_TERMS = ("task", "decoupling", "transport", "prototype", "semantic", "mmd", "contrastive")
_ON_COMMON = {"task", "decoupling", "semantic", "mmd", "contrastive"}


def ex_08_1(given: Collection[str]) -> None:
    """Exercise 8.1: the terms whose gradient reaches the common encoder, by their names in ``Losses``."""
    names = set(given)
    unknown, missing = sorted(names - set(_TERMS)), _ON_COMMON - names
    hints = {
        f"No term is called {', '.join(unknown)}; the names are {', '.join(_TERMS)}.": bool(unknown),
        "Eq 9 compares the unique parts: it never reads the common encoder.": bool(names & {"transport", "prototype"}),
        "Eq 1 is a cosine of two parts, and has a gradient on both.": "decoupling" in missing,
        "The fused vector holds the common parts too: whatever reads it pulls on them.": bool(
            missing & {"task", "contrastive"}
        ),
        "Eq 10 and Eq 11 compare latent features, made from the common parts.": bool(missing),
    }
    for hint, fits in hints.items():
        if fits:
            raise CheckError(f"Exercise 8.1: not yet. {hint}")
    print("PASS Exercise 8.1")


def ex_08_2(given: ArrayLike) -> None:
    """Exercise 8.2: how many times larger the first step gets where Eq 13 as a whole is multiplied by 10."""
    answer(
        "Exercise 8.2",
        given,
        [10, 2, 1],
        {
            "Clipping cuts the norm 5 to 1, and 1 is twice the norm of before.": [10, 10, 1],
            "Both norms are not clipped: the first, one half, is below 1 and stays.": [10, 1, 1],
            "Adam divides the gradient by its own size: a common factor cancels.": [10, 2, 10],
            "Adam divides the gradient by its own size, clipped or not: a common factor cancels.": [10, 2, 2],
        },
    )


def ex_08_3(given: Callable[[Losses, ObjectiveConfig], torch.Tensor]) -> None:
    """Exercise 8.3: the total of ``Losses`` under an ``ObjectiveConfig``, its inner weights and CT included."""
    config = ObjectiveConfig(
        decoupling_weight=0.5,
        alpha=0.2,
        beta=0.3,
        contrastive_weight=0.7,
        transport_weight=1.5,
        prototype_weight=0.0,
        semantic_weight=2.0,
        mmd_weight=0.25,
    )
    values = dict(zip(_TERMS, torch.tensor([1.0, 3.0, 7.0, 13.0, 29.0, 53.0, 101.0], dtype=torch.float64), strict=True))
    outer = {"task": 1.0, "decoupling": 0.5, "transport": 0.2, "prototype": 0.2, "semantic": 0.3, "mmd": 0.3}
    inner = {"transport": 1.5, "prototype": 0.0, "semantic": 2.0, "mmd": 0.25, "contrastive": 0.7}

    def total(*weights: dict[str, float], leave: Collection[str] = ()) -> torch.Tensor:
        kept = [name for name in values if any(name in each for each in weights) and name not in leave]
        return sum(math.prod(each.get(name, 1.0) for each in weights) * values[name] for name in kept)

    answer(
        "Exercise 8.3",
        given(Losses(**values, total=torch.zeros(())), config),
        total(outer, inner),
        {
            "The terms are unweighted: multiply them.": sum(values.values()),
            "Each alignment has weights of its own within alpha and beta: transport_weight and its like.": total(
                outer, {"contrastive": 0.7}
            ),
            "The contrastive term is missing.": total(outer, inner, leave=["contrastive"]),
            "The transport's weight is alpha times transport_weight; alpha or beta is missing.": total(
                {"task": 1.0, "decoupling": 0.5}, inner
            ),
            "The decoupling has a weight too.": total(outer, inner) + 0.5 * values["decoupling"],
            "Alpha belongs to Eq 9, beta to Eq 10 and 11, not the other way round.": total(
                outer | {"transport": 0.3, "prototype": 0.3, "semantic": 0.2, "mmd": 0.2}, inner
            ),
        },
    )


def ex_08_4(given: Callable[[Sequence[float], int], int]) -> None:
    """Exercise 8.4: the epoch, from 1, whose mean over itself and the ``window - 1`` before it is least."""
    errors, window = [0.9, 0.8, 0.5, 0.9, 0.7, 0.65, 0.62, 0.62, 0.8], 3
    answer(
        "Exercise 8.4",
        [given(list(errors), window), given([0.5, 0.4, 0.4, 0.4, 0.4], 1)],
        [8, 2],
        {
            "Epochs count from 1, places in a list from 0.": [7, 1],
            "One lucky epoch wins: compare means over the window, not single values.": [3, 2],
            "The window ends at the epoch: what comes after it is not known yet.": [7, 2],
            "Of equal values the first counts: a later epoch has to be better.": [8, 5],
            "Lower is better here.": [1, 1],
        },
    )


def ex_08_5(given: Callable[[torch.Tensor, torch.Tensor, float], float]) -> None:
    """Exercise 8.5: the alpha at which Eq 9 pulls with a share of the task's strength, from unweighted gradients."""
    task, hete = torch.tensor([3.0, 4.0]), torch.tensor([0.0, -20.0])
    answer(
        "Exercise 8.5",
        given(task.clone(), hete.clone(), 0.2),
        0.05,
        {
            "The other way round: a gradient that is already strong needs a small weight.": 0.8,
            "The share is missing: that alpha makes the two equally strong.": 0.25,
            "Norms, not squared norms.": 0.2 * 25 / 400,
            "A share of the task's gradient, not of the sum of both.": 0.25 * 0.25,
            "A strength is a norm: signs play no part.": -0.05,
        },
    )
