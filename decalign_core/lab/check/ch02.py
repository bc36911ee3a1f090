"""Checkers for the exercises of chapter 2, decoupling (Eq 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.lab.check.core import CheckError, answer
from decalign_core.lab.probes import cross_validated_r2


def ex_02_1(given: ArrayLike) -> None:
    """Exercise 2.1: Eq 1, signed and squared, of three modalities of one frame each."""
    cosines = torch.tensor([24 / 25, 0.0, -1.0], dtype=torch.float64)
    signed, squared = float(cosines.sum()), float(cosines.square().sum())
    answer(
        "Exercise 2.1",
        given,
        [signed, squared],
        {
            "Eq 1 sums over modalities; you took the mean.": [signed / 3, squared / 3],
            "The order is signed, then squared.": [squared, signed],
            "Square each cosine, then add; you squared the sum.": [signed, signed**2],
            "Divide each product by both norms: these are the products alone.": [19.0, 24.0**2 + 5.0**2],
            "The third pair points in opposite directions: its cosine is -1, not 1.": [signed + 2, squared],
        },
    )


def ex_02_2(given: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 2.2: the gradient of the cosine with respect to its first vector."""
    generator = torch.Generator().manual_seed(2)
    u, c = 2 * torch.randn(2, 5, generator=generator, dtype=torch.float64)
    a, b = u / u.norm(), c / c.norm()
    gradient = (b - (a @ b) * a) / u.norm()
    answer(
        "Exercise 2.2",
        given(u, c),
        gradient,
        {
            "The norm of u depends on u too: take away the component of c along u.": b / u.norm(),
            "The gradient shrinks as u grows: divide by the norm of u.": gradient * u.norm(),
            "That is the gradient of the squared cosine; here the cosine itself is asked for.": 2 * (a @ b) * gradient,
            "That is the gradient with respect to c.": (a - (a @ b) * b) / c.norm(),
            "The sign is turned: the gradient points to where the cosine grows.": -gradient,
        },
    )


def ex_02_3(given: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 2.3: the squared cosine of frames, averaged over the valid ones, then over samples."""
    generator = torch.Generator().manual_seed(3)
    unique, common = torch.randn(2, 4, 6, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]
    frames = torch.cosine_similarity(unique, common, dim=-1)
    kept, lengths = frames.where(mask, 0), mask.sum(1)
    whole = (x.where(mask[..., None], 0).flatten(1) for x in (unique, common))
    answer(
        "Exercise 2.3",
        given(unique, common, mask),
        (kept.square().sum(1) / lengths).mean(),
        {
            "Padded frames were counted: leave out those where the mask is False.": frames.square().mean(),
            "Divide by the number of valid frames of the sample, not by T.": kept.square().mean(),
            "Average within each sample first: long samples must not weigh more.": frames[mask].square().mean(),
            "That is the block's cosine, the reading of Eq 1; here every frame has its own.": torch.cosine_similarity(
                *whole
            )
            .square()
            .mean(),
            "Square each frame's cosine, then average: else frames cancel.": (kept.sum(1) / lengths).square().mean(),
            "The cosines were not squared.": (kept.sum(1) / lengths).mean(),
        },
    )


def ex_02_4(given: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2.4: from a unique encoder's weight, an invertible common one whose part is always orthogonal to it."""
    generator = torch.Generator().manual_seed(4)
    for width in (2, 6):
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
        x = torch.randn(50, width, generator=generator, dtype=torch.float64)
        found = given(weight)
        if not isinstance(found, Tensor) or found.shape != weight.shape:
            raise CheckError(f"Exercise 2.4: not yet. Wanted a tensor of shape {tuple(weight.shape)}.")
        _check_turn(weight, found.double(), x)
    print("PASS Exercise 2.4")


def _check_turn(weight: Tensor, found: Tensor, x: Tensor) -> None:
    strengths = torch.linalg.svdvals(found)
    if strengths.max() == 0 or strengths.min() < 1e-6 * strengths.max():
        raise CheckError("Exercise 2.4: not yet. This encoder is not invertible: the common part loses something.")
    cosines = torch.cosine_similarity(x @ weight.T, x @ found.T)
    if (cosines < -1 + 1e-6).all():
        raise CheckError("Exercise 2.4: not yet. These parts are opposite: the signed optimum, not the squared one.")
    if cosines.abs().max() > 1e-6:
        raise CheckError(
            "Exercise 2.4: not yet. The parts must be orthogonal for every input, and for a random one the cosine is "
            f"{float(cosines[cosines.abs().argmax()]):.2f}. Which matrices S have z @ S @ z = 0 for all z?"
        )


def ex_02_5(given: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise 2.5: what a probe reads by chance, from factors whose rows were shuffled."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(120, 8, generator=generator, dtype=torch.float64)
    factors = features @ torch.randn(8, 3, generator=generator, dtype=torch.float64)
    chance = torch.as_tensor(given(features, factors, 0))
    if chance.shape != (3,):
        raise CheckError(f"Exercise 2.5: not yet. Wanted one R² a factor, shape (3,), got {tuple(chance.shape)}.")
    if (chance - cross_validated_r2(features, factors)).abs().max() < 0.05:
        raise CheckError(
            "Exercise 2.5: not yet. This is the R² of the factors as they are. Shuffle the rows of one side only, so "
            "that features and factors no longer belong together."
        )
    if chance.max() > 0.2:
        raise CheckError("Exercise 2.5: not yet. Chance reads nothing on held-out samples: score with other folds.")
    if torch.equal(chance, torch.as_tensor(given(features, factors, 1))):
        raise CheckError("Exercise 2.5: not yet. Another seed must give another shuffle.")
    print("PASS Exercise 2.5")


def ex_02_6(given: Mapping[float, float]) -> None:
    """Exercise 2.6: the separation by the weight of Eq 1, measured on trained decouplers."""
    if not isinstance(given, Mapping) or len(given) < 2 or max(given) < 10:
        raise CheckError("Exercise 2.6: not yet. Wanted a separation for each of several weights, one of at least 10.")
    values = torch.tensor(list(given.values()), dtype=torch.float64)
    if not values.isfinite().all():
        raise CheckError("Exercise 2.6: not yet. A separation is not finite: did the training diverge?")
    if values.min() > 0.3:
        raise CheckError(
            "Exercise 2.6: not yet. These look like R² values. The separation is a difference of R² between the parts: "
            "use separation(readout(...))."
        )
    print(f"PASS Exercise 2.6: the largest separation is {float(values.max()):+.3f}")
