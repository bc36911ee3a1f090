r"""What DecAlign minimises (Eq 1, 9, 10, 11, 13): losses of a representation, apart from the model that made it.

.. math:: L = L_{task} + L_{dec} + \alpha\,(L_{OT} + L_{proto}) + \beta\,(L_{sem} + L_{MMD})

- :func:`decoupling` (Eq 1) keeps the unique and the common part of each modality apart,
- :func:`heterogeneity` (Eq 9) brings the prototypes of the unique parts together by transport,
- :func:`homogeneity` (Eq 10, 11) makes the distributions of the common parts equal,
- :func:`contrastive` is the supervised contrastive term, one of the two readings of "CT" in Table 4.

Each function is the paper's letter unless an argument of :class:`ObjectiveConfig` says otherwise;
:meth:`ObjectiveConfig.letter` is the letter in every argument.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from decalign_core.alignment import many
from decalign_core.alignment.bures import bures_wasserstein
from decalign_core.alignment.matching import median_bandwidth, mmd, moments
from decalign_core.alignment.mixture import GaussianMixture, common_start, fit_and_assign
from decalign_core.alignment.transport import Transport, joint_cost, sinkhorn
from decalign_core.settings import choices, ending, not_negative, numbers, positive
from decalign_core.types import Batch, ByModality, Losses, Representation


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of Eq 13 and the choices that the paper leaves open or that training needs.

    Attributes:
        task: regression loss, the paper's being "mse"; integer targets take cross-entropy whatever it says.
        binary_weight: weight, within the task, of a cross-entropy on the sign of non-zero scores (official code, SIMS).
        decoupling_weight: weight of Eq 1; the paper's is 1.
        alpha: weight of Eq 9.
        beta: weight of Eq 10 and 11.
        contrastive_weight: weight of the supervised contrastive term, which Eq 13 does not have.
        transport_weight: weight of the transport term within Eq 9.
        prototype_weight: weight of the prototype term within Eq 9.
        semantic_weight: weight of Eq 10 beside Eq 11.
        mmd_weight: weight of Eq 11 beside Eq 10.
        penalty: Eq 1 sums "signed" cosines, whose optimum is -1: opposite parts, not independent ones. The "squared"
            cosine is least where they are orthogonal.
        components: K, prototypes a modality.
        em_steps: EM steps from the start, in each batch.
        covariance: "diag", since a batch rarely has more samples than dimensions, or "full" as in Eq 4.
        floor: least variance of a prototype, in squared feature units.
        epsilon: strength of the entropy in Eq 7 (the paper's lambda).
        relative_epsilon: epsilon in units of the mean joint cost, so that the plan's sharpness does not drift with the
            scale of the features; else in units of the cost.
        sinkhorn_iterations: rounds of Sinkhorn at most.
        sinkhorn_tolerance: marginal error to stop at; None runs every round without a look at the values.
        coupling: what of the joint plan is solved: "dense", all tuples of Eq 5, K^M of them, 2**28 at most;
            "sampled", all pairs, by samples of a latent centre (diagonal covariances); "chain" or "star", exactly, the
            costs of neighbouring pairs or of pairs with the first modality alone, a departure from Eq 5.
        samples: of the latent centre, for "sampled".
        through_marginals: let the gradient of Eq 7 also flow through the marginals, the mixtures' weights.
        scale_by_width: divide Eq 9 and Eq 10 by the width of what they compare, so that alpha and beta mean the same at
            every width.
        bandwidth: sigma of Eq 12, or "median": the median distance of the two samples, without gradient. A fixed 1
            saturates the kernel in 64 dimensions: no gradient is left.
        bandwidth_multiples: the kernel is the mean over these multiples of the bandwidth.
        unbiased: leave the pairs of a sample with itself out of Eq 11.
        temperature: of the contrastive term.
    """

    task: Literal["mse", "mae", "smooth_l1"] = "smooth_l1"
    binary_weight: float = 0.0
    decoupling_weight: float = 1.0
    alpha: float = 0.05
    beta: float = 0.05
    contrastive_weight: float = 0.05
    transport_weight: float = 1.0
    prototype_weight: float = 1.0
    semantic_weight: float = 1.0
    mmd_weight: float = 1.0
    penalty: Literal["signed", "squared"] = "squared"
    components: int = 7
    em_steps: int = 5
    covariance: Literal["diag", "full"] = "diag"
    floor: float = 1e-4
    epsilon: float = 0.1
    relative_epsilon: bool = True
    sinkhorn_iterations: int = 100
    sinkhorn_tolerance: float | None = 1e-4
    coupling: Literal["dense", "sampled", "chain", "star"] = "dense"
    samples: int = 2048
    through_marginals: bool = False
    scale_by_width: bool = True
    bandwidth: float | Literal["median"] = "median"
    bandwidth_multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    unbiased: bool = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth_multiples", tuple(self.bandwidth_multiples))
        sizes = "components", "em_steps", "sinkhorn_iterations", "samples", "floor", "epsilon", "temperature"
        numbers("objective", self, "a positive number", positive, *sizes)
        weights = *ending(self, "_weight"), "alpha", "beta"
        numbers("objective", self, "a number from 0 on", not_negative, *weights)
        numbers("objective", self, "None or a positive number", positive, "sinkhorn_tolerance")
        multiples = self.bandwidth_multiples
        if not (multiples and all(map(positive, multiples))):
            raise ValueError(f"objective.bandwidth_multiples: wanted positive numbers, one at least, got {multiples}")
        if self.bandwidth != "median" and not (isinstance(self.bandwidth, (int, float)) and positive(self.bandwidth)):
            raise ValueError(f"objective.bandwidth: wanted 'median' or a positive number, got {self.bandwidth!r}")
        choices("objective", self)
        if self.coupling == "sampled" and self.covariance != "diag":
            raise ValueError(
                f"objective.covariance: wanted 'diag' with the coupling 'sampled', got {self.covariance!r}"
            )
        if self.coupling != "dense" and self.through_marginals:
            raise ValueError(f"objective.coupling: wanted 'dense' with through_marginals, got {self.coupling!r}")

    @classmethod
    def letter(cls, **changes: object) -> ObjectiveConfig:
        """The paper's equations as printed; what it gives no value for (K, lambda, sigma) is the official code's."""
        printed = {
            "task": "mse",
            "contrastive_weight": 0.0,
            "penalty": "signed",
            "covariance": "full",
            "relative_epsilon": False,
            "scale_by_width": False,
            "bandwidth": 1.0,
            "bandwidth_multiples": (1.0,),
        }
        return cls(**printed | changes)


