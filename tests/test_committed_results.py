"""Committed results are run records: each says where it comes from, and the tables beside them follow from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import CASES
from decalign_core.lab.controls import CONTROLS
from decalign_core.lab.results import COLUMNS, RESULTS, committed, inventory, summary
from decalign_core.lab.sweep import MISSING
from decalign_core.peers import PEERS

FILES = sorted(path for path in RESULTS.glob("*.csv") if set(COLUMNS) <= set(pd.read_csv(path, nrows=0).columns))
OURS = [path for path in FILES if path.stem != "official_code"]
KEYS = ["dataset", "model", "variant"]
DATASETS = {"synthetic"} | {
    f"mosi_public/{name}" for name in ("unseen", "standard-hashed", "standard-frozen", "standard-finetuned")
}
DATASETS |= {f"mosi_public/unseen-missing-{chance:g}" for chance in MISSING}
MODELS = {"decalign", *PEERS, *CONTROLS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_says_where_it_comes_from(path):
    runs = pd.read_csv(path)
    assert list(runs.columns[: len(COLUMNS)]) == list(COLUMNS)
    known = [column for column in COLUMNS if column != "fold"]
    assert runs[known].notna().all().all()
    assert not runs.duplicated([*KEYS, "seed", "fold"]).any()
    assert not runs["config_hash"].duplicated().any() or path.stem == "official_code"
    assert set(runs["dataset"]) <= DATASETS and set(runs["model"]) <= MODELS
    assert not runs["commit"].str.contains("dirty|unknown").any()
    hashes = runs.groupby(["dataset", "fold"], dropna=False)["data_hash"].nunique()
    assert (hashes <= 2).all(), "all modalities, and the text alone"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_summary_is_that_of_the_runs(path):
    shown = pd.read_csv(path.with_name(f"{path.stem}_summary.csv"))
    computed = summary(pd.read_csv(path))
    both = shown.merge(computed, on=[*KEYS, "metric"], suffixes=("", "_computed"), how="outer")
    assert len(both) == len(shown) == len(computed)
    for name in ("n", "mean", "sd", "low", "high"):
        np.testing.assert_allclose(both[name], both[f"{name}_computed"], rtol=1e-9, equal_nan=True)
    of_full = shown[(shown["model"] == "decalign") & (shown["variant"] == "full")]
    assert of_full["difference"].isna().all()
    compared = shown.dropna(subset=["difference_low"])
    assert compared.empty or (compared["difference_low"] <= compared["difference"] + 1e-9).mean() > 0.95
    assert (compared["difference_low"] <= compared["difference_high"]).all()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_confusions_are_those_of_the_runs(path):
    table = pd.read_csv(path.with_name(f"{path.stem}_confusion.csv"))
    keys = [*KEYS, "fold", "seed"]
    totals = table.groupby(keys, dropna=False)["count"].sum()
    right = table[table["truth"] == table["pred"]].groupby(keys, dropna=False)["count"].sum()
    shares = (right / totals).rename("share").reset_index()
    both = pd.read_csv(path).merge(shares, on=keys, how="left")
    np.testing.assert_allclose(both["share"], both["acc7"], atol=1e-6)


def test_bf16_stays_within_the_interval_of_float32():
    table = pd.read_csv(RESULTS / "bf16_summary.csv").set_index(["variant", "dataset", "metric"])
    reference, other = table.loc["float32"], table.loc["bf16"]
    assert len(reference) == len(other) == 2 * 8 and (table["n"] == 5).all()
    assert ((reference["low"] <= other["mean"]) & (other["mean"] <= reference["high"])).all()
    np.testing.assert_allclose(other["difference"], other["mean"] - reference["mean"], atol=1e-6)


def test_the_inventory_is_counted():
    shown = pd.read_csv(RESULTS / "inventory.csv")
    pd.testing.assert_frame_equal(shown, inventory(committed("runs")))


TIMES = sorted(RESULTS.glob("benchmarks_*.csv"))


@pytest.mark.parametrize("path", TIMES, ids=lambda path: path.stem)
def test_every_time_says_where_it_was_measured(path):
    table = pd.read_csv(path)
    for name in ("commit", "device", "versions", "threads", "rounds"):
        assert table[name].notna().all() and table[name].nunique() == 1
    assert not table["commit"].str.contains("dirty|unknown").any()
    assert path.stem.removeprefix("benchmarks_") in CASES


def test_nothing_of_the_data_is_committed():
    for path in Path(RESULTS).glob("*.csv"):
        columns = set(pd.read_csv(path, nrows=0).columns)
        assert not columns & {"id", "ids", "target", "prediction", "transcript"}, path.name
