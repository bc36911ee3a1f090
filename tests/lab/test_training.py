"""Training: it learns, it is reproducible bit for bit, and no kill at any moment changes what comes out."""

import json
import random
import re
import time
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_bert
import torch
from killing import Killed, killed_after, outcome

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate
from decalign_core.lab import load_run, results, train, training
from decalign_core.lab.experiment import configure
from decalign_core.lab.results import RunRecord
from decalign_core.nn.text import TextEncoder
from decalign_core.types import Batch, Splits

SPECS = {"near": ModalitySpec(6, 2, 6, noise=0.3), "far": ModalitySpec(4, 1, 8, noise=0.3)}
SMALL = {
    "model.width": 8,
    "model.heads": 2,
    "model.layers": 1,
    "objective.components": 3,
    "objective.em_steps": 2,
    "objective.sinkhorn_iterations": 5,
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.device": "cpu",
}
FILES = {"config.json", "record.json", "history.csv", "predictions.csv", "best.pt", "last.pt"}


def make_splits(task="regression", samples=(40, 16, 20), **options):
    return generate(SyntheticConfig(task=task, samples=samples, modalities=SPECS, **options))


def make_config(**changes):
    return configure(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def run(config, splits=None, **options):
    return train(config, splits or make_splits(), progress=False, **options)


def assert_one_line(caught):
    assert "\n" not in str(caught.value)


# --- learning ---


def test_regression_beats_the_constant():
    splits = make_splits(samples=(240, 60, 100))
    record = run(make_config(training__epochs=8, training__learning_rate=1e-2), splits)
    constant = (splits.test.target - splits.train.target.median()).abs().mean()
    assert record.test["mae"] < 0.85 * constant
    assert record.test["corr"] > 0.4
    assert record.dataset == "synthetic" and record.model == "decalign"


def test_classification_beats_the_constant():
    splits = make_splits("classification", samples=(240, 60, 100), classes=3)
    record = run(make_config(training__epochs=8, training__learning_rate=1e-2), splits)
    assert record.dataset == "synthetic/classification"
    majority = splits.test.target.bincount().max() / len(splits.test)
    assert record.test["wacc"] > majority + 0.1
    assert set(record.test) == {"wacc", "waf1"}


# --- reproducibility ---


def test_one_seed_one_result_and_another_seed_another(tmp_path):
    outcomes = {}
    for name, seed in {"first": 1, "far": 1, "third": 2}.items():
        torch.manual_seed(len(outcomes))  # what the caller has drawn before plays no part
        torch.rand(len(outcomes))
        run(make_config(training__seed=seed), run_dir=tmp_path / name)
        outcomes[name] = outcome(tmp_path / name)
    assert outcomes["first"] == outcomes["far"]
    for key in ("history", "weights", "predictions"):
        assert outcomes["first"][key] != outcomes["third"][key]


def test_each_random_stream_follows_the_seed():
    """Initialisation, data order and dropout: by itself each one is another for another seed."""

    def streams(seed):
        trainer = training.Trainer(make_config(training__seed=seed), make_splits(), torch.device("cpu"))
        weights, dropout, seen = next(trainer.model.parameters()).detach(), torch.rand(8), []
        trainer.step = lambda rows, _: seen.append(rows) or {}
        trainer._train_epoch()
        return weights, dropout, torch.cat(seen)

    one, same, other = streams(1), streams(1), streams(2)
    assert all(torch.equal(first, second) for first, second in zip(one, same, strict=True))
    assert not any(torch.equal(first, second) for first, second in zip(one, other, strict=True))
    assert sorted(one[2].tolist()) == list(range(40)) != one[2].tolist()


def test_gradients_are_those_of_the_step():
    rows, splits = torch.arange(32).split(16), make_splits()
    trainer, fresh = (training.Trainer(make_config(), splits, torch.device("cpu")) for _ in range(2))
    trainer.step(rows[0])
    fresh.model.load_state_dict(trainer.model.state_dict())
    for one in (trainer, fresh):
        torch.manual_seed(5)  # the same dropout
        one.step(rows[1])
    for one, two in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_a_folder_changes_no_result(tmp_path):
    config = make_config()
    kept, unkept = run(config, run_dir=tmp_path / "run"), run(config)
    assert (kept.valid, kept.test, kept.best_epoch) == (unkept.valid, unkept.test, unkept.best_epoch)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_callers_state_comes_back(monkeypatch, two_threads):
    seen, original = [], training.score

    def score(*arguments):
        seen.append(torch.get_num_threads())
        return original(*arguments)

    monkeypatch.setattr(training, "score", score)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    def unchanged():
        same = torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
        return same and random.getstate() == states[2] and torch.get_num_threads() == 2

    run(make_config(training__threads=1, training__epochs=1))
    assert seen[0] == 1 and unchanged()
    monkeypatch.setattr(training, "objective", None)
    with pytest.raises(TypeError):
        run(make_config(training__threads=1))
    assert unchanged()


def test_the_test_split_plays_no_part_in_training(tmp_path):
    splits = make_splits()
    run(make_config(), splits, run_dir=tmp_path / "a")
    run(make_config(), replace(splits, test=splits.test[:7]), run_dir=tmp_path / "b")
    one, two = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    assert one["weights"] == two["weights"] and one["history"] == two["history"]


# --- resuming ---

KINDS = {
    "cosine": {},
    "plateau": {"training__schedule": "plateau", "training__plateau_patience": 0, "training__optimiser": "adam"},
    "average": {"training__average": 0.8, "training__schedule": "constant"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [[1], [2], [1, 3]])
def test_resumed_equals_undisturbed(tmp_path, kind, after):
    config = make_config(**KINDS[kind], training__epochs=4)
    run(config, run_dir=tmp_path / "whole")
    for epoch in after:
        with killed_after(epoch):
            run(config, run_dir=tmp_path / "cut")
        assert not (tmp_path / "cut" / "record.json").exists()
        assert len(load_run(tmp_path / "cut").history) == epoch
        torch.rand(3)
    run(config, run_dir=tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_killed_before_or_after_any_file_is_written(tmp_path, monkeypatch):
    """Every file goes through ``atomic_path``: stop before and after each of them, then go on."""
    config, splits = make_config(training__epochs=2, model__layers=0), make_splits(samples=(32, 6, 6))
    run(config, splits, run_dir=tmp_path / "whole")
    wanted = outcome(tmp_path / "whole")
    original, written, moment = Path.replace, [], None

    def replacing(self, target):
        written.append(Path(target).name)
        if moment == (len(written), "before"):
            raise Killed
        result = original(self, target)
        if moment == (len(written), "after"):
            raise Killed
        return result

    monkeypatch.setattr(Path, "replace", replacing)
    run(config, splits, run_dir=tmp_path / "counted")
    assert set(written) == FILES
    differing = []
    for number, name in enumerate(list(written), 1):
        for when in ("before", "after"):
            folder = tmp_path / f"{number}-{when}"
            written.clear()
            moment = number, when
            with pytest.raises(Killed):
                run(config, splits, run_dir=folder)
            moment = None
            run(config, splits, run_dir=folder)
            if not (folder / "history.csv").exists() or outcome(folder) != wanted:
                differing.append(f"{when} file {number}, {name}")
            assert {path.name for path in folder.iterdir()} <= FILES
    assert not differing


def test_the_weights_kept_are_those_of_the_best_epoch_where_an_epoch_run_again_is_another(tmp_path, monkeypatch):
    """On a GPU it is: here the validation metric of what comes after the kill is."""
    weights, save, judge, scores, written = {}, training.save_state, training.Trainer._judge, [3.0, 2.0], []

    def judged(self, value):
        weights[self.epoch] = {name: values.clone() for name, values in self.validated.state_dict().items()}
        self.history[-1]["valid_mae"] = scores.pop(0)
        judge(self, value)

    def saving(path, state):
        written.append(path.name)
        if len(written) == 4:
            raise Killed
        save(path, state)

    monkeypatch.setattr(training.Trainer, "_judge", judged)
    monkeypatch.setattr(training, "save_state", saving)
    with pytest.raises(Killed):
        run(make_config(), run_dir=tmp_path)
    assert set(written[:2]) == set(written[2:]) == {"best.pt", "last.pt"}, "between the two, in the second epoch"
    scores.extend([4.0, 4.0])
    record = run(make_config(), run_dir=tmp_path)
    kept = torch.load(tmp_path / "best.pt", weights_only=True)["weights"]
    assert all(torch.equal(values, weights[record.best_epoch][name]) for name, values in kept.items())


# --- run folders ---


def test_a_finished_run_is_returned_as_it_is(tmp_path, monkeypatch):
    config = make_config()
    record = run(config, run_dir=tmp_path / "run")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "run").iterdir()}
    assert set(before) == FILES
    monkeypatch.setattr(training, "Trainer", None)
    monkeypatch.setattr(training, "load_splits", None)
    again = train(config, run_dir=tmp_path / "run", progress=False)
    moved = configure({"data.root": "elsewhere", "training.device": "auto"}, config)
    assert again == train(moved, run_dir=tmp_path / "run", progress=False) == record
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "run").iterdir()}


