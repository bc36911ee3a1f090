"""Squared Euclidean distances between points, with a backward pass that keeps no differences.

Distances enter Eq 6 (means, and standard deviations, of diagonal Gaussians) and Eq 12 (the kernel).
"""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 2**20  # differences that are held at a time


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|^2`` of points ``(..., n, d)`` and ``(..., n', d)``: ``(..., n, n')``, exactly 0 at equal points."""
    return _SquaredDistances.apply(x, y.clone() if y is x else y)  # given one tensor twice, it could not be compiled


class _SquaredDistances(torch.autograd.Function):
    """Distances by differences, which do not cancel; their gradient by matrix products about a common centre.

    Differentiated operator by operator, all n n' d differences would be kept, and gone through thrice.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return by_differences(x, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradients(gradient, *ctx.saved_tensors)


def by_differences(x: Tensor, y: Tensor) -> Tensor:
    """As :func:`squared_distances`, without a backward pass."""
    rows = max(1, _AT_ONCE // max(y.numel(), 1))
    parts = [(part.unsqueeze(-2) - y.unsqueeze(-3)).square_().sum(-1) for part in x.split(rows, -2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def gradients(gradient: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of x and of y, from that of their squared distances ``(..., n, n')``."""
    centre = y.mean(-2, keepdim=True)
    a, b = x - centre, y - centre
    to_x = gradient.sum(-1, keepdim=True) * a - gradient @ b
    to_y = gradient.sum(-2).unsqueeze(-1) * b - gradient.mT @ a
    return (2 * to_x).sum_to_size(x.shape), (2 * to_y).sum_to_size(y.shape)
