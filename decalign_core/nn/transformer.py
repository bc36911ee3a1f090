r"""The cross-modal transformer that refines unique features before they are fused (section 3.4 of the paper).

One transformer per modality: the modality's frames are the queries, the frames of all other modalities together are
keys and values,

.. math:: \mathrm{softmax}\big(Q K^T / \sqrt{d_h}\big) V, \qquad
    Q = X_m W_Q, \quad K = X_{\ne m} W_K, \quad V = X_{\ne m} W_V .

Without other modalities it attends to its own frames: a self-attention transformer of equal size.
Keys outside their mask get no weight in any layer; a query whose keys are all masked receives 0 from the attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decalign_core.nn.attention import attention, attention_weights
from decalign_core.nn.dropout import Dropout
from decalign_core.nn.frames import Frames


class CrossModalTransformer(nn.Module):
    """Stacked layers of attention from queries ``(B, T, d)`` to one or more contexts ``(B, S_i, d)``.

    Args:
        width: d.
        heads: attention heads; divides ``width``.
        layers: number of layers; 0 returns the queries.
        attention_dropout: on attention weights.
        feedforward_dropout: on the hidden layer of the feed-forward blocks.
        residual_dropout: on what each block adds.
        embedding_dropout: on queries and contexts as they come in.
        positions: add sinusoidal positions; without them the order of frames is not seen.
        norm_first: normalise before each block (and once at the end) instead of after it.

    Source: Tsai et al. 2019 (MulT), which the paper cites for it.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        *,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        positions: bool = True,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.positions = math.sqrt(width), positions
        self.dropout = Dropout(embedding_dropout)
        self.layers = nn.ModuleList(
            _Layer(width, heads, attention_dropout, feedforward_dropout, residual_dropout, norm_first)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width) if norm_first and layers else nn.Identity()

    def forward(
        self, queries: Tensor, contexts: Sequence[Tensor], query_mask: Tensor, context_masks: Sequence[Tensor]
    ) -> Tensor:
        """Refined queries ``(B, T, d)``, 0 where ``query_mask`` ``(B, T)`` is False.

        The contexts ``(B, S_i, d)`` with their masks ``(B, S_i)`` are attended to together; each starts at position 0,
        so that one's padding does not move the next. Without any context the queries attend to themselves, in each
        layer as the layer before refined them.
        """
        at, x, keys_at, keys = self._start(queries, contexts, query_mask, context_masks)
        for layer in self.layers:
            x = layer(x, x if keys is None else keys, at, keys_at)
        return at.unpack(self.norm(x)).where(query_mask.unsqueeze(-1), 0)

    @torch.no_grad()
    def attention_maps(
        self, queries: Tensor, contexts: Sequence[Tensor], query_mask: Tensor, context_masks: Sequence[Tensor]
    ) -> list[Tensor]:
        """Weights ``(B, heads, T, S_1 + S_2 + ...)`` that each layer really uses, the mask honoured in all of them."""
        at, x, keys_at, keys = self._start(queries, contexts, query_mask, context_masks, packed=False)
        maps = []
        for layer in self.layers:
            seen = x if keys is None else keys
            maps.append(layer.attention_map(x, seen, at, keys_at))
            x = layer(x, seen, at, keys_at)
        return maps

    def _start(
        self,
        queries: Tensor,
        contexts: Sequence[Tensor],
        query_mask: Tensor,
        context_masks: Sequence[Tensor],
        packed: bool | None = None,
    ) -> tuple[Frames, Tensor, Frames, Tensor | None]:
        """Queries and keys (None for the queries themselves) as the first layer takes them."""
        at = Frames(query_mask, packed)
        x = self.dropout(at.pack(self._embed(queries)))
        if not contexts:
            return at, x, at, None
        mask = torch.cat(list(context_masks), dim=1)
        keys_at = Frames(mask, packed)
        keys = keys_at.pack(torch.cat([self._embed(context) for context in contexts], dim=1))
        return at, x, keys_at, self.dropout(keys)

    def _embed(self, x: Tensor) -> Tensor:
        embedded = self.scale * x
        return embedded + sinusoidal_positions(x.shape[1], x.shape[2]).to(x) if self.positions else embedded


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Sines and cosines of geometrically spaced frequencies, ``(length, width)`` (Vaswani et al. 2017)."""
    half = (width + 1) // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half) / max(half - 1, 1))
    angles = torch.arange(length).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class _Layer(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        attention_dropout: float,
        feedforward_dropout: float,
        residual_dropout: float,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.heads, self.norm_first, self.attention_dropout = heads, norm_first, attention_dropout
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), Dropout(feedforward_dropout), nn.Linear(4 * width, width)
        )
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(residual_dropout)
        for projection in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, keys: Tensor, at: Frames, keys_at: Frames) -> Tensor:
        """Refined rows of ``x``, which sees the valid frames of ``keys_at``."""
        if self.norm_first:
            x = x + self.dropout(self._attend(*self._normed(x, keys), at, keys_at))
            return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        x = self.attention_norm(x + self.dropout(self._attend(x, keys, at, keys_at)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))

    def _normed(self, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.attention_norm(x)
        return normed, normed if keys is x else self.attention_norm(keys)

    def _attend(self, x: Tensor, keys: Tensor, at: Frames, keys_at: Frames) -> Tensor:
        query, pairs = self._split(at.unpack(self.query(x))), keys_at.unpack(self.key_value(keys))
        key, value = (self._split(part) for part in pairs.chunk(2, dim=-1))
        attended = attention(query, key, value, keys_at.mask, self.attention_dropout if self.training else 0.0)
        return self.output(at.pack(attended.transpose(1, 2).flatten(2)))

    def attention_map(self, x: Tensor, keys: Tensor, at: Frames, keys_at: Frames) -> Tensor:
        x, keys = self._normed(x, keys) if self.norm_first else (x, keys)
        query = self._split(at.unpack(self.query(x)))
        key = self._split(keys_at.unpack(self.key_value(keys)).chunk(2, dim=-1)[0])
        return attention_weights(query, key, keys_at.mask)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, d / heads)
