"""Checkers for the exercises of chapter 4, transport (Eq 5-8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.alignment.transport import Transport, exact, sinkhorn
from decalign_core.lab.check.core import CheckError, answer


def ex_04_1(given: ArrayLike) -> None:
    """Exercise 4.1: tuples, equations of Eq 8 and independent ones among them, for K = 7 and M = 4."""
    tuples, equations = 7**4, 7 * 4
    answer(
        "Exercise 4.1",
        given,
        [tuples, equations, equations - 3],
        {
            "A plan has one entry for every tuple of prototypes: K is raised to M, not M to K.": [4**7, 28, 25],
            "A plan has one entry for every tuple of prototypes, not one for every prototype.": [28, 28, 25],
            "Each modality's equations add up to the total mass: all but one of these M sums say it again.": [
                tuples,
                equations,
                equations,
            ],
            "Only M - 1 equations are superfluous: one modality has to say what the total mass is.": [
                tuples,
                equations,
                equations - 4,
            ],
        },
    )


def ex_04_2(given: Callable[[Sequence[Tensor]], Tensor]) -> None:
    """Exercise 4.2: the monotone plan of sorted one-dimensional measures, from their marginals."""
    generator = torch.Generator().manual_seed(4)
    for sizes in ((2, 2, 2), (3, 2, 4), (5, 4)):
        marginals = [torch.rand(size, generator=generator, dtype=torch.float64) + 0.1 for size in sizes]
        marginals = [marginal / marginal.sum() for marginal in marginals]
        plan = torch.as_tensor(given([marginal.clone() for marginal in marginals])).double()
        if tuple(plan.shape) != sizes:
            raise CheckError(f"Exercise 4.2: not yet. Wanted a plan of shape {sizes}, got {tuple(plan.shape)}.")
        for axis, marginal in enumerate(marginals):
            others = [a for a in range(plan.ndim) if a != axis]
            error = float((plan.sum(others) - marginal).abs().max())
            if error > 1e-8:
                message = "Subtract the mass that you place from every modality's remainder, not only from one."
                raise CheckError(f"Exercise 4.2: not yet. Marginal {axis} is off by {error:.1e}. {message}")
        independent = marginals[0]
        for marginal in marginals[1:]:
            independent = independent[..., None] * marginal
        hints = {
            "This is the independent plan: Eq 8 holds, but nothing is matched.": independent,
            "The last modality runs backwards: start with the first prototype of each.": _monotone(
                [*marginals[:-1], marginals[-1].flip(0)]
            ).flip(-1),
        }
        if not torch.allclose(plan, _monotone(marginals), rtol=0, atol=1e-8):
            answer("Exercise 4.2", plan, _monotone(marginals), hints)
    print("PASS Exercise 4.2")


def ex_04_3(given: Callable[[Transport], Tensor]) -> None:
    """Exercise 4.3: the entropic value of a converged plan from potentials and marginals alone."""
    cost, marginals = _problem(3, (3, 2, 4))
    transport = sinkhorn(cost, marginals, epsilon=0.3, iterations=2000, tolerance=1e-13)
    both = zip(transport.potentials, transport.marginals, strict=True)
    dual = sum(potential @ marginal for potential, marginal in both)
    answer(
        "Exercise 4.3",
        given(transport),
        dual,
        {
            "Each potential counts with the mass of its prototype: take the mean under the marginal, not the sum.": sum(
                potential.sum() for potential in transport.potentials
            ),
            "That is the transport cost alone; the entropy of Eq 7 is missing.": transport.value,
            "An epsilon too many: Eq 7 has T log T, not T (log T - 1).": dual - transport.epsilon,
            "The sign of the entropy is turned round.": 2 * transport.value - dual,
        },
    )


def ex_04_4(given: Callable[[Tensor, Sequence[Tensor], Tensor, int, float], Tensor]) -> None:
    """Exercise 4.4: one update in the log domain, ``update(cost, potentials, marginal, axis, epsilon)``."""
    cost, marginals = _problem(5, (4, 3, 5))
    cost = cost + 1  # every term underflows at the smaller epsilon
    potentials = [0.1 * marginal for marginal in marginals]
    for epsilon in (0.5, 1e-3):
        for axis in range(3):
            new = torch.as_tensor(given(cost, [f.clone() for f in potentials], marginals[axis], axis, epsilon))
            if not torch.isfinite(new).all():
                hint = "At a small epsilon exp underflows to 0 and its logarithm is infinite: use torch.logsumexp."
                raise CheckError(f"Exercise 4.4: not yet. {hint}")
            wanted = _update(cost, potentials, marginals[axis], axis, epsilon)
            if not (new.shape == wanted.shape and torch.allclose(new, wanted, rtol=0, atol=1e-8)):
                hints = {
                    "The result is in units of epsilon; potentials are in units of the cost.": wanted / epsilon,
                    "The modality's own potential does not belong to the sum: it is what you solve for.": wanted
                    - potentials[axis],
                    "The cost enters with a minus: exp((f - C) / epsilon).": _update(
                        -cost, potentials, marginals[axis], axis, epsilon
                    ),
                    "Without the logarithm of the marginal every prototype would get the same mass.": wanted
                    - epsilon * marginals[axis].log(),
                }
                answer("Exercise 4.4", new, wanted, hints, tolerance=1e-8)
    print("PASS Exercise 4.4")


def ex_04_5(given: float) -> None:
    """Exercise 4.5: a relative epsilon at which the toy's transport cost is 0.5 % to 1 % above the exact one."""
    cost = torch.tensor([[[4.0, 28.0], [20.0, 28.0]], [[8.0, 16.0], [16.0, 8.0]]], dtype=torch.float64)
    marginals = [torch.tensor(nu, dtype=torch.float64) for nu in ([0.5, 0.5], [0.25, 0.75], [0.5, 0.5])]
    epsilon = float(given)
    if not epsilon > 0:
        raise CheckError(f"Exercise 4.5: not yet. Wanted a positive epsilon, got {epsilon}.")
    transport = sinkhorn(cost, marginals, epsilon=epsilon * cost.mean(), iterations=1000, tolerance=1e-8)
    excess = float(transport.value / exact(cost, marginals).value - 1)
    if excess > 0.01:
        raise CheckError(
            f"Exercise 4.5: not yet. The cost is {excess:.2%} above the exact one: take a smaller epsilon."
        )
    if excess < 0.005:
        hint = "a larger epsilon is allowed. Is yours in units of the mean cost?"
        raise CheckError(f"Exercise 4.5: not yet. The cost is only {excess:.2%} above the exact one: {hint}")
    print("PASS Exercise 4.5")


def _problem(seed: int, sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.uniform(size=sizes)), [torch.tensor(rng.dirichlet(np.full(size, 3.0))) for size in sizes]


def _monotone(marginals: Sequence[Tensor]) -> Tensor:
    plan = torch.zeros([len(marginal) for marginal in marginals], dtype=torch.float64)
    cuts = [marginal.double().cumsum(0).clamp_max(1) for marginal in marginals]
    ends = torch.cat(cuts).sort().values  # between two neighbouring cuts nothing changes
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    for start, end in zip(starts, ends, strict=True):
        middle = (start + end) / 2
        index = tuple(int(torch.searchsorted(cut, middle).clamp_max(len(cut) - 1)) for cut in cuts)
        plan[index] += end - start
    return plan


def _update(cost: Tensor, potentials: Sequence[Tensor], marginal: Tensor, axis: int, epsilon: float) -> Tensor:
    total = -cost
    for other, potential in enumerate(potentials):
        if other != axis:
            total = total + potential.view([-1 if a == other else 1 for a in range(cost.ndim)])
    others = [a for a in range(cost.ndim) if a != axis]
    return epsilon * (marginal.log() - (total / epsilon).logsumexp(others))
