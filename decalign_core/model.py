r"""The network: from a batch of any number of modalities to a representation and a prediction.

Each modality is projected to the common width and split into a unique and a common part (section 3.1). The unique parts
pass a transformer that looks at the other modalities; its output and the common parts, averaged over time, are
concatenated and mapped to the prediction (section 3.4). The model knows no loss; :mod:`decalign_core.objective` reads
what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.encoders import LatentEncoder, TemporalProjection, masked_mean, part_encoder
from decalign_core.nn.text import TextEncoder
from decalign_core.nn.transformer import CrossModalTransformer
from decalign_core.settings import at_least, choices, ending, heads_divide_width, numbers, rate
from decalign_core.types import Batch, ByModality, Representation

PerModality = float | dict[str, float]


@dataclass(frozen=True)
class DecAlignConfig:
    """Sizes and options of :class:`DecAlign`.

    Attributes:
        modalities: feature width of each modality, or its :class:`~decalign_core.nn.text.TextEncoder`; when training,
            an empty mapping takes them from the data.
        outputs: width of the prediction, 1 for regression; when training, taken from the data.
        width: d of every modality after projection.
        heads: attention heads, dividing ``width``.
        layers: transformer layers a modality.
        kernel_size: frames that the projection sees, 1 or more; the length is kept.
        bounded: send projected features through tanh. The paper names no non-linearity, the official code has none;
            with few samples of one frame each it keeps a training set's outliers from ruling.
        latent_width: width of the latent space; None takes ``width``.
        decoupled: split into unique and common parts; else both are the projected features (Table 3's last row).
        cross_modal: attend to the other modalities; else each to itself, with as many parameters.
        positions: add sinusoidal positions in the transformers.
        norm_first: normalise before each transformer block (MulT) or after it (official code).
        latent: whether a latent encoder stands before Eq 10-12: none ("off"), one ("shared") or one "per_modality".
        input_dropout: on raw features; a number or one by modality.
        attention_dropout: on attention weights; a number or one by modality.
        feedforward_dropout: in the transformers' feed-forward blocks.
        residual_dropout: on what each transformer block adds.
        embedding_dropout: on what enters the transformers.
        output_dropout: on the fused features and in the latent encoders.

    Raises:
        ValueError: for sizes that are not positive, heads that do not divide the width, a single modality.
    """

    modalities: Mapping[str, int | TextEncoder] = field(default_factory=dict)
    outputs: int = 1
    width: int = 64
    heads: int = 8
    layers: int = 1
    kernel_size: int = 1
    bounded: bool = False
    latent_width: int | None = None
    decoupled: bool = True
    cross_modal: bool = True
    positions: bool = True
    norm_first: bool = True
    latent: Literal["off", "shared", "per_modality"] = "shared"
    input_dropout: PerModality = 0.0
    attention_dropout: PerModality = 0.1
    feedforward_dropout: float = 0.1
    residual_dropout: float = 0.1
    embedding_dropout: float = 0.1
    output_dropout: float = 0.5

    def __post_init__(self) -> None:
        at_least("model", self, 1, "outputs", "width", "heads", "kernel_size", "latent_width")
        at_least("model", self, 0, "layers")
        heads_divide_width("model", self)
        choices("model", self)
        numbers("model", self, "rates in [0, 1)", rate, *ending(self, "_dropout"))
        for name, what in self.modalities.items():
            if not isinstance(what, TextEncoder) and what < 1:
                raise ValueError(f"model.modalities: wanted a width of at least 1 for {name!r}, got {what}")
        if len(self.modalities) == 1:
            raise ValueError(f"model.modalities: wanted at least 2, got {sorted(self.modalities)}")


class DecAlign(nn.Module):
    """The model of the paper for the modalities of its configuration.

    Raises:
        ValueError: for a configuration without modalities.
    """

    def __init__(self, config: DecAlignConfig) -> None:
        super().__init__()
        if not config.modalities:
            raise ValueError("model.modalities: wanted at least 2 feature widths by name, got none")
        self.config = config
        names = list(config.modalities)
        encoders = {name: what for name, what in config.modalities.items() if isinstance(what, TextEncoder)}
        self.backbones = nn.ModuleDict({name: encoder.build() for name, encoder in encoders.items()})
        self.projections = nn.ModuleDict({name: self._projection(name) for name in names})
        if config.decoupled:
            self.unique_encoders = nn.ModuleDict({name: part_encoder(config.width) for name in names})
            self.common_encoder = part_encoder(config.width)
        self.transformers = nn.ModuleDict({name: self._transformer(name) for name in names})
        self.latent_encoders = nn.ModuleDict(self._latent_encoders(names))
        self.dropout = Dropout(config.output_dropout)
        self.head = nn.Linear(2 * len(names) * config.width, config.outputs)

    def _projection(self, name: str) -> TemporalProjection:
        config = self.config
        features = self.backbones[name].width if name in self.backbones else config.modalities[name]
        dropout = _rate(config.input_dropout, name)
        return TemporalProjection(features, config.width, config.kernel_size, dropout, config.bounded)

    def _transformer(self, name: str) -> CrossModalTransformer:
        config = self.config
        return CrossModalTransformer(
            config.width,
            config.heads,
            config.layers,
            attention_dropout=_rate(config.attention_dropout, name),
            feedforward_dropout=config.feedforward_dropout,
            residual_dropout=config.residual_dropout,
            embedding_dropout=config.embedding_dropout,
            positions=config.positions,
            norm_first=config.norm_first,
        )

    def _latent_encoders(self, names: list[str]) -> dict[str, nn.Module]:
        config = self.config
        if config.latent == "off":
            return {name: nn.Identity() for name in names}
        sizes = (config.width, config.latent_width or config.width, config.output_dropout)
        if config.latent == "shared":
            return dict.fromkeys(names, LatentEncoder(*sizes))
        return {name: LatentEncoder(*sizes) for name in names}

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch, cut to its longest valid lengths.

        Raises:
            ValueError: where the batch's modalities or widths are not the configuration's.
        """
        self._check(batch)
        batch = batch.trimmed()
        masks = batch.masks
        projected = {name: self._project(name, batch) for name in self.projections}
        unique, common = self._split(projected)
        refined = {name: self._refine(name, unique, masks) for name in unique}
        pooled_common = {name: masked_mean(part, masks[name]) for name, part in common.items()}
        fused = torch.cat([*(masked_mean(x, masks[m]) for m, x in refined.items()), *pooled_common.values()], dim=1)
        return Representation(
            unique=unique,
            common=common,
            pooled_unique={name: masked_mean(part, masks[name]) for name, part in unique.items()},
            pooled_common=pooled_common,
            latent={name: self.latent_encoders[name](z) for name, z in pooled_common.items()},
            masks=masks,
            fused=fused,
            prediction=self.head(self.dropout(fused)),
        )

    def attention_maps(self, batch: Batch) -> dict[str, list[Tensor]]:
        """By modality and layer, attention weights ``(B, heads, T_m, S)``, S the frames of its contexts in order."""
        batch = batch.trimmed()
        unique, _ = self._split({name: self._project(name, batch) for name in self.projections})
        return {
            name: self.transformers[name].attention_maps(*self._attended(name, unique, batch.masks)) for name in unique
        }

    def _project(self, name: str, batch: Batch) -> Tensor:
        features, mask = batch.features[name], batch.masks[name]
        if name in self.backbones:
            features = self.backbones[name](features, mask)
        return self.projections[name](features, mask)

    def _split(self, projected: ByModality) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self.config.decoupled:
            return dict(projected), dict(projected)
        unique = {name: self.unique_encoders[name](x) for name, x in projected.items()}
        return unique, {name: self.common_encoder(x) for name, x in projected.items()}

    def _refine(self, name: str, unique: ByModality, masks: ByModality) -> Tensor:
        return self.transformers[name](*self._attended(name, unique, masks))

    def _attended(
        self, name: str, unique: ByModality, masks: ByModality
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        others = [other for other in unique if other != name] if self.config.cross_modal else []
        return unique[name], [unique[other] for other in others], masks[name], [masks[other] for other in others]

    def _check(self, batch: Batch) -> None:
        wanted = self.config.modalities
        if set(batch.features) != set(wanted):
            raise ValueError(f"batch: wanted the modalities {sorted(wanted)}, got {sorted(batch.features)}")
        for name, what in wanted.items():
            got = batch.features[name]
            if isinstance(what, TextEncoder) != (got.ndim == 2) or (got.ndim == 3 and got.shape[-1] != what):
                raise ValueError(f"batch.features[{name!r}]: wanted {_wanted(what)}, got {tuple(got.shape)}")


def _wanted(what: int | TextEncoder) -> str:
    return "token ids (B, T)" if isinstance(what, TextEncoder) else f"(B, T, {what})"


def _rate(rate: PerModality, name: str) -> float:
    return rate.get(name, 0.0) if isinstance(rate, Mapping) else rate
