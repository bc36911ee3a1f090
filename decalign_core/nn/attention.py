r"""Attention of queries to the valid keys, the fastest that the device has.

.. math:: \mathrm{dropout}\big(\mathrm{softmax}(Q K^T / \sqrt{d_h})\big) V

On an accelerator this is PyTorch's fused kernel. On a CPU, with few dimensions a head as here, the fused kernel is not
what takes least: products whose results are only :math:`d_h` columns wide are slow, transposed ones are not, and its
dropout draws one number a weight. So there the weights are kept for the backward pass, every product is taken in its
wide orientation, and a few samples are taken at a time, so that their weights stay in the processor's cache.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from decalign_core.nn.dropout import kept_scale


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    """What each query ``(B, heads, T, d_h)`` receives of values ``(B, heads, S, d_h)``, 0 where no key is valid.

    Args:
        query: ``(B, heads, T, d_h)``.
        key: ``(B, heads, S, d_h)``.
        value: ``(B, heads, S, d_h)``.
        mask: ``(B, S)`` bool, True at valid keys.
        dropout: probability that a weight is 0.
    """
    if query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64):
        attended = _Attention.apply(query, key, value, _barred(mask, query.dtype), dropout)
    else:
        attended = F.scaled_dot_product_attention(query, key, value, _usable(mask), dropout)
    return attended * mask.any(dim=1).view(-1, 1, 1, 1)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """The weights ``(B, heads, T, S)`` of :func:`attention` without dropout."""
    weights = _softmax(query / math.sqrt(query.shape[-1]), key, _barred(mask, query.dtype))
    return weights * mask.any(dim=1).view(-1, 1, 1, 1)


_CACHED = 2**19  # weights that are worked on at a time, 2 MiB in float32


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, barred: Tensor, dropout: float) -> Tensor:
        scaled = query / math.sqrt(query.shape[-1])
        weights = query.new_empty(*query.shape[:3], key.shape[2])
        scale = kept_scale(weights, dropout) if dropout else None
        attended = torch.empty_like(query.mT, memory_format=torch.contiguous_format)
        for part in _parts(weights):
            _softmax(scaled[part], key[part], barred[part], out=weights[part])
            torch.matmul(value[part].mT, _dropped(weights, scale, part).mT, out=attended[part])
        ctx.save_for_backward(scaled, key, value, weights, scale)
        return attended.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, key, value, weights, scale = ctx.saved_tensors
        of_query, of_key, of_value = (
            torch.empty_like(x.mT, memory_format=torch.contiguous_format) for x in (scaled, key, value)
        )
        for part in _parts(weights):
            torch.matmul(gradient[part].mT, _dropped(weights, scale, part), out=of_value[part])
            of_weights = gradient[part] @ value[part].mT
            if scale is not None:
                of_weights *= scale[part]
            of_scores = torch._softmax_backward_data(of_weights, weights[part], -1, weights.dtype)
            torch.matmul(key[part].mT, of_scores.mT, out=of_query[part])
            torch.matmul(scaled[part].mT, of_scores, out=of_key[part])
        of_query /= math.sqrt(scaled.shape[-1])
        return of_query.mT, of_key.mT, of_value.mT, None, None


def _parts(weights: Tensor) -> list[slice]:
    step = max(1, _CACHED // max(1, weights[0].numel()))
    return [slice(start, start + step) for start in range(0, len(weights), step)]


def _dropped(weights: Tensor, scale: Tensor | None, part: slice) -> Tensor:
    return weights[part] if scale is None else weights[part] * scale[part]


def _softmax(scaled: Tensor, key: Tensor, barred: Tensor, out: Tensor | None = None) -> Tensor:
    scores = torch.matmul(scaled, key.mT, out=out).add_(barred)
    return torch.softmax(scores, dim=-1, out=out)


def _barred(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of keys: 0, or minus infinity."""
    usable = _usable(mask)
    return torch.zeros_like(usable, dtype=dtype).masked_fill(~usable, -math.inf)


def _usable(mask: Tensor) -> Tensor:
    # a row without any valid key would be softmax over nothing, NaN: let it attend, its result is multiplied by 0
    return (mask | ~mask.any(dim=1, keepdim=True)).unsqueeze(1).unsqueeze(1)  # (B, 1, 1, S)