def test_integers_for_numbers_find_their_run_again(tmp_path):
    config = replace(make_config(), training=replace(make_config().training, clip=0, epochs=1))
    assert run(config, run_dir=tmp_path / "run") == run(config, run_dir=tmp_path / "run")


def test_another_configuration_is_refused(tmp_path):
    run(make_config(), run_dir=tmp_path / "run")
    before = outcome(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"^run_dir: .* holds another configuration: objective.alpha 0.05, wanted 0.2; "
    ) as caught:
        run(make_config(objective__alpha=0.2), run_dir=tmp_path / "run")
    assert_one_line(caught)
    assert str(tmp_path) in str(caught.value)
    assert outcome(tmp_path / "run") == before


def test_starting_over(tmp_path):
    run(make_config(training__seed=1), run_dir=tmp_path / "run")
    run(make_config(training__seed=2, training__epochs=2), run_dir=tmp_path / "run", resume=False)
    run(make_config(training__seed=2, training__epochs=2), run_dir=tmp_path / "fresh")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "fresh")


def test_starting_over_forgets_the_old_run_at_once(tmp_path, monkeypatch):
    config = make_config()
    run(config, run_dir=tmp_path / "run")
    monkeypatch.setattr(training.Trainer, "run_epoch", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(config, run_dir=tmp_path / "run", resume=False)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json"}


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(make_config())
    assert list(tmp_path.rglob("*")) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^run_dir: wanted a folder, got the file "):
        run(make_config(), run_dir=tmp_path / "file", resume=False)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"nonsense", None])
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_damaged_checkpoints_are_one_line(tmp_path, name, damage):
    folder = tmp_path / "run"
    run(make_config(training__epochs=1), run_dir=folder)
    (folder / "record.json").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match=rf"{name}: not a readable checkpoint") as caught:
        run(make_config(training__epochs=1), run_dir=folder)
    assert_one_line(caught)
    if name == "best.pt":
        with pytest.raises(ValueError, match=rf"{name}: not a readable checkpoint"):
            load_run(folder)


