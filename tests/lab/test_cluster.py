"""Workers of a Dask cluster do nothing beside their runs, and keep their memory."""

import os
import platform
import subprocess
import sys

import pytest

from decalign_core.lab.cluster import connected

FAULTS = """
import resource, torch
from decalign_core.lab import cluster

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
cluster.keep_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_once_fetched_is_kept():
    """What Dask's nanny asks for would have every page of every large tensor fetched anew."""
    there = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=there, capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, told.split())
    assert kept < given_back / 10


def profiled(dask_worker):
    return [name for name, task in dask_worker.periodic_callbacks.items() if "profile" in name and task.is_running()]


def test_workers_that_are_there_and_those_that_join_are_not_profiled():
    distributed = pytest.importorskip("distributed", reason="the optional extra decalign-core[sweep] is not installed")
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        (before,) = client.run(profiled).values()
        assert before, "Dask has renamed what it does while a task runs"
        with connected(cluster.scheduler_address) as executor:
            assert executor.submit(abs, -1).result() == 1
            cluster.scale(2)
            client.wait_for_workers(2)
            assert list(client.run(profiled).values()) == [[], []]
