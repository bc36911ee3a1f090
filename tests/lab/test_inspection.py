"""What is kept of a run beside its metrics: confusion counts and modality gaps."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from decalign_core.data import load
from decalign_core.lab.experiment import configure
from decalign_core.lab.gap import modality_gap
from decalign_core.lab.inspection import confusion, gaps, inspect
from decalign_core.lab.training import build_model, train

SMALL = {"model.width": 8, "model.heads": 2, "training.epochs": 1, "training.batch_size": 150, "training.device": "cpu"}


def test_confusion_counts_by_hand():
    scores = {"split": ["test"] * 4 + ["valid"], "target": [-3, 0.4, 0.6, 2.5, 1], "prediction": [-9, 0, 1.4, 2.4, 1]}
    table = confusion(pd.DataFrame(scores))
    counts = table.set_index(["truth", "pred"])["count"]
    assert len(table) == 49 and counts.sum() == 4
    assert counts[-3, -3] == counts[0, 0] == counts[1, 1] == counts[2, 2] == 1
    logits = {"split": ["test"] * 3, "target": [0, 1, 1], "logit_0": [2, 3, 0.0], "logit_1": [1, 1, 5.0]}
    assert confusion(pd.DataFrame(logits))["count"].tolist() == [1, 0, 1, 1]


def test_gaps_are_those_of_the_pooled_parts():
    splits = load("synthetic")
    model = build_model(configure(SMALL), splits).eval()
    table = gaps(model, splits.test)
    wanted = modality_gap(model(splits.test).pooled_common).table()
    found = table[table["part"] == "pooled_common"].reset_index(drop=True)
    assert list(table["part"].unique()) == ["pooled_unique", "pooled_common", "latent"]
    for measure in ("centroid", "paired", "consistency", "matching"):
        assert found[measure].to_numpy() == pytest.approx(wanted[measure].to_numpy(), rel=1e-4)


def test_a_pair_that_fewer_than_two_samples_have_is_left_out():
    splits = load("synthetic", missing=1.0)  # every sample keeps one modality, so nobody has two
    model = build_model(configure(SMALL), splits).eval()
    assert gaps(model, splits.test).empty
    masks = {name: mask.clone() for name, mask in splits.test.masks.items()}
    for mask, there in zip(masks.values(), (True, True, False), strict=True):
        mask[:3] = there
    assert set(gaps(model, replace(splits.test, masks=masks))["pair"]) == {" – ".join(list(masks)[:2])}


def test_inspect_writes_both_tables_and_a_control_has_no_gap(tmp_path):
    splits = load("synthetic")
    record = train(configure(SMALL), splits, run_dir=tmp_path / "model", progress=False)
    train(configure({"method": "ridge"}), splits, run_dir=tmp_path / "control", progress=False)
    for name in ("model", "control"):
        inspect(tmp_path / name, splits)
    table = pd.read_csv(tmp_path / "model" / "confusion.csv")
    right = table[table["truth"] == table["pred"]]["count"].sum() / table["count"].sum()
    assert np.isclose(right, record.test["acc7"])
    assert set(table["model"]) == {"decalign"} and set(table["seed"]) == {record.seed}
    assert (tmp_path / "model" / "gap.csv").is_file() and not (tmp_path / "control" / "gap.csv").exists()
