r"""Late fusion: each modality predicts for itself, and the predictions are averaged (e.g. Snoek et al. 2005).

With a summary :math:`z_m`, a prediction :math:`\hat y_m = w_m^\top z_m + b_m` of each modality and learned weights,

.. math:: \hat y = \sum_m \pi_m \hat y_m, \qquad \pi = \operatorname{softmax}(a),

where an absent modality has no say: the softmax is over those that a sample has. The loss is the task's of
:math:`\hat y`, and of every :math:`\hat y_m`, so that each modality learns to predict alone.

Simplified: networks and weights are trained together, where the classical pipeline fits one after the other; for
classes the logits are averaged, not the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.objective import ObjectiveConfig, task_loss
from decalign_core.peers.common import SummaryConfig, SummaryModel, losses, pooled_representation
from decalign_core.types import Batch, Losses, Representation


@dataclass(frozen=True)
class LateConfig(SummaryConfig):
    """Settings of :class:`LateFusion`.

    Attributes:
        unimodal_weight: of the mean of the modalities' own task losses.
    """

    unimodal_weight: float = 1.0


class LateFusion(SummaryModel):
    """One network a modality; the prediction is the weighted mean of theirs."""

    def __init__(self, config: LateConfig) -> None:
        super().__init__(config)
        self.heads = nn.ModuleDict({name: _head(config) for name in self.names})
        self.logits = nn.Parameter(torch.zeros(len(self.names)))

    def weights(self, batch: Batch) -> Tensor:
        """Weights ``(B, M)`` of the modalities, which sum to 1: 0 where one is absent, equal where all are."""
        present = torch.stack([batch.masks[name].any(dim=1) for name in self.names], dim=1)
        nothing = ~present.any(dim=1, keepdim=True)
        return self.logits.where(present, -torch.inf).masked_fill(nothing, 0).softmax(dim=1)

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; ``extras`` are the modalities' own predictions ``(B, outputs)``."""
        batch = batch.trimmed()
        summaries = self.summaries(batch)
        own = {name: self.heads[name](z) for name, z in summaries.items()}
        stacked = torch.stack(list(own.values()), dim=1)
        prediction = (self.weights(batch).unsqueeze(-1) * stacked).sum(dim=1)
        fused = torch.cat(list(summaries.values()), dim=1)
        return replace(pooled_representation(summaries, batch, fused, prediction), extras=own)


def _head(config: LateConfig) -> nn.Sequential:
    return nn.Sequential(Dropout(config.output_dropout), nn.Linear(config.width, config.outputs))


def objective(representation: Representation, batch: Batch, config: LateConfig) -> Losses:
    """The task's loss of the mean, and ``unimodal``: that of each modality alone, where it is present."""
    terms = []
    for name, own in representation.extras.items():
        present = representation.masks[name].any(dim=1, keepdim=True)
        taught = own.where(present, own.detach())  # an absent modality has nothing to learn from
        terms.append(task_loss(taught, batch.target, ObjectiveConfig(task=config.task)))
    unimodal = torch.stack(terms).mean()
    return losses(representation, batch, config, {"unimodal": unimodal}, {"unimodal": config.unimodal_weight})
