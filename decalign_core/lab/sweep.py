"""Many runs: the rows of a table times seeds and folds, each run once, in parallel, whatever happens to one of them.

:data:`TABLES` names the rows. A run lies in ``OUT/runs/METHOD-VARIANT-SEED-HASH``, the hash being its configuration's:
what is finished is not run again, tables that share a row share its run, and a killed sweep goes on where it was, to
the epoch. Beside the runs lie ``runs.csv`` (a row a run) and ``failures.csv``, rewritten whenever a run ends, and, at
the end, ``summary.csv`` (see :mod:`decalign_core.lab.comparison`), ``confusion.csv`` and ``gap.csv`` (see
:mod:`decalign_core.lab.inspection`).

Runs are spread over processes of this machine, or over the workers of a Dask cluster that see the same folders.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from decalign_core.data import check_setting
from decalign_core.files import write_table
from decalign_core.lab.cluster import connected, keep_memory
from decalign_core.lab.comparison import comparison
from decalign_core.lab.controls import CONTROLS
from decalign_core.lab.experiment import VARIANTS, DataConfig, ExperimentConfig, configure
from decalign_core.lab.folders import claim, finished_record
from decalign_core.lab.inspection import inspect, is_inspected
from decalign_core.lab.notebook import Notebook, execute, placed
from decalign_core.lab.presets import preset
from decalign_core.lab.results import RunRecord, published
from decalign_core.lab.training import load_splits, train
from decalign_core.peers import PEERS
from decalign_core.types import Splits

SEEDS = (1111, 1112, 1113, 1114, 1115)


@dataclass(frozen=True)
class Row:
    """A row of a table: a method, what it is called, and the settings in which it differs from the preset."""

    method: str = "decalign"
    variant: str = "full"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def named(self) -> dict[str, Any]:
        """All that the row stands for, by dotted key."""
        own = VARIANTS.get(self.variant, {}) | dict(self.settings)
        return own | {"method": self.method, "variant": self.variant}


_TEXT = {"data.modalities": ["text"]}
_CONTROLS = [Row(method, *what) for method in CONTROLS for what in (("full",), ("text", _TEXT))]
_PEERS = [Row(method) for method in PEERS]


def _rows(*variants: str) -> list[Row]:
    return [Row(variant=variant) for variant in variants]


def _grid() -> list[Row]:
    points = published("figure7")[["alpha", "beta"]].drop_duplicates().itertuples(index=False)
    named = [(f"alpha={alpha:g},beta={beta:g}", alpha, beta) for alpha, beta in points]
    return [Row("decalign", name, {"objective.alpha": a, "objective.beta": b}) for name, a, b in named]


_TABLE3 = ("full", "no_homo", "no_hete", "no_hete_keep_transformer", "no_hete_homo", "no_mfd")
_TABLE4 = ("full", "no_mmd", "no_sem", "no_ct_transformer", "no_ct_contrastive", "no_proto_ot")
COMPONENTS = (2, 4, 7, 10, 13, 16)
MISSING = (0.1, 0.3, 0.5, 0.7, 0.9)  # on complete data the same rows are in table 1 and table 3
_AGAINST_MISSING = (Row(), Row(variant="no_hete_homo"), Row("late"), Row("misa"))

TABLES: dict[str, list[Row]] = {
    "headline": [*_rows("full", "no_hete_homo"), Row("early", "text", _TEXT)],
    "table1": [Row(), *_PEERS, Row("early", "text", _TEXT), *_CONTROLS],
    "table2": [Row(), *_PEERS, *_CONTROLS],
    "table3": [*_rows(*_TABLE3), *_CONTROLS],
    "table4": [*_rows(*_TABLE4), *_CONTROLS],
    "figure7": _grid(),
    "prototypes": [Row("decalign", f"K={count}", {"objective.components": count}) for count in COMPONENTS],
    "precision": [Row("decalign", name, {"training.precision": name}) for name in ("float32", "bf16")],
    "missing": [replace(row, settings={"data.missing": chance}) for chance in MISSING for row in _AGAINST_MISSING],
}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        folder: the run's folder.
        config: what is run.
        settings: what its row changed, as columns of the table of runs.
        notebook: the notebook to run by papermill in place of a plain run, "" for none.
        parameters: what the notebook is given, the folder aside.
    """

    folder: Path
    config: ExperimentConfig
    settings: Mapping[str, Any] = field(default_factory=dict)
    notebook: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        data = self.config.data
        parts = f" missing {data.missing:g}" if data.missing else ""
        parts += "" if data.fold is None else f" fold {data.fold}"
        return f"{self.config.method} {self.config.variant} seed {self.config.training.seed}{parts}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its record, or what went wrong in one line."""

    cell: Cell
    record: RunRecord | None = None
    error: str = ""


