r"""LMF, low-rank multimodal fusion (Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency, ACL 2018).

A linear layer :math:`h = W \cdot Z` on TFN's outer product Z needs :math:`d_h \prod_m (1 + d_m)` weights. With W a sum
of R rank-one tensors, of factors :math:`w_m^{(r)}`, the product over modalities leaves the contraction,

.. math:: W = \sum_{r=1}^R \bigotimes_{m=1}^M w_m^{(r)}
    \quad\Rightarrow\quad h = \sum_{r=1}^R \prod_{m=1}^M w_m^{(r)} \begin{bmatrix} 1 \\ z_m \end{bmatrix},

and neither W nor Z is ever made: cost and size grow with the sum of the widths, not with their product.

Simplified: all summaries have one width, of an LSTM or of averages as ``averaged`` says; the ranks are summed as in
the paper (the authors' code weights them, which the factors can take over); a linear head reads h.
The factors begin with the same number for every 1, so that each modality gets its gradient through the others' ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.peers.common import SummaryConfig, SummaryModel, pooled_representation
from decalign_core.peers.tfn import extended
from decalign_core.types import Batch, ByModality, Representation


@dataclass(frozen=True)
class LMFConfig(SummaryConfig):
    """Settings of :class:`LMF`.

    Attributes:
        rank: R, the number of rank-one tensors.
        hidden: width of h.
    """

    rank: int = 4
    hidden: int = 64


def low_rank_fusion(summaries: ByModality, factors: ByModality) -> Tensor:
    """h ``(B, d_h)`` of summaries ``(B, d_m)`` and factors ``(R, 1 + d_m, d_h)`` by modality."""
    projected = [torch.einsum("bd,rdh->brh", extended(z), factors[name]) for name, z in summaries.items()]
    return torch.stack(projected).prod(dim=0).sum(dim=1)


def initial_factor(modalities: int, rank: int, width: int, hidden: int) -> nn.Parameter:
    """A factor ``(R, 1 + width, hidden)``: small random numbers, and for the 1 such that h begins at 1 where z is 0."""
    factor = torch.randn(rank, 1 + width, hidden) / math.sqrt(width)
    factor[:, 0] = 1.0
    return nn.Parameter(factor * rank ** (-1 / modalities))


class LMF(SummaryModel):
    """Fusion by a weight tensor of low rank, one factor a modality."""

    def __init__(self, config: LMFConfig) -> None:
        super().__init__(config)
        sizes = len(self.names), config.rank, config.width, config.hidden
        self.factors = nn.ParameterDict({name: initial_factor(*sizes) for name in self.names})
        self.head = nn.Sequential(Dropout(config.output_dropout), nn.Linear(config.hidden, config.outputs))

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; ``fused`` is h."""
        batch = batch.trimmed()
        summaries = self.summaries(batch)
        fused = low_rank_fusion(summaries, self.factors)
        return pooled_representation(summaries, batch, fused, self.head(fused))
