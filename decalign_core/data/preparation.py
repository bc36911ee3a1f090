"""What is done to features after they are read, whatever file they came from.

Statistics are fitted on the valid frames of the training split alone: frames of padding and of the other splits never
enter them, so neither a longer padding nor another test set changes what the model is trained on.

Modalities can be hidden, to ask what a model does where some are missing. What is hidden is drawn by sample and
modality alone: it is the same for every model, seed of training and fold, and what a chance hides a greater one hides.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from decalign_core.types import Batch, Splits

_log = logging.getLogger(__name__)


def standardised(
    splits: Splits,
    modalities: Sequence[str] | None = None,
    clip_percentiles: tuple[float, float] | None = None,
) -> Splits:
    """Features with zero mean and unit variance over the valid training frames; padded frames become 0.

    Columns that are constant there become 0, which is counted in ``Splits.notes`` and logged as a warning.

    Args:
        splits: the data set; modalities that hold token ids are left as they are.
        modalities: names to standardise, all float modalities if None.
        clip_percentiles: two percentiles of the training frames outside of which values are first cut off.

    Raises:
        ValueError: for a modality that the data set lacks.
    """
    floats = [name for name, values in splits.train.features.items() if values.is_floating_point()]
    names = floats if modalities is None else list(modalities)
    for name in names:
        if name not in floats:
            raise ValueError(f"standardise: wanted modalities among {floats}, got {name!r}")
    frames = {name: splits.train.features[name][splits.train.masks[name]] for name in names}
    maps = {name: _Standardiser(frames[name], clip_percentiles) for name in names if len(frames[name])}
    constant = {name: int((fitted.scale == 0).sum()) for name, fitted in maps.items()}
    told = [
        f"standardise: {count} of {splits.train.features[name].shape[-1]} columns of {name!r} became 0, constant in"
        " every valid training frame."
        for name, count in constant.items()
        if count
    ]
    for note in told:
        _log.warning(note)
    changed = {split: _apply(batch, maps) for split, batch in splits.items()}
    return replace(splits, **changed, notes=(*splits.notes, *told))


class _Standardiser:
    """The affine map of one modality, per feature column; a constant column becomes 0."""

    def __init__(self, frames: Tensor, clip_percentiles: tuple[float, float] | None) -> None:
        values = frames.double().numpy()
        low, high = (-np.inf, np.inf) if clip_percentiles is None else np.percentile(values, clip_percentiles, axis=0)
        clipped = np.clip(values, low, high)
        deviation = clipped.std(axis=0)
        self.low, self.high, self.mean = low, high, clipped.mean(axis=0)
        self.scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8)

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        result = (np.clip(values.double().numpy(), self.low, self.high) - self.mean) * self.scale
        return torch.from_numpy(result).float().where(mask.unsqueeze(-1), 0)


def _apply(batch: Batch, maps: dict[str, _Standardiser]) -> Batch:
    features = {
        name: maps[name](values, batch.masks[name]) if name in maps else values
        for name, values in batch.features.items()
    }
    return replace(batch, features=features)


def with_missing(batch: Batch, chance: float, draw: int = 0) -> Batch:
    """The same samples, each modality of each one hidden by chance: mask False, features 0.

    A sample keeps at least one modality of those it has, so of M the share that is hidden is p - p^M / M on average.

    Args:
        batch: samples, whatever they lack already.
        chance: p, in [0, 1].
        draw: another one hides others.

    Raises:
        ValueError: for a chance outside of [0, 1].
    """
    if not 0 <= chance <= 1:
        raise ValueError(f"missing: wanted a chance in [0, 1], got {chance}")
    present = torch.stack([mask.any(dim=1) for mask in batch.masks.values()], dim=1)  # (B, M)
    drawn = torch.tensor([[_uniform(draw, name, which) for name in batch.masks] for which in batch.ids])
    drawn = drawn.to(present.device).view(present.shape).where(present, -1)
    kept = (drawn >= chance) | (drawn == drawn.amax(dim=1, keepdim=True))
    stays = dict(zip(batch.masks, kept.unbind(1), strict=True))
    masks = {name: mask & stays[name].unsqueeze(1) for name, mask in batch.masks.items()}
    features = {
        name: values.where(stays[name].view(-1, *[1] * (values.ndim - 1)), 0) for name, values in batch.features.items()
    }
    return replace(batch, features=features, masks=masks, is_trimmed=False)


def _uniform(draw: int, modality: str, sample: str) -> float:
    """A number in [0, 1) that only these three decide."""
    digest = hashlib.sha256(f"{draw}\n{modality}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
