"""Committed results are run records, and the tables on the pages are computed from them."""

from pathlib import Path

import pandas as pd

from decalign_core.lab.results import COLUMNS, summary, wide

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"
SHOWN = ["mae", "corr", "acc2_has0", "acc2_non0"]


def test_every_row_says_where_it_comes_from():
    runs = pd.read_csv(RESULTS / "mosi_public.csv")
    assert list(runs.columns[: len(COLUMNS)]) == list(COLUMNS)
    known = [column for column in COLUMNS if column != "fold"]
    assert runs[known].notna().all().all()
    assert not runs.duplicated(["dataset", "model", "variant", "seed", "fold"]).any()
    assert runs.groupby(["dataset", "fold"], dropna=False)["data_hash"].nunique().eq(2).all()  # all modalities, text


def test_five_seeds_and_five_folds_are_there():
    runs = pd.read_csv(RESULTS / "mosi_public.csv").query("model == 'decalign'")
    stated, folds = runs[runs["fold"].isna()], runs[runs["fold"].notna()]
    assert stated.groupby("dataset")["seed"].nunique().to_dict() == {
        "mosi_public/standard-frozen": 5,
        "mosi_public/standard-hashed": 5,
        "mosi_public/unseen": 5,
    }
    assert folds.groupby("fold")["seed"].nunique().to_dict() == dict.fromkeys(range(5), 5)


def test_the_table_on_the_page_is_computed_from_the_runs():
    shown = pd.read_csv(RESULTS / "mosi_public_summary.csv", dtype=str)
    computed = wide(summary(pd.read_csv(RESULTS / "mosi_public.csv"), SHOWN)).astype(str)
    computed["dataset"] = computed["dataset"].str.removeprefix("mosi_public/")
    pd.testing.assert_frame_equal(shown, computed)
