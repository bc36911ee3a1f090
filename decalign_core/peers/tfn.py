r"""TFN, the tensor fusion network (Zadeh, Chen, Poria, Cambria and Morency, EMNLP 2017).

Each modality's summary :math:`z_m` is extended by a 1, and the outer product of all

.. math:: Z = \begin{bmatrix} 1 \\ z_1 \end{bmatrix} \otimes \dots \otimes \begin{bmatrix} 1 \\ z_M \end{bmatrix}

holds every product of coordinates of one modality, of two, and so on up to all M, and the constant 1. A network with
two hidden layers reads the prediction from it. Its size, :math:`(d + 1)^M`, is the method's price: keep the width
small where M is large.

Simplified: all summaries have one width, of an LSTM or of averages as ``averaged`` says (the paper: an LSTM with two
further layers for words, averages for the rest); a regression's output is not squashed into the range of the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch.nn.functional as F
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.peers.common import SummaryConfig, SummaryModel, pooled_representation
from decalign_core.types import Batch, ByModality, Representation


@dataclass(frozen=True)
class TFNConfig(SummaryConfig):
    """Settings of :class:`TFN`.

    Attributes:
        hidden: width of the two layers that read the tensor.
    """

    width: int = 16
    hidden: int = 64


def extended(summary: Tensor) -> Tensor:
    """A summary ``(B, d)`` with a 1 before it: ``(B, 1 + d)``."""
    return F.pad(summary, (1, 0), value=1.0)


def outer_product(summaries: ByModality) -> Tensor:
    """The extended summaries' outer product, flattened, the last modality's index running fastest: ``(B, Π(1+d_m))``.

    The first entry is the constant 1.
    """
    return reduce(_pair, map(extended, summaries.values()))


def _pair(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)


class TFN(SummaryModel):
    """Outer product of the modalities' summaries, read by a small network."""

    def __init__(self, config: TFNConfig) -> None:
        super().__init__(config)
        size, hidden = (1 + config.width) ** len(self.names), config.hidden
        self.head = nn.Sequential(
            Dropout(config.output_dropout),
            nn.Linear(size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.outputs),
        )

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; ``fused`` is the tensor, flattened."""
        batch = batch.trimmed()
        summaries = self.summaries(batch)
        fused = outer_product(summaries)
        return pooled_representation(summaries, batch, fused, self.head(fused))