def cells(
    rows: Iterable[Row],
    out: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    folds: Sequence[int | None] = (None,),
    dataset: str = "synthetic",
    protocol: str = "",
    text_encoder: str = "",
    fine_tune: bool = False,
    preset_name: str = "default",
    changes: Mapping[str, Any] | None = None,
    notebook: str = "",
) -> list[Cell]:
    """The runs of a table's ``rows``, ordered so that those on the same data follow one another.

    A control has no seed: it is run once a fold, with the first. Two rows of one configuration are one run.
    ``changes`` are of all rows, but a row keeps what it stands for: ``no_mmd`` stays without MMD.

    With a ``notebook``, those rows that it has no parameters for, such as the controls, are plain runs all the same.

    Raises:
        ValueError: for names and values that no configuration takes, for a change that would reach no row, and for a
            preset and changes that the notebook cannot be given.
    """
    found: dict[str, Cell] = {}
    rows, book = list(rows), Notebook.read(notebook) if notebook else None
    changes = dict(changes or {}) | (placed(text_encoder) if notebook else {})
    for key in changes:
        if rows and all(key in row.named() for row in rows):
            raise ValueError(f"{key}: wanted a setting that a row leaves open, got one that every row sets")
    for fold in folds:
        check_setting(dataset, protocol, fold)
        for row in sorted(rows, key=lambda row: "data.modalities" in row.settings):
            base = preset(preset_name, dataset, protocol, text_encoder, row.method, fine_tune)
            first = configure({"data.fold": fold} | changes | row.named(), base)
            swept = {key: value for key, value in row.settings.items() if not isinstance(value, (list, dict))}
            for seed in seeds[:1] if row.method in CONTROLS else seeds:
                config = replace(first, training=replace(first.training, seed=seed))
                identity = config.hash()
                folder = Path(out) / "runs" / f"{row.method}-{row.variant}-{seed}-{identity}"
                found.setdefault(identity, Cell(folder, config, swept))
    return _through(book, list(found.values()), preset_name, changes) if book else list(found.values())


_ASKED = ("data.dataset", "data.protocol", "data.fold", "data.text_encoder", "data.fine_tune", "data.root")


def _through(book: Notebook, wanted: list[Cell], preset_name: str, changes: Mapping[str, Any]) -> list[Cell]:
    """The cells with their parameters; what a row asks for in vain makes it a plain run, what a user does an error."""
    missing, cells = {}, []
    if preset_name != "default" and "settings" not in book.names:
        raise ValueError(f"preset: wanted 'default' with {book.path}, which has no other, got {preset_name!r}")
    mine = [key for key in changes if key not in ("data.root", "training.device") and "variant" in book.names]
    for cell in wanted:
        given, row = [*mine, *cell.settings], (cell.config.method, cell.config.variant, cell.config.data)
        if row not in missing:  # once for all seeds
            missing[row] = book.missing(cell.config, preset_name, given)
        if cell.config.method == "decalign" and (lost := [k for k in missing[row] if k in changes or k in _ASKED]):
            got = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
            raise ValueError(f"notebook: wanted settings that {book.path} can be given, got {got}")
        parameters = book.parameters(cell.config, preset_name, given)
        known = {"notebook": str(book.path.resolve()), "parameters": parameters} if not missing[row] else {}
        cells.append(replace(cell, **known))
    if not any(cell.notebook for cell in cells):
        raise ValueError(f"notebook: wanted rows that {book.path} has parameters for, got none")
    return cells


def sweep(
    wanted: Sequence[Cell], out: str | Path, *, jobs: int = 1, scheduler: str = "", progress: bool = True
) -> list[Outcome]:
    """Run what is not finished yet and write the tables; outcomes in the order of ``wanted``.

    Args:
        wanted: the runs.
        out: the folder of the tables.
        jobs: processes on this machine; each run keeps to the threads of its configuration.
        scheduler: address of a Dask scheduler, in place of processes.
        progress: show a bar with the time left.

    Raises:
        ValueError: for a number of jobs below 1, or a scheduler that cannot be reached.
    """
    if jobs < 1:
        raise ValueError(f"jobs: wanted at least 1, got {jobs}")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out: wanted a folder, got the file {out}")
    Path(out).mkdir(parents=True, exist_ok=True)
    done = {cell.folder: outcome for cell in wanted if (outcome := _finished(cell))}
    waiting = [cell for cell in wanted if cell.folder not in done]
    workers = connected(scheduler) if scheduler and waiting else nullcontext()
    with workers as cluster, tqdm(total=len(wanted), initial=len(done), disable=not progress, unit="run") as bar:
        for outcome in _outcomes(waiting, jobs, cluster):
            done[outcome.cell.folder] = outcome
            bar.set_postfix_str(outcome.cell.name)
            bar.update()
            if outcome.error:
                tqdm.write(f"{outcome.cell.name}: {outcome.error}")
            _write_runs([done[cell.folder] for cell in wanted if cell.folder in done], Path(out))
    outcomes = [done[cell.folder] for cell in wanted]
    _write_runs(outcomes, Path(out))
    _write_rest(outcomes, Path(out))
    return outcomes


