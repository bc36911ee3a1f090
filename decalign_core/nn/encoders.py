r"""From raw sequences to the unique, common and latent features of a modality (section 3.1 of the paper).

A one-dimensional convolution over time brings each modality to the common width,
:math:`\tilde X_m \in R^{T_m \times d}`, and keeps its length. A unique encoder per modality and one common encoder
shared by all split it: :math:`F^{(m)}_{uni} = E^{(m)}_{uni}(\tilde X_m)` and
:math:`F^{(m)}_{com} = E_{com}(\tilde X_m)`. A latent (distribution) encoder maps pooled common features to where their
distributions are compared (section 3.3).

Every module takes a mask, True at valid frames, and returns 0 elsewhere: what padding holds is never read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.frames import Frames


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of frames ``(B, T, d)`` over the valid ones of ``mask`` ``(B, T)``: ``(B, d)``, 0 where none is valid."""
    kept = x.where(mask.unsqueeze(-1), 0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)


def last_valid(mask: Tensor) -> Tensor:
    """Index ``(B,)`` of the last valid frame of each row of ``mask`` ``(B, T)``, 0 where none is valid."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).amax(dim=1)


class TemporalProjection(nn.Module):
    """Convolution over time from ``(B, T, D)`` to ``(B, T, d)``; outside the valid frames it sees zeros.

    ``bounded`` sends what comes out through tanh.
    """

    def __init__(
        self, features: int, width: int, kernel_size: int = 1, dropout: float = 0.0, bounded: bool = False
    ) -> None:
        super().__init__()
        self.dropout, self.bounded = Dropout(dropout), bounded
        self.convolution = nn.Conv1d(features, width, kernel_size, padding="same", bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Projected frames, 0 where ``mask`` ``(B, T)`` is False."""
        if self.convolution.kernel_size == (1,):  # the same sum as a matrix product, several times faster on a CPU
            at = Frames(mask)
            seen = self.dropout(at.pack(x))
            projected = at.unpack(seen @ self.convolution.weight.squeeze(-1).mT)
        else:
            projected = self.convolution(self.dropout(x.where(mask.unsqueeze(-1), 0)).mT).mT
        if self.bounded:
            projected = projected.tanh()
        return projected.where(mask.unsqueeze(-1), 0)


def part_encoder(width: int) -> nn.Linear:
    """One unique or common encoder: a linear map of each frame without bias, so that padding stays 0."""
    return nn.Linear(width, width, bias=False)


class LatentEncoder(nn.Sequential):
    """Two-layer perceptron from pooled common features ``(B, d)`` to the latent space ``(B, p)``."""

    def __init__(self, width: int, latent_width: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, latent_width))
