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
    samples: int = 16384,
    iterations: int = 200,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
) -> PairTransport:
    """The entropic plan of Eq 7 under Eq 8 with all pairs' costs, its integral over the centre replaced by samples.

    Args:
        measures: M >= 2 mixtures with diagonal covariances; their weights are the marginals.
        epsilon: strength of the entropy, positive, in units of the cost (Eq 6 summed over pairs).
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
    costs = pair_costs(measures, complete(len(measures)))
    marginals = tuple(mixture.weights.detach() for mixture in measures)
    with torch.no_grad():
        generator = generator or torch.Generator(marginals[0].device).manual_seed(0)
        latent = _Latent(_coordinates(measures), [nu.double() for nu in marginals], generator)
        unit = len(measures) * float(torch.stack([cost.detach().mean() for cost in costs.values()]).mean())
        for stage in _ladder(float(epsilon), unit):
            latent.stage(stage, samples // 8, 10, 1e-3)
        rounds = latent.stage(float(epsilon), samples, iterations, tolerance / 2)
        plans, share = latent.plans(), latent.effective_share()
        first, second = latent.halves(rounds)
    return PairTransport(
        plans={pair: plan.to(costs[pair].dtype) for pair, plan in plans.items()},
        costs=costs,
        marginals=marginals,
        epsilon=torch.as_tensor(epsilon, dtype=marginals[0].dtype, device=marginals[0].device),
        iterations=rounds,
        tolerance=tolerance,
        effective_share=share,
        disagreement=max(float((first[pair] - second[pair]).abs().max()) for pair in plans),
    )


def _ladder(epsilon: float, unit: float) -> list[float]:
    """Epsilon of the stages before the last: by halves, from where plans are close to products."""
    above = max(0, math.ceil(math.log2(max(unit / max(epsilon, 1e-300), 1))))
    return [epsilon * 2.0**step for step in range(above, -1, -1)]


class _Latent:
    """Centres with their weights, and the potentials that meet the marginals."""

    def __init__(self, points: list[Tensor], marginals: list[Tensor], generator: torch.Generator) -> None:
        self.points, self.generator = points, generator
        self.logs = [nu.log() for nu in marginals]
        self.potentials = list(self.logs)
        self.chances = [nu.unsqueeze(0) for nu in marginals]  # no centre yet: tuples from the product of the marginals
        self.mass = points[0].new_ones(1)

    def stage(self, epsilon: float, samples: int, iterations: int, tolerance: float) -> int:
        """Draw centres for this epsilon about tuples of the present plan, then meet the marginals; rounds run."""
        centres, self.log_weight = self._draw(epsilon, samples)
        factor = len(self.points) / epsilon
        self.kernels = [-factor * torch.cdist(centres, z).square() for z in self.points]  # (R, K_m) each
        return self._meet(iterations, tolerance)

    def _meet(self, iterations: int, tolerance: float) -> int:
        scores = [kernel + f for kernel, f in zip(self.kernels, self.potentials, strict=True)]
        reach = [score.logsumexp(1) for score in scores]
        done, off = 0, math.inf
        while done < iterations and off > tolerance:
            done, off = done + 1, 0.0
            for m, kernel in enumerate(self.kernels):
                others = self.log_weight + sum(r for other, r in enumerate(reach) if other != m)
                met = (kernel + others.unsqueeze(1)).logsumexp(0)
                off = max(off, float(((met + self.potentials[m]).exp() - self.logs[m].exp()).abs().max()))
                self.potentials[m] = self.logs[m] - met
                scores[m] = kernel + self.potentials[m]
                reach[m] = scores[m].logsumexp(1)
        self.mass = (self.log_weight + sum(reach)).softmax(0)
        self.chances = [score.softmax(1) for score in scores]
        return done

    def _draw(self, epsilon: float, samples: int) -> tuple[Tensor, Tensor]:
        """Centres ``(R, r)`` and the logarithm of one over their density, up to a constant."""
        about = self._tuples(min(math.ceil(samples / 4), _TUPLES))
        spread = math.sqrt(epsilon / 2) / len(self.points)
        size = (math.ceil(samples / 2 / len(about)), *about.shape)
        noise = torch.randn(size, dtype=about.dtype, device=about.device, generator=self.generator)
        centres = (about + spread * torch.cat([noise, -noise])).flatten(0, 1)[:samples]  # in opposite pairs
        # single precision: R times the tuples' exponentials are most of the work, and rounding is far below chance
        distances = torch.cdist(centres.float(), about.float()).square()
        return centres, -(-distances / (2 * spread**2)).logsumexp(1).double()

    def _tuples(self, count: int) -> Tensor:
        """Means of ``count`` tuples of prototypes, drawn from the present plan, ``(count, r)``."""
        rows = torch.multinomial(self.mass, count, replacement=True, generator=self.generator)
        drawn = (torch.multinomial(chance[rows], 1, generator=self.generator).squeeze(1) for chance in self.chances)
        return sum(z[k] for z, k in zip(self.points, drawn, strict=True)) / len(self.points)

    def effective_share(self) -> float:
        return float(1 / (self.mass.square().sum() * len(self.mass)))

    def halves(self, rounds: int) -> tuple[dict[Pair, Tensor], ...]:
        """The plans of two halves of the centres, the marginals met by each of them alone."""
        kernels, log_weight, potentials, found = self.kernels, self.log_weight, list(self.potentials), []
        for half in (slice(0, None, 2), slice(1, None, 2)):
            self.kernels, self.log_weight = [kernel[half] for kernel in kernels], log_weight[half]
            self.potentials = list(potentials)
            self._meet(rounds, 1e-4)
            found.append(self.plans())
        return tuple(found)

    def plans(self) -> dict[Pair, Tensor]:
        weighted = [self.mass.unsqueeze(1) * chance for chance in self.chances]
        return {(i, j): weighted[i].mT @ self.chances[j] for i, j in complete(len(self.points))}
