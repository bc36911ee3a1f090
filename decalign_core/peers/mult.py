r"""MulT: the multimodal transformer for unaligned language sequences (Tsai et al. 2019).

Every modality is refined by every other one, in its own direction. With :math:`Z_i` the projected frames of modality i,

.. math:: Z_{j \to i} = \mathrm{CM}_{j \to i}(Z_i;\, Z_j), \qquad
    h_i = \mathrm{SA}_i\big([Z_{j \to i}]_{j \ne i}\big)_{\text{last frame}},

CM being transformer layers whose queries come from i and whose keys and values come from j, SA layers of attention over
the frames themselves. The summaries :math:`h_i` together pass a residual block to the prediction: M (M - 1) directed
transformers, M of memory.

Simplified: attention may look ahead (the authors' code masks the future); one dropout rate serves embeddings, residuals
and feed-forward layers; all modalities have one attention dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.encoders import TemporalProjection, last_valid
from decalign_core.nn.transformer import CrossModalTransformer
from decalign_core.peers.common import PeerConfig, PeerModel
from decalign_core.settings import heads_divide_width
from decalign_core.types import Batch, ByModality, Representation


@dataclass(frozen=True)
class MulTConfig(PeerConfig):
    """Settings of :class:`MulT`: ``width`` is that of a frame in a directed transformer.

    Attributes:
        heads: attention heads, dividing ``width``.
        layers: of each directed transformer.
        memory_layers: of each modality's self-attention over what the directed ones give.
        kernel_size: frames that the projection to ``width`` sees.
        attention_dropout: on attention weights.
        dropout: on embeddings, residuals and feed-forward layers.

    Raises:
        ValueError: also for heads that do not divide the width.
    """

    width: int = 32
    heads: int = 4
    layers: int = 1
    memory_layers: int = 1
    kernel_size: int = 1
    attention_dropout: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        heads_divide_width("peer", self)


class CrossModalStreams(nn.Module):
    """One transformer for each ordered pair of modalities, and one of memory for each modality."""

    def __init__(self, names: Sequence[str], config: MulTConfig) -> None:
        super().__init__()
        self.directed = nn.ModuleDict(
            {
                target: nn.ModuleDict(
                    {source: _transformer(config.width, config.layers, config) for source in names if source != target}
                )
                for target in names
            }
        )
        self.width = config.width * (len(names) - 1)
        self.memories = nn.ModuleDict({name: _transformer(self.width, config.memory_layers, config) for name in names})

    def streams(self, target: str, frames: ByModality, masks: ByModality) -> dict[str, Tensor]:
        """Frames ``(B, T, width)`` of ``target`` as each other modality refines them."""
        return {
            source: transformer(frames[target], [frames[source]], masks[target], [masks[source]])
            for source, transformer in self.directed[target].items()
        }

    def forward(self, frames: ByModality, masks: ByModality) -> dict[str, Tensor]:
        """Summary ``(B, (M - 1) width)`` of each modality, 0 where it is absent."""
        return {name: self._summary(name, frames, masks) for name in self.directed}

    def _summary(self, name: str, frames: ByModality, masks: ByModality) -> Tensor:
        joined = torch.cat(list(self.streams(name, frames, masks).values()), dim=2)
        remembered = self.memories[name](joined, [], masks[name], [])
        return remembered[torch.arange(len(joined), device=joined.device), last_valid(masks[name])]


def _transformer(width: int, layers: int, config: MulTConfig) -> CrossModalTransformer:
    return CrossModalTransformer(
        width,
        config.heads,
        layers,
        attention_dropout=config.attention_dropout,
        feedforward_dropout=config.dropout,
        residual_dropout=config.dropout,
        embedding_dropout=config.dropout,
    )


class ResidualHead(nn.Module):
    """Features ``(B, F)`` through a residual block to outputs ``(B, outputs)``."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, width))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of features."""
        return self.output(x + self.block(x))


class MulT(PeerModel):
    """Directed cross-modal transformers between all pairs of modalities."""

    def __init__(self, config: MulTConfig) -> None:
        super().__init__(config)
        self.projections = nn.ModuleDict(
            {name: TemporalProjection(width, config.width, config.kernel_size) for name, width in self.widths.items()}
        )
        self.streams = CrossModalStreams(self.names, config)
        self.head = ResidualHead(len(self.names) * self.streams.width, config.outputs, config.output_dropout)

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; a modality's summary counts as its unique part, there is no common one."""
        batch = batch.trimmed()
        frames = {name: self.projections[name](x, batch.masks[name]) for name, x in self.frames(batch).items()}
        summaries = self.streams(frames, batch.masks)
        fused = torch.cat(list(summaries.values()), dim=1)
        return Representation(
            unique={},
            common={},
            pooled_unique=summaries,
            pooled_common={},
            latent=summaries,
            masks=batch.masks,
            fused=fused,
            prediction=self.head(fused),
        )
