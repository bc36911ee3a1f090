"""Early fusion: features are joined before anything is learned of them.

The oldest way (e.g. Morency et al. 2011): average each modality over time, concatenate, and map the long vector to the
prediction. Works for any number of modalities, whatever their lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.encoders import masked_mean
from decalign_core.peers.common import PeerConfig, PeerModel, pooled_representation
from decalign_core.types import Batch, Representation


@dataclass(frozen=True)
class EarlyConfig(PeerConfig):
    """Settings of :class:`EarlyFusion`: ``width`` is that of its hidden layer."""


class EarlyFusion(PeerModel):
    """A two-layer network on the concatenated averages of all modalities."""

    def __init__(self, config: EarlyConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Sequential(nn.Linear(sum(self.widths.values()), config.width), nn.ReLU())
        self.head = nn.Sequential(Dropout(config.output_dropout), nn.Linear(config.width, config.outputs))

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch."""
        batch = batch.trimmed()
        averages = {name: masked_mean(x, batch.masks[name]) for name, x in self.frames(batch).items()}
        fused = self.hidden(torch.cat(list(averages.values()), dim=1))
        return pooled_representation(averages, batch, fused, self.head(fused))
