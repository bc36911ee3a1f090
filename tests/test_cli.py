"""The command line, mostly in process: what it prints, and one line for every wrong name, value or path."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from refusals import outcome

from decalign_core.__main__ import main
from decalign_core.lab.experiment import ExperimentConfig, with_variant
from decalign_core.lab.presets import preset
from decalign_core.lab.results import published

SMALL = [
    *("--set", "training.epochs=1", "model.width=8", "model.heads=2", "model.layers=1", "training.batch_size=150"),
    *("objective.em_steps=1", "objective.sinkhorn_iterations=5"),
]


def call(capsys, *arguments):
    """Exit code, standard output and standard error."""
    return outcome(capsys, main, arguments)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--quiet", "--device", "cpu", "--run-dir", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def record(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def metrics_in(out, split):
    """The numbers of a printed line by the names above it."""
    lines = out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(f"{split} "))
    names = next(line.split() for line in reversed(lines[:at]) if line.startswith(" "))
    return dict(zip(names, map(float, lines[at].split()[1:]), strict=True))


# --- train and evaluate ---


def test_train_prints_what_it_records(run_dir, record, capsys):
    code, out, err = call(capsys, "train", "--quiet", "--device", "cpu", "--run-dir", run_dir, *SMALL)
    assert (code, err) == (0, "")
    assert out.startswith("synthetic · decalign · full · seed 1111 · cpu")
    assert str(run_dir / "record.json") in out
    for split in ("valid", "test"):
        assert metrics_in(out, split) == pytest.approx(record[split], abs=5.1e-5)
    assert record["config"]["model"]["width"] == 8 and record["epochs"] == 1


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluate_prints_the_same_metrics(run_dir, record, split, capsys):
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    code, out, err = call(capsys, "evaluate", run_dir, "--split", split, "--device", "cpu")
    assert (code, err) == (0, "")
    assert metrics_in(out, split) == {name: round(value, 4) for name, value in record[split].items()}
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before


def test_the_run_folder_has_a_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("--quiet", "--method", "ridge", "--seed", "5", "--protocol", "classification", "--variant", "no_mmd")
    code, out, _ = call(capsys, "train", *options)
    assert code == 0
    folder = tmp_path / "runs" / "synthetic-classification" / "ridge-no_mmd-5"
    values = json.loads((folder / "record.json").read_text())
    assert (values["dataset"], values["model"], values["seed"]) == ("synthetic/classification", "ridge", 5)
    assert metrics_in(out, "test") == pytest.approx(values["test"], abs=5.1e-5)


def test_no_resume_starts_over(run_dir, tmp_path, capsys):
    options = ("train", "--quiet", "--run-dir", tmp_path / "run", "--method", "ridge")
    assert call(capsys, *options, "--seed", 1)[0] == 0
    code, _, err = call(capsys, *options, "--seed", 2)
    assert code == 2 and err.count("\n") == 1 and "--no-resume" in err
    assert call(capsys, *options, "--seed", 2, "--no-resume")[0] == 0
    assert json.loads((tmp_path / "run" / "record.json").read_text())["seed"] == 2


def test_the_configuration_is_printed_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "train", "--print-config")
    assert (code, err) == (0, "")
    assert ExperimentConfig.from_dict(json.loads(out)) == ExperimentConfig()
    options = ("--dataset", "sims", "--preset", "official", "--variant", "no_mmd", "--seed", 3, "--data-dir", "here")
    code, out, _ = call(capsys, "train", "--print-config", *options, "--set", "objective.alpha=0.3", "model.layers=1")
    got = ExperimentConfig.from_dict(json.loads(out))
    base = with_variant(preset("official", "sims"), "no_mmd")
    assert got.model.width == base.model.width and got.variant == "no_mmd"
    assert (got.training.seed, got.data.root, got.objective.alpha, got.model.layers) == (3, "here", 0.3, 1)
    assert got.objective.mmd_weight == 0 and got.data.text_encoder == "bert-base-chinese"
    assert list(tmp_path.iterdir()) == [], "nothing is run or written"


# --- tables ---


def test_tables_of_records(run_dir, record, capsys):
    code, out, err = call(capsys, "tables", run_dir, "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["metric"]: float(row["mean"]) for row in rows} == pytest.approx(record["test"])
    assert {row["n"] for row in rows} == {"1"}
    code, out, _ = call(capsys, "tables", run_dir, "--metrics", "mae", "corr", "--format", "csv")
    assert [row["metric"] for row in csv.DictReader(io.StringIO(out))] == ["mae", "corr"]


def test_tables_to_read(run_dir, record, capsys):
    code, out, _ = call(capsys, "tables", run_dir)
    assert code == 0 and "synthetic" in out and f"{record['test']['mae']:.3f}" in out
    code, out, _ = call(capsys, "tables", run_dir, run_dir, "--format", "markdown")
    lines = out.splitlines()
    assert code == 0 and lines[1].strip("|- ") == ""
    assert len({line.count("|") for line in lines}) == 1 and lines[0].startswith("| dataset | model | variant |")
    assert f"{record['test']['mae']:.3f}" in lines[2]


def test_tables_of_single_runs(run_dir, record, tmp_path, capsys):
    code, out, _ = call(capsys, "tables", run_dir, "--runs", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == 0 and row["config_hash"] == record["config_hash"] and float(row["mae"]) == record["test"]["mae"]
    (tmp_path / "runs.csv").write_text(out)
    code, again, _ = call(capsys, "tables", tmp_path / "runs.csv", "--runs", "--format", "csv")
    assert code == 0 and again == out


@pytest.mark.parametrize("name", ["table1", "table4", "figure7"])
def test_published_tables(name, capsys):
    code, out, err = call(capsys, "tables", "--published", name, "--format", "csv")
    assert (code, err) == (0, "")
    assert out == published(name).to_csv(index=False)
    for kind in ("text", "markdown"):
        code, out, _ = call(capsys, "tables", "--published", name, "--format", kind)
        assert code == 0 and len(out.splitlines()) == len(published(name)) + (2 if kind == "markdown" else 1)


# --- data ---


def test_describe(capsys):
    code, out, err = call(capsys, "data", "describe", "synthetic")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["synthetic"]
    assert ["train", "audio", "600", "12"] in [line[:4] for line in lines]
    assert ["test", "vision", "200", "20"] in [line[:4] for line in lines]
    code, out, _ = call(capsys, "data", "describe", "synthetic", "--protocol", "classification")
    assert code == 0 and out.startswith("synthetic/classification\n")


# --- faults; wrong arguments and paths: tests/bad_inputs ---


def test_damaged_runs(run_dir, tmp_path, capsys):
    for path in run_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "best.pt").write_bytes(b"x")
    code, out, err = call(capsys, "evaluate", tmp_path)
    assert (code, out) == (2, "") and re.fullmatch(r"decalign: [^\n]*best\.pt[^\n]*\n", err)
    (tmp_path / "record.json").write_text("{")
    code, out, err = call(capsys, "tables", tmp_path)
    assert (code, out) == (2, "") and re.fullmatch(r"decalign: [^\n]*record\.json[^\n]*\n", err)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["train"], "; the same command goes on from the last whole epoch"),
        (["train", "--no-resume"], "; the same command without --no-resume goes on from the last whole epoch"),
        (["data", "describe", "synthetic"], ""),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(monkeypatch, tmp_path, capsys, command, told):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("decalign_core.lab.training.train", interrupted)
    monkeypatch.setattr("decalign_core.data.load", interrupted)
    assert call(capsys, *command) == (130, "", f"decalign: interrupted{told}\n")


def test_help_needs_no_run(capsys):
    for command in ([], ["train"], ["evaluate"], ["tables"], ["data"], ["data", "check"]):
        code, out, err = call(capsys, *command, "--help")
        assert code == 0 and "usage: decalign" in out and err == ""


def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "decalign_core", "train", "--set", "training.epoch=1"]
    fault = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (fault.returncode, fault.stdout) == (2, "")
    assert fault.stderr == "decalign: training.epoch: no such setting, did you mean training.epochs?\n"
