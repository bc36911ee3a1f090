"""The losses under stress, alone and with the whole model: finite, with finite gradients, whatever the batch holds."""

from dataclasses import dataclass

import torch
from extremes import EPSILONS, KINDS, SCALES, SEEDS, Cloud, clouds, generator, gradients, is_finite, off_by
from hypothesis import given
from hypothesis import strategies as st

from decalign_core.alignment import many
from decalign_core.model import DecAlign, DecAlignConfig
from decalign_core.objective import (
    ObjectiveConfig,
    contrastive,
    decoupling,
    heterogeneity,
    homogeneity,
    objective,
    task_loss,
)
from decalign_core.types import Batch

COUNTS = st.integers(2, 5)
FEW = (1, 2, 3, 8, 31, 64)


def configurations():
    """What changes the numerics of the losses; K, EM and Sinkhorn are kept small."""

    def make(shape, **rest):
        coupling, covariance, through = shape
        few = {"components": 3, "em_steps": 3, "sinkhorn_iterations": 20, "samples": 128}
        return ObjectiveConfig(
            coupling=coupling, covariance=covariance, through_marginals=through, **few, **rest, contrastive_weight=0.1
        )

    shapes = [("dense", "diag", False), ("dense", "full", False), ("dense", "diag", True)]
    shapes += [("sampled", "diag", False), ("chain", "diag", False), ("star", "full", False)]
    return st.builds(
        make,
        st.sampled_from(shapes),
        epsilon=EPSILONS,
        relative_epsilon=st.booleans(),
        sinkhorn_tolerance=st.sampled_from([1e-4, None]),
        penalty=st.sampled_from(["signed", "squared"]),
        bandwidth=st.sampled_from(["median", 1.0]),
        unbiased=st.booleans(),
        scale_by_width=st.booleans(),
    )


@st.composite
def modalities(draw, sizes=FEW):
    """Clouds of one width by modality, of one size or of several, as where some samples lack a modality."""
    width, count, double = draw(st.integers(1, 6)), draw(COUNTS), draw(st.booleans())
    size = draw(st.sampled_from(sizes))
    sizes = (size,) if draw(st.booleans()) else (1, 2, size)
    each = clouds(sizes, st.just(width), KINDS, double)
    return {f"m{index}": draw(each) for index in range(count)}


@given(modalities(), configurations())
def test_heterogeneity_is_finite_with_finite_gradients_and_its_plan_met_or_not_converged(given_clouds, config):
    pooled = {name: cloud.points() for name, cloud in given_clouds.items()}
    found = heterogeneity(pooled, config)
    assert is_finite(found.transport, found.prototype) and found.transport >= 0 and found.prototype >= 0
    assert is_finite(*gradients(found.transport + found.prototype, *pooled.values()))
    if found.plan:
        plans = many.pair_plans(found.plan.plan) if config.coupling == "dense" else found.plan.plans
        weights = [mixture.weights for mixture in found.mixtures.values()]
        error = max(off_by(plan, [weights[m] for m in pair]) for pair, plan in plans.items())
        assert error <= found.plan.tolerance + 1e-6 or not found.plan.converged


@given(modalities(), configurations())
def test_homogeneity_is_finite_with_finite_gradients(given_clouds, config):
    latent = {name: cloud.points() for name, cloud in given_clouds.items()}
    found = homogeneity(latent, config)
    assert is_finite(found.semantic, found.mmd) and found.semantic >= 0
    assert is_finite(*gradients(found.semantic + found.mmd, *latent.values()))


@given(clouds(widths=st.just(12)), clouds(widths=st.just(12)), SEEDS, st.sampled_from(["signed", "squared"]))
def test_decoupling_is_bounded_and_reads_no_padded_frame(one, other, seed, penalty):
    size = min(one.size, other.size)
    parts = [cloud.points().detach()[:size].view(size, 4, 3).float() for cloud in (one, other)]
    mask = torch.rand(size, 4, generator=generator(seed)) < 0.5
    parts = [part.masked_fill(~mask.unsqueeze(-1), float("nan")).requires_grad_() for part in parts]
    value = decoupling({"m": parts[0]}, {"m": parts[1]}, masks={"m": mask}, penalty=penalty)
    assert is_finite(value) and value.abs() <= 1 + 1e-5
    assert is_finite(*gradients(value, *parts))


