"""Run records and what they add up to, by hand and with SciPy; the published tables."""

import json
import math
import os
import subprocess
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from decalign_core.lab import results
from decalign_core.lab.experiment import ExperimentConfig
from decalign_core.lab.results import COLUMNS, PUBLISHED, RunRecord, collect, committed, published, summary, wide

METRICS = {"mae": 0.8, "corr": 0.7, "acc2_has0": 0.8, "f1_has0": 0.79}
RECORD = RunRecord(
    dataset="synthetic",
    model="decalign",
    variant="full",
    fold=None,
    seed=1,
    config=ExperimentConfig().to_dict(),
    config_hash="0" * 16,
    data_hash="1" * 16,
    commit="abc",
    device="cpu (a)",
    versions={"python": "3.11"},
    seconds=1.5,
    peak_memory=1000,
    epochs=3,
    best_epoch=2,
    parameters=10,
    valid=METRICS,
    test=METRICS,
)


def test_record_has_the_fields_of_the_design():
    design = "config, config_hash, data_hash, commit, seed, device, versions, seconds, peak_memory, epochs, valid, test"
    assert set(design.split(", ")) <= {field.name for field in fields(RunRecord)}
    columns = "variant, dataset, seed, model, fold, config_hash, data_hash, commit, device, seconds, peak_memory"
    assert list(COLUMNS) == columns.split(", ")


def test_record_round_trip(tmp_path):
    RECORD.save(tmp_path / "record.json")
    assert RunRecord.load(tmp_path / "record.json") == RECORD
    row = RECORD.row()
    assert list(row)[: len(COLUMNS)] == list(COLUMNS)
    assert row["mae"] == 0.8 and row["valid_corr"] == 0.7 and row["peak_memory"] == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such record"),
        ("{", "not a run record"),
        ("[]", "not a run record"),
        ("3", "not a run record"),
        ("{}", "not a run record"),
        (json.dumps({k: v for k, v in asdict(RECORD).items() if k != "seed"}), "not a run record .*seed"),
        ("\udcff", "not a run record"),
    ],
)
def test_faulty_records_are_named(tmp_path, text, message):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"^{path}: {message}") as caught:
        RunRecord.load(path)
    assert "\n" not in str(caught.value)


# --- the commit of a record ---


