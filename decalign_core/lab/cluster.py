"""The workers of a Dask cluster: reached by the address of its scheduler, and kept from disturbing their runs."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager


@contextmanager
def connected(address: str) -> Iterator[Executor]:
    """An executor over all workers, those that join later included; what a lost worker had is run once more.

    Raises:
        ImportError: where Dask is not installed.
        ValueError: for an address at which no scheduler answers.
    """
    try:
        from distributed import Client, WorkerPlugin
    except ImportError:
        raise ImportError('--scheduler needs Dask: pip install "decalign-core[sweep]"') from None

    class Undisturbed(WorkerPlugin):  # Dask's class is no dependency of this module
        def setup(self, worker: object) -> None:
            # a look at all threads' stacks every 10 ms stops a run, which is made of many short operations, each time
            for name in ("profile", "profile-cycle"):
                if (watching := worker.periodic_callbacks.pop(name, None)) is not None:
                    watching.stop()

    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(f"scheduler: wanted the address of one that is running, got {address!r} ({error})") from None
    with client:
        client.register_plugin(Undisturbed(), name="decalign-core")
        with client.get_executor(pure=False, retries=1) as executor:
            yield executor


def keep_memory() -> None:
    """Undo what Dask's nanny asks of the C library: memory given back at once is fetched anew for each large tensor.

    The nanny asks by a variable of the environment, which stays where a cluster was started and goes to every process
    that is started there afterwards, whether Dask is its parent or not.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)  # not every C library has it
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most that it takes


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