def objective(representation: Representation, batch: Batch, config: ObjectiveConfig | None = None) -> Losses:
    """Eq 13 of a representation and the batch that it was made from.

    Samples whose modality is absent (mask all False) are left out of that modality's statistics; in Eq 1's mean over
    the batch they count 0. A term of weight 0 is computed for the record, without gradient. Everything runs in float32
    or better, also under mixed precision.
    """
    config = config or ObjectiveConfig()
    with torch.autocast(representation.prediction.device.type, enabled=False):
        weights = _weights(config)
        # a batch that was trimmed on the host says who is present: looking at a mask would wait for an accelerator
        present, held = batch.present, None
        if not present or any(rows is not None for rows in present.values()):
            held = {name: mask.any(dim=1) for name, mask in representation.masks.items()}
            present = present or held
        task = task_loss(representation.prediction, batch.target, config)
        with _gradient_if(weights["decoupling"]):
            apart = decoupling(
                representation.unique, representation.common, masks=representation.masks, penalty=config.penalty
            )
        with _gradient_if(weights["transport"] or weights["prototype"]):
            pooled = _rows(representation.pooled_unique, present)
            hete = heterogeneity(pooled, config, present=held)
        with _gradient_if(weights["semantic"] or weights["mmd"]):
            homo = homogeneity(_rows(representation.latent, present), config)
        with _gradient_if(weights["contrastive"]):
            contrast = contrastive(representation.fused, batch.target, temperature=config.temperature)
    terms = {
        "task": task,
        "decoupling": apart,
        "transport": hete.transport,
        "prototype": hete.prototype,
        "semantic": homo.semantic,
        "mmd": homo.mmd,
        "contrastive": contrast,
    }
    total = sum(weights[name] * term for name, term in terms.items() if weights[name])
    return Losses(**terms, total=total, marginal_error=hete.plan.marginal_error if hete.plan else None)


def _weights(config: ObjectiveConfig) -> dict[str, float]:
    return {
        "task": 1.0,
        "decoupling": config.decoupling_weight,
        "transport": config.alpha * config.transport_weight,
        "prototype": config.alpha * config.prototype_weight,
        "semantic": config.beta * config.semantic_weight,
        "mmd": config.beta * config.mmd_weight,
        "contrastive": config.contrastive_weight,
    }


def _gradient_if(weight: float) -> torch.set_grad_enabled:
    return torch.set_grad_enabled(bool(weight) and torch.is_grad_enabled())


def _rows(tensors: ByModality, present: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: values if present[name] is None else values[present[name]] for name, values in tensors.items()}


