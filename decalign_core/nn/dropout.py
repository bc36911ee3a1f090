"""Dropout that costs little on a CPU.

On an accelerator this is PyTorch's. On a CPU PyTorch draws one number a feature, which takes longer than the matrix
product that follows; here one draw of 64 bits decides over four features, 16 bits each. The probability to keep a
feature is rounded to a multiple of :math:`2^{-16}`, and what is kept is divided by the rounded one: the expectation is
the input exactly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


def dropout(x: Tensor, rate: float) -> Tensor:
    """``x`` with each entry 0 with probability ``rate`` in [0, 1), else divided by 1 - ``rate``."""
    return x * kept_scale(x, rate) if x.device.type == "cpu" else F.dropout(x, rate)


def kept_scale(x: Tensor, rate: float) -> Tensor:
    """What dropout multiplies a tensor like ``x``, on a CPU, with: 0 or the inverse of the probability to keep."""
    kept = max(round((1 - rate) * _LEVELS), 1)
    bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    scale = torch.empty(x.shape, dtype=x.dtype)
    # compared into floats: multiplying with booleans takes five times as long; at kept = 2**16 nothing is below
    torch.le(bits[: x.numel()].view(x.shape), kept - _LEVELS // 2 - 1, out=scale)
    return scale.mul_(_LEVELS / kept)


class Dropout(nn.Dropout):
    """:func:`dropout` while training, nothing in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """``x``, of any shape."""
        return dropout(x, self.p) if self.training and self.p else x
