"""Exercises of chapter 3: Gaussian prototypes (Eq 2-4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.alignment.mixture import GaussianMixture, fit
from decalign_core.lab.check.core import CheckError, answer

_TOY = {"weights": (2 / 3, 1 / 3), "means": (1.5, 9.0), "variances": (1.25, 1.0)}


def ex_03_1(given: Tensor | ArrayLike) -> None:
    """Exercise 3.1: the responsibility of the first toy prototype for a sample at 5, to three digits."""

    def first(weights: tuple[float, float], power: float = 0.5, deviation: bool = False) -> float:
        joint = []
        for weight, mean, variance in zip(weights, _TOY["means"], _TOY["variances"], strict=True):
            spread = variance**2 if deviation else variance
            joint.append(weight * math.exp(-((5 - mean) ** 2) / (2 * spread)) / variance**power)
        return joint[0] / sum(joint)

    right = first(_TOY["weights"])
    hints = {
        "That leaves out the weights: the first prototype holds twice as many samples.": first((0.5, 0.5)),
        "That leaves out the root of the determinant in Eq 4.": first(_TOY["weights"], power=0),
        "That takes the variance for a standard deviation.": first(_TOY["weights"], power=1, deviation=True),
        "That is the second prototype's responsibility.": 1 - right,
    }
    answer("Exercise 3.1", given, right, hints, tolerance=6e-4)


def ex_03_2(given: Tensor | ArrayLike) -> None:
    """Exercise 3.2: the least dimension in which the sample at a mean has a responsibility of 0.999 or more."""
    logit, gap = math.log(999), 0.4
    right = math.ceil(2 * logit / gap**2)
    hints = {
        "The exponent of Eq 4 has a factor 1/2.": math.ceil(logit / gap**2),
        "The distance enters squared.": math.ceil(2 * logit / gap),
        "Squared distances add over the coordinates; distances do not.": math.ceil(math.sqrt(2 * logit) / gap),
        "There the responsibility is still just below 0.999.": right - 1,
    }
    answer("Exercise 3.2", given, right, hints, tolerance=0.5)


def ex_03_3(function: Callable[[Tensor], Tensor]) -> None:
    """Exercise 3.3: responsibilities from ``log pi_k + log N``, ``(N, K)``, for samples however far."""
    near = torch.tensor([[-1.0, -2.0, -4.0], [-3.0, -0.5, -2.5]], dtype=torch.float64)
    far = near - 5000.0
    log_joint = torch.cat([near, far, near + 2000.0])
    given = function(log_joint.clone())
    if given is None:
        raise CheckError("Exercise 3.3: not yet. The function returns nothing.")
    if not torch.isfinite(given).all():
        message = "exp gives 0 or infinity for far samples; subtract each row's largest value before exp."
        raise CheckError(f"Exercise 3.3: not yet. {message}")
    hints = {
        "Those columns sum to 1; the rows should: normalise over the prototypes.": log_joint.softmax(0),
        "Those are the logarithms of the responsibilities.": log_joint.log_softmax(1),
    }
    answer("Exercise 3.3", given, log_joint.softmax(1), hints)


def ex_03_4(function: Callable[[GaussianMixture], Tensor]) -> None:
    """Exercise 3.4: the covariance ``(d, d)`` of all that a mixture with full covariances describes."""
    generator = torch.Generator().manual_seed(3)
    factors = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    covariances = factors @ factors.mT + 0.2 * torch.eye(2, dtype=torch.float64)
    given = function(GaussianMixture(weights, means, covariances))
    if given is None:
        raise CheckError("Exercise 3.4: not yet. The function returns nothing.")
    within = torch.einsum("k,kij->ij", weights, covariances)
    raw = torch.einsum("k,ki,kj->ij", weights, means, means)
    hints = {
        "That is the spread within the prototypes; the spread of their means is missing.": within,
        "That is the spread of the means; the one within the prototypes is missing.": _covariance(weights, means),
        "Every prototype counts the same there; use the weights.": covariances.mean(0)
        + _covariance(torch.full_like(weights, 1 / 3), means),
        "Subtract the mixture's mean from the means before you take their products.": within + raw,
    }
    answer("Exercise 3.4", given, within + _covariance(weights, means), hints)


def _covariance(weights: Tensor, means: Tensor) -> Tensor:
    centred = means - weights @ means
    return torch.einsum("k,ki,kj->ij", weights, centred, centred)


def points_of_5() -> tuple[Tensor, Tensor]:
    """Samples to fit and samples to judge by, each ``(N, 2)``, drawn from four clusters."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.tensor([[-4.0, -3.0], [4.0, -3.0], [-3.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    which = torch.randint(4, (240,), generator=generator)
    x = centres[which] + torch.randn(240, 2, generator=generator, dtype=torch.float64)
    return x[:120], x[120:]


def ex_03_5(given: Tensor | ArrayLike) -> None:
    """Exercise 3.5: K, from 1 to 10, with the largest likelihood of held-out samples after 30 EM steps."""
    samples, held_out = points_of_5()
    mixtures = [fit(samples, components, steps=30) for components in range(1, 11)]
    best_on_held_out = max(range(10), key=lambda k: mixtures[k].log_likelihood(held_out).item()) + 1
    best_on_fitted = max(range(10), key=lambda k: mixtures[k].log_likelihood(samples).item()) + 1
    hints = {
        "That K is best on the samples it was fitted to; score the held-out ones.": best_on_fitted,
        "That is the index in the list; it begins at 0, K at 1.": best_on_held_out - 1,
    }
    answer("Exercise 3.5", given, best_on_held_out, hints, tolerance=0.5)