_REGRESSION = {"mse": F.mse_loss, "mae": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


def task_loss(prediction: Tensor, target: Tensor, config: ObjectiveConfig) -> Tensor:
    """Loss of predictions ``(B, 1)`` on float targets ``(B,)``, or cross-entropy of ``(B, C)`` on int64 targets."""
    prediction = _accurate(prediction)
    if not target.is_floating_point():
        return F.cross_entropy(prediction, target)
    score = prediction.squeeze(-1)
    loss = _REGRESSION[config.task](score, target.to(score.dtype))
    if config.binary_weight:
        non_zero = (target != 0).to(score.dtype)
        sign = F.binary_cross_entropy_with_logits(score, (target > 0).to(score.dtype), reduction="none")
        loss = loss + config.binary_weight * (sign * non_zero).sum() / non_zero.sum().clamp_min(1)
    return loss


_PENALTIES = {"signed": lambda cosine: cosine, "squared": torch.square}


def decoupling(
    unique: ByModality,
    common: ByModality,
    *,
    masks: ByModality | None = None,
    penalty: Literal["signed", "squared"] = "squared",
) -> Tensor:
    """Eq 1: overlap of the unique and common parts ``(B, T_m, d)``; a scalar.

    Per sample the cosine of the two blocks, flattened over valid frames (a zero vector counts 0), penalised, mean over
    the batch, summed over modalities.

    Args:
        unique: unique part of each modality.
        common: common part of each modality.
        masks: ``(B, T_m)`` bool by modality, True where valid; None takes every frame.
        penalty: "signed" as printed (least at -1), "squared" (least where orthogonal).

    Raises:
        ValueError: for another penalty.
    """
    if penalty not in _PENALTIES:
        raise ValueError(f"penalty: wanted 'signed' or 'squared', got {penalty!r}")
    cosines = (_cosine(unique[name], common[name], masks and masks[name]) for name in unique)
    return sum(_PENALTIES[penalty](cosine).mean() for cosine in cosines)


def _cosine(first: Tensor, second: Tensor, mask: Tensor | None) -> Tensor:
    # padded frames may hold anything, NaN included: they are replaced, not multiplied by 0
    blocks = (_accurate(part) for part in (first, second))
    valid = (part if mask is None else part.where(mask.unsqueeze(-1), 0) for part in blocks)
    a, b = (part.flatten(1) for part in valid)
    return (_unit(a) * _unit(b)).sum(1)


def _unit(x: Tensor) -> Tensor:
    # divided by its largest entry first, so that no scale of the features under- or overflows when squared
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)
    squared_norm = scaled.square().sum(dim=1, keepdim=True)
    return scaled / torch.where(squared_norm > 0, squared_norm, 1).sqrt()


@dataclass(frozen=True)
class Heterogeneity:
    """Eq 9 with its two terms kept apart, and what they were computed from.

    Attributes:
        transport: the first term, scalar.
        prototype: the second term, scalar.
        mixtures: the prototypes by modality; empty where too few samples were there.
        plan: the solved transport between them (of its pairs, where not all tuples are solved), or None likewise.
    """

    transport: Tensor
    prototype: Tensor
    mixtures: Mapping[str, GaussianMixture] = field(default_factory=dict)
    plan: Transport | many.PairTransport | None = None


def heterogeneity(
    pooled: ByModality, config: ObjectiveConfig | None = None, *, present: ByModality | None = None
) -> Heterogeneity:
    """Eq 9 of pooled unique features ``(N_m, d)`` by modality.

    Modalities with fewer than 2 samples are left out; with fewer than 2 modalities left both terms are 0. All
    modalities take the same number of prototypes, ``min(components, smallest N_m)``. The prototype term is the mean
    over samples, summed over prototypes and dimensions, averaged over ordered pairs of modalities, equal index k.

    Args:
        pooled: of the samples that have the modality.
        config: the default one if None.
        present: by modality, which samples of the batch ``(B,)`` have it, so that prototypes of equal index start from
            the same samples; None where all have it.
    """
    config = config or ObjectiveConfig()
    usable = {name: _accurate(x) for name, x in pooled.items() if len(x) > 1}
    if len(usable) < 2:
        zero = _zero(pooled)
        return Heterogeneity(zero, zero)
    scale = 1 / next(iter(usable.values())).shape[1] if config.scale_by_width else 1.0
    components = min(config.components, *(len(x) for x in usable.values()))
    every, assigned = _mixtures(usable, components, config, present)
    mixtures = dict(zip(usable, _each(every), strict=True))
    plan = _plan(every, list(mixtures.values()), config, scale)
    prototype = scale * _prototype(every, assigned)
    return Heterogeneity(_transport_term(plan, mixtures, config), prototype, mixtures, plan)


