"""What passes between the floors of the package: :class:`Batch` in, :class:`Representation` and :class:`Losses` out.

Sizes: B samples, T_m frames and D_m feature columns of modality m, d the common width.
Every record keeps its modalities in mappings, so nothing here fixes their number or their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from decalign_core.nn.text import TextEncoder

ByModality = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Samples of any number of modalities; a whole split is one large batch.

    Attributes:
        features: by modality, ``(B, T_m, D_m)`` float, or ``(B, T_m)`` int64 token ids for a text encoder.
        masks: by modality, ``(B, T_m)`` bool, True where a frame is valid; all False where the modality is absent.
        target: ``(B,)``, float for regression, int64 for classes; ``(B, 1)`` is accepted and flattened.
        ids: B strings, ``"video$_$clip"``.
        extra_targets: further targets ``(B,)`` by name (CH-SIMS: one per modality).
        is_trimmed: whether :meth:`trimmed` made it.
        present: where :meth:`trimmed` made it, by modality the rows ``(N_m,)`` that have a valid frame, None for all.

    Raises:
        ValueError: where shapes, dtypes or modality names of the fields disagree.
    """

    features: ByModality
    masks: ByModality
    target: Tensor
    ids: Sequence[str]
    extra_targets: ByModality = field(default_factory=dict)
    is_trimmed: bool = field(default=False, repr=False, compare=False)
    present: Mapping[str, Tensor | None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.target.ndim == 2 and self.target.shape[1] == 1:
            object.__setattr__(self, "target", self.target[:, 0])
        if self.target.ndim != 1:
            raise ValueError(f"target: wanted shape (B,) or (B, 1), got {tuple(self.target.shape)}")
        if set(self.features) != set(self.masks):
            raise ValueError(f"masks: wanted the modalities {sorted(self.features)}, got {sorted(self.masks)}")
        if len(self.ids) != len(self):
            raise ValueError(f"ids: wanted {len(self)} of them, one a target, got {len(self.ids)}")
        for name, values in self.features.items():
            self._check_modality(name, values, self.masks[name])

    def _check_modality(self, name: str, values: Tensor, mask: Tensor) -> None:
        if values.ndim not in (2, 3):
            raise ValueError(f"features[{name!r}]: wanted (B, T, D) or token ids (B, T), got {tuple(values.shape)}")
        if values.ndim == 2 and values.dtype != torch.int64:
            raise ValueError(f"features[{name!r}]: token ids (B, T) must be int64, got {values.dtype}")
        if mask.dtype != torch.bool:
            raise ValueError(f"masks[{name!r}]: wanted bool, got {mask.dtype}")
        if mask.shape != values.shape[:2]:
            raise ValueError(f"masks[{name!r}]: wanted shape {tuple(values.shape[:2])}, got {tuple(mask.shape)}")
        if len(values) != len(self):
            raise ValueError(f"features[{name!r}]: wanted {len(self)} samples, one a target, got {len(values)}")

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The rows ``index`` (a slice, integers or booleans) as a batch of their own."""
        rows = torch.arange(len(self))[index]
        at = rows.to(self.target.device)
        return replace(
            self,
            features={name: values[at] for name, values in self.features.items()},
            masks={name: mask[at] for name, mask in self.masks.items()},
            target=self.target[at],
            ids=[self.ids[row] for row in rows.tolist()],
            extra_targets={name: values[at] for name, values in self.extra_targets.items()},
            is_trimmed=False,
            present=None,
        )

    def trimmed(self) -> Batch:
        """The same samples, each modality cut after its last valid frame in any of them (at least one frame stays).

        Looks at the masks on the host: call it before moving the batch to an accelerator.
        """
        if self.is_trimmed:
            return self
        cut = {name: _last_valid(mask) for name, mask in self.masks.items()}
        return replace(
            self,
            features={name: values[:, : cut[name]] for name, values in self.features.items()},
            masks={name: mask[:, : cut[name]] for name, mask in self.masks.items()},
            is_trimmed=True,
            present={name: rows_that_hold(mask.any(dim=1)) for name, mask in self.masks.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch with every tensor on ``device``."""
        return self.mapped(lambda values: values.to(device, non_blocking=True))

    def mapped(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``move(x)`` in place of every tensor ``x``; shapes and values stay."""

        def moved(tensors: ByModality) -> ByModality:
            return {name: move(values) for name, values in tensors.items()}

        known = {name: rows for name, rows in (self.present or {}).items() if rows is not None}
        return replace(
            self,
            features=moved(self.features),
            masks=moved(self.masks),
            present=self.present and {**self.present, **moved(known)},
            target=move(self.target),
            extra_targets=moved(self.extra_targets),
        )


def _last_valid(mask: Tensor) -> int:
    valid = mask.any(dim=0).nonzero()
    return int(valid[-1]) + 1 if len(valid) else 1


def rows_that_hold(condition: Tensor) -> Tensor | None:
    """The rows ``(n,)`` where ``condition`` ``(B,)`` is true, None for all; looks at the values on the host."""
    return None if condition.all() else condition.nonzero().squeeze(1)


@dataclass(frozen=True)
class Splits:
    """A data set as the laboratory takes it: three batches and what must be known to train and to score on them.

    Attributes:
        name: the full name that run records carry, e.g. ``"mosi_public/unseen"``.
        task: ``"regression"`` or ``"classification"``.
        scale: the metrics that the field computes here: ``"mosi"``, ``"sims"`` or ``"emotion"``.
        outputs: width of the prediction: 1 for regression, the number of classes otherwise.
        encoders: the text encoder of each modality whose features are token ids.
        truth: by split, the planted factors, where the data are synthetic.
        notes: what was repaired or left out while reading, one sentence each.
    """

    train: Batch
    valid: Batch
    test: Batch
    name: str = "unnamed"
    task: str = "regression"
    scale: str = "mosi"
    outputs: int = 1
    encoders: Mapping[str, TextEncoder] = field(default_factory=dict)
    truth: Mapping[str, ByModality] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def items(self) -> Iterator[tuple[str, Batch]]:
        """The three splits with their names, in order."""
        yield from (("train", self.train), ("valid", self.valid), ("test", self.test))

    @property
    def modalities(self) -> dict[str, int | TextEncoder]:
        """The feature width of each modality, or its text encoder, as the model must know them."""
        return {
            name: self.encoders[name] if name in self.encoders else values.shape[-1]
            for name, values in self.train.features.items()
        }

    def check_finite(self, modalities: Sequence[str] | None = None) -> None:
        """Whether all targets, and the valid frames of all modalities or of these, are numbers; padding may hold any.

        Raises:
            ValueError: for the first split and modality that holds NaN or infinity, with their number and a sample.
        """
        for split, batch in self.items():
            broken = {"target": (~batch.target.isfinite()).long()}
            for name in batch.features if modalities is None else modalities:
                broken[f"features[{name!r}]"] = _not_finite(batch.features[name], batch.masks[name])
            for what, counts in broken.items():
                if counts.any():
                    got = f"{int(counts.sum())} NaN or infinite, the first in {batch.ids[int(counts.nonzero()[0])]!r}"
                    raise ValueError(f"splits.{split}: {what}: wanted finite numbers, got {got}")

    def fingerprint(self) -> str:
        """Hexadecimal digest of every id, target, mask and feature of the three splits."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for split, batch in self.items():
            digest.update(f"{split}{list(batch.ids)!r}".encode())
            tensors = {"target": batch.target, **{f"x {m}": x for m, x in batch.features.items()}}
            tensors |= {f"m {m}": mask for m, mask in batch.masks.items()}
            for name in sorted(tensors):
                digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
                digest.update(np.ascontiguousarray(tensors[name].cpu().numpy()).data)
        return digest.hexdigest()[:16]


def _not_finite(values: Tensor, mask: Tensor) -> Tensor:
    """How many numbers of valid frames are not finite, by sample ``(B,)``."""
    return torch.cat([_not_finite_part(*part) for part in zip(values.split(64), mask.split(64), strict=True)])


def _not_finite_part(x: Tensor, valid: Tensor) -> Tensor:
    # token ids have no frames; a sum is many times faster than a look at each number, and misses none
    suspect = valid & ~x.sum(dim=-1).isfinite() if x.ndim == 3 else torch.zeros_like(valid)
    if not suspect.any():
        return suspect.sum(dim=1)
    return (~x.isfinite() & suspect.unsqueeze(-1)).sum(dim=(1, 2))


@dataclass(frozen=True)
class Representation:
    """What a model makes of a batch; the objective reads nothing else of the model.

    Attributes:
        unique, common: ``(B, T_m, d)`` by modality, padded frames 0 (Eq 1's two parts).
        pooled_unique, pooled_common: ``(B, d)`` by modality, means over valid frames.
        latent: ``(B, p)`` by modality, where Eq 10-12 compare distributions.
        masks: ``(B, T_m)`` by modality, as the batch's after its cut.
        fused: ``(B, F)``, what the head reads.
        prediction: ``(B, outputs)``.
        extras: further tensors of a model that has losses of its own.
    """

    unique: ByModality
    common: ByModality
    pooled_unique: ByModality
    pooled_common: ByModality
    latent: ByModality
    masks: ByModality
    fused: Tensor
    prediction: Tensor
    extras: ByModality = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """The terms of Eq 13, unweighted scalars, and their weighted ``total``.

    ``auxiliary`` holds the own terms of a model that is not DecAlign; ``marginal_error`` is the transport's, to be
    watched (0 where no transport was computed).
    """

    task: Tensor
    decoupling: Tensor
    transport: Tensor
    prototype: Tensor
    semantic: Tensor
    mmd: Tensor
    contrastive: Tensor
    total: Tensor
    auxiliary: ByModality = field(default_factory=dict)
    marginal_error: Tensor | None = None
