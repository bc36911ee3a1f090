"""Training and sweeps killed at random moments, then resumed: is the result that of the undisturbed one, to the bit?

``make stress`` writes ``tests/stress.csv``, a row a kill. Every run is a process of its own that ends by SIGKILL: at a
random time of its life, or at a random write of its checkpoints, with half of the temporary file written, with all of
it, or just after it took the place of the old file. Then the same work is done again in the same folder, without a
kill, and all that it leaves is compared with what it leaves in a fresh one.

The processes are forked from this one, which has imported everything and computed nothing.
"""

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch._dynamo  # optimisers import it when they are made, most of a small run's life
from killing import outcome
from tqdm.auto import tqdm

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate
from decalign_core.files import write_table
from decalign_core.lab import sweep as sweeping
from decalign_core.lab import training
from decalign_core.lab.experiment import configure
from decalign_core.lab.results import environment
from decalign_core.lab.sweep import Row, cells, sweep

SMALL = {
    "model.width": 8,
    "model.heads": 2,
    "model.layers": 1,
    "objective.components": 3,
    "objective.em_steps": 1,
    "objective.sinkhorn_iterations": 5,
    "training.epochs": 4,
    "training.batch_size": 12,
    "training.average": 0.9,
    "training.device": "cpu",
}
SPECS = {"near": ModalitySpec(6, 2, 6, noise=0.3), "far": ModalitySpec(4, 1, 8, noise=0.3)}


def few_samples(config):
    return generate(SyntheticConfig(samples=(48, 16, 16), modalities=SPECS))


if __name__ in ("__main__", "__mp_main__"):  # here, and in the processes of a sweep, which import this file too
    training.load_splits = sweeping.load_splits = few_samples

TIMED, AT_WRITE = "moment", "write"
TRAIN, SWEEP, SWEEP_OF_TWO = "train", "sweep", "sweep of 2 processes"
KINDS = [
    *((TRAIN, TIMED), (TRAIN, AT_WRITE), (SWEEP, TIMED), (TRAIN, TIMED), (TRAIN, AT_WRITE)),
    *((SWEEP, AT_WRITE), (TRAIN, TIMED), (TRAIN, AT_WRITE), (TRAIN, TIMED), (SWEEP_OF_TWO, TIMED)),
]
WHERE = ("half written", "written", "in place")


def train_once(folder):
    training.train(configure(SMALL), run_dir=folder, progress=False)


def sweep_once(folder, jobs=1):
    outcomes = sweep(sweep_cells(folder), folder, jobs=jobs, progress=False)
    assert not any(one.error for one in outcomes), [one.error for one in outcomes]


def sweep_cells(folder):
    return cells([Row(), Row(variant="no_homo")], folder, seeds=(1,), changes=SMALL | {"training.epochs": 2})


WORK = {TRAIN: train_once, SWEEP: sweep_once, SWEEP_OF_TWO: lambda folder: sweep_once(folder, 2)}


def left_by(what, folder):
    if what == TRAIN:
        return outcome(folder)
    runs = pd.read_csv(folder / "runs.csv").drop(columns=["seconds", "peak_memory", "commit"])  # the table is tracked
    tables = {name: (folder / name).read_bytes() for name in ("summary.csv", "confusion.csv", "gap.csv")}
    return {"runs": runs.to_csv(), **tables, **{c.folder.name: outcome(c.folder) for c in sweep_cells(folder)}}


# --- in the process that is killed ---


class Diary:
    """What a forked process is doing, in memory that it shares: phase, epoch and writes of checkpoints so far."""

    def __init__(self):
        self.shared = mmap.mmap(-1, 128)
        self.write("start", 0)

    def write(self, phase, epoch, writes=0, file="-"):
        self.shared[:] = f"{phase}|{epoch}|{writes}|{file}".encode().ljust(128)

    def read(self):
        phase, epoch, writes, file = self.shared[:].decode().strip().split("|")
        return {"phase": phase, "epoch": int(epoch), "writes": int(writes), "file": file}


def keep(diary):
    """Let this process write down what it does."""

    def noting(owner, name, phase, epoch):
        original = getattr(owner, name)

        def noted(*arguments, **options):
            now = diary.read()
            diary.write(phase, epoch(arguments, now), now["writes"])
            return original(*arguments, **options)

        setattr(owner, name, noted)

    noting(training, "load_splits", "data", lambda _, now: 0)
    noting(sweeping, "load_splits", "data", lambda _, now: 0)
    noting(training.Trainer, "__init__", "set-up", lambda *_: 0)
    noting(training.Trainer, "run_epoch", "epoch", lambda arguments, _: arguments[0].epoch + 1)
    noting(training.Trainer, "checkpoint", "checkpoint", lambda arguments, _: arguments[0].epoch)
    noting(training.Trainer, "fitted", "end", lambda arguments, _: arguments[0].epoch)