def test_record_says_what_was_run(tmp_path):
    config, splits = make_config(training__seed=7), make_splits()
    record = run(config, splits, run_dir=tmp_path / "run")
    values = json.loads((tmp_path / "run" / "record.json").read_text())
    assert set(values) == {field.name for field in fields(RunRecord)}
    assert RunRecord.load(tmp_path / "run" / "record.json") == record
    assert values["config"] == config.to_dict() == json.loads((tmp_path / "run" / "config.json").read_text())
    assert (values["config_hash"], values["data_hash"]) == (config.hash(), splits.fingerprint())
    assert (values["seed"], values["variant"], values["model"], values["fold"]) == (7, "full", "decalign", None)
    assert values["commit"] == "unknown" or re.fullmatch(r"[0-9a-f]{12}(\+dirty)?", values["commit"])
    assert values["device"].startswith("cpu") and values["versions"]["torch"] == torch.__version__
    assert values["seconds"] > 0 and values["peak_memory"] > 10**7 and values["epochs"] == 3
    names = {"mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"}
    assert set(values["valid"]) == set(values["test"]) == names
    model = load_run(tmp_path / "run").model
    assert values["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_commit_is_that_of_the_start(monkeypatch):
    monkeypatch.setattr(results, "_commit", lambda file: "begun")
    fit = training._fit

    def committed_meanwhile(*given):
        monkeypatch.setattr(results, "_commit", lambda file: "later")
        return fit(*given)

    monkeypatch.setattr(training, "_fit", committed_meanwhile)
    assert run(make_config(training__epochs=1)).commit == "begun"


def test_seconds_hold_the_interrupted_part_too(tmp_path, monkeypatch):
    config = make_config(training__epochs=2)

    def slow(self, original=training.Trainer._train_epoch):
        time.sleep(0.3)
        return original(self)

    monkeypatch.setattr(training.Trainer, "_train_epoch", slow)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "write_table", lambda *_: (_ for _ in ()).throw(Killed))
        run(config, run_dir=tmp_path / "run")
    assert run(config, run_dir=tmp_path / "run").seconds >= 0.6


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_history_and_predictions_are_those_of_the_kept_epoch(tmp_path, task):
    splits = make_splits(task)
    record = run(make_config(training__epochs=4), splits, run_dir=tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.record == record and not loaded.model.training
    metric, best = ("valid_mae", "idxmin") if task == "regression" else ("valid_waf1", "idxmax")
    history = loaded.history
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert record.best_epoch == getattr(history[metric], best)() + 1
    kept = history.iloc[record.best_epoch - 1]
    assert all(kept[f"valid_{name}"] == pytest.approx(value, abs=1e-12) for name, value in record.valid.items())
    scored = training.score(splits, loaded.predict(splits.test), splits.test.target)
    assert record.test == pytest.approx(scored) and record.test != record.valid
    losses = {"task", "decoupling", "transport", "prototype", "semantic", "mmd", "contrastive", "total"}
    assert losses | {"learning_rate", "seconds", "marginal_error"} <= set(history.columns)
    assert np.isfinite(history.to_numpy()).all()
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    columns = ["prediction"] if task == "regression" else [f"logit_{index}" for index in range(6)]
    assert list(table.columns) == ["split", "id", "target", *columns]
    for split in ("valid", "test"):
        batch, rows = getattr(splits, split), table[table["split"] == split]
        assert list(rows["id"]) == list(batch.ids)
        assert np.array_equal(rows["target"].to_numpy(batch.target.numpy().dtype), batch.target.numpy())
        assert np.array_equal(rows[columns].to_numpy(np.float32), loaded.predict(batch).numpy())
    assert len(table) == len(splits.valid) + len(splits.test)


def test_losses_in_the_history_are_means_over_samples():
    """With one batch an epoch and no dropout the first row is the objective of the first weights."""
    rates = {f"model__{name}_dropout": 0.0 for name in ("attention", "feedforward", "residual", "embedding", "output")}
    config, splits = make_config(**rates, training__batch_size=40, training__epochs=1), make_splits()
    torch.manual_seed(0)
    trainer = training.Trainer(config, splits, torch.device("cpu"))
    with torch.no_grad():
        losses = training.objective(trainer.model(splits.train), splits.train, config.objective)
    trainer.run_epoch()
    for name in ("task", "decoupling", "semantic", "total"):
        assert trainer.history[0][name] == pytest.approx(float(getattr(losses, name)), rel=1e-3, abs=1e-5)


def test_a_small_last_batch_counts_by_its_samples():
    trainer = training.Trainer(make_config(), make_splits(), torch.device("cpu"))  # 40 rows, in 16, 16 and 8
    trainer.step = lambda rows, _: {"row": rows.double().mean()}
    assert trainer._train_epoch() == {"row": pytest.approx(39 / 2)}


@pytest.mark.parametrize("content", [None, "{", '{"nope": 1}', "[]"])
def test_folders_without_a_run_are_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_run(tmp_path)
    assert_one_line(caught)


def test_a_run_without_a_finished_epoch_has_no_model(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "save_state", lambda *_: (_ for _ in ()).throw(Killed))
        run(make_config(), run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds no best\.pt"):
        load_run(tmp_path / "run")


# --- settings ---


def scored(monkeypatch, values, name="mae"):
    """Let the validation metric be the given values, epoch after epoch (then the last)."""
    left = list(values)

    def score(splits, prediction, target):
        return {"mae": 1.0, "corr": 0.0} | {name: left.pop(0) if len(left) > 1 else left[0]}

    monkeypatch.setattr(training, "score", score)


@pytest.mark.parametrize(
    ("selection", "values", "epochs", "best"),
    [
        ("mae", [1.0], 4, 1),
        ("mae", [1.0, 0.9, 0.95, 0.9, 1.0, 0.1], 5, 2),
        ("corr", [0.1, 0.2, 0.3, 0.2, 0.1, 0.3], 6, 3),
        ("corr", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 8, 8),
    ],
)
def test_stopping_after_epochs_without_improvement(tmp_path, monkeypatch, selection, values, epochs, best):
    scored(monkeypatch, values, selection)
    config = make_config(
        training__patience=3, training__epochs=8, training__selection=selection, training__selection_window=1
    )
    record = run(config, run_dir=tmp_path / "run")
    assert (record.epochs, record.best_epoch) == (epochs, best)


def test_a_metric_without_a_value_chooses_no_epoch():
    config, splits = make_config(training__selection="acc2_non0"), make_splits()
    neutral = replace(splits, valid=replace(splits.valid, target=torch.zeros(len(splits.valid))))
    with pytest.raises(ValueError, match=r"^training\.selection: wanted a metric that .* got 'acc2_non0'$") as caught:
        run(config, neutral)
    assert_one_line(caught)


@pytest.mark.parametrize(("window", "best"), [(1, 2), (3, 6)])
def test_a_lucky_epoch_does_not_win_against_a_good_stretch(tmp_path, monkeypatch, window, best):
    scored(monkeypatch, [0.9, 0.3, 1.0, 0.5, 0.5, 0.5, 0.9, 0.9])
    settings = {"training__patience": 8, "training__epochs": 8, "training__selection_window": window}
    assert run(make_config(**settings), run_dir=tmp_path / "run").best_epoch == best


def rates(config):
    history = []
    original = training.Trainer.fitted
    try:
        training.Trainer.fitted = lambda self: history.extend(self.history) or original(self)
        run(config)
    finally:
        training.Trainer.fitted = original
    return [row["learning_rate"] for row in history]


def test_constant_rate():
    assert rates(make_config(training__schedule="constant", training__learning_rate=2e-3)) == [2e-3] * 3


def test_cosine_rises_then_falls_to_zero():
    config = make_config(training__warmup=0.5, training__epochs=6, training__learning_rate=1e-2, training__patience=10)
    got = rates(config)
    assert got[0] < got[1] <= got[2] <= 1e-2 and got[2] > 0.9e-2
    assert got[2] > got[3] > got[4] > got[5] and got[5] == pytest.approx(0, abs=1e-12)
    middle = rates(replace(config, training=replace(config.training, warmup=0.0)))[2]
    assert middle == pytest.approx(0.5e-2), "half way down at half time"


def test_plateau_lowers_the_rate(monkeypatch):
    options = {"training__schedule": "plateau", "training__factor": 0.5, "training__learning_rate": 1e-2}
    config = make_config(**options, training__plateau_patience=1, training__epochs=6)
    scored(monkeypatch, [1.0])
    assert rates(config) == pytest.approx([1e-2, 1e-2, 1e-2, 0.5e-2, 0.5e-2, 0.25e-2])
    scored(monkeypatch, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert rates(config) == [1e-2] * 6


@pytest.mark.parametrize("metric", ["corr", "acc2_non0"])
def test_plateau_lowers_the_rate_where_more_is_better(monkeypatch, metric):
    options = {"training__schedule": "plateau", "training__factor": 0.5, "training__learning_rate": 1e-2}
    config = make_config(**options, training__plateau_patience=1, training__epochs=6, training__selection=metric)
    scored(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], metric)
    assert rates(config) == [1e-2] * 6
    for resting in ([0.5], [0.5, 0.49995, 0.4999, 0.49985, 0.4998, 0.49975]):
        scored(monkeypatch, resting, metric)
        assert rates(config) == pytest.approx([1e-2, 1e-2, 1e-2, 0.5e-2, 0.5e-2, 0.25e-2])


def test_moving_average_by_hand(tmp_path, monkeypatch):
    after_steps = []

    def step(self, *batch, original=training.Trainer.step):
        losses = original(self, *batch)
        after_steps.append({name: values.clone() for name, values in self.model.state_dict().items()})
        return losses

    monkeypatch.setattr(training.Trainer, "step", step)
    run(make_config(training__average=0.7, training__epochs=1), run_dir=tmp_path / "run")
    assert len(after_steps) == 3
    wanted = after_steps[0]
    for weights in after_steps[1:]:
        wanted = {name: 0.7 * values + 0.3 * weights[name] for name, values in wanted.items()}
    kept = torch.load(tmp_path / "run" / "best.pt", weights_only=True)["weights"]
    assert all((kept[name] - values).abs().max() <= 1e-6 for name, values in wanted.items())
    last = after_steps[-1]
    assert any((kept[name] - values).abs().max() > 1e-4 for name, values in last.items())


def test_clipping_bounds_the_gradient(monkeypatch):
    norms = []

    def step(self, original=torch.optim.AdamW.step):
        parameters = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in parameters]).norm()))
        return original(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(make_config(training__clip=0.05, training__epochs=1))
    assert len(norms) == 3 and max(norms) <= 0.0501
    norms.clear()
    run(make_config(training__clip=0.0, training__epochs=1))
    assert max(norms) > 0.1


@pytest.mark.parametrize("samples", [17, 18, 33, 5])
def test_any_size_of_the_last_batch(samples):
    config = make_config(objective__contrastive_weight=0.1, objective__components=4, training__epochs=2)
    record = run(config, make_splits(samples=(samples, 1, 1)))
    assert record.epochs == 2 and np.isfinite(record.test["mae"])


def test_absent_modalities_in_training():
    record = run(make_config(), make_splits(missing_probability=0.5))
    assert np.isfinite(list(record.test.values())).all()


def test_half_precision_stays_close():
    splits = make_splits(samples=(80, 40, 60))
    full, half = (run(make_config(training__precision=p), splits) for p in ("float32", "bf16"))
    assert half.test["mae"] == pytest.approx(full.test["mae"], abs=0.1)
    assert half.test["mae"] != full.test["mae"], "it had no effect"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__selection": "waf1"}, r"^training\.selection: wanted one of mae, .* got 'waf1'$"),
        ({"training__device": "abacus"}, r"^device: wanted 'auto', 'cpu' or one that is here, got 'abacus'"),
        ({"training__device": "cuda:99"}, r"^device: wanted .* got 'cuda:99'"),
        ({"model__modalities": {"near": 6, "other": 4}}, r"modalities.*'near': 6, 'far': 4.*'near': 6, 'other': 4"),
        ({"model__modalities": {"near": 5, "far": 4}}, r"'near'.*5.*"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(make_config(**changes))
    assert_one_line(caught)


@pytest.mark.parametrize("method", ["ridge", "svr"])
def test_controls_leave_a_record(tmp_path, method):
    config, splits = make_config(method=method), make_splits()
    record = run(config, splits, run_dir=tmp_path / "run")
    assert record.model == method and record.epochs == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "record.json", "predictions.csv"}
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    error = (table["prediction"] - table["target"]).abs()[table["split"] == "test"].mean()
    assert record.test["mae"] == pytest.approx(error, rel=1e-5)
    assert run(config, splits, run_dir=tmp_path / "run") == record
    with pytest.raises(ValueError, match=rf"holds the control '{method}'"):
        load_run(tmp_path / "run")


# --- a text encoder that is trained along ---


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("tiny-bert"))


