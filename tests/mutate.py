"""The mutation run: are the checks of this project themselves checked?

``tests/mutants.yml`` names faults that a person could have made in the core, each as a piece of source and what stands
in its place. For each, the package is copied into a temporary folder with that one fault in it, and the tests that
should see it are run against the copy; where a chapter's check cell should see it too, the notebook is executed up to
that cell. A mutant is killed if everything that should see it does, and has survived otherwise.

    python tests/mutate.py [--jobs N] [NAME ...]

Without names all mutants are run. ``tests/mutants.csv`` gets a row each; of named ones, their rows anew. Before, every
test and every cell in question is run on an unchanged copy, where it must pass.

Why not mutmut or cosmic-ray: they make thousands of mutants by rewriting operators and judge a suite by the share that
it kills. Here each mutant is one mistake about one equation or rule, has a name to speak of, and must be killed. Each
runs in a process forked from one that has imported the libraries, which takes longer than most of the tests.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "decalign_core"
DEFINITIONS, TABLE = ROOT / "tests" / "mutants.yml", ROOT / "tests" / "mutants.csv"
COLUMNS = ("name", "file", "breaks", "status", "killed_by", "chapter", "seconds")
LIMIT = 300  # seconds, after which a mutant that hangs counts as killed
LIBRARIES = ("pandas", "pytest", "sklearn.metrics", "torch")  # imported once, before processes are forked
MORE = ("hypothesis", "nbclient", "ot", "scipy.optimize", "scipy.stats", "sklearn.mixture", "transformers")


@dataclass(frozen=True)
class Mutant:
    """One fault: ``old`` occurs once in ``file`` (below the package), ``new`` takes its place.

    ``tests`` are test ids and ``chapter`` is ``notebooks/NAME.ipynb#CELL``, "" for none: what should see the fault.
    """

    name: str
    file: str
    breaks: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    chapter: str = ""

    @property
    def path(self) -> str:
        """The file, from the repository's root."""
        return f"{PACKAGE.name}/{self.file}"

    def mutated(self, source: str) -> str:
        """``source`` with the fault in it."""
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: wanted its piece of {self.file} once, found it {found} times")
        return source.replace(self.old, self.new)


def read(path: Path = DEFINITIONS) -> list[Mutant]:
    """The mutants of a file."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Mutant(**entry | {"tests": tuple(entry.get("tests", ()))}) for entry in entries]


# --- what runs in a process of its own -------------------------------------------------------------------------------


class _Watcher:
    """The first test that fails, as a plugin of pytest."""

    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid.partition("[")[0]


def failed_test(tests: Sequence[str]) -> str:
    """The first of these tests that fails, "" if all pass."""
    import pytest

    watcher = _Watcher()
    options = ["-x", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    code = pytest.main([*options, *tests], plugins=[watcher])
    if code and not watcher.failed:
        raise RuntimeError(f"pytest ended with {code!r} on {', '.join(tests)}")
    return watcher.failed


def cells_until(chapter: str) -> Any:
    """The notebook that ``chapter`` names, up to its cell."""
    import nbformat

    name, _, last = chapter.partition("#")
    notebook = nbformat.read(ROOT / name, as_version=4)
    notebook.cells = notebook.cells[: [cell.id for cell in notebook.cells].index(last) + 1]
    return notebook


def failed_cell(chapter: str, folder: Path) -> str:
    """The check cell at which a chapter stops, executed up to the one named, "" if it does not."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = cells_until(chapter)
    place = folder / "notebooks"
    place.mkdir(exist_ok=True)
    try:
        NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": str(place)}}).execute()
    except CellExecutionError:
        stopped = next(cell for cell in notebook.cells if any("ename" in output for output in cell.get("outputs", ())))
        if "check" not in stopped.metadata.get("tags", ()):
            raise
        return f"{Path(chapter.partition('#')[0]).stem}#{stopped.id}"
    return ""


def _work(call: Callable[[], str], folder: Path, log: Path, pipe: Connection) -> None:
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    sys.path.insert(0, str(folder))
    os.environ |= {"PYTHONPATH": str(folder), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis")}
    assert Path(find_spec("decalign_core").origin).is_relative_to(folder), "the copy is not what is imported"
    pipe.send(call())


# --- tasks in parallel -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Some tests, or a chapter up to a cell, against the package with a mutant in it (None: as it is)."""

    mutant: Mutant | None
    tests: tuple[str, ...] = ()
    chapter: str = ""

    @property
    def what(self) -> str:
        return self.chapter or f"{len(self.tests)} of {self.tests[0].partition('::')[0]}"

    def prepare(self, folder: Path) -> None:
        """A copy of the package, mutated, with the rest of the repository's data beside it."""
        shutil.copytree(PACKAGE, folder / "decalign_core", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("data", "book"):
            (folder / name).symlink_to(ROOT / name)
        if self.mutant:
            path = folder / "decalign_core" / self.mutant.file
            path.write_text(self.mutant.mutated(path.read_text(encoding="utf-8")), encoding="utf-8")

    def run(self, folder: Path) -> str:
        """What fails, "" if nothing does."""
        return failed_cell(self.chapter, folder) if self.chapter else failed_test(self.tests)


class _Running:
    """A task in a process of its own, in a folder of its own."""

    def __init__(self, task: Task) -> None:
        self.task, self.started = task, time.perf_counter()
        self.home = tempfile.TemporaryDirectory(prefix="mutant-")
        folder = Path(self.home.name).resolve()
        task.prepare(folder)
        self.log = folder / "log.txt"
        self.pipe, other = multiprocessing.Pipe(duplex=False)
        arguments = (lambda: task.run(folder), folder, self.log, other)
        self.process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
        self.process.start()
        other.close()

    @property
    def is_late(self) -> bool:
        return time.perf_counter() - self.started > LIMIT

    def finish(self) -> tuple[Task, str, float]:
        """The task, what failed, and seconds; raises where neither pass nor failure came out."""
        try:
            failed = self.pipe.recv() if self.pipe.poll() else "the time limit"
        except EOFError:
            said = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            named = self.task.mutant.name if self.task.mutant else "the unchanged package"
            raise RuntimeError(f"{named}, {self.task.what}: no result\n{said}") from None
        finally:
            self.process.kill()
            self.process.join()
            seconds = time.perf_counter() - self.started
            self.home.cleanup()
        return self.task, failed, seconds


def outcomes(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, str, float]]:
    """Each task with what failed and the seconds that it took, as they come, ``jobs`` at a time."""
    waiting, running = list(reversed(tasks)), []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_Running(waiting.pop()))
        ready = wait([one.pipe for one in running], timeout=1)
        for one in [one for one in running if one.pipe in ready or one.is_late]:
            running.remove(one)
            yield one.finish()


