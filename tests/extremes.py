"""Inputs at the ends of what training can meet, for the properties of tests/stress; each is a record that prints short.

Scales run from 1e-6 to 1e6, epsilon from 1e-4 to 1e2, batches from 1 to 512 samples, modalities from 2 to 5.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from decalign_core.alignment.mixture import GaussianMixture

SIZES = (1, 2, 3, 5, 8, 31, 64, 512)
SCALES = st.floats(-6, 6).map(lambda power: 10.0**power)
EPSILONS = st.floats(-4, 2).map(lambda power: 10.0**power)
SEEDS = st.integers(0, 2**16)
WIDTHS = st.integers(1, 8)
COMPONENTS = st.integers(1, 4)
KINDS = ("spread", "identical", "nearly identical", "two points", "outlier", "constant columns", "far from 0", "zeros")


def generator(seed):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Cloud:
    """Samples ``(size, width)`` of a kind, of about this scale."""

    kind: str
    size: int
    width: int
    scale: float
    seed: int
    double: bool = False

    def points(self):
        noise = torch.randn(self.size, self.width, generator=generator(self.seed), dtype=torch.float64)
        first = noise[:1]
        points = {
            "spread": noise,
            "identical": first.expand_as(noise),
            "nearly identical": first * (1 + 1e-7 * noise),
            "two points": torch.where(torch.arange(self.size).unsqueeze(1) % 2 == 0, first, -first),
            "outlier": noise * torch.where(torch.arange(self.size).unsqueeze(1) == 0, 1e3, 1e-3),
            "constant columns": noise.where(torch.arange(self.width) % 2 == 1, 1.0),
            "far from 0": 1e3 + noise,
            "zeros": torch.zeros_like(noise),
        }[self.kind]
        points = self.scale * points
        return (points if self.double else points.float()).requires_grad_()


def clouds(sizes=SIZES, widths=WIDTHS, kinds=KINDS, double=None):
    """Clouds in single or double precision, or in one of them."""
    doubles = st.booleans() if double is None else st.just(double)
    return st.builds(Cloud, st.sampled_from(kinds), st.sampled_from(sizes), widths, SCALES, SEEDS, doubles)


@dataclass(frozen=True)
class Prototypes:
    """A mixture of a given scale: weights with zeros, variances from 0 to far beyond the distances of the means."""

    kind: str
    components: int
    width: int
    scale: float
    seed: int
    full: bool = False
    double: bool = False

    def mixture(self):
        chance = generator(self.seed)
        weights = torch.rand(self.components, generator=chance, dtype=torch.float64)
        means = torch.randn(self.components, self.width, generator=chance, dtype=torch.float64)
        roots = torch.randn(self.components, self.width, self.width, generator=chance, dtype=torch.float64)
        if self.kind == "one holds all":
            weights = (torch.arange(self.components) == 0).double()
        if self.kind == "tiny weights":
            weights = weights ** torch.linspace(1, 60, self.components)
        if self.kind in ("identical", "points"):
            means = means[:1].expand_as(means)
            roots = roots[:1].expand_as(roots)
        if self.kind in ("points", "flat"):
            roots = roots * (0 if self.kind == "points" else (torch.arange(self.width) == 0))
        covariances = self.scale**2 * roots @ roots.mT
        if not self.full:
            covariances = covariances.diagonal(dim1=-2, dim2=-1)
        made = (weights / weights.sum(), self.scale * means, covariances)
        made = (part if self.double else part.float() for part in made)
        return GaussianMixture(*(part.clone().requires_grad_() for part in made))


PROTOTYPES = ("plain", "one holds all", "tiny weights", "identical", "points", "flat")


def prototypes(width, full=False, double=False, components=COMPONENTS, scales=SCALES):
    """Mixtures of one width."""
    given = (st.sampled_from(PROTOTYPES), components, st.just(width), scales, SEEDS, st.just(full), st.just(double))
    return st.builds(Prototypes, *given)


def is_finite(*tensors):
    """Whether there is no NaN and no infinity in any of them."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def off_by(plan, marginals):
    """Largest violation of Eq 8 by a plan, in double precision."""
    axes, plan = range(plan.ndim), plan.detach().double()
    sums = [plan.sum([a for a in axes if a != axis]) for axis in axes]
    return max(float((got - wanted.detach().double()).abs().max()) for got, wanted in zip(sums, marginals, strict=True))


def gradients(value, *leaves):
    """Gradients of a scalar, 0 where it does not depend on a leaf."""
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if got is None else got for got, leaf in zip(found, leaves, strict=True)]