def is_finished(cell: Cell) -> bool:
    """Whether the cell's folder holds its record, and what :mod:`decalign_core.lab.inspection` writes after it."""
    return _finished(cell) is not None


def _finished(cell: Cell) -> Outcome | None:
    record = _record(cell) if is_inspected(cell.folder) else None
    return Outcome(cell, record) if record else None


def _record(cell: Cell) -> RunRecord | None:
    try:
        record = RunRecord.load(cell.folder / "record.json")
    except ValueError:  # none, or a damaged one: running the cell tells what is wrong with it
        return None
    return record if record.config_hash == cell.config.hash() else None


def _outcomes(waiting: list[Cell], jobs: int, cluster: Executor | None) -> Iterator[Outcome]:
    if not waiting:
        return
    if cluster:
        yield from _collected(cluster, waiting)
    elif jobs == 1:
        yield from map(run_cell, waiting)
    else:
        yield from _in_processes(waiting, jobs)


def _in_processes(waiting: list[Cell], jobs: int) -> Iterator[Outcome]:
    """A process that dies takes its pool along: what was lost is run again, each run in a pool of its own."""
    lost = []
    with _pool(min(jobs, len(waiting))) as pool:
        for outcome in _collected(pool, waiting):
            if outcome.error == _DIED:
                lost.append(outcome.cell)
            else:
                yield outcome
    for cell in lost:
        with _pool(1) as pool:
            yield from _collected(pool, [cell])


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error no further run is begun


def _end_with_parent() -> None:
    """A worker whose sweep was killed would wait for its next run for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_DIED = "its process died (killed, or out of memory)"


def _collected(executor: Executor, waiting: list[Cell]) -> Iterator[Outcome]:
    futures = {executor.submit(run_cell, cell): cell for cell in waiting}
    for future in as_completed(futures):
        try:
            yield future.result()
        except BrokenProcessPool:
            yield Outcome(futures[future], error=_DIED)
        except Exception as error:  # a worker of the cluster that was lost; run_cell itself raises nothing
            yield Outcome(futures[future], error=_line(error))


def run_cell(cell: Cell) -> Outcome:
    """Run one cell to its end, in this process; an error is told in the outcome.

    A second sweep that comes to the same run waits for the first and takes its result.
    """
    keep_memory()
    try:
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cell.folder.with_name(f"{cell.folder.name}.lock")):
            record = _notebook_run(cell) if cell.notebook else _plain_run(cell)
        return Outcome(cell, record)
    except Exception as error:
        return Outcome(cell, error=_line(error))


def _plain_run(cell: Cell) -> RunRecord:
    splits = _splits(cell.config.data)
    record = train(cell.config, splits, run_dir=cell.folder, progress=False)
    inspect(cell.folder, splits)
    return record


def _notebook_run(cell: Cell) -> RunRecord:
    if finished_record(cell.folder, cell.config, resume=True) is None:
        claim(cell.folder, cell.config, resume=True)  # of another configuration, `train` in the notebook is refused
    execute(cell.notebook, cell.folder, cell.parameters)
    record = _record(cell)
    if record is None:
        wanted = f"the run {cell.config.hash()} in {cell.folder}"
        raise ValueError(f"{cell.notebook}: wanted {wanted}, the notebook made none")
    inspect(cell.folder, _splits(cell.config.data))
    return record


@lru_cache(maxsize=2)
def _splits(data: DataConfig) -> Splits:
    return load_splits(ExperimentConfig(data=data))


def _line(error: Exception) -> str:
    if hasattr(error, "ename"):  # papermill's: what was raised in the notebook, without the cell and its traceback
        return " ".join(f"{error.ename}: {error.evalue}".split())[:500]
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _write_runs(outcomes: Sequence[Outcome], out: Path) -> None:
    rows = [o.record.row() | {"versions": _versions(o.record)} | dict(o.cell.settings) for o in outcomes if o.record]
    write_table(out / "runs.csv", pd.DataFrame(rows))
    failed = [{"run": o.cell.folder.name, "error": o.error} for o in outcomes if o.error]
    write_table(out / "failures.csv", pd.DataFrame(failed, columns=["run", "error"]))


def _write_rest(outcomes: Sequence[Outcome], out: Path) -> None:
    folders = [outcome.cell.folder for outcome in outcomes if outcome.record]
    for name in ("confusion.csv", "gap.csv"):
        tables = [pd.read_csv(folder / name) for folder in folders if (folder / name).is_file()]
        if tables:
            write_table(out / name, pd.concat(tables, ignore_index=True))
    write_table(out / "summary.csv", comparison(folders, _baseline(outcomes)))


def _baseline(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """The full model, or float32 where the sweep is of precisions."""
    variants = {outcome.record.variant for outcome in outcomes if outcome.record}
    return "decalign", "float32" if "float32" in variants and "full" not in variants else "full"


def _versions(record: RunRecord) -> str:
    return " ".join(f"{name}={version}" for name, version in record.versions.items())
