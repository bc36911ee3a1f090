"""What the cases measure: their options, sizes, configuration, batches and mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decalign_core.alignment.many import Pair
from decalign_core.alignment.mixture import GaussianMixture
from decalign_core.lab.experiment import ExperimentConfig, configure
from decalign_core.lab.presets import preset
from decalign_core.lab.training import Trainer
from decalign_core.types import Batch, Splits

WIDTHS = {"text": 768, "audio": 5, "vision": 20}  # of the official MOSI files
SAMPLES, FRAMES, WIDTH = 32, 50, 64


@dataclass(frozen=True)
class Options:
    """What the command line gives: a checkout of the official code or None, how often to repeat, and of the training
    step its device and whether it is also measured compiled."""

    official: Path | None = None
    rounds: int = 15
    device: str = "cpu"
    compile: bool = False


def configuration() -> ExperimentConfig:
    """The official MOSI configuration on features, transport solved to a marginal error of 1e-4."""
    changes = {
        "data.text_encoder": "",
        "data.fine_tune": False,
        "training.device": "cpu",
        "objective.sinkhorn_iterations": 100,
        "objective.sinkhorn_tolerance": 1e-4,
    }
    return configure(changes, preset("official", "mosi"))


def lengths(generator: torch.Generator) -> dict[str, Tensor]:
    """Valid frames of a batch's samples, by what the case is called."""
    return {
        "full lengths": torch.full((SAMPLES,), FRAMES),
        "lengths 6 to 24": torch.randint(6, 25, (SAMPLES,), generator=generator),
    }


def batch(lengths: Tensor, generator: torch.Generator, frames: int = FRAMES) -> Batch:
    """A sample a length, of noise, 0 after its valid frames."""
    mask = torch.arange(frames) < lengths.unsqueeze(1)
    features = {
        name: torch.randn(*mask.shape, width, generator=generator) * mask.unsqueeze(-1)
        for name, width in WIDTHS.items()
    }
    target = (1.5 * torch.randn(len(lengths), generator=generator)).clamp(-3, 3)
    return Batch(features, dict.fromkeys(WIDTHS, mask), target, [str(row) for row in range(len(lengths))])


def trainer(batch: Batch, device: str = "cpu", changes: Mapping[str, Any] | None = None) -> Trainer:
    """One that trains on this batch, in training mode, with the configuration changed as told."""
    splits = Splits(train=batch, valid=batch, test=batch)
    made = Trainer(configure(changes or {}, configuration()), splits, torch.device(device))
    made.model.train()
    return made


def mixtures(count: int, components: int, width: int) -> list[GaussianMixture]:
    """Random mixtures of diagonal covariances in float64, the same each time."""
    rng = np.random.default_rng(count)
    return [
        GaussianMixture(
            torch.from_numpy(rng.dirichlet(np.full(components, 5.0))),
            torch.from_numpy(rng.normal(size=(components, width))),
            torch.from_numpy(rng.uniform(0.1, 1.1, size=(components, width))),
        )
        for _ in range(count)
    ]


def mean(costs: Mapping[Pair, Tensor]) -> float:
    """The mean pair cost, to which epsilon is proportioned."""
    return float(sum(cost.mean() for cost in costs.values()) / len(costs))
