"""Two real processes against one: the same gradients, one writer, a checkpoint for any number, a death that is told."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from distributed_worker import gradients
from killing import killed_after

from decalign_core.lab import training
from decalign_core.lab.distributed import Group, processes
from decalign_core.lab.experiment import configure
from decalign_core.lab.presets import preset
from decalign_core.lab.results import RunRecord
from decalign_core.lab.training import train
from decalign_core.types import Batch

WORKER = Path(__file__).parents[1] / "distributed_worker.py"
ROOT = WORKER.parents[1]


def torchrun(*arguments, processes=2, cwd=None):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--standalone", "--local-addr=127.0.0.1"]  # at a port that it opens itself and keeps
    path = os.pathsep.join((os.environ["PYTHONPATH"], str(ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("method", ["decalign", "misa"])
def test_two_processes_have_the_gradients_of_one(tmp_path, method):
    done = torchrun(WORKER, method, tmp_path / "two.pt")
    assert done.returncode == 0, done.stderr[-2000:]
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), gradients(Group(), method)
    assert len(two) == len(one) == 3  # the last batch has 11 samples: 6 and 5
    for here, there in zip(one, two, strict=True):
        assert len(here) == len(there)
        assert max((a - b).abs().max() for a, b in zip(here, there, strict=True)) <= 1e-6
        assert max(a.abs().max() for a in here) > 1e-3


TRAIN = ["-m", "decalign_core", "train", "--device", "cpu", "--quiet", "--set", "training.epochs=2", "model.width=16"]
PLAIN = [f"model.{name}_dropout=0" for name in ("input", "attention", "feedforward", "residual", "embedding", "output")]


def same_experiment():
    changes = dict(pair.split("=") for pair in [*TRAIN[TRAIN.index("--set") + 1 :], *PLAIN])
    return configure(changes | {"training.device": "cpu"}, preset("default", "synthetic"))


def test_a_run_of_two_is_written_once_and_is_that_of_one(tmp_path):
    done = torchrun(*TRAIN, *PLAIN, "--run-dir", tmp_path / "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("record.json") == 1
    record, alone = RunRecord.load(tmp_path / "two" / "record.json"), train(same_experiment(), progress=False)
    assert record.config_hash == alone.config_hash
    assert record.test["mae"] == pytest.approx(alone.test["mae"], abs=1e-3)
    again = torchrun(*TRAIN, *PLAIN, "--run-dir", tmp_path / "two", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines()[0] == done.stdout.splitlines()[0]


def test_a_checkpoint_of_one_process_goes_on_with_two(tmp_path):
    with killed_after(1):
        train(same_experiment(), run_dir=tmp_path / "run", progress=False)
    done = torchrun(*TRAIN, *PLAIN, "--run-dir", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "run" / "history.csv")["epoch"].tolist() == [1, 2]
    alone = train(same_experiment(), progress=False)
    assert RunRecord.load(tmp_path / "run" / "record.json").test["mae"] == pytest.approx(alone.test["mae"], abs=1e-3)


def test_a_dead_process_ends_the_run_with_its_name(tmp_path):
    done = torchrun(WORKER, "die", tmp_path / "never.pt")
    assert done.returncode != 0
    assert "process 1 dies" in done.stderr and not (tmp_path / "never.pt").exists()


def test_a_group_of_one_changes_nothing():
    batch = Batch({"a": torch.randn(3, 2, 1)}, {"a": torch.ones(3, 2, dtype=torch.bool)}, torch.randn(3), list("xyz"))
    x = torch.randn(3, requires_grad=True)
    assert Group().share(batch) is batch and Group().gathered(x, 3) is x and Group().leads


def test_half_an_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE: wanted RANK, MASTER_ADDR, MASTER_PORT"), processes():
        pass


def test_every_process_wants_a_gpu_where_there_are_some(monkeypatch):
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="LOCAL_RANK: wanted a GPU for each process, of 1 here, got process 1"):
        processes().__enter__()


def test_every_process_wants_a_sample():
    config = configure({"training.batch_size": 599, "training.device": "cpu"}, preset("default", "synthetic"))
    with pytest.raises(ValueError, match="training.batch_size: wanted a sample a process"):
        training.Trainer(config, training.load_splits(config), torch.device("cpu"), Group(0, 2))
    config = configure({"training.batch_size": 600, "training.device": "cpu"}, preset("default", "synthetic"))
    splits = training.load_splits(config)
    with pytest.raises(ValueError, match="splits.valid: wanted a sample a process .* got a batch of 1"):
        training.Trainer(config, replace(splits, valid=splits.valid[:1]), torch.device("cpu"), Group(0, 2))
