"""Several processes that train as one: ``torchrun --nproc-per-node N -m decalign_core train ...``.

Each process runs the model on its share of a batch. What the objective reads is then gathered, in the order of the
processes, and every process computes the loss of the *whole* batch: the statistics of alignment (EM, moments, kernel
means, contrast) are those of the global batch. A process pulls the loss back through its own samples alone; the sum of
all processes' gradients is the gradient of one process that holds the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from decalign_core.types import Batch, Representation


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    Attributes:
        rank: 0 ... size - 1; rank 0 writes.
        size: how many processes there are; 1 needs no others.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's samples, cut as the whole batch is."""
        if self.size == 1:
            return batch
        whole = batch.trimmed()
        return replace(whole[torch.arange(len(whole)).tensor_split(self.size)[self.rank]], is_trimmed=True)

    def gathered(self, x: Tensor, total: int) -> Tensor:
        """The rows of all processes' shares of ``total``; only this process's carry its gradient."""
        if self.size == 1:
            return x
        sizes = [len(part) for part in torch.arange(total).tensor_split(self.size)]
        padded = x.detach().new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x.detach()
        wire = padded.to(torch.uint8) if x.dtype == torch.bool else padded
        parts = [torch.empty_like(wire) for _ in sizes]
        dist.all_gather(parts, wire)
        rows = [part[:size].to(x.dtype) for part, size in zip(parts, sizes, strict=True)]
        rows[self.rank] = x
        return torch.cat(rows)

    def gathered_representation(self, representation: Representation, total: int) -> Representation:
        """What the model made of the whole batch, field by field."""
        if self.size == 1:
            return representation
        found = {}
        for name in sorted(field.name for field in fields(representation)):
            value = getattr(representation, name)
            if isinstance(value, Mapping):
                found[name] = {key: self.gathered(value[key], total) for key in value}
            else:
                found[name] = self.gathered(value, total)
        return Representation(**found)

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def processes() -> Iterator[Group]:
    """The group that ``torchrun`` started, joined; a group of one where there is none.

    Raises:
        ValueError: where the environment of ``torchrun`` is incomplete, or there are more processes than GPUs.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise ValueError(f"WORLD_SIZE: wanted a number of processes, got {size!r}")
    size = int(size)
    if size == 1 or dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Group()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE: wanted {', '.join(missing)} beside it, as torchrun sets them, got {size} alone")
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"LOCAL_RANK: wanted a GPU for each process, of {gpus} here, got process {local}")
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
