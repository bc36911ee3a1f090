r"""Transport among many modalities without the :math:`K^M` cells of its plan (Eq 5, 7, 8).

What training needs of a plan are its marginals over pairs: the cost of Eq 5 being a sum over pairs,
:math:`\langle T, C \rangle = \sum_{i < j} \langle T_{ij}, C_{ij} \rangle`, and by the envelope theorem
:math:`T_{ij}` is the gradient with respect to :math:`C_{ij}`.

**Trees.** Where only pairs along a tree (a chain, a star) have a cost, the plan is a Markov field on it (Haasler et al.
2021), and its entropy is :math:`H(T) = \sum_{ij} H(T_{ij}) - \sum_i (\deg_i - 1) H(\nu_i)`. Eq 8 fixes every
:math:`\nu_i`, so each pair is an ordinary transport problem of its own: :func:`tree` solves them, exactly, with
:math:`O(M K^2)` work a round. The plan at a tuple is :math:`\prod_{ij} T_{ij} / \prod_i \nu_i^{\deg_i - 1}`.

**The complete graph.** For diagonal covariances Eq 6 is the squared distance of :math:`z = (\mu, \sqrt{\Sigma})`. So
Eq 5 is :math:`C = M \sum_i |z_i - \bar z|^2`, and completing the square in a latent centre b,

.. math:: e^{-C / \varepsilon} \propto \int \prod_i e^{-M |z_i - b|^2 / \varepsilon} \, db .

Given b the modalities are independent: the complete graph is a star with a continuous centre, as for a Wasserstein
barycentre (Agueh and Carlier 2011). :func:`sampled` replaces the integral by R weighted centres; a round then costs
:math:`O(M K R)`, and the plan is the mixture :math:`\sum_r q_r \prod_i P_i(k_i | b_r)`. Exactly, given a tuple b is
normal about the tuple's mean with variance :math:`\varepsilon / (2 M^2)` a coordinate; the centres are drawn from a
mixture of such normals about tuples that are drawn from the plan of a stage before, at an epsilon that falls from stage
to stage, and weighted by one over the mixture's density.

How far this goes is told by the effective share of the samples. For a small epsilon it collapses, as it must: the exact
problem is as hard as that of a barycentre.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decalign_core.alignment.bures import bures_wasserstein
from decalign_core.alignment.mixture import GaussianMixture
from decalign_core.alignment.transport import sinkhorn

Pair = tuple[int, int]
LEAST_SHARE = 0.1
_TUPLES = 1024


@dataclass(frozen=True)
class PairTransport:
    r"""The marginals of a plan over pairs of modalities, and what proves them.

    Attributes:
        plans: :math:`T_{ij}`, ``(K_i, K_j)`` by pair, without gradient.
        costs: :math:`C_{ij}` likewise, with the gradient that they came with.
        marginals: :math:`\nu_m`, ``(K_m,)`` each.
        epsilon: strength of the entropy, in units of the cost.
        iterations: rounds over all marginals that were run.
        tolerance: the ``marginal_error`` up to which the plan counts as converged.
        effective_share: effective number of samples over their number; 1 where nothing is sampled.
        disagreement: largest difference between the plans of two halves of the samples; 0 where nothing is sampled.
    """

    plans: Mapping[Pair, Tensor]
    costs: Mapping[Pair, Tensor]
    marginals: tuple[Tensor, ...]
    epsilon: Tensor
    iterations: int
    tolerance: float
    effective_share: float = 1.0
    disagreement: float = 0.0

    @property
    def value(self) -> Tensor:
        """<T, C>, the transport term of Eq 9; its gradient with respect to each pair's cost is the pair's plan."""
        return sum((plan * self.costs[pair]).sum() for pair, plan in self.plans.items())

    @property
    def marginal_error(self) -> Tensor:
        """Largest absolute violation of Eq 8 over all pairs, a scalar tensor."""
        off = [
            (plan.sum(1 - axis) - self.marginals[pair[axis]]).abs().max()
            for pair, plan in self.plans.items()
            for axis in (0, 1)
        ]
        return torch.stack(off).max()

    @property
    def converged(self) -> bool:
        """Whether marginals are met and at least a tenth of the samples counts; looks at values on the host."""
        return bool(self.marginal_error <= self.tolerance) and self.effective_share >= LEAST_SHARE


def chain(count: int) -> list[Pair]:
    """The pairs of a chain of ``count`` modalities."""
    return [(i, i + 1) for i in range(count - 1)]


def star(count: int) -> list[Pair]:
    """The pairs of a star about the first of ``count`` modalities."""
    return [(0, i) for i in range(1, count)]


def complete(count: int) -> list[Pair]:
    """All pairs of ``count`` modalities, those of Eq 5."""
    return list(itertools.combinations(range(count), 2))


def pair_costs(
    measures: Sequence[Any], pairs: Sequence[Pair], cost: Callable[[Any, Any], Tensor] = bures_wasserstein
) -> dict[Pair, Tensor]:
    """The cost ``(K_i, K_j)`` of each pair, Eq 6 by default."""
    return {(i, j): cost(measures[i], measures[j]) for i, j in pairs}


def pair_plans(plan: Tensor) -> dict[Pair, Tensor]:
    """The marginals ``(K_i, K_j)`` of a plan over all tuples ``(K_1, ..., K_M)``, over every pair of modalities."""
    rest = {pair: [axis for axis in range(plan.ndim) if axis not in pair] for pair in complete(plan.ndim)}
    return {pair: plan.sum(axes) if axes else plan for pair, axes in rest.items()}


def tree(
    costs: Mapping[Pair, Tensor],
    marginals: Sequence[Tensor],
    *,
    epsilon: float | Tensor,
    iterations: int = 200,
    tolerance: float | None = 1e-6,
) -> PairTransport:
    """The entropic plan of Eq 7 under Eq 8 where the pairs that have a cost make a tree, for any M; exact.

    Args:
        costs: ``(K_i, K_j)`` by pair, M - 1 pairs that connect all modalities.
        marginals: M vectors ``(K_m,)``, non-negative, of equal mass.
        epsilon: strength of the entropy, positive, in units of the cost.
        iterations: as :func:`~decalign_core.alignment.transport.sinkhorn`, of each pair.
        tolerance: likewise.

    Raises:
        ValueError: where the pairs make no tree, or as :func:`~decalign_core.alignment.transport.sinkhorn`.
    """
    _check_tree(list(costs), len(marginals))
    options = {"epsilon": epsilon, "iterations": iterations, "tolerance": tolerance}
    solved = {(i, j): sinkhorn(cost, (marginals[i], marginals[j]), **options) for (i, j), cost in costs.items()}
    any_pair = next(iter(solved.values()))
    return PairTransport(
        plans={pair: transport.plan for pair, transport in solved.items()},
        costs=dict(costs),
        marginals=tuple(marginal.detach() for marginal in marginals),
        epsilon=any_pair.epsilon,
        iterations=max(transport.iterations for transport in solved.values()),
        tolerance=any_pair.tolerance,
    )


def _check_tree(pairs: Sequence[Pair], count: int) -> None:
    connected, left = {0}, [set(pair) for pair in pairs]
    while touching := next((pair for pair in left if len(pair & connected) == 1), None):
        connected |= touching
        left.remove(touching)
    if left or connected != set(range(count)):
        raise ValueError(f"costs: wanted the {count - 1} pairs of a tree over {count} modalities, got {list(pairs)}")


@torch.no_grad()
def _coordinates(measures: Sequence[GaussianMixture]) -> list[Tensor]:
    """z of every prototype in float64, in as many coordinates as all of them together span: ``(K_m, r)``.

    What a centre has outside of that span is equally far from every prototype and need not be sampled.
    """
    z = [torch.cat([m.means, m.covariances.sqrt()], dim=1).double() for m in measures]
    together = torch.cat(z)
    together = together - together.mean(dim=0)
    left, sizes, _ = torch.linalg.svd(together, full_matrices=False)
    spanned = sizes > sizes.max() * 1e-12
    return list((left[:, spanned] * sizes[spanned]).split([len(part) for part in z]))


def sampled(
    measures: Sequence[GaussianMixture],
    *,
    epsilon: float | Tensor,
    costs: Mapping[Pair, Tensor] | None = None,
    samples: int = 16384,
    iterations: int = 200,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
) -> PairTransport:
    """The entropic plan of Eq 7 under Eq 8 with all pairs' costs, its integral over the centre replaced by samples.

    Args:
        measures: M >= 2 mixtures with diagonal covariances; their weights are the marginals.
        epsilon: strength of the entropy, positive, in units of the cost (Eq 6 summed over pairs).
        costs: those of all pairs, where they have been computed already.
        samples: R, centres.
        iterations: rounds over all marginals at most, in the last stage.
        tolerance: marginal error to stop at.
        generator: of the samples; None takes the same ones at every call.

    Raises:
        ValueError: for fewer than two mixtures, or full covariances.
    """
    if len(measures) < 2:
        raise ValueError(f"measures: wanted at least 2, got {len(measures)}")
    if not all(mixture.is_diagonal for mixture in measures):
        raise ValueError("measures: wanted diagonal covariances, got full ones")
    costs = costs or pair_costs(measures, complete(len(measures)))
    marginals = tuple(mixture.weights.detach() for mixture in measures)
    with torch.no_grad():
        generator = generator or torch.Generator(marginals[0].device).manual_seed(0)
        points, masses = _coordinates(measures), [nu.double() for nu in marginals]
        unit = len(measures) * float(torch.stack([cost.detach().mean() for cost in costs.values()]).mean())
        plan = _Mixture.product(masses)
        for stage in _ladder(float(epsilon), unit):
            plan = _Centres.drawn(plan, points, stage, samples // 8, generator).met(plan, masses, 10, 1e-3)
        centres = _Centres.drawn(plan, points, float(epsilon), samples, generator)
        plan = centres.met(plan, masses, iterations, tolerance / 2)
        plans = plan.plans()
        first, second = (centres.every_second(at).met(plan, masses, plan.rounds, 1e-4).plans() for at in (0, 1))
    return PairTransport(
        plans={pair: found.to(costs[pair].dtype) for pair, found in plans.items()},
        costs=costs,
        marginals=marginals,
        epsilon=torch.as_tensor(epsilon, dtype=marginals[0].dtype, device=marginals[0].device),
        iterations=plan.rounds,
        tolerance=tolerance,
        effective_share=plan.effective_share(),
        disagreement=max(float((first[pair] - second[pair]).abs().max()) for pair in plans),
    )


def _ladder(epsilon: float, unit: float) -> list[float]:
    """Epsilon of the stages before the last: by halves, from where plans are close to products."""
    above = max(0, math.ceil(math.log2(max(unit / max(epsilon, 1e-300), 1))))
    return [epsilon * 2.0**step for step in range(above, -1, -1)]


@dataclass(frozen=True)
class _Mixture:
    """A plan as a mixture over centres of independent choices: its weights, and what meets the marginals."""

    potentials: list[Tensor]  # (K_m,) each, over epsilon
    mass: Tensor  # q, (R,)
    chances: list[Tensor]  # P_m(k | b_r), (R, K_m) each
    rounds: int = 0

    @classmethod
    def product(cls, masses: Sequence[Tensor]) -> _Mixture:
        """The product of the marginals, which needs no centre."""
        return cls([nu.log() for nu in masses], masses[0].new_ones(1), [nu.unsqueeze(0) for nu in masses])

    def tuples(self, points: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
        """Means of ``count`` tuples of prototypes, drawn from the plan, ``(count, r)``."""
        rows = torch.multinomial(self.mass, count, replacement=True, generator=generator)
        drawn = (torch.multinomial(chance[rows], 1, generator=generator).squeeze(1) for chance in self.chances)
        return sum(z[k] for z, k in zip(points, drawn, strict=True)) / len(points)

    def effective_share(self) -> float:
        return float(1 / (self.mass.square().sum() * len(self.mass)))

    def plans(self) -> dict[Pair, Tensor]:
        weighted = [self.mass.unsqueeze(1) * chance for chance in self.chances]
        return {(i, j): weighted[i].mT @ self.chances[j] for i, j in complete(len(self.chances))}


@dataclass(frozen=True)
class _Centres:
    """Samples of the latent centre: how far each is from every prototype, and what it stands for."""

    kernels: list[Tensor]  # -M |z_m - b_r|^2 / epsilon, (R, K_m) each
    log_weight: Tensor  # the logarithm of one over the density, up to a constant, (R,)

    @classmethod
    def drawn(
        cls, plan: _Mixture, points: Sequence[Tensor], epsilon: float, samples: int, generator: torch.Generator
    ) -> _Centres:
        """Centres for this epsilon about tuples of a plan."""
        about = plan.tuples(points, min(math.ceil(samples / 4), _TUPLES), generator)
        spread = math.sqrt(epsilon / 2) / len(points)
        size = (math.ceil(samples / 2 / len(about)), *about.shape)
        noise = torch.randn(size, dtype=about.dtype, device=about.device, generator=generator)
        centres = (about + spread * torch.cat([noise, -noise])).flatten(0, 1)[:samples]  # in opposite pairs
        # single precision: R times the tuples' exponentials are most of the work, and rounding is far below chance
        log_density = _log_kernel(centres.float(), about.float(), 1 / (2 * spread**2)).logsumexp(1).double()
        kernels = _log_kernel(centres, torch.cat(points), len(points) / epsilon)
        return cls([kernel.contiguous() for kernel in kernels.split([len(z) for z in points], dim=1)], -log_density)

    def every_second(self, start: int) -> _Centres:
        return _Centres([kernel[start::2] for kernel in self.kernels], self.log_weight[start::2])

    def met(self, start: _Mixture, masses: Sequence[Tensor], iterations: int, tolerance: float) -> _Mixture:
        """The plan of these centres whose marginals are met, from the potentials of another."""
        potentials = list(start.potentials)
        scores = [kernel + f for kernel, f in zip(self.kernels, potentials, strict=True)]
        reach = [score.logsumexp(1) for score in scores]
        total = self.log_weight + sum(reach)
        done, off = 0, math.inf
        while done < iterations and off > tolerance:
            done, off = done + 1, 0.0
            for m, (kernel, nu) in enumerate(zip(self.kernels, masses, strict=True)):
                others = total - reach[m]
                met = (kernel + others.unsqueeze(1)).logsumexp(0)
                off = max(off, float(((met + potentials[m]).exp() - nu).abs().max()))
                potentials[m] = nu.log() - met
                scores[m] = kernel + potentials[m]
                reach[m] = scores[m].logsumexp(1)
                total = others + reach[m]
        mass = total.softmax(0)
        return _Mixture(potentials, mass, [score.softmax(1) for score in scores], done)


def _log_kernel(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """``-factor |x_i - y_j|^2`` by a matrix product; what it cancels is small beside a spread of samples."""
    ends = [-factor * z.square().sum(1) for z in (x, y)]
    return torch.addmm(ends[1], x, y.mT, alpha=2 * factor).add_(ends[0].unsqueeze(1))
