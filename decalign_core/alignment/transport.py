r"""Multi-marginal optimal transport between prototypes (Eq 5, 7, 8).

The joint cost of a tuple of prototypes, one from each of M modalities, sums the costs of its pairs (Eq 5):

.. math:: C(k_1, \dots, k_M) = \sum_{i < j} C_{ij}(k_i, k_j).

The paper writes :math:`i \le j`; the terms :math:`i = j` are 0. The plan minimises (Eq 7)

.. math:: \langle T, C \rangle + \varepsilon \sum_k T(k) \log T(k)
    \quad \text{with the marginals} \quad \sum_{k_j : j \ne i} T(k_1, \dots, k_M) = \nu_i(k_i) \quad (\text{Eq } 8).

Its solution has the form :math:`T = \exp((f_1 \oplus \dots \oplus f_M - C) / \varepsilon)`; Sinkhorn's algorithm sets
one potential :math:`f_m` after the other so that its marginal is met. The kernel :math:`\exp(-C/\varepsilon)` itself
underflows long before the plan does, so potentials are kept as logarithms, and a round on logarithms is always safe. It
is also slow: M logarithms of sums of exponentials over all tuples. A round of *scaling* takes two matrix products in
their place: it multiplies the plan of a round before, which does not underflow where it matters, by vectors
:math:`u_m = \exp(\Delta f_m / \varepsilon)`. Both are the same round; where the vectors grow so large or small that an
entry lost to underflow could come to matter, they are put into the potentials and a round on logarithms follows.

Rounds converge linearly, and slowly where a prototype of little mass is far from the others. Where many are left to do,
a Newton step on all potentials at once is tried before a round (Brauer et al. 2017, for M = 2): the derivative of the
marginals is made of the marginals of the plan's pairs. It is kept where Eq 7's dual gains by it, as it does by every
round; so convergence stays certain, and becomes quadratic.

**Gradient.** No iteration is differentiated. At the solution, with the marginals held fixed, the envelope theorem
gives :math:`\partial\, \text{entropic\_value} / \partial C = T`; :attr:`Transport.value` has that gradient. The
potentials are the gradient with respect to the marginals, up to a constant for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decalign_core.alignment.bures import bures_wasserstein

_PATIENCE = 8  # rounds before a first Newton step


@dataclass(frozen=True)
class Transport:
    r"""A plan between M discrete measures and what proves it.

    Attributes:
        plan: T, ``(K_1, ..., K_M)``, without gradient.
        potentials: :math:`f_m`, ``(K_m,)`` each, in units of the cost, without gradient; :math:`-\infty` where the
            marginal is 0.
        epsilon: strength of the entropy, in units of the cost; 0 for an exact plan.
        cost: C, of the plan's shape, with the gradient that it came with.
        marginals: :math:`\nu_m`, ``(K_m,)`` each.
        iterations: rounds over all marginals that were run.
        tolerance: the ``marginal_error`` up to which the plan counts as converged.
    """

    plan: Tensor
    potentials: tuple[Tensor, ...]
    epsilon: Tensor
    cost: Tensor
    marginals: tuple[Tensor, ...]
    iterations: int
    tolerance: float

    @property
    def value(self) -> Tensor:
        """<T, C>, the transport term of Eq 9; its gradient with respect to the cost is the plan."""
        return (self.plan * self.cost).sum()

    @property
    def entropic_value(self) -> Tensor:
        """<T, C> + epsilon sum T log T (Eq 7), 0 log 0 being 0; same gradient as :attr:`value`."""
        return self.value + self.epsilon * torch.special.xlogy(self.plan, self.plan).sum()

    @property
    def marginal_error(self) -> Tensor:
        """Largest absolute violation of Eq 8 over all marginals and prototypes, a scalar tensor."""
        return _marginal_error(self.plan, self.marginals)

    @property
    def converged(self) -> bool:
        """Whether :attr:`marginal_error` is within :attr:`tolerance`; looks at the value on the host."""
        return bool(self.marginal_error <= self.tolerance)


def joint_cost(measures: Sequence[Any], cost: Callable[[Any, Any], Tensor] = bures_wasserstein) -> Tensor:
    """Eq 5: the summed cost of every tuple of prototypes, ``(K_1, ..., K_M)``.

    Args:
        measures: M >= 2 of what ``cost`` compares, mixtures by default.
        cost: from two measures to their pairwise costs ``(K_i, K_j)``.

    Raises:
        ValueError: for fewer than two measures.
    """
    if len(measures) < 2:
        raise ValueError(f"measures: wanted at least 2, got {len(measures)}")
    order = len(measures)
    pairs = itertools.combinations(range(order), 2)
    return sum(_along(cost(measures[i], measures[j]), (i, j), order) for i, j in pairs)


def sinkhorn(
    cost: Tensor,
    marginals: Sequence[Tensor],
    *,
    epsilon: float | Tensor,
    iterations: int = 200,
    tolerance: float | None = 1e-6,
) -> Transport:
    """The entropic plan of Eq 7 under Eq 8, by Sinkhorn's algorithm in the log domain, for any M and dtype.

    Args:
        cost: C, ``(K_1, ..., K_M)``.
        marginals: M vectors ``(K_m,)``, non-negative, of equal mass; zeros are allowed.
        epsilon: strength of the entropy, positive, in units of the cost.
        iterations: rounds over all marginals at most.
        tolerance: stops as soon as ``marginal_error`` is within it; None runs every round without looking, so that
            nothing waits for an accelerator.

    Raises:
        ValueError: where shapes disagree, or (unless ``tolerance`` is None) values are out of range.
    """
    _check(cost, marginals, look=tolerance is not None)
    if (tolerance is not None or not isinstance(epsilon, Tensor)) and not epsilon > 0:
        raise ValueError(f"epsilon: wanted a positive number, got {float(epsilon)}")
    if iterations < 1:
        raise ValueError(f"iterations: wanted at least 1, got {iterations}")
    with torch.no_grad():
        scale = epsilon.to(cost) if isinstance(epsilon, Tensor) else cost.new_full((), epsilon)
        fixed = tuple(marginal.detach() for marginal in marginals)
        least = cost.detach().amin()  # what all tuples share is no part of the problem, but of the rounding
        log_kernel = (least - cost.detach()) / scale
        scaling = tolerance is not None and cost.device.type == "cpu" and cost.dtype in (torch.float32, torch.float64)
        solve = _scaled_rounds if scaling else _log_rounds
        plan, scaled, rounds = solve(log_kernel, fixed, iterations, tolerance)
        potentials = (least + scale * scaled[0], *(scale * potential for potential in scaled[1:]))
    return Transport(plan, potentials, scale, cost, fixed, rounds, 1e-6 if tolerance is None else tolerance)


def _log_rounds(
    log_kernel: Tensor, marginals: tuple[Tensor, ...], iterations: int, tolerance: float | None
) -> tuple[Tensor, list[Tensor], int]:
    """Plan, potentials over epsilon and rounds, every round on logarithms: the plain algorithm."""
    logs = [marginal.log() for marginal in marginals]
    potentials = [torch.zeros_like(marginal) for marginal in marginals]
    done = 0
    while done < iterations:
        done += 1
        plan = _log_round(log_kernel, logs, potentials).exp()
        if tolerance is not None and _marginal_error(plan, marginals) <= tolerance:
            break
    return plan, potentials, done


def _log_round(log_kernel: Tensor, logs: Sequence[Tensor], potentials: list[Tensor]) -> Tensor:
    """One potential after the other, in place, so that its marginal is met; the logarithm of the plan."""
    order = log_kernel.ndim
    for axis in range(order):
        rest = [a for a in range(order) if a != axis]
        others = log_kernel + sum(_along(potentials[a], (a,), order) for a in rest)
        potentials[axis] = logs[axis] - others.logsumexp(rest)
    return others + _along(potentials[order - 1], (order - 1,), order)


def _scaled_rounds(
    log_kernel: Tensor, marginals: tuple[Tensor, ...], iterations: int, tolerance: float, patience: int = _PATIENCE
) -> tuple[Tensor, list[Tensor], int]:
    """As :func:`_log_rounds`, by scaling where that is safe; for tensors on a CPU."""
    held = [marginal.nonzero().squeeze(1) for marginal in marginals]
    if any(len(rows) < len(marginal) for rows, marginal in zip(held, marginals, strict=True)):
        within = torch.meshgrid(*held, indexing="ij")
        masses = tuple(marginal[rows] for marginal, rows in zip(marginals, held, strict=True))
        plan, found, done = _scaled_rounds(log_kernel[within], masses, iterations, tolerance, patience)
        whole = torch.zeros_like(log_kernel).index_put(within, plan)
        nothing = [torch.full_like(marginal, -math.inf) for marginal in marginals]
        return whole, [n.index_put((rows,), f) for n, rows, f in zip(nothing, held, found, strict=True)], done
    logs = [marginal.log() for marginal in marginals]
    potentials = [torch.zeros_like(marginal) for marginal in marginals]
    done, in_a_row = 0, 1
    while True:
        for _ in range(min(in_a_row, iterations - done)):
            log_plan = _log_round(log_kernel, logs, potentials)
            done += 1
        base = log_plan.exp()
        left = iterations - done
        scalings, more, met = _scale(base.numpy(), [nu.numpy() for nu in marginals], left, tolerance, patience)
        potentials = [f + torch.from_numpy(u).log() for f, u in zip(potentials, scalings, strict=True)]
        done, in_a_row = done + more, 1 if more else 2 * in_a_row
        if met or done == iterations:
            break
    plan = base * math.prod(_along(torch.from_numpy(u), (axis,), base.ndim) for axis, u in enumerate(scalings))
    return plan, potentials, done


def _scale(
    base: np.ndarray, marginals: Sequence[np.ndarray], rounds: int, tolerance: float, patience: int
) -> tuple[list[np.ndarray], int, bool]:
    """Scalings of a plan after ``rounds`` rounds or less, how many were run, and whether the marginals are then met.

    In NumPy: with few prototypes, calling PyTorch's operators would take longer than what they compute.
    """
    wanted, spans = np.concatenate(marginals), _spans(base.shape)
    # what a Newton step takes, in rounds: solving for it, and summing the plan over all but each pair
    price = 1 + len(wanted) ** 3 // (8 * base.size) + base.ndim**2 // 4
    found, before, rate, after = np.ones_like(wanted), math.inf, 0.0, patience
    with np.errstate(all="ignore"):  # a scaling out of range is found by its value
        for done in range(rounds + 1):
            u = [found[span] for span in spans]
            partial = _partial_sums(base, u)
            error = _error(partial, u, marginals, tolerance)
            if error <= tolerance:
                return u, done, True
            if done == rounds:
                break
            following = None
            if done >= after and _left(error, tolerance, rate) > 2 * price:
                leap = found * np.exp(_newton(base, u, wanted))
                better = _round(_partial_sums(base, [leap[span] for span in spans]), marginals)
                # after a round the plan's mass is 1, and what Eq 7's dual gained is the gain of its linear part
                if wanted @ np.log(better / found) > 0:
                    following = better
                else:
                    after, patience = done + patience, 2 * patience
            if following is None:
                following, rate = _round(partial, marginals), error / before if before else 1.0
                before = error
            if not _is_safe(following, base.ndim):
                break
            found = following
    return u, done, False


def _left(error: float, tolerance: float, rate: float) -> float:
    """Rounds until an error that a round multiplies by ``rate`` is within the tolerance."""
    if not 0 < tolerance < error < math.inf or not rate < 1:
        return math.inf
    return math.log(tolerance / error) / math.log(rate) if rate > 0 else 0.0


def _spans(sizes: Sequence[int]) -> list[slice]:
    """Where each marginal lies among all of them in a row."""
    return [slice(end - size, end) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]


def _partial_sums(base: np.ndarray, scalings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """At m the plan over the axes up to m, the others summed over with their scalings."""
    partial = [base]
    for scaling in scalings[:0:-1]:
        partial.append(partial[-1].reshape(-1, len(scaling)).dot(scaling))
    return partial[::-1]


def _round(partial: Sequence[np.ndarray], marginals: Sequence[np.ndarray]) -> np.ndarray:
    found: list[np.ndarray] = []
    for sums, nu in zip(partial, marginals, strict=True):
        found.append(nu / _contracted(sums, found))
    return np.concatenate(found)


def _is_safe(scalings: np.ndarray, order: int) -> bool:
    limit = 1e18 ** (1 / order)  # all M together: what float32 lost, below 1e-38, stays below 1e-20
    return np.minimum.reduce(scalings) * limit > 1 and np.maximum.reduce(scalings) < limit  # False for NaN


def _newton(base: np.ndarray, scalings: Sequence[np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """What to add to the scalings' logarithms so that, to first order, every marginal is met.

    The marginals' derivative has the plan's own on its diagonal and those of its pairs beside it. It is blind to a
    constant that goes from one modality's logarithms to another's; so their means are asked to stay (p p').
    """
    axes, plan = range(base.ndim), base.astype(np.float64)
    for axis, scaling in enumerate(scalings):
        plan *= scaling.reshape([-1 if a == axis else 1 for a in axes])
    pairs = {(i, j): plan.sum(tuple({*axes} - {i, j})) for i, j in itertools.combinations(axes, 2)}
    p = np.concatenate([pairs[0, 1].sum(1), *(pairs[0, j].sum(0) for j in axes[1:])])
    spans, slope = _spans(base.shape), np.outer(p, p)
    for (i, j), pair in pairs.items():
        slope[spans[i], spans[j]], slope[spans[j], spans[i]] = pair, pair.T
    slope.flat[:: len(p) + 1] += p + 1e-10 * wanted  # regular also where the plan falls apart into blocks
    return np.linalg.solve(slope, wanted - p).astype(base.dtype)


def _error(
    partial: Sequence[np.ndarray], scalings: Sequence[np.ndarray], marginals: Sequence[np.ndarray], tolerance: float
) -> float:
    """The violation of the first marginal that is not met, in order; the last was met last."""
    for m in range(len(marginals) - 1):
        got = scalings[m] * _contracted(partial[m], scalings[:m])
        error = float(np.maximum.reduce(np.abs(got - marginals[m])))
        if not error <= tolerance:  # NaN too
            break
    return error


def _contracted(sums: np.ndarray, scalings: Sequence[np.ndarray]) -> np.ndarray:
    """Summed over all axes but the last, with their scalings."""
    for scaling in scalings:
        sums = scaling.dot(sums.reshape(len(scaling), -1))
    return sums


def exact(cost: Tensor, marginals: Sequence[Tensor]) -> Transport:
    """The plan without entropy, from the linear programme over all K_1 ... K_M tuples (SciPy's HiGHS), for checks.

    Args:
        cost: ``(K_1, ..., K_M)``.
        marginals: M vectors ``(K_m,)``, non-negative, of equal mass.

    Raises:
        ValueError: where shapes disagree or values are out of range.
        RuntimeError: where the programme was not solved.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    _check(cost, marginals, look=True)
    index = np.indices(cost.shape).reshape(cost.ndim, -1)
    starts = np.cumsum([0, *cost.shape[:-1]])[:, None]
    rows, columns = index + starts, np.broadcast_to(np.arange(cost.numel()), index.shape)
    constraints = csr_array((np.ones(rows.size), (rows.ravel(), columns.ravel())), (sum(cost.shape), cost.numel()))
    wanted = torch.cat([marginal.detach().double().cpu() for marginal in marginals]).numpy()
    solved = linprog(cost.detach().double().cpu().numpy().ravel(), A_eq=constraints, b_eq=wanted, method="highs")
    if not solved.success:
        raise RuntimeError(f"linear programme over {cost.numel()} tuples not solved: {solved.message}")
    plan, duals = cost.new_tensor(solved.x).view(cost.shape), cost.new_tensor(solved.eqlin.marginals)
    fixed = tuple(marginal.detach() for marginal in marginals)
    return Transport(plan, duals.split(cost.shape), cost.new_zeros(()), cost, fixed, int(solved.nit), 1e-6)


def _along(values: Tensor, axes: tuple[int, ...], order: int) -> Tensor:
    """Values over some axes as a tensor of ``order`` axes, the others of size 1."""
    sizes = dict(zip(axes, values.shape, strict=True))
    return values.view([sizes.get(axis, 1) for axis in range(order)])


def _marginal_error(plan: Tensor, marginals: Sequence[Tensor]) -> Tensor:
    axes = range(plan.ndim)
    sums = (plan.sum([a for a in axes if a != axis]) for axis in axes)
    return torch.stack([(got - wanted).abs().max() for got, wanted in zip(sums, marginals, strict=True)]).max()


def _check(cost: Tensor, marginals: Sequence[Tensor], look: bool) -> None:
    if cost.ndim < 2:
        raise ValueError(f"cost: wanted at least 2 axes, one a marginal, got shape {tuple(cost.shape)}")
    if [tuple(marginal.shape) for marginal in marginals] != [(size,) for size in cost.shape]:
        got = [tuple(marginal.shape) for marginal in marginals]
        raise ValueError(f"marginals: wanted one vector an axis of the cost {tuple(cost.shape)}, got shapes {got}")
    if not look:
        return
    if not torch.isfinite(cost).all():
        raise ValueError("cost: wanted finite values, got NaN or infinity")
    masses = [float(marginal.detach().sum()) for marginal in marginals]
    if any((marginal < 0).any() for marginal in marginals):
        raise ValueError("marginals: wanted non-negative values, got negative ones")
    if not all(math.isclose(mass, masses[0], rel_tol=1e-3) and mass > 0 for mass in masses):
        raise ValueError(f"marginals: wanted equal positive mass, got {masses}")