# --- the run ---------------------------------------------------------------------------------------------------------


def control(mutants: Sequence[Mutant], jobs: int) -> list[str]:
    """What fails on the unchanged package, of all that should see these mutants."""
    files: dict[str, set[str]] = {}
    for test in (test for mutant in mutants for test in mutant.tests):
        files.setdefault(test.partition("::")[0], set()).add(test)
    chapters: dict[str, str] = {}  # by notebook the last of its cells, since those before are executed with it
    for chapter in sorted({m.chapter for m in mutants if m.chapter}, key=lambda one: len(cells_until(one).cells)):
        chapters[chapter.partition("#")[0]] = chapter
    tasks = [Task(None, tests=tuple(sorted(tests))) for tests in files.values()]
    tasks += [Task(None, chapter=chapter) for chapter in chapters.values()]
    found = []
    for number, (task, failed, seconds) in enumerate(outcomes(tasks, jobs), start=1):
        print(f"[{number}/{len(tasks)}] {seconds:5.1f} s  unchanged, {task.what}: {failed or 'passes'}", flush=True)
        found += [failed] if failed else []
    return found


def rows(mutants: Sequence[Mutant], jobs: int) -> list[dict[str, object]]:
    """A row of the table for each mutant, in order; tells the progress."""
    tasks = [Task(m, tests=m.tests) for m in mutants if m.tests]
    tasks += [Task(m, chapter=m.chapter) for m in mutants if m.chapter]
    found: dict[str, dict[str, tuple[str, float]]] = {mutant.name: {} for mutant in mutants}
    for number, (task, failed, seconds) in enumerate(outcomes(tasks, jobs), start=1):
        found[task.mutant.name]["chapter" if task.chapter else "tests"] = failed, seconds
        print(f"[{number}/{len(tasks)}] {seconds:5.1f} s  {task.mutant.name}: {failed or 'not seen'}", flush=True)
    return [_row(mutant, found[mutant.name]) for mutant in mutants]


def _row(mutant: Mutant, found: dict[str, tuple[str, float]]) -> dict[str, object]:
    seen = all(failed for failed, _ in found.values())
    by, cell = (found.get(kind, ("", 0.0))[0] for kind in ("tests", "chapter"))
    seconds = sum(seconds for _, seconds in found.values())
    told = (mutant.name, mutant.path, mutant.breaks, "killed" if seen else "survived", by or cell, cell)
    return dict(zip(COLUMNS, (*told, f"{seconds:.1f}"), strict=True))


def written(path: Path) -> dict[str, dict[str, object]]:
    """The rows of a kill table by name; none where there is no table."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def write(path: Path, table: Sequence[dict[str, object]]) -> None:
    """The kill table."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def main() -> int:
    """0 where every mutant was killed, 1 where one survived, 2 where the run says nothing about them."""
    parser = argparse.ArgumentParser(description="run the mutants of tests/mutants.yml")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to run; all if none is given")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--definitions", type=Path, default=DEFINITIONS, help="the file that defines the mutants")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table (default tests/mutants.csv)")
    asked = parser.parse_args()
    mutants = read(asked.definitions)
    if unknown := set(asked.names) - {mutant.name for mutant in mutants}:
        parser.error(f"wanted names in {asked.definitions}, got {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not asked.names or mutant.name in asked.names]
    for mutant in chosen:
        mutant.mutated((PACKAGE / mutant.file).read_text(encoding="utf-8"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    for name in LIBRARIES + (MORE if len(chosen) > 10 else ()):
        importlib.import_module(name)
    if broken := control(chosen, asked.jobs):
        print(f"wanted passes on the unchanged package, got failures: {', '.join(broken)}")
        return 2
    table = rows(chosen, asked.jobs)
    known = written(asked.out) | {str(row["name"]): row for row in table}
    write(asked.out, [known[mutant.name] for mutant in mutants if mutant.name in known])
    survivors = [str(row["name"]) for row in table if row["status"] == "survived"]
    print(f"{len(table)} mutants, {len(survivors)} survived" + "".join(f"\n  {name}" for name in survivors))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