def die_at_write(diary, number, where, chance):
    """Count the writes of checkpoints; this process kills itself at one of them (0 for none)."""
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor):
        now, path = diary.read(), Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if now["phase"] == "checkpoint":
            diary.write("checkpoint", now["epoch"], now["writes"] + 1, path.name[1:].rpartition(path.suffix)[0][:-9])
            if now["writes"] + 1 == number and where != "in place":
                if where == "half written":
                    os.truncate(path, chance.randrange(path.stat().st_size))
                os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    def replacing(self, target):
        replaced = replace(self, target)
        now = diary.read()
        if now["phase"] == "checkpoint" and now["writes"] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replaced

    os.fsync, Path.replace = fsync, replacing


def forked(what, folder, number=0, where="", chance=None):
    """The work in a process of its own: its id and its diary."""
    diary = Diary()
    process = os.fork()
    if process:
        return process, diary
    try:
        keep(diary)
        die_at_write(diary, number, where, chance)
        WORK[what](folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(process):
    return os.waitpid(process, 0)[1]


# --- in the process that kills ---


@dataclass
class Reference:
    """The undisturbed work: what it leaves, seconds it takes, checkpoint files it writes."""

    left: dict
    seconds: float
    writes: int


def undisturbed(what, folder):
    began = time.perf_counter()
    process, diary = forked(what, folder)
    if ended(process):
        raise SystemExit(f"the undisturbed {what} failed")
    return Reference(left_by(what, folder), time.perf_counter() - began, diary.read()["writes"])


def killed(what, how, folder, reference, chance, moment):
    """Kill one, after so many seconds if it is timed; what was going on then, None where it had ended before."""
    began = time.perf_counter()
    if how == AT_WRITE:
        where = chance.choice(WHERE)
        process, diary = forked(what, folder, chance.randint(1, reference.writes), where, chance)
    else:
        where = "-"
        process, diary = forked(what, folder)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
    if ended(process) != signal.SIGKILL:
        return None
    now, seconds = diary.read(), time.perf_counter() - began
    at = {"kill": where, "seconds": round(seconds, 3), "of": round(reference.seconds, 3)}
    if what == SWEEP_OF_TWO:  # its workers keep no diary
        return at | {"phase": "workers", "epoch": 0, "file": "-"}
    return at | {name: now[name] if name != "file" or how == AT_WRITE else "-" for name in ("phase", "epoch", "file")}


def resumes_from(folder):
    checkpoints = sorted(folder.rglob("last.pt"))
    return sum(len(torch.load(path, weights_only=True)["history"]) for path in checkpoints)


def trial(what, how, folder, reference, chance):
    """One kill and what came of it, a row of the table."""
    moment = reference.seconds
    for attempt in range(20):
        cut = folder / str(attempt)
        moment = chance.uniform(0, moment) if how == TIMED else 0  # where it has ended by then: sooner
        told = killed(what, how, cut, reference, chance, moment)
        if told:
            break
    else:
        raise SystemExit(f"{what}: ended by itself before every kill")
    epochs = resumes_from(cut)
    failed = ended(forked(what if what == TRAIN else SWEEP, cut)[0])
    identical = not failed and left_by(what, cut) == reference.left
    left_over = [path for path in cut.rglob(".*") if path.suffix == ".pt"]
    return {"what": what, "aim": how} | told | {"resumed_from": epochs, "identical": yes(identical and not left_over)}


def yes(truth):
    return "yes" if truth else "no"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="stress.csv", help="the table to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {name: environment(torch.device("cpu"))[name] for name in ("commit", "device")}
    chance, rows = random.Random(given.seed), []
    kinds = [KINDS[number % len(KINDS)] for number in range(given.kills)]
    with tempfile.TemporaryDirectory() as scratch:
        wanted = dict.fromkeys(what for what, _ in kinds)
        references = {what: undisturbed(what, Path(scratch, what)) for what in wanted}
        for number, (what, how) in enumerate(tqdm(kinds, unit="kill"), 1):
            rows.append({"number": number} | trial(what, how, Path(scratch, str(number)), references[what], chance))
            write_table(given.out, pd.DataFrame(rows).assign(**told))
    differing = [row for row in rows if row["identical"] != "yes"]
    print(f"{len(rows) - len(differing)} of {len(rows)} kills changed nothing, {given.out}")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
