r"""Self-MM: modality-specific representations from unimodal tasks with self-generated labels (Yu et al. 2021).

Beside the multimodal head every modality has a head of its own, on features :math:`F_s`. Its labels are made during
training. With :math:`D^{\pm}_s` the distances of :math:`F_s` from the centres of the positive and the negative samples
and the leaning :math:`\alpha_s = (D^-_s - D^+_s) / D^+_s` (m for the fused features), a sample's new label is

.. math:: \hat y_s = \tfrac12\, y_m\, \alpha_s / \alpha_m + \tfrac12\, (y_m + \alpha_s - \alpha_m),

clipped to the range of the labels. Labels start as the multimodal ones and move with a momentum that grows: in epoch i,
:math:`y_s^{(i)} = \frac{i-1}{i+1} y_s^{(i-1)} + \frac{2}{i+1} \hat y_s`. A unimodal error
:math:`|p_s - y_s|` is weighted by :math:`\tanh |y_s - y_m|`: not at all in the first epoch, and more where the
modality disagrees with the whole.

Simplified: centres and labels are renewed once an epoch (the paper: each step, from the second epoch on); a modality is
averaged over frames or, with ``recurrent``, read by an LSTM; all heads have one width. Classes have no positive and
negative side: for them only the multimodal head is trained, as in the paper, which treats regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.peers.common import (
    AverageEncoder,
    Labels,
    PeerConfig,
    PeerModel,
    RecurrentEncoder,
    losses,
    pooled_representation,
)
from decalign_core.types import Batch, Losses, Representation


@dataclass(frozen=True)
class SelfMMConfig(PeerConfig):
    """Settings of :class:`SelfMM`: ``width`` is that of a summary and of a head's features.

    Attributes:
        recurrent: read a modality's frames with an LSTM rather than average them.
        unimodal_dropout: before each unimodal head.
        unimodal_weight: of the unimodal tasks beside the multimodal one.
    """

    recurrent: bool = False
    unimodal_dropout: float = 0.1
    unimodal_weight: float = 1.0


class SelfMM(PeerModel):
    """One encoder a modality, read by the multimodal head and, for a score, by a unimodal head of its own."""

    def __init__(self, config: SelfMMConfig) -> None:
        super().__init__(config)
        kind, width = RecurrentEncoder if config.recurrent else AverageEncoder, config.width
        self.encoders = nn.ModuleDict({name: kind(features, width) for name, features in self.widths.items()})
        self.multimodal = _Head(len(self.names) * width, width, config.outputs, config.output_dropout)
        scored = self.names if config.outputs == 1 else []
        self.unimodal = nn.ModuleDict({name: _Head(width, width, 1, config.unimodal_dropout) for name in scored})

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch."""
        batch = batch.trimmed()
        summaries = {name: self.encoders[name](x, batch.masks[name]) for name, x in self.frames(batch).items()}
        fused, prediction = self.multimodal(torch.cat(list(summaries.values()), dim=1))
        extras = {}
        for name, head in self.unimodal.items():
            extras[f"features {name}"], extras[f"prediction {name}"] = head(summaries[name])
        return replace(pooled_representation(summaries, batch, fused, prediction), extras=extras)


class _Head(nn.Module):
    def __init__(self, features: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(Dropout(dropout), nn.Linear(features, width), nn.ReLU())
        self.prediction = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return features, self.prediction(features)


def objective(representation: Representation, batch: Batch, config: SelfMMConfig) -> Losses:
    """The task's loss and the weighted errors of the unimodal heads, where the batch has labels for them."""
    known = [name for name in batch.features if f"generated {name}" in batch.extra_targets]
    errors = (_unimodal_error(name, representation, batch) for name in known)
    unimodal = sum(errors, start=representation.prediction.new_zeros(()))
    return losses(representation, batch, config, {"unimodal": unimodal}, {"unimodal": config.unimodal_weight})


def _unimodal_error(name: str, representation: Representation, batch: Batch) -> Tensor:
    label, present = batch.extra_targets[f"generated {name}"], representation.masks[name].any(dim=1)
    error = (representation.extras[f"prediction {name}"].float().squeeze(1) - label).abs()
    weight = (label - batch.target).abs().tanh() * present
    return (weight * error).sum() / present.sum().clamp_min(1)


class GeneratedLabels(Labels):
    """Labels ``(M, N)`` of each modality for the training samples; none where the targets are classes.

    Labels and the epoch's number are its state. Features are not: each epoch observes every sample anew.
    """

    def __init__(self, config: SelfMMConfig, train: Batch) -> None:
        super().__init__()
        self.names = list(config.modalities) if train.target.is_floating_point() else []
        present = [torch.ones(len(train), dtype=torch.bool), *(train.masks[name].any(dim=1) for name in self.names)]
        self.register_buffer("target", train.target.cpu(), persistent=False)
        self.register_buffer("present", torch.stack(present), persistent=False)
        self.register_buffer("features", torch.zeros(1 + len(self.names), len(train), config.width), persistent=False)
        self.register_buffer("labels", self.target.repeat(len(self.names), 1))
        self.register_buffer("epoch", torch.tensor(1))

    def targets(self, rows: Tensor) -> dict[str, Tensor]:
        """Each modality's labels ``(B,)``, by the name "generated ..."."""
        return {f"generated {name}": labels[rows] for name, labels in zip(self.names, self.labels, strict=True)}

    def observe(self, rows: Tensor, representation: Representation) -> None:
        """Keep the features of a training step."""
        if self.names:
            parts = [representation.fused, *(representation.extras[f"features {name}"] for name in self.names)]
            self.features[:, rows] = torch.stack(parts).detach().float().cpu()

    def end_epoch(self) -> None:
        """Labels of the epoch that follows; they stay where a centre or the sample's modality is missing."""
        self.epoch += 1
        own = torch.cat([self.target.unsqueeze(0), self.labels])
        fused, *leanings = [leaning(*known) for known in zip(self.features, own, self.present, strict=True)]
        for labels, present, its in zip(self.labels, self.present[1:], leanings, strict=True):
            fresh = generate(self.target, its, fused)
            moved = ((self.epoch - 1) * labels + 2 * fresh) / (self.epoch + 1)
            labels.copy_(moved.where(moved.isfinite() & present, labels))


def leaning(features: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """How much nearer features ``(N, d)`` are to the positive centre than to the negative; NaN where one is missing."""
    centres = (features[present & (side * labels > 0)].mean(dim=0) for side in (1, -1))
    positive, negative = ((features - centre).norm(dim=1) for centre in centres)
    return (negative - positive) / positive.clamp_min(torch.finfo(features.dtype).eps)


def generate(target: Tensor, own: Tensor, fused: Tensor) -> Tensor:
    """New labels ``(N,)`` from the multimodal ones and the leanings of a modality and of the fused features."""
    least = torch.finfo(fused.dtype).eps
    ratio = own / fused.where(fused.abs() > least, least)
    bound = target.abs().max()
    return (0.5 * target * ratio + 0.5 * (target + own - fused)).clamp(-bound, bound)