@given(clouds(), st.sampled_from(["one class", "two classes", "all different", "scores"]), st.floats(0.01, 10))
def test_contrastive_is_finite_and_not_negative_for_one_class_no_positives_and_equal_features(cloud, kind, temperature):
    fused, n = cloud.points(), cloud.size
    target = {
        "one class": torch.zeros(n, dtype=torch.long),
        "two classes": torch.arange(n) % 2,
        "all different": torch.arange(n),
        "scores": torch.linspace(-3, 3, n),
    }[kind]
    value = contrastive(fused, target, temperature=temperature)
    assert is_finite(value) and value >= -1e-5
    assert is_finite(*gradients(value, fused))


@given(
    clouds(widths=st.just(1)),
    st.sampled_from(["mse", "mae", "smooth_l1"]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 2.0]),
)
def test_the_tasks_loss_is_finite_for_any_score_and_for_targets_that_are_all_equal(cloud, task, weight, score):
    prediction, config = cloud.points(), ObjectiveConfig(task=task, binary_weight=weight)
    value = task_loss(prediction, torch.full((cloud.size,), score), config)
    assert is_finite(value) and value >= 0
    assert is_finite(*gradients(value, prediction))


# --- the whole model ---


@dataclass(frozen=True)
class Situation:
    """A batch for a tiny model: its samples, modalities, scale and what is missing."""

    samples: int
    count: int
    kind: str
    scale: float
    missing: str
    targets: str
    seed: int

    def batch(self):
        chance = generator(self.seed)
        features, masks = {}, {}
        for index in range(self.count):
            frames, width = index % 3 + 1, 2 + index
            cloud = Cloud(self.kind, self.samples * frames, width, self.scale, self.seed + index)
            features[f"m{index}"] = cloud.points().detach().view(self.samples, frames, width)
            lengths = torch.randint(1, frames + 1, (self.samples, 1), generator=chance)
            masks[f"m{index}"] = (torch.arange(frames) < lengths) & self._present(index, chance)
        target = {
            "scores": torch.randn(self.samples, generator=chance),
            "one score": torch.ones(self.samples),
            "classes": torch.arange(self.samples) % 3,
            "one class": torch.full((self.samples,), 2),
        }[self.targets]
        return Batch(features, masks, target, [f"v$_${row}" for row in range(self.samples)])

    def _present(self, index, chance):
        if self.missing == "one modality altogether":
            return torch.tensor(index > 0)
        if self.missing == "all but one":
            return torch.arange(self.samples).unsqueeze(1) % self.count == index
        share = {"nothing": 0.0, "some": 0.4, "everything": 1.0}[self.missing]
        return torch.rand(self.samples, 1, generator=chance) >= share


SITUATIONS = st.builds(
    Situation,
    st.sampled_from((1, 2, 3, 8, 64, 512)),
    COUNTS,
    st.sampled_from(KINDS),
    SCALES,
    st.sampled_from(["nothing", "some", "all but one", "one modality altogether", "everything"]),
    st.sampled_from(["scores", "one score", "classes", "one class"]),
    SEEDS,
)


@given(SITUATIONS, configurations(), st.booleans(), st.booleans())
def test_a_training_step_has_finite_losses_gradients_and_predictions_whatever_the_batch(
    situation, config, bounded, norm_first
):
    batch = situation.batch()
    widths = {name: x.shape[-1] for name, x in batch.features.items()}
    outputs = 1 if batch.target.is_floating_point() else 3
    sizes = {"width": 4, "heads": 2, "layers": 1, "bounded": bounded, "norm_first": norm_first}
    model = DecAlign(DecAlignConfig(widths, outputs, **sizes))
    representation = model(batch)
    losses = objective(representation, batch, config)
    terms = [value for value in vars(losses).values() if isinstance(value, torch.Tensor)]
    assert is_finite(representation.prediction, representation.fused, *terms)
    assert is_finite(*gradients(losses.total, *model.parameters()))
