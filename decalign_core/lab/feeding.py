"""How samples reach the model: which rows make a batch, how far they are cut, and where a batch is put together.

The length of a sample is the number of frames up to its last valid one. All lengths are read once, on the host, so that
cutting a batch after its longest sample waits for no device. On an accelerator a split that fits lives there, and
batches are gathered there; of one that does not, the next batch is put together in pinned memory while the model is at
work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from decalign_core.types import Batch, rows_that_hold

SHARE = 0.5  # of the free memory that a split may take; the model needs the rest


class Feed:
    """Batches of one split, cut and on their device.

    Args:
        split: all samples, on the host.
        device: where the model is.
        free: bytes that are free there, asked from the device if None.

    Attributes:
        lengths: ``(N, M)`` int64 on the host, by sample and modality, in the order of the split's masks.
        resides: whether the split lives on the device.
        ahead: whether batches are put together before they are asked for.
    """

    def __init__(self, split: Batch, device: torch.device, free: int | None = None) -> None:
        # with its number: the thread that works ahead has a current GPU of its own, the first one
        self.device = torch.empty(0, device=device).device
        self.lengths = torch.stack([_lengths(mask) for mask in split.masks.values()], dim=1)
        away = device.type != "cpu"
        self.resides = away and fits(split, free_memory(device) if free is None else free)
        self.ahead = away and not self.resides
        self.split = split.to(device) if self.resides else split

    def __getitem__(self, rows: Tensor) -> Batch:
        """The samples ``rows`` ``(n,)``, each modality cut after its longest one: ``split[rows].trimmed()``, moved."""
        own = self.lengths[rows]
        cut = dict(zip(self.split.masks, own.amax(dim=0).clamp_min(1).tolist(), strict=True))
        at = _pinned(rows, self.device).to(self.device, non_blocking=True) if self.resides else rows
        batch = Batch(
            features={name: values[:, : cut[name]][at] for name, values in self.split.features.items()},
            masks={name: mask[:, : cut[name]][at] for name, mask in self.split.masks.items()},
            target=self.split.target[at],
            ids=[self.split.ids[row] for row in rows.tolist()],
            extra_targets={name: values[at] for name, values in self.split.extra_targets.items()},
            is_trimmed=True,
            present={name: rows_that_hold(valid) for name, valid in zip(cut, own.T > 0, strict=True)},
        )
        if not self.resides:
            batch = batch.mapped(lambda values: _pinned(values, self.device))
        return batch.to(self.device)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Batch]]:
        """Each of ``parts``, rows of the split, with its batch."""
        if not self.ahead:
            yield from ((rows, self[rows]) for rows in parts)
            return
        with ThreadPoolExecutor(1) as worker:
            waiting = [worker.submit(self.__getitem__, rows) for rows in parts[:1]]
            for number, rows in enumerate(parts, 1):
                batch = waiting.pop().result()
                waiting = [worker.submit(self.__getitem__, following) for following in parts[number : number + 1]]
                yield rows, batch


def fits(split: Batch, free: int) -> bool:
    """Whether a split may live where ``free`` bytes are free."""
    groups = (split.features, split.masks, {"": split.target}, split.extra_targets)
    size = sum(values.numel() * values.element_size() for group in groups for values in group.values())
    return size <= SHARE * free


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 for a device that does not tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def bucketed(order: Tensor, size: int, lengths: Tensor) -> list[Tensor]:
    """The rows ``order`` in batches of ``size`` samples of like ``lengths`` ``(N, M)``.

    Rows are halved, again and again, along the modality in which most would be padded. Rows of one length keep their
    order, so another order makes other batches. What is left over when batches are full is the last batch, as it would
    be without.
    """
    full = len(order) // size * size
    return [rows for rows in (*_halved(order[:full], size, lengths), order[full:]) if len(rows)]


def _halved(rows: Tensor, size: int, lengths: Tensor) -> list[Tensor]:
    if len(rows) <= size:
        return [rows]
    own = lengths[rows]
    longest_to_pad = (own.amax(dim=0) - own.double().mean(dim=0)).argmax()
    rows = rows[own[:, longest_to_pad].argsort(stable=True)]
    middle = len(rows) // size // 2 * size
    return _halved(rows[:middle], size, lengths) + _halved(rows[middle:], size, lengths)


def padding_share(parts: Sequence[Tensor], lengths: Tensor) -> float:
    """Share of padding among the frames of batches that are cut after their longest sample.

    Args:
        parts: rows of each batch.
        lengths: ``(N, M)`` by sample and modality.
    """
    computed = sum(int(len(rows) * lengths[rows].amax(dim=0).clamp_min(1).sum()) for rows in parts)
    valid = sum(int(lengths[rows].sum()) for rows in parts)
    return 1 - valid / computed


def _lengths(mask: Tensor) -> Tensor:
    return (mask * torch.arange(1, mask.shape[1] + 1, dtype=torch.int32, device=mask.device)).amax(dim=1).long().cpu()


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    return values.pin_memory() if device.type == "cuda" else values
