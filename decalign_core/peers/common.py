"""What the peers share: their configuration's common part, how features come in, how losses go out.

A peer is one published method in one file: a frozen configuration derived from :class:`PeerConfig`, a module derived
from :class:`PeerModel` from :class:`~decalign_core.types.Batch` to :class:`~decalign_core.types.Representation` and,
where the method has losses of its own, ``objective(representation, batch, config)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.encoders import last_valid, masked_mean
from decalign_core.nn.text import TextEncoder
from decalign_core.objective import ObjectiveConfig, task_loss
from decalign_core.settings import at_least, choices, ending, not_negative, numbers, rate
from decalign_core.types import Batch, ByModality, Losses, Representation


@dataclass(frozen=True)
class PeerConfig:
    """Settings that every peer has.

    A peer's own are held to what their names say: whole numbers are at least 1, a ``…dropout`` is a rate in [0, 1), a
    ``…_weight`` is not negative.

    Attributes:
        modalities: feature width of each modality, or its text encoder; when training, taken from the data.
        outputs: width of the prediction; when training, taken from the data.
        width: of a modality's summary or of its frames, as the method has it.
        input_dropout: on raw features; a number or one by modality.
        output_dropout: before the prediction.
        task: loss of a regression; classes take cross-entropy.

    Raises:
        ValueError: for a setting that cannot be.
    """

    modalities: Mapping[str, int | TextEncoder] = field(default_factory=dict)
    outputs: int = 1
    width: int = 64
    input_dropout: float | dict[str, float] = 0.0
    output_dropout: float = 0.3
    task: Literal["mse", "mae", "smooth_l1"] = "mae"

    def __post_init__(self) -> None:
        at_least("peer", self, 1, *(part.name for part in fields(self) if type(part.default) is int))
        numbers("peer", self, "rates in [0, 1)", rate, *ending(self, "dropout"))
        numbers("peer", self, "no negative weight", not_negative, *ending(self, "_weight"))
        choices("peer", self)


class PeerModel(nn.Module):
    """A peer's network; holds the text encoders and gives out features that padding cannot touch.

    Raises:
        ValueError: for a configuration without modalities.
    """

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        if not config.modalities:
            raise ValueError("peer.modalities: wanted feature widths by name, got none")
        self.config = config
        encoders = {name: what for name, what in config.modalities.items() if isinstance(what, TextEncoder)}
        self.backbones = nn.ModuleDict({name: encoder.build() for name, encoder in encoders.items()})
        rates = config.input_dropout
        self.input_dropouts = nn.ModuleDict(
            {name: Dropout(rates.get(name, 0.0) if isinstance(rates, Mapping) else rates) for name in self.names}
        )

    @property
    def names(self) -> list[str]:
        """The modalities, in order."""
        return list(self.config.modalities)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each modality's frames as :meth:`frames` gives them."""
        return {
            name: self.backbones[name].width if name in self.backbones else what
            for name, what in self.config.modalities.items()
        }

    def frames(self, batch: Batch) -> dict[str, Tensor]:
        """Features ``(B, T_m, D_m)`` of a trimmed batch, encoded and dropped out, 0 where the mask is False.

        Raises:
            ValueError: where the batch's modalities are not the configuration's.
        """
        return self.dropped(self.whole_frames(batch))

    def whole_frames(self, batch: Batch) -> dict[str, Tensor]:
        """As :meth:`frames`, before dropout."""
        if set(batch.features) != set(self.names):
            raise ValueError(f"batch: wanted the modalities {sorted(self.names)}, got {sorted(batch.features)}")
        return {name: self._encoded(name, batch.features[name], batch.masks[name]) for name in self.names}

    def dropped(self, frames: ByModality) -> dict[str, Tensor]:
        """Frames with the configuration's input dropout."""
        return {name: self.input_dropouts[name](x) for name, x in frames.items()}

    def _encoded(self, name: str, features: Tensor, mask: Tensor) -> Tensor:
        if name in self.backbones:
            features = self.backbones[name](features, mask)
        return features.where(mask.unsqueeze(-1), 0)


