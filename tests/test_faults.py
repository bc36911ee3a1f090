"""Faults of the machine and of files: told in one line, nothing that was finished is lost, and the work goes on."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from killing import Killed, killed_after, outcome
from stress_kills import SMALL, few_samples

from decalign_core.__main__ import main
from decalign_core.files import remove_temporaries
from decalign_core.lab import load_run, train, training
from decalign_core.lab import sweep as sweeping
from decalign_core.lab.experiment import ExperimentConfig, configure
from decalign_core.lab.sweep import TABLES, Row, cells, sweep

TABLE = Path(__file__).with_name("stress.csv")
CONFIG = configure(SMALL | {"training.epochs": 3})


def run(folder, config=CONFIG, **options):
    return train(config, few_samples(config), run_dir=folder, progress=False, **options)


def refused(error, *, names):
    """One line that names all of these."""
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert all(str(name) in message for name in names), message


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run, and one of the same configuration that was killed after its first epoch."""
    whole, cut = (tmp_path_factory.mktemp("runs") / name for name in ("whole", "cut"))
    run(whole)
    with killed_after(1):
        run(cut)
    return whole, cut


@pytest.fixture
def whole(folders, tmp_path):
    return shutil.copytree(folders[0], tmp_path / "whole")


@pytest.fixture
def cut(folders, tmp_path):
    return shutil.copytree(folders[1], tmp_path / "cut")


# --- kills ---