def text_splits(encoder):
    splits = make_splits(samples=(24, 8, 8))

    def with_tokens(batch: Batch) -> Batch:
        ids = torch.randint(
            5, len(tiny_bert.WORDS), batch.masks["near"].shape, generator=torch.Generator().manual_seed(0)
        )
        return replace(batch, features={"near": ids, "far": batch.features["far"]})

    parts = {split: with_tokens(batch) for split, batch in splits.items()}
    return Splits(**parts, name="tokens", encoders={"near": encoder})


def encoder_weights(model):
    return {name: values for name, values in model.state_dict().items() if name.startswith("backbones")}


@pytest.mark.parametrize(
    ("fine_tune", "rate", "moves"), [(True, 1e-3, True), (True, 1e-12, False), (False, 1e-3, False)]
)
def test_the_text_encoder_has_a_rate_of_its_own(tmp_path, bert, fine_tune, rate, moves):
    splits = text_splits(TextEncoder(bert, fine_tune))
    config = make_config(training__encoder_learning_rate=rate, training__epochs=2, training__weight_decay=0.5)
    record = run(config, splits, run_dir=tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    start = encoder_weights(training.build_model(config, splits))
    change = {name: (v - start[name]).abs().max() for name, v in encoder_weights(loaded.model).items()}
    if moves:
        assert max(change.values()) > 1e-4
    else:
        assert max(change.values()) <= (0 if not fine_tune else 1e-8)
    assert loaded.history["learning_rate"][0] > 1e-5, "the rate that is recorded is the rest's"
    trained = [p for name, p in loaded.model.named_parameters() if fine_tune or not name.startswith("backbones")]
    assert record.parameters == sum(parameter.numel() for parameter in trained)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'")
    assert np.array_equal(table["prediction"].to_numpy(np.float32), loaded.predict(splits.test).squeeze(1).numpy())


def test_a_run_with_a_text_encoder_resumes(tmp_path, bert, monkeypatch):
    splits = text_splits(TextEncoder(bert, True))
    config = make_config(training__epochs=2, training__average=0.5, training__encoder_learning_rate=1e-3)
    run(config, splits, run_dir=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "write_table", lambda *_: (_ for _ in ()).throw(Killed))
        run(config, splits, run_dir=tmp_path / "cut")
    run(config, splits, run_dir=tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


# --- steps on an accelerator ---


def without_a_modality(splits, rows):
    mask = splits.train.masks["far"].clone()
    mask[rows] = False
    return replace(splits, train=replace(splits.train, masks={**splits.train.masks, "far": mask}))


def compile_as(monkeypatch, **options):
    """Compile without translation to machine code, which takes minutes and is PyTorch's own; the graphs stay."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, **options))


@pytest.mark.parametrize(("all_present", "compiled"), [(True, False), (False, False), (True, True)])
def test_a_step_never_looks_at_a_value(all_present, compiled, monkeypatch):
    """On tensors that have no values, whatever would make the host wait for an accelerator is an error.

    So is, compiled, what would cut the model or the objective in two.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    compile_as(monkeypatch, backend="eager", fullgraph=True)
    splits = make_splits() if all_present else without_a_modality(make_splits(), [1, 5, 30])
    rounds = {"objective__sinkhorn_tolerance": None, "objective__sinkhorn_iterations": 5}
    config = make_config(**rounds, training__average=0.9, training__compile=compiled)
    trainer = training.Trainer(config, splits, torch.device("meta"))
    for group in trainer.optimiser.param_groups:
        group.update(fused=False, foreach=True)  # there is no fused kernel for such tensors
    losses = trainer.step(torch.arange(8))
    assert {value.device.type for value in losses.values()} == {"meta"}
    with pytest.raises(RuntimeError, match="meta"):
        float(losses["total"])


def test_compiled_steps_are_the_same_steps(monkeypatch):
    compile_as(monkeypatch, backend="eager")
    plain, compiled = (
        training.Trainer(make_config(training__compile=how), make_splits(), torch.device("cpu"))
        for how in (False, True)
    )
    for trainer in (plain, compiled):
        torch.manual_seed(0)
        trainer.model.train()
        trainer.losses = [trainer.step(torch.arange(8)) for _ in range(2)][1]
    torch.testing.assert_close(compiled.losses, plain.losses)
    torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict())


def test_a_machine_without_a_compiler_is_told(monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nin a long story")

    monkeypatch.setattr(torch, "compile", lambda function: failing)
    with pytest.raises(ValueError, match=r"^training\.compile: wanted .* got InvalidCxxCompiler: .* found$"):
        run(make_config(training__compile=True))