class AverageEncoder(nn.Module):
    """A modality's summary ``(B, width)``: mean over valid frames, then two layers (the sub-networks of TFN)."""

    def __init__(self, features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Dropout(dropout), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Summary of frames ``(B, T, D)`` with their mask ``(B, T)``."""
        return self.layers(masked_mean(x, mask))


class RecurrentEncoder(nn.Module):
    """A modality's summary ``(B, width)``: the last valid hidden state of an LSTM (its first, if none is valid)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)

    def states(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden states ``(B, T, width)``, 0 where ``mask`` is False; valid frames come first in each row."""
        return self.lstm(x)[0].where(mask.unsqueeze(-1), 0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Summary of frames ``(B, T, D)`` with their mask ``(B, T)``."""
        last = last_valid(mask)
        return self.lstm(x)[0][torch.arange(len(x), device=x.device), last]


@dataclass(frozen=True)
class SummaryConfig(PeerConfig):
    """Settings of a method that begins with one summary a modality.

    Attributes:
        averaged: modalities summarised by their averages; the others by an LSTM.
    """

    averaged: tuple[str, ...] = ()


class SummaryModel(PeerModel):
    """A peer that begins with one summary a modality.

    Raises:
        ValueError: for an averaged modality that is not there.
    """

    def __init__(self, config: SummaryConfig) -> None:
        super().__init__(config)
        unknown = set(config.averaged) - set(self.names)
        if unknown:
            raise ValueError(f"peer.averaged: wanted some of {sorted(self.names)}, got {sorted(unknown)}")
        kinds = {name: AverageEncoder if name in config.averaged else RecurrentEncoder for name in self.names}
        self.encoders = nn.ModuleDict({name: kinds[name](size, config.width) for name, size in self.widths.items()})

    def summaries(self, batch: Batch) -> dict[str, Tensor]:
        """Summaries ``(B, width)`` by modality of a trimmed batch."""
        return {name: self.encoders[name](x, batch.masks[name]) for name, x in self.frames(batch).items()}


class Objective(Protocol):
    """What a peer minimises."""

    def __call__(self, representation: Representation, batch: Batch, config: PeerConfig) -> Losses:
        """Losses of a batch's representation."""
        ...


def losses(
    representation: Representation,
    batch: Batch,
    config: PeerConfig,
    auxiliary: ByModality | None = None,
    weights: Mapping[str, float] | None = None,
) -> Losses:
    """The task's loss and a method's own ``auxiliary`` terms, weighted into the total; DecAlign's terms are 0."""
    task = task_loss(representation.prediction, batch.target, ObjectiveConfig(task=config.task))
    auxiliary, weights = auxiliary or {}, weights or {}
    total = task + sum(weights[name] * term for name, term in auxiliary.items())
    none = task.new_zeros(())
    return Losses(
        task=task,
        decoupling=none,
        transport=none,
        prototype=none,
        semantic=none,
        mmd=none,
        contrastive=none,
        total=total,
        auxiliary=auxiliary,
    )


class Labels(nn.Module):
    """Further targets that a method makes for the training samples as it goes, part of a run's state.

    The training loop adds ``targets(rows)`` to a batch's ``extra_targets``, shows it each representation
    (:meth:`observe`) and tells it when an epoch is over (:meth:`end_epoch`).
    """

    def targets(self, rows: Tensor) -> dict[str, Tensor]:
        """Targets ``(B,)`` by name, for rows of the training split."""
        raise NotImplementedError

    def observe(self, rows: Tensor, representation: Representation) -> None:
        """Take note of a training step's representation."""
        raise NotImplementedError

    def end_epoch(self) -> None:
        """Make new targets of what was observed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Peer:
    """A published method as the laboratory takes it.

    Attributes:
        config: the class of its settings.
        model: from such settings, the network.
        objective: its losses; the task's loss alone if not given.
        labels: from settings and the training split, targets that it makes for itself; most make none.
    """

    config: type[PeerConfig]
    model: Callable[[PeerConfig], PeerModel]
    objective: Objective = field(default_factory=lambda: losses)
    labels: Callable[[PeerConfig, Batch], Labels] | None = None


def pooled_representation(summaries: ByModality, batch: Batch, fused: Tensor, prediction: Tensor) -> Representation:
    """The representation of a method that has one summary ``(B, width)`` a modality and no unique and common parts."""
    return Representation(
        unique={},
        common={},
        pooled_unique={},
        pooled_common=summaries,
        latent=summaries,
        masks=batch.masks,
        fused=fused,
        prediction=prediction,
    )