def _mixtures(
    usable: ByModality, components: int, config: ObjectiveConfig, present: ByModality | None
) -> tuple[GaussianMixture, GaussianMixture]:
    """The modalities' prototypes, and the statistics of the samples that they assign, as a batch of mixtures each."""
    options = {"steps": config.em_steps, "covariance": config.covariance, "floor": config.floor}
    if present is None:
        fits = [fit_and_assign(x, components, **options) for x in _stacked(list(usable.values()))]
    else:
        starts = common_start(torch.stack([present[name] for name in usable]), components)
        pairs = zip(usable.values(), starts, strict=True)
        fits = [fit_and_assign(x.unsqueeze(0), components, **options, start=rows) for x, rows in pairs]
    return tuple(map(_joined, zip(*fits, strict=True)))


def _stacked(samples: list[Tensor]) -> list[Tensor]:
    """Samples ``(N_m, d)`` of all modalities as batches ``(., N, d)``, in order: one batch where all N are equal."""
    if len({len(x) for x in samples}) == 1:
        return [torch.stack(samples)]
    return [x.unsqueeze(0) for x in samples]


def _joined(batches: tuple[GaussianMixture, ...]) -> GaussianMixture:
    """Batches of mixtures as one batch."""
    if len(batches) == 1:
        return batches[0]
    parts = ((batch.weights, batch.means, batch.covariances) for batch in batches)
    return GaussianMixture(*map(torch.cat, zip(*parts, strict=True)))


def _each(batch: GaussianMixture) -> Iterator[GaussianMixture]:
    parts = (part.unbind() for part in (batch.weights, batch.means, batch.covariances))
    return itertools.starmap(GaussianMixture, zip(*parts, strict=True))


_MOST_CELLS = 2**28  # 1 GiB a tensor of the plan's shape in float32, of which solving it takes several


def _plan(
    every: GaussianMixture, measures: list[GaussianMixture], config: ObjectiveConfig, scale: float
) -> Transport | many.PairTransport:
    marginals = [mixture.weights for mixture in measures]
    options = {"iterations": config.sinkhorn_iterations, "tolerance": config.sinkhorn_tolerance}
    if config.coupling == "dense":
        if len(marginals[0]) ** len(marginals) > _MOST_CELLS:
            wanted = f"'sampled', 'chain' or 'star' for a plan of more than {_MOST_CELLS} cells"
            got = f"'dense' with {len(marginals[0])} prototypes of each of {len(marginals)} modalities"
            raise ValueError(f"objective.coupling: wanted {wanted}, got {got}")
        cost = scale * (_joint_cost(every) if every.is_diagonal else joint_cost(measures))
        return sinkhorn(cost, marginals, epsilon=_epsilon(cost.detach().mean(), config), **options)
    # Eq 6 of a mixture times a number is Eq 6 times its square
    scaled = [GaussianMixture(m.weights, m.means * math.sqrt(scale), m.covariances * scale) for m in measures]
    tree = {"chain": many.chain, "star": many.star}.get(config.coupling)
    costs = many.pair_costs(scaled, (tree or many.complete)(len(scaled)))
    epsilon = _epsilon(sum(cost.detach().mean() for cost in costs.values()), config)
    if tree:
        return many.tree(costs, marginals, epsilon=epsilon, **options)
    options["tolerance"] = config.sinkhorn_tolerance or 1e-6
    return many.sampled(scaled, epsilon=epsilon, costs=costs, samples=config.samples, **options)


def _joint_cost(every: GaussianMixture) -> Tensor:
    # one matrix of all prototypes is faster to fill than its blocks one after the other
    flat = GaussianMixture(*(part.flatten(0, 1) for part in (every.weights, every.means, every.covariances)))
    costs = bures_wasserstein(flat, flat).unflatten(1, every.weights.shape).unflatten(0, every.weights.shape)
    return joint_cost(range(len(every.weights)), lambda i, j: costs[i, :, j])


def _epsilon(mean_cost: Tensor, config: ObjectiveConfig) -> float | Tensor:
    if not config.relative_epsilon:
        return config.epsilon
    return config.epsilon * mean_cost.clamp_min(torch.finfo(mean_cost.dtype).tiny / config.epsilon)


