"""How long a table of runs takes with one process, with two, and on a Dask cluster of two workers."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.problems import Options
from decalign_core.lab.sweep import TABLES, cells
from decalign_core.lab.sweep import sweep as run


def sweep(options: Options) -> pd.DataFrame:
    """A table of eight runs, by one process, by two, and by the two workers of a Dask cluster that is up already."""
    rows = []
    for number in range(max(1, options.rounds // 5)):
        rows += [{"what": what, "round": number, "seconds": seconds} for what, seconds in _timed().items()]
    table = pd.DataFrame(rows).pivot(index="round", columns="what", values="seconds")
    medians = table.median()[["one process", "two processes", "Dask, two workers"]]
    shares = (table.div(table["one process"], axis=0)).median()[medians.index]
    found = {"what": medians.index, "seconds": medians.to_numpy(), "ratio": shares.to_numpy()}
    return pd.DataFrame(found).assign(runs=RUNS, against="one process")


RUNS = 8


def _timed() -> dict[str, float]:
    from distributed import LocalCluster

    found = {}
    quiet = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with tempfile.TemporaryDirectory() as folder:
        found["one process"] = _seconds(Path(folder) / "one", jobs=1)
        found["two processes"] = _seconds(Path(folder) / "two", jobs=2)
        with LocalCluster(**quiet, local_directory=folder) as cluster:
            found["Dask, two workers"] = _seconds(Path(folder) / "dask", scheduler=cluster.scheduler_address)
    return found


def _seconds(out: Path, **how: object) -> float:
    wanted = cells(TABLES["table1"][:1], out, seeds=range(RUNS), changes={"training.device": "cpu"})
    began = time.perf_counter()
    outcomes = run(wanted, out, progress=False, **how)
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"sweep: {errors[0]}")
    return time.perf_counter() - began