@pytest.fixture
def git(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # a hook's, of another repository
        monkeypatch.delenv(name)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@b")

    def call(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    call("init", "-q")
    return call


def module(folder, content=""):
    """Where the module that asks would lie in a copy of the package."""
    file = folder / "decalign_core" / "lab" / "results.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def test_a_commit_is_recorded_only_of_the_repository_that_tracks_the_code(tmp_path, git):
    own, copy = module(tmp_path), module(tmp_path / "venv")
    assert results._commit(own) == "unknown", "nothing is committed"
    (tmp_path / ".gitignore").write_text("venv\n")
    git("add", ".")
    git("commit", "-qm", "first")
    assert results._commit(own) == git("rev-parse", "--short=12", "HEAD")
    assert results._commit(copy) == "unknown"
    (tmp_path / ".gitignore").write_text("venv\nother\n")
    assert results._commit(own).endswith("+dirty"), "a change anywhere in the repository"


def test_what_is_committed_after_the_code_was_loaded_is_not_what_runs(tmp_path, git):
    file = module(tmp_path)
    git("add", ".")
    git("commit", "-qm", "first")
    first = results._commit(file)
    module(tmp_path, "changed")
    git("commit", "-qam", "second")
    assert results._commit(file) == f"{first}+dirty"


# --- collect ---


def test_records_below_folders_and_rows_of_tables(tmp_path):
    for seed in (1, 2):
        replace(RECORD, seed=seed).save(tmp_path / "runs" / f"s{seed}" / "record.json")
    (tmp_path / "runs" / "s1" / "history.csv").write_text("epoch,task\n1,0.5\n")
    pd.DataFrame([replace(RECORD, seed=seed, fold=0).row() for seed in (3, 4)]).to_csv(
        tmp_path / "table.csv", index=False
    )
    got = collect([tmp_path / "runs", tmp_path / "table.csv"])
    assert list(got["seed"]) == [1, 2, 3, 4]
    assert set(COLUMNS) <= set(got.columns) and (got["mae"] == 0.8).all() and (got["valid_corr"] == 0.7).all()
    assert list(collect([str(tmp_path)])["seed"]) == [1, 2, 3, 4], "one folder that holds both"
    assert list(collect([tmp_path / "runs" / "s2" / "record.json"])["seed"]) == [2]


def test_hashes_of_digits_are_no_numbers(tmp_path):
    record = replace(RECORD, config_hash="0123456789012345", data_hash="12345678901e2345", commit="012345678901")
    record.save(tmp_path / "s1" / "record.json")
    pd.DataFrame([record.row()]).to_csv(tmp_path / "runs.csv", index=False)
    assert len(collect([tmp_path])) == 1
    (read,) = committed(folder=tmp_path).to_dict("records")
    assert all(read[name] == getattr(record, name) for name in ("config_hash", "data_hash", "commit"))


@pytest.mark.parametrize("name", ["nowhere", "empty", "other.csv", "broken", "empty.csv", "missing.json"])
def test_paths_without_records_are_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"\w") as caught:
        collect([tmp_path / name])
    assert "\n" not in str(caught.value)
    assert name == "empty" or name in str(caught.value)


def test_an_empty_file_in_a_folder_hides_no_record(tmp_path):
    RECORD.save(tmp_path / "record.json")
    (tmp_path / "notes.csv").write_text("")
    assert len(collect([tmp_path])) == 1


# --- summary ---


def many(variant, values, dataset="synthetic"):
    rows = [
        replace(RECORD, variant=variant, dataset=dataset, seed=seed, test=METRICS | {"mae": value}).row()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_summary_by_hand():
    runs = pd.concat([many("full", [0.7, 0.8, 0.75, 0.9]), many("no_mmd", [0.6, 1.0]), many("no_sem", [0.5])])
    table = summary(runs, ["mae"]).set_index("variant")
    assert list(table.index) == ["full", "no_mmd", "no_sem"]
    for variant, values in {"full": [0.7, 0.8, 0.75, 0.9], "no_mmd": [0.6, 1.0]}.items():
        row = table.loc[variant]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
        assert row["n"] == len(values)
        assert row[["mean", "sd", "low", "high"]].astype(float).tolist() == pytest.approx([mean, deviation, low, high])
    single = table.loc["no_sem"]
    assert single["n"] == 1 and single["mean"] == 0.5 and np.isnan(single[["sd", "low", "high"]].astype(float)).all()


def test_summary_keeps_groups_and_metrics_apart():
    runs = pd.concat([many("full", [0.7, 0.8]), many("full", [0.1, 0.2], dataset="mosi_public/unseen")])
    table = summary(runs)
    assert list(table.columns) == ["dataset", "model", "variant", "metric", "n", "mean", "sd", "low", "high"]
    assert list(table["metric"][:4]) == list(METRICS) and len(table) == 2 * len(METRICS)
    means = table[table["metric"] == "mae"].set_index("dataset")["mean"]
    assert means.to_dict() == pytest.approx({"synthetic": 0.75, "mosi_public/unseen": 0.15})


def test_wider_confidence_gives_wider_intervals():
    runs = many("full", [0.7, 0.8, 0.9])
    low = [summary(runs, ["mae"], confidence)["low"][0] for confidence in (0.5, 0.95, 0.99)]
    assert low == sorted(low, reverse=True)


def test_missing_values_are_left_out():
    runs = many("full", [0.7, 0.8, float("nan")])
    row = summary(runs, ["mae"]).iloc[0]
    assert row["n"] == 2 and row["mean"] == pytest.approx(0.75)


@pytest.mark.parametrize(("fold", "where"), [(None, ""), (2, " fold 2")])
def test_two_configurations_of_a_row_are_no_sample(fold, where):
    one, other = (replace(RECORD, fold=fold, config_hash=digit * 16).row() for digit in "ab")
    said = rf"^synthetic decalign full{where}, seed 1: wanted one configuration a row, got a{{16}} and b{{16}}; "
    with pytest.raises(ValueError, match=said) as caught:
        summary(pd.DataFrame([one, other]))
    assert "\n" not in str(caught.value)
    assert summary(pd.DataFrame([one, other | {"variant": "other"}]), ["mae"])["n"].tolist() == [1, 1]
    assert summary(pd.DataFrame([one, other | {"seed": 2}]), ["mae"])["n"].tolist() == [2 if fold is None else 1]


def test_unknown_metrics_are_named():
    with pytest.raises(ValueError, match="metrics?: wanted .*mae.* got '?accuracy"):
        summary(many("full", [0.7]), ["accuracy"])


def test_wide_has_a_row_a_group():
    table = wide(summary(pd.concat([many("full", [0.7, 0.8]), many("no_mmd", [0.5])])))
    assert list(table.columns) == ["dataset", "model", "variant", "n", *METRICS]
    assert list(table["variant"]) == ["full", "no_mmd"] and list(table["n"]) == [2, 1]
    half = stats.t.ppf(0.975, 1) * 0.05
    assert table["mae"][0] == f"0.750\u00a0±\u00a0{half:.3f}" and table["mae"][1] == "0.500"


def test_wide_has_one_row_where_a_metric_is_undefined_in_some_runs():
    runs = many("full", [0.7, 0.8, float("nan")])
    assert len(wide(summary(runs))) == 1


# --- published ---


def test_published_tables_have_the_papers_rows():
    rows = {"table1": 28, "table2": 14, "table3": 5, "table4": 5, "figure4": 4 * 49, "figure7": 50}
    assert {name: len(published(name)) for name in rows} == rows
    assert {path.stem.split("_")[0] for path in PUBLISHED.glob("*.csv")} == {*rows, "mmsa"}


def test_the_published_files_say_where_they_are_from():
    for name in ("mmsa_results", "mmsa_unseen"):
        assert published(name)["source"].str.startswith("thuiar/MMSA a94e65d").all()
    rows = published("mmsa_results").set_index(["dataset", "model"])
    assert rows.loc[("mosei", "CENet"), ["mae", "corr", "acc2_non0"]].tolist() == [0.5259, 0.7775, 86.38]
    assert rows.loc[("mosi", "Self-MM"), ["mae", "acc2_has0", "acc2_non0"]].tolist() == [0.708, 83.44, 85.46]
    assert rows.index.is_unique


def test_published_numbers():
    ours = published("table1").query("model == 'DecAlign'").set_index("dataset")
    assert ours.loc["mosi", ["mae", "corr", "acc2", "acc7", "f1"]].tolist() == [0.735, 0.811, 85.75, 45.07, 85.82]
    assert ours.loc["mosei", ["mae", "corr", "acc2", "acc7", "f1"]].tolist() == [0.543, 0.768, 86.48, 55.02, 86.07]
    second = published("table2").set_index("model").loc["DecAlign"]
    assert second.tolist() == [0.403, 81.85, 73.35, 73.43]
    third = published("table3").set_index(["mfd", "hete", "homo"])
    assert third.loc[(1, 0, 1), ["mosi_mae", "mosei_mae"]].tolist() == [0.754, 0.588]
    assert third.loc[(0, 0, 0), ["mosi_mae", "mosi_f1", "mosei_mae", "mosei_f1"]].tolist() == [
        0.794,
        81.56,
        0.624,
        81.87,
    ]
    fourth = published("table4").set_index(["proto_ot", "ct", "sem", "mmd"])
    assert fourth.loc[(1, 1, 0, 1), ["mosi_mae", "mosi_f1", "mosei_mae", "mosei_f1"]].tolist() == [
        *(0.738, 84.73, 0.553, 85.33)
    ]
    grid = published("figure7").set_index(["dataset", "beta", "alpha"])["f1"]
    assert (grid["mosi", 0.05, 0.05], grid["mosi", 0.5, 0.5], grid["mosei", 0.5, 0.5]) == (85.8, 38.2, 40.4)
    confusion = published("figure4").query("model == 'DecAlign'")
    assert confusion["count"].sum() == 678 and confusion.query("truth == pred")["count"].sum() == 309


def test_published_by_whole_name_and_folder(tmp_path):
    assert published("table3_modules").equals(published("table3"))
    (tmp_path / "table9_x.csv").write_text("a\n1\n")
    assert published("table9", tmp_path)["a"].tolist() == [1]
    with pytest.raises(ValueError, match=r"^published table: wanted one of figure4, .*table4, got 'table9'$"):
        published("table9")