def _transport_term(
    plan: Transport | many.PairTransport, mixtures: Mapping[str, GaussianMixture], config: ObjectiveConfig
) -> Tensor:
    if not config.through_marginals:
        return plan.value
    flowing = sum(
        (potential.where(mixture.weights > 0, 0) * mixture.weights).sum()
        for potential, mixture in zip(plan.potentials, mixtures.values(), strict=True)
    )
    return plan.value + flowing - flowing.detach()  # the gradient that flows through the marginals, not their value


def _prototype(every: GaussianMixture, assigned: GaussianMixture) -> Tensor:
    # sum_n w_n |x_n - mu|^2 = W (|m - mu|^2 + tr S), with the statistics W, m, S of the samples that w assigns: the
    # samples are gone through once, whatever the number of pairs
    order = len(every.weights)
    apart = (assigned.means.unsqueeze(1) - every.means).square().sum(-1)  # (M, M, K)
    others = 1 - torch.eye(order, dtype=apart.dtype, device=apart.device).unsqueeze(-1)
    by_pair = (others * apart).sum(1) / (order - 1)
    return (assigned.weights * (by_pair + assigned.covariances.sum(-1))).sum() / order


@dataclass(frozen=True)
class Homogeneity:
    """The two terms for the common parts.

    Attributes:
        semantic: Eq 10, moments, with its factor 1 / (M (M - 1)); scalar.
        mmd: Eq 11, kernel means, with its factor 2 / (M (M - 1)); scalar.
    """

    semantic: Tensor
    mmd: Tensor


def homogeneity(latent: ByModality, config: ObjectiveConfig | None = None) -> Homogeneity:
    """Eq 10 and Eq 11 of latent common features ``(N_m, p)`` by modality; 0 as :func:`heterogeneity` is."""
    config = config or ObjectiveConfig()
    usable = [_accurate(z) for z in latent.values() if len(z) > 1]
    if len(usable) < 2:
        zero = _zero(latent)
        return Homogeneity(zero, zero)
    ordered = len(usable) * (len(usable) - 1)
    scale = 1 / usable[0].shape[1] if config.scale_by_width else 1.0
    options = {"unbiased": config.unbiased}
    discrepancy = sum(mmd(x, y, _bandwidths(x, y, config), **options).sum() for x, y in _pairs(usable))
    return Homogeneity(scale * _semantic(usable) / ordered, 2 * discrepancy / ordered)


def _semantic(samples: list[Tensor]) -> Tensor:
    """Eq 10's bracket, summed over the pairs: M times the squared distances to the mean of all M."""
    rows = torch.cat([moments(x).flattened() for x in _stacked(samples)])
    return len(rows) * (rows - rows.mean(0)).square().sum()


def _pairs(samples: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each pair of samples ``(N_m, p)``, as batches ``(., N, p)``: one batch where all N are equal."""
    first, second = zip(*itertools.combinations(range(len(samples)), 2), strict=True)
    if len({len(x) for x in samples}) == 1:
        # stacked, not indexed by lists, which would wait for an accelerator
        return [(torch.stack([samples[i] for i in first]), torch.stack([samples[j] for j in second]))]
    return [(samples[i].unsqueeze(0), samples[j].unsqueeze(0)) for i, j in zip(first, second, strict=True)]


def _bandwidths(x: Tensor, y: Tensor, config: ObjectiveConfig) -> list[float | Tensor]:
    bandwidth = median_bandwidth(x, y) if config.bandwidth == "median" else config.bandwidth
    return [multiple * bandwidth for multiple in config.bandwidth_multiples]


def contrastive(fused: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss of fused features ``(B, F)``; positives share a class, or a rounded score.

    Mean over the samples that have a positive, of the mean negative log-probability of their positives among all
    others; 0 where no sample has one. Source: the official code's reading of "contrastive training" (Table 4, CT).
    """
    classes = target.round() if target.is_floating_point() else target
    features = F.normalize(_accurate(fused), dim=1)
    itself = torch.eye(len(classes), dtype=torch.bool, device=fused.device)
    positive = (classes.unsqueeze(0) == classes.unsqueeze(1)) & ~itself
    similarity = (features @ features.mT / temperature).masked_fill(itself, -math.inf)
    log_probability = similarity.log_softmax(dim=1).masked_fill(itself, 0)
    count = positive.sum(1)
    per_sample = -(log_probability * positive).sum(1) / count.clamp_min(1)
    return per_sample.sum() / (count > 0).sum().clamp_min(1)


def _accurate(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _zero(tensors: ByModality) -> Tensor:
    # 0 that still belongs to the graph, so that backward passes on a batch without statistics
    return sum((0 * x.sum() for x in tensors.values()), torch.zeros(()))