def test_three_kills_change_nothing(tmp_path):
    script, out = Path(__file__).with_name("stress_kills.py"), tmp_path / "kills.csv"
    done = subprocess.run(
        [sys.executable, script, "--kills", "3", "--out", out],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(out)
    assert (table["identical"] == "yes").all()
    assert set(zip(table["what"], table["aim"], strict=True)) == {
        ("train", "moment"),
        ("train", "write"),
        ("sweep", "moment"),
    }


def test_the_committed_kills_changed_nothing():
    table = pd.read_csv(TABLE)
    assert len(table) >= 50 and (table["identical"] == "yes").all()
    assert not table["commit"].str.contains("dirty|unknown").any() and table["device"].str.startswith("cpu").all()
    assert {"train", "sweep", "sweep of 2 processes"} == set(table["what"])
    assert (table["phase"] == "checkpoint").sum() >= 10
    assert set(table["kill"]) == {"-", "half written", "written", "in place"}
    assert (table["resumed_from"] > 0).sum() >= 10


def test_what_killed_writers_left_is_removed(cut):
    left = [cut / f".last.pt.abcd12{number:02}.pt" for number in range(2)] + [cut / ".config.json.abcd1234.json"]
    for path in [*left, cut / "notes.pt"]:
        path.write_bytes(b"half")
    run(cut)
    assert not any(path.exists() for path in left) and (cut / "notes.pt").exists()
    other = cut / ".best.pt.abcd1234.pt"
    other.touch()
    remove_temporaries(cut / "last.pt")
    assert other.exists()


# --- checkpoints ---


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def flipped(path):
    """One bit of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def of_another_configuration(path):
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"config_hash": ExperimentConfig().hash()}, path)


def of_another_model(path):
    saved = torch.load(path, weights_only=True)
    name = "model" if "model" in saved else "weights"
    torch.save(saved | {name: {key: value[..., None] for key, value in saved[name].items()}}, path)


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a readable checkpoint"),
    "one bit": (flipped, "has another checksum"),
    "a list": (lambda path: torch.save([1, 2], path), "got list"),
    "other keys": (lambda path: torch.save({"a": 1}, path), "not a checkpoint of this run"),
    "a payload": (lambda path: torch.save({"a": Payload(path.with_name("ran"))}, path), "got code"),
    "a payload in a pickle": (
        lambda path: path.write_bytes(pickle.dumps(Payload(path.with_name("ran")))),
        "not a readable checkpoint",
    ),
    "another configuration": (of_another_configuration, f"got {ExperimentConfig().hash()}"),
    "another model": (of_another_model, "not a checkpoint of this run"),
}


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_not_this_runs_is_refused(cut, folders, name, damage):
    spoil, reason = DAMAGES[damage]
    spoil(cut / name)
    before = {path.name: path.read_bytes() for path in cut.iterdir()}
    with pytest.raises(ValueError) as caught:
        run(cut)
    refused(caught, names=[cut / name, reason])
    assert before == {path.name: path.read_bytes() for path in cut.iterdir()}, "nothing was run or written"
    if name == "best.pt":
        with pytest.raises(ValueError) as caught:
            load_run(cut)
        refused(caught, names=[cut / name, reason])
    if damage == "one bit":
        run(cut, resume=False)
        assert outcome(cut) == outcome(folders[0])


def test_best_weights_that_are_gone_are_the_last_ones_where_their_epoch_is_the_best(cut, folders):
    (cut / "best.pt").unlink()
    saved = torch.load(cut / "last.pt", weights_only=True)
    torch.save(saved | {"best_epoch": saved["best_epoch"] - 1}, cut / "last.pt")
    with pytest.raises(ValueError) as caught:
        run(cut)
    refused(caught, names=[cut / "best.pt", "no such checkpoint"])
    torch.save(saved, cut / "last.pt")
    run(cut)
    assert outcome(cut) == outcome(folders[0])


# --- edited files ---


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


EDITS = {
    "record cut": ("record.json", lambda path: path.write_text(path.read_text()[:99]), "not a run record"),
    "record of another": ("record.json", lambda path: edited(path, config_hash="0" * 16), "0" * 16),
    "seed as text": ("record.json", lambda path: edited(path, seed="one"), "seed: wanted int"),
    "no metrics": ("record.json", lambda path: edited(path, test=[]), "test: wanted Mapping, got []"),
    "metric as text": ("record.json", lambda path: edited(path, test={"mae": "low"}), "test.mae: wanted"),
    "record a list": ("record.json", lambda path: path.write_text("[]"), "not a run record"),
    "unknown setting": ("config.json", lambda path: edited(path, depth=3), "depth"),
    "wrong value": ("config.json", lambda path: edited(path, training={"epochs": "many"}), "training.epochs"),
    "another value": (
        "config.json",
        lambda path: edited(path, objective={"alpha": 7.0}),
        "objective.alpha 7.0, wanted",
    ),
    "config cut": ("config.json", lambda path: path.write_text("{"), "not a configuration"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_told_and_the_run_stays(whole, edit):
    name, change, said = EDITS[edit]
    change(whole / name)
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(ValueError) as caught:
        run(whole)
    refused(caught, names=[whole, said])
    assert before == {path.name: path.read_bytes() for path in whole.iterdir()}


def test_a_record_without_the_newest_field_is_read(whole):
    values = json.loads((whole / "record.json").read_text())
    del values["guarantee"]
    (whole / "record.json").write_text(json.dumps(values))
    assert run(whole).guarantee == ""


# --- the disk ---


@contextmanager
def quota(bytes_a_file):
    """The system refuses to write more than this to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_write_that_the_system_refuses_ends_in_one_line_and_goes_on(cut, folders, name, monkeypatch):
    original = training.save_state

    def save(path, state):
        with quota(4096 if path.name == name else resource.RLIM_INFINITY):
            original(path, state)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="File too large") as caught:
        patch.setattr(training, "save_state", save)
        run(cut)
    refused(caught, names=[cut / name])
    assert not list(cut.glob(".*")), "half a file stayed"
    run(cut)
    assert outcome(cut) == outcome(folders[0])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; its size and its being writable can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("mounting needs a superuser")

    if not shutil.which("mount"):
        pytest.skip("there is no mount")
    mount("size=16m")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


def two_cells(folder):
    return cells([Row(), Row(variant="no_homo")], folder, seeds=(1,), changes=SMALL | {"training.epochs": 1})


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(sweeping, "load_splits", few_samples)
    sweeping._splits.cache_clear()
    yield
    sweeping._splits.cache_clear()


