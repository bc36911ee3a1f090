"""Commands with wrong arguments, paths and files: one line on standard error, code 2, every file as it was."""

import json
import os
import sys

import nbformat
import pandas as pd
import pytest
from refusals import command_refusal, mmsa_fixtures, outcome, untouched

from benchmarks.__main__ import main as benchmarks
from decalign_core.__main__ import main
from decalign_core.lab.experiment import ExperimentConfig
from decalign_core.lab.results import COLUMNS
from decalign_core.lab.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What newcomers point commands at: a file, empty folders, folders of other people, runs that are damaged."""
    root = tmp_path_factory.mktemp("commands")
    for name in ("empty", "foreign", "strange", "list", "begun", "damaged", "half"):
        (root / name).mkdir()
    (root / "file").write_text("mine\n")
    (root / "foreign" / "predictions.csv").write_text("mine\n")
    (root / "strange" / "config.json").write_text('{"a": 1}')
    (root / "list" / "config.json").write_text("[]")
    (root / "damaged" / "config.json").write_text("{")
    (root / "damaged" / "record.json").write_text("{")
    (root / "begun" / "config.json").write_text(json.dumps(ExperimentConfig().to_dict()))
    (root / "half" / "record.json").write_text('{"dataset": "synthetic"}')
    run = dict.fromkeys(COLUMNS, 1) | {"corr": 0.5}
    pd.DataFrame([run | {"mae": "low"}]).to_csv(root / "words.csv", index=False)
    pd.DataFrame([run | {"mae": 1, "fold": "first"}]).to_csv(root / "folds.csv", index=False)
    (root / "empty.csv").write_text("")
    (root / "noise.csv").write_bytes(bytes(range(256)))
    train(ExperimentConfig(method="ridge"), run_dir=root / "ridge", progress=False)
    mmsa_fixtures.write(mmsa_fixtures.mosi_aligned(), root / "good.pkl")
    (root / "labels.pkl").write_bytes(mmsa_fixtures.gcnet_labels()[1])
    nbformat.write(nbformat.v4.new_notebook(), root / "idle.ipynb")
    return root


TRAIN = [
    pytest.param("train --dataset", "--dataset: wanted a value, got none", id="dataset without value"),
    pytest.param("train --dataset mosy", "--dataset: wanted one of synthetic, … got 'mosy'", id="unknown dataset"),
    pytest.param("train --protocol unseen", "protocol: wanted one of regression … got 'unseen'", id="protocol"),
    pytest.param("train --fold 0", "fold: wanted none for synthetic, got 0", id="fold"),
    pytest.param("train --fold x", "--fold: wanted a whole number, got 'x'", id="fold in letters"),
    pytest.param("train --method lasso", "--method: wanted one of decalign, … got 'lasso'", id="method"),
    pytest.param("train --preset best", "--preset: wanted one of default, … got 'best'", id="preset"),
    pytest.param("train --preset official --method ridge", "preset: wanted 'default' … got 'official'", id="official"),
    pytest.param("train --variant no_ot", "--variant: wanted one of full, … got 'no_ot'", id="variant"),
    pytest.param("train --device abacus", "device: wanted 'auto', 'cpu' … got 'abacus'", id="device"),
    pytest.param("train --device cuda:99", "device: wanted 'auto', 'cpu' … got 'cuda:99'", id="GPU that is not here"),
    pytest.param("train --device meta", "device: wanted 'auto', 'cpu' … got 'meta'", id="device without values"),
    pytest.param("train --epochs 3", "wanted no such argument, got --epochs 3", id="unknown option"),
    pytest.param("train --data synthetic", "wanted no such argument, got --data", id="abbreviated option"),
    pytest.param("train --seed", "--seed: wanted a value, got none", id="seed without value"),
    pytest.param("train --seed abc", "--seed: wanted a whole number, got 'abc'", id="seed in letters"),
    pytest.param("train --seed 1.5", "--seed: wanted a whole number, got '1.5'", id="half a seed"),
    pytest.param("train --seed -1", "training.seed: wanted no negative number, got -1", id="seed negative"),
    pytest.param("train --text-encoder bert", "text_encoder: wanted none for … got 'bert'", id="text encoder"),
    pytest.param("train --fine-tune", "fine_tune: wanted a text encoder … got none", id="nothing to fine-tune"),
    pytest.param("train --set", "--set: wanted one value at least, got none", id="set without anything"),
    pytest.param("train --set training.epochs", "--set: wanted KEY=VALUE, got 'training.epochs'", id="set no value"),
    pytest.param("train --set =3", "--set: wanted KEY=VALUE, got '=3'", id="set no key"),
    pytest.param("train --set training.epoch=1", "did you mean training.epochs?", id="set key"),
    pytest.param("train --seed 5 --set training.seed=6", "wanted one value of training.seed, got", id="seed twice"),
    pytest.param("train --data-dir a --set data.root=b", "wanted one value of data.root, got", id="root twice"),
    pytest.param("train --set model.layers=1 model.layers=2", "one value of model.layers", id="set twice"),
    pytest.param("train --set model.layers=1 --set model.layers=1", "one value of model.layers", id="set same twice"),
    pytest.param("sweep table3 --device cpu --set training.device=cpu", "one value of training.device", id="device"),
    pytest.param("train --set model.outputs=3", "settings that the data leave open, got model.outputs", id="outputs"),
    pytest.param("train --set model.modalities={text:3}", "that the data leave open … modalities", id="modalities"),
    pytest.param("train --method tfn --set peer.outputs=3", "that the data leave open … peer.outputs", id="peer"),
    pytest.param("train --set training=1", "training: no such setting", id="set section"),
    pytest.param("train --set training.epochs=many", "training.epochs: wanted int, got 'many'", id="set value"),
    pytest.param("train --set data.dataset=mosi", "--set: wanted --dataset … got data.dataset", id="set dataset"),
    pytest.param("train --set data.protocol=x", "--set: wanted --protocol … got data.protocol", id="set protocol"),
    pytest.param("train --set data.text_encoder=x", "--set: wanted --text-encoder … got data.text", id="set encoder"),
    pytest.param("train --set method=early", "--set: wanted --method … got method", id="set method"),
    pytest.param("train --set variant=no_mmd", "--set: wanted --variant … got variant", id="set variant"),
    pytest.param(
        "train --variant no_mmd --set objective.mmd_weight=1",
        "objective.mmd_weight: wanted no change … no_mmd … 0.0, got '1'",
        id="set against the variant",
    ),
    pytest.param(
        "train --set training.batch_size=2", "objective.components: wanted at most … got 7", id="K over batch"
    ),
    pytest.param("train --set data.modalities=[smell]", "modalities: wanted some of … got smell", id="set modality"),
    pytest.param("train --set data.modalities=[text]", "wanted at least 2, got ['text']", id="M = 1"),
    pytest.param("train --set training.selection=waf1", "selection: wanted one of mae … got 'waf1'", id="selection"),
    pytest.param(
        "train --dataset mosi --data-dir nowhere", "mosi: wanted a file at one of nowhere … got none", id="no data"
    ),
    pytest.param("train --dataset mosi --data-dir file", "file: wanted a whole pickle … b'mine", id="data is a text"),
    pytest.param("train --dataset mosi_public --data-dir nowhere", "wanted the converted data … got no", id="no MOSI"),
    pytest.param("train --run-dir file", "run_dir: wanted a folder, got the file file", id="run folder is a file"),
    pytest.param("train --run-dir file/run", "file", id="run folder below a file"),
    pytest.param("train --run-dir strange", "strange/config.json: not a configuration", id="run folder of others"),
    pytest.param(
        "train --run-dir foreign", "run_dir: wanted a new folder … got foreign with predictions.csv", id="not a run"
    ),
    pytest.param(
        "train --run-dir ridge", "run_dir: ridge holds another configuration: … wanted", id="another run's folder"
    ),
    pytest.param("train --run-dir damaged", "damaged/config.json: not a configuration", id="run folder damaged"),
]
SWEEP = [
    pytest.param("sweep", "wanted TABLE, got none", id="sweep of nothing"),
    pytest.param("sweep table9", "TABLE: wanted one of … got 'table9'", id="table"),
    pytest.param("sweep table3 --jobs 0", "--jobs: wanted at least 1, got 0", id="no jobs"),
    pytest.param("sweep table3 --jobs two", "--jobs: wanted a whole number, got 'two'", id="jobs in letters"),
    pytest.param("sweep table3 --seeds abc", "--seeds: wanted a whole number, got 'abc'", id="seeds in letters"),
    pytest.param("sweep table3 --seeds", "--seeds: wanted one value at least, got none", id="no seeds"),
    pytest.param("sweep table3 --seeds -1", "training.seed: wanted no negative number, got -1", id="seeds negative"),
    pytest.param("sweep table3 --folds one", "--folds: wanted a number from 0 on or 'stated', got 'one'", id="folds"),
    pytest.param("sweep table3 --folds 9", "fold: wanted none for synthetic, got 9", id="folds of none"),
    pytest.param("sweep table3 --protocol nix", "protocol: wanted one of regression … got 'nix'", id="sweep protocol"),
    pytest.param("sweep prototypes --set nix=1", "nix: no such setting", id="sweep setting"),
    pytest.param("sweep table3 --set training.seed=1", "--set: wanted … --seeds … got training.seed", id="seed by set"),
    pytest.param("sweep table3 --set variant=mine", "--set: wanted tables … got variant", id="variant by set"),
    pytest.param("sweep table3 --set method=misa", "--set: wanted tables … got method", id="method by set"),
    pytest.param(
        "sweep table3 --set data.dataset=mosi", "--set: wanted --dataset … got data.dataset", id="data by set"
    ),
    pytest.param("sweep table3 --set data.fold=1", "--set: wanted --folds … got data.fold", id="fold by set"),
    pytest.param("sweep figure7 --set objective.alpha=1", "objective.alpha: wanted … every row sets", id="set in vain"),
    pytest.param("sweep table3 --notebook nowhere", "notebook: wanted a file … got nowhere", id="no notebook"),
    pytest.param("sweep headline --seeds 1 --out file", "out: wanted a folder, got the file file", id="out is a file"),
    pytest.param("sweep headline --seeds 1 --scheduler x", "scheduler: wanted the address … got 'x'", id="scheduler"),
]
EVALUATE = [
    pytest.param("evaluate", "wanted RUN_DIR, got none", id="evaluate without"),
    pytest.param("evaluate nowhere", "run_dir: wanted a run folder with config.json, got nowhere", id="no run"),
    pytest.param("evaluate empty", "run_dir: wanted a run folder with config.json, got empty", id="empty run"),
    pytest.param("evaluate file", "run_dir: wanted a run folder with config.json, got file", id="run is a file"),
    pytest.param("evaluate strange", "strange/config.json: not a configuration (a: no such", id="run of others"),
    pytest.param("evaluate list", "list/config.json: not a configuration … wanted a mapping, got list", id="a list"),
    pytest.param("evaluate begun", "begun holds no best.pt", id="run without an epoch"),
    pytest.param("evaluate damaged", "damaged/config.json: not a configuration", id="run damaged"),
    pytest.param("evaluate ridge", "ridge holds the control 'ridge'", id="run of a control"),
    pytest.param("evaluate empty --split dev", "--split: wanted one of train, valid, test, got 'dev'", id="split"),
]
TABLES = [
    pytest.param("tables", "wanted either paths of records or --published … got neither", id="tables of nothing"),
    pytest.param("tables nowhere", "nowhere: wanted a folder or a file, got none", id="tables nowhere"),
    pytest.param("tables empty", "empty: wanted at least one record.json … got none", id="tables of an empty folder"),
    pytest.param("tables empty begun", "empty, begun: wanted at least one record.json … got none", id="of two"),
    pytest.param("tables file", "file: wanted a CSV with the columns … got another file", id="tables of a file"),
    pytest.param("tables empty.csv", "empty.csv: wanted a CSV with the columns … got", id="tables of an empty file"),
    pytest.param("tables noise.csv", "noise.csv: wanted a CSV with the columns … got", id="tables of noise"),
    pytest.param("tables words.csv", "words.csv: column 'mae': wanted numbers, got 'low'", id="words for numbers"),
    pytest.param("tables folds.csv", "folds.csv: column 'fold': wanted numbers, got 'first'", id="words for folds"),
    pytest.param("tables damaged", "damaged/record.json: not a run record", id="record damaged"),
    pytest.param("tables half", "half/record.json: not a run record", id="record of less"),
    pytest.param("tables ridge --metrics accuracy", "metrics: wanted some of mae, … got accuracy", id="metric"),
    pytest.param("tables ridge --metrics", "--metrics: wanted one value at least, got none", id="no metric"),
    pytest.param("tables empty --published table1", "wanted either paths … got both", id="tables of both"),
    pytest.param("tables --published table9", "published table: wanted one of … got 'table9'", id="published"),
    pytest.param("tables --published mmsa", "mmsa_results, mmsa_unseen … got 'mmsa'", id="published, ambiguous"),
    pytest.param("tables --published table1 --metrics nix", "wanted no --metrics beside --published", id="of paper"),
    pytest.param("tables --published table1 --runs --metrics mae", "no --metrics and no --runs", id="both of paper"),
    pytest.param("tables ridge --runs --metrics mae", "wanted no --metrics beside --runs", id="metrics of runs"),
    pytest.param("tables ridge --format latex", "--format: wanted one of text, … got 'latex'", id="format"),
]
DATA = [
    pytest.param("data", "wanted {mosi-public,iemocap,check,describe}, got none", id="data without"),
    pytest.param("data load", "wanted one of mosi-public, … got 'load'", id="data action"),
    pytest.param("data describe mosy", "dataset: wanted one of synthetic, … got 'mosy'", id="describe"),
    pytest.param("data describe synthetic --protocol x", "protocol: wanted one of … got 'x'", id="describe protocol"),
    pytest.param(
        "data describe mosi --data-dir empty", "mosi: wanted a file at one of empty/ … got none", id="empty root"
    ),
    pytest.param("data check", "wanted FILE, got none", id="check without"),
    pytest.param("data check good.pkl again", "wanted no such argument, got again", id="check of two"),
    pytest.param("data mosi-public", "wanted --source, got none", id="convert without"),
    pytest.param(
        "data mosi-public --source nowhere --out out", "transcripts.csv: wanted the file of … got none", id="source"
    ),
    pytest.param(
        "data iemocap --features empty --labels nowhere --out o.pkl", "nowhere: wanted a readable", id="labels"
    ),
    pytest.param(
        "data iemocap --features empty --labels file --out o.pkl", "file: wanted a whole pickle", id="label text"
    ),
    pytest.param(
        "data iemocap --features empty --labels good.pkl --out o.pkl", "wanted the tuple … got dict", id="tree"
    ),
    pytest.param(
        "data iemocap --features empty --labels labels.pkl --out o.pkl", ".npy: wanted a NumPy array", id="npy"
    ),
]
OTHER = [
    pytest.param("", "wanted {train,evaluate,sweep,tables,data}, got none", id="no command"),
    pytest.param("trian", "command: wanted one of train, evaluate, sweep, tables, data, got 'trian'", id="command"),
]


@pytest.mark.parametrize(("line", "said"), [*TRAIN, *SWEEP, *EVALUATE, *TABLES, *DATA, *OTHER])
def test_a_command(folder, monkeypatch, capsys, line, said):
    monkeypatch.chdir(folder)
    command_refusal(capsys, main, folder, line.split(), *said.split(" … "))


TIMING = [
    pytest.param("speed", "CASE: wanted some of training_step, … got speed", id="case"),
    pytest.param("--rounds 0", "--rounds: wanted at least 1, got 0", id="no rounds"),
    pytest.param("--rounds many", "--rounds: wanted a whole number, got 'many'", id="rounds in letters"),
    pytest.param("--threads -1", "--threads: wanted at least 1, got -1", id="threads negative"),
    pytest.param(
        "--official nowhere", "--official: wanted a checkout of the official code … got nowhere", id="no code"
    ),
    pytest.param("alignment_terms --rounds 1 --out file/x.json", "--out: wanted a file in a folder", id="out"),
    pytest.param("alignment_terms --records file/x", "--records: wanted a folder … got file/x", id="records"),
    pytest.param("alignment_terms --records /proc/xx", "--records: wanted a folder to write … /proc/xx", id="no disk"),
    pytest.param("alignment_terms --out /proc/xx/y.json", "--out: wanted a folder to write to … /proc/xx", id="no out"),
]


@pytest.mark.parametrize(("line", "said"), TIMING)
def test_a_benchmark(folder, monkeypatch, capsys, line, said):
    monkeypatch.chdir(folder)
    command_refusal(capsys, benchmarks, folder, line.split(), *said.split(" … "))


MADE = {
    "config.py": "from types import SimpleNamespace\ndef get_config_regression(*given):\n    return SimpleNamespace()",
    "models/model.py": "class DecAlign:\n    def __init__(self, args):\n        raise RuntimeError('no\\nGPU')",
    "trains/ATIO.py": "DecAlignTrainer = None",
}
OFFICIAL = [
    pytest.param({"models/model.py": "import no_such_package"}, "ModuleNotFoundError: No module named", id="import"),
    pytest.param({"models/model.py": "DecAligned = 1"}, "ImportError: cannot import name", id="another model"),
    pytest.param({"config.py": "def config(:"}, "SyntaxError: ", id="syntax"),
    pytest.param(
        {"config.py": "def get_config_regression(*given):\n    open(given[-1])"},
        "FileNotFoundError … dec_mosi_config.json",
        id="no configuration",
    ),
    pytest.param({"trains/ATIO.py": "raise SystemExit(3)"}, "SystemExit: 3", id="ends"),
    pytest.param({}, "RuntimeError: no GPU", id="model"),
]


@pytest.fixture
def imports(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("config", "models", "trains")]:
        del sys.modules[name]


@pytest.mark.parametrize(("changed", "said"), OFFICIAL)
def test_a_checkout_that_does_not_run_is_told_before_anything_is_measured(tmp_path, imports, capsys, changed, said):
    for name, content in (MADE | changed).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    line = ["alignment_terms", "--official", tmp_path, "--out", tmp_path / "x.json"]
    wanted = ["--official: wanted a checkout of the official code that runs, got", str(tmp_path), *said.split(" … ")]
    command_refusal(capsys, benchmarks, tmp_path, line, *wanted)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("line", ["train --method ridge --run-dir locked/run --quiet", "sweep headline --out locked/x"])
def test_a_folder_without_permission(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir(mode=0o500)
    command_refusal(capsys, main, tmp_path, line.split(), "locked", "Permission denied")


@pytest.mark.parametrize(
    "line", ["--fold 0", "--protocol foo", "--dataset mosi --data-dir x", "--set training.selection=waf1"]
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    for run_dir in ([], ["--run-dir", "a/b/c"]):
        assert outcome(capsys, main, ["train", "--quiet", *line.split(), *run_dir])[0] == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    assert outcome(capsys, main, ["train", "--quiet", *line.split(), "--run-dir", "mine"])[0] == 2
    assert not list((tmp_path / "mine").iterdir()), "a folder that was there stays"


def test_a_finished_run_that_was_started_over_by_mistake_is_still_there(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with untouched(folder):
        wrong = ["train", "--method", "ridge", "--run-dir", "ridge", "--no-resume", "--protocol", "unseen", "--quiet"]
        assert outcome(capsys, main, wrong)[0] == 2


def test_a_sweep_of_which_nothing_can_run_tells_the_first_reason(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    line = ["sweep", "headline", "--seeds", "1", "--dataset", "mosi", "--data-dir", "empty", "--out", tmp_path / "out"]
    code, _, err = outcome(capsys, main, [*line, "--quiet"])
    assert code == 2 and err.count("\n") == 1
    assert "3 runs ended in an error" in err and "mosi: wanted a file at one of empty/" in err
    assert len(pd.read_csv(tmp_path / "out" / "failures.csv")) == 3
