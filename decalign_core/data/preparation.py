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
    *,
    in_place: bool = False,
) -> Splits:
    """Features with zero mean and unit variance over the valid training frames; padded frames become 0.

    Columns that are constant there become 0, which is counted in ``Splits.notes`` and logged as a warning.

    Args:
        splits: the data set; modalities that hold token ids are left as they are.
        modalities: names to standardise, all float modalities if None.
        clip_percentiles: two percentiles of the training frames outside of which values are first cut off.
        in_place: write to the features that are given; else they are copied.

    Raises:
        ValueError: for a modality that the data set lacks, or one with NaN or infinity in a valid frame.
    """
    floats = [name for name, values in splits.train.features.items() if values.is_floating_point()]
    names = floats if modalities is None else list(modalities)
    for name in names:
        if name not in floats:
            raise ValueError(f"standardise: wanted modalities among {floats}, got {name!r}")
    splits.check_finite(names)  # one such number of the training split would become a whole column
    train = splits.train
    maps = {
        name: _Standardiser(train.features[name], train.masks[name], clip_percentiles)
        for name in names
        if train.masks[name].any()
    }
    constant = {name: int((fitted.scale == 0).sum()) for name, fitted in maps.items()}
    told = [
        f"standardise: {count} of {train.features[name].shape[-1]} columns of {name!r} became 0, constant in every"
        " valid training frame."
        for name, count in constant.items()
        if count
    ]
    for note in told:
        _log.warning(note)
    changed = {split: _apply(batch, maps, in_place) for split, batch in splits.items()}
    return replace(splits, **changed, notes=(*splits.notes, *told))


_PART = 1 << 26  # bytes that are computed at a time


class _Standardiser:
    """The affine map of one modality, per feature column; a constant column becomes 0."""

    def __init__(self, values: Tensor, mask: Tensor, clip_percentiles: tuple[float, float] | None) -> None:
        width = values.shape[-1]
        at_once = max(1, _PART // (8 * int(mask.sum())))
        columns = np.array_split(np.arange(width), -(-width // at_once))
        found = [_statistics(values[..., part[0] : part[-1] + 1][mask], clip_percentiles) for part in columns]
        self.low, self.high, self.mean, self.scale = (np.concatenate(parts) for parts in zip(*found, strict=True))

    def __call__(self, values: Tensor, mask: Tensor, result: Tensor) -> None:
        """Write to ``result`` what becomes of ``values``; the two may be one."""
        for rows in torch.arange(len(values)).split(max(1, _PART // (8 * max(1, values[:1].numel())))):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            mapped = (np.clip(values[part].double().numpy(), self.low, self.high) - self.mean) * self.scale
            result[part] = torch.from_numpy(mapped).float().where(mask[part].unsqueeze(-1), 0)


def _statistics(frames: Tensor, clip_percentiles: tuple[float, float] | None) -> tuple[np.ndarray, ...]:
    """Bounds, mean and scale ``(D,)`` of the columns of ``frames`` ``(n, D)``."""
    values = frames.double().numpy()
    unbounded = np.full((2, values.shape[1]), [[-np.inf], [np.inf]])
    low, high = unbounded if clip_percentiles is None else np.percentile(values, clip_percentiles, axis=0)
    clipped = np.clip(values, low, high)
    deviation = clipped.std(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8)
    return low, high, clipped.mean(axis=0), scale


def _apply(batch: Batch, maps: dict[str, _Standardiser], in_place: bool) -> Batch:
    features = dict(batch.features)
    for name, standardise in maps.items():
        values = features[name]
        features[name] = values if in_place else torch.empty_like(values, dtype=torch.float32)
        standardise(values, batch.masks[name], features[name])
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
    return replace(batch, features=features, masks=masks, is_trimmed=False, present=None)


def _uniform(draw: int, modality: str, sample: str) -> float:
    """A number in [0, 1) that only these three decide."""
    digest = hashlib.sha256(f"{draw}\n{modality}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