def test_a_full_disk_loses_no_finished_run(small_disk, few, tmp_path):
    folder, remount = small_disk
    first, second = two_cells(folder)
    sweep([first], folder, progress=False)
    used = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    before = outcome(first.folder)
    remount(f"size={used + 40_960}")
    try:
        told = [one.error for one in sweep([first, second], folder, progress=False) if one.error]
    except OSError as error:  # the tables of the sweep did not fit either
        told = [str(error)]
    assert len(told) == 1 and "No space left on device: '" in told[0] and str(folder) in told[0]
    assert outcome(first.folder) == before and not (second.folder / "record.json").exists()
    remount("size=16m")
    outcomes = sweep([first, second], folder, progress=False)
    sweep(two_cells(tmp_path / "other"), tmp_path / "other", progress=False)
    assert not any(one.error for one in outcomes)
    assert outcome(second.folder) == outcome(two_cells(tmp_path / "other")[1].folder)


def test_a_read_only_folder_is_told_and_a_finished_run_read(small_disk, few, folders, capsys):
    folder, remount = small_disk
    whole, cut = (shutil.copytree(path, folder / path.name) for path in folders)
    remount("ro")
    assert run(whole).epochs == 3
    with pytest.raises(OSError, match="Read-only file system") as caught:
        run(cut)
    refused(caught, names=[cut])
    (one, _) = sweeping._outcomes(two_cells(folder / "sweep"), 1, "")
    assert "Read-only file system" in one.error and "\n" not in one.error
    assert main(["train", "--quiet", "--run-dir", str(folder / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- several at once ---


def test_a_folder_in_which_another_trains_is_refused(cut):
    with FileLock(cut / ".lock"), pytest.raises(ValueError, match="no other process trains in") as caught:
        run(cut)
    refused(caught, names=[cut])
    assert run(cut).epochs == 3 and not (cut / ".lock").exists()


def test_two_sweeps_at_once_make_each_run_once(tmp_path, few, monkeypatch):
    made, original = [], training.Trainer.__init__

    def begin(self, config, *others):
        made.append(config.hash())
        original(self, config, *others)

    monkeypatch.setattr(training.Trainer, "__init__", begin)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(sweep(two_cells(tmp_path), tmp_path, progress=False)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(cell.config.hash() for cell in two_cells(tmp_path))
    assert [one.record for one in found[0]] == [one.record for one in found[1]]
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 2 and pd.read_csv(tmp_path / "failures.csv").empty


def test_every_run_of_a_grid_has_a_lock_of_its_own(tmp_path, monkeypatch):
    locks = []
    monkeypatch.setattr(sweeping, "FileLock", lambda path: locks.append(path) or FileLock(path))
    monkeypatch.setattr(sweeping, "_plain_run", lambda cell: None)
    wanted = cells(TABLES["figure7"][:3], tmp_path, seeds=(1, 2))
    for cell in wanted:
        sweeping.run_cell(cell)
    assert len(set(locks)) == len(wanted) == 6


# --- a sweep and its tables ---


def test_one_damaged_record_does_not_stop_the_others(tmp_path, few):
    first, second = two_cells(tmp_path)
    sweep([first], tmp_path, progress=False)
    (first.folder / "record.json").write_text("{")
    told, made = sweep([first, second], tmp_path, progress=False)
    assert "not a run record" in told.error and str(first.folder) in told.error and not made.error
    assert (first.folder / "record.json").read_text() == "{"
    assert pd.read_csv(tmp_path / "failures.csv")["run"].tolist() == [first.folder.name]


def test_killed_before_the_last_table_of_a_run_it_is_written_then(tmp_path, few, monkeypatch):
    wanted = two_cells(tmp_path)[:1]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sweeping, "inspect", lambda *_: (_ for _ in ()).throw(Killed))
        sweep(wanted, tmp_path, progress=False)
    assert (wanted[0].folder / "record.json").exists() and not sweeping.is_finished(wanted[0])
    sweep(wanted, tmp_path, progress=False)
    assert sweeping.is_finished(wanted[0])
    assert pd.read_csv(tmp_path / "confusion.csv")["count"].sum() == 16
