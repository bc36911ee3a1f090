"""Paired differences: metrics of weighted samples, who is paired with whom, and intervals that cover."""

import numpy as np
import pandas as pd
import pytest
import torch

from decalign_core.lab.comparison import DIFFERENCE, comparison, paired_difference, verdict, weighted_metrics
from decalign_core.lab.experiment import ExperimentConfig
from decalign_core.lab.metrics import emotion_metrics, metric_names, sentiment_metrics
from decalign_core.lab.results import RunRecord

RNG = np.random.default_rng(0)


def scored(scale, samples=80):
    bound = 1 if scale == "sims" else 3
    target = (RNG.uniform(-bound, bound, samples).round(1) * (RNG.random(samples) > 0.1)).astype(np.float32)
    return (target + RNG.normal(0, bound / 2, samples)).astype(np.float32), target


@pytest.mark.parametrize("scale", ["mosi", "sims"])
def test_equal_weights_give_the_metrics_of_the_field_and_repeated_samples_are_weights(scale):
    p, y = scored(scale)
    counts = RNG.integers(0, 3, len(p))
    weights = np.stack([np.ones(len(p)), counts])
    wanted = [sentiment_metrics(p, y, scale), sentiment_metrics(p.repeat(counts), y.repeat(counts), scale)]
    for name, metric in weighted_metrics(scale).items():
        found = metric(p[None], y, weights)
        assert found.shape == (2, 1)
        assert found[:, 0] == pytest.approx([w[name] for w in wanted], abs=1e-6), name
    assert tuple(weighted_metrics(scale)) == metric_names(scale)


def test_classes_have_the_same_weighted_metrics():
    logits, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    counts = RNG.integers(0, 3, 60)
    repeated = torch.from_numpy(np.arange(60).repeat(counts))
    wanted = emotion_metrics(logits[repeated], y[repeated])
    for name, metric in weighted_metrics("emotion").items():
        found = metric(logits.argmax(1).numpy()[None], y.numpy(), counts[None].astype(float))
        assert found.item() == pytest.approx(wanted[name])


def runs(noise, seeds=(1, 2, 3), folds=(None,), videos=12, offset=0.0):
    """Test tables by fold and seed: 10 utterances a video, the truth plus noise of the seed's own."""
    made = {}
    for fold in folds:
        truth = np.random.default_rng(100 + (fold or 0)).normal(size=videos * 10)
        for seed in seeds:
            error = np.random.default_rng(seed + 10 * (fold or 0)).normal(offset, noise, videos * 10)
            ids = [f"v{fold}{video}$_${clip}" for video in range(videos) for clip in range(10)]
            made[fold, seed] = pd.DataFrame({"id": ids, "target": truth, "prediction": truth + error})
    return made


def row(table, metric="mae"):
    return table.set_index("metric").loc[metric]


def test_the_difference_is_that_of_the_means_and_its_interval_holds_it():
    ours, baseline = runs(1.0, folds=(0, 1)), runs(0.5, folds=(0, 1))
    found = row(paired_difference(ours, baseline, resamples=500))
    mean = [np.mean([abs(t["prediction"] - t["target"]).mean() for t in side.values()]) for side in (ours, baseline)]
    assert found["difference"] == pytest.approx(mean[0] - mean[1], abs=1e-6)
    assert 0 < found["difference_low"] < found["difference"] < found["difference_high"]
    assert verdict("mae", found["difference_low"], found["difference_high"]) == "worse"


def test_equal_runs_differ_by_nothing():
    table = paired_difference(runs(1.0), runs(1.0), resamples=50)
    assert (table[["difference", "difference_low", "difference_high"]] == 0).all().all()


def test_more_videos_narrow_the_interval():
    widths = []
    for videos in (6, 96):
        found = row(paired_difference(runs(1.0, videos=videos), runs(0.9, videos=videos), resamples=400))
        widths.append(found["difference_high"] - found["difference_low"])
    assert widths[1] < widths[0] / 2


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for trial in range(60):
        seeds = tuple(range(1000 * trial, 1000 * trial + 5))
        ours, baseline = runs(0.5, seeds, videos=20), runs(0.5, tuple(s + 500 for s in seeds), videos=20)
        renamed = {(None, seed): table for seed, table in zip(seeds, baseline.values(), strict=True)}
        found = row(paired_difference(ours, renamed, resamples=200, seed=trial))
        covered += found["difference_low"] <= 0 <= found["difference_high"]
    assert covered >= 50


def both(first, second):
    return first | second


@pytest.mark.parametrize(
    ("ours", "baseline", "said"),
    [
        pytest.param(runs(1.0, folds=(0,)), runs(1.0, folds=(1,)), "of folds [0] against", id="another fold"),
        pytest.param(runs(1.0, (1,)), runs(1.0, (2,)), "seeds [1] against seeds [2]", id="one seed against another"),
        pytest.param(runs(1.0), runs(1.0, (1,)), "seeds [1, 2, 3] against seeds [1]", id="three seeds against one"),
        pytest.param(runs(1.0), runs(1.0, (1, 2)), "seeds [1, 2, 3] against seeds [1, 2]", id="three against two"),
        pytest.param(
            both(runs(1.0, (1, 2), (0,)), runs(1.0, (1,), (1,))), runs(1.0, folds=(0, 1)), "every fold", id="ragged"
        ),
        pytest.param({}, runs(1.0), "seeds [] of folds [] against", id="no run"),
        pytest.param(runs(1.0), runs(1.0, videos=3), "same test samples on fold None, got others", id="other samples"),
    ],
)
def test_a_run_without_a_partner_is_refused(ours, baseline, said):
    with pytest.raises(ValueError, match="^comparison: wanted") as caught:
        paired_difference(ours, baseline, resamples=10)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_fewer_seeds_are_compared_with_their_partners_alone():
    ours, baseline = runs(1.0, (2,)), runs(0.5)
    found, alone = (paired_difference(ours, side, resamples=20) for side in (baseline, runs(0.5, (2,))))
    pd.testing.assert_frame_equal(found, alone)


# --- run folders ---


def folders(place, model, variant, made):
    """Run folders that hold these predictions."""
    for (fold, seed), table in made.items():
        folder = place / f"{model}-{variant}-{fold}-{seed}"
        test = sentiment_metrics(table["prediction"].to_numpy(), table["target"].to_numpy())
        identity = {"config": ExperimentConfig().to_dict(), "config_hash": folder.name, "data_hash": "", "commit": ""}
        machine = {"device": "", "versions": {}, "seconds": 1.0, "peak_memory": 1}
        fitted = {"epochs": 1, "best_epoch": 1, "parameters": 1, "valid": {}, "test": test}
        RunRecord("synthetic", model, variant, fold, seed, **identity, **machine, **fitted).save(folder / "record.json")
        table.assign(split="test").to_csv(folder / "predictions.csv", index=False)
        yield folder


def differences(found, *row):
    return found.set_index(["dataset", "model", "variant", "metric"]).loc[row, list(DIFFERENCE)]


@pytest.mark.parametrize("control_first", [True, False])
def test_a_control_has_no_seed_and_stands_against_each(tmp_path, control_first):
    control, ours = runs(1.0, (7,), (0, 1)), runs(0.5, folds=(0, 1))
    there = [*folders(tmp_path, "ridge", "full", control), *folders(tmp_path, "decalign", "full", ours)]
    names = ("ridge", "decalign") if control_first else ("decalign", "ridge")
    found = comparison(there, (names[1], "full"), resamples=50)
    errors = [np.mean([abs(t["prediction"] - t["target"]).mean() for t in side.values()]) for side in (control, ours)]
    wanted = (errors[0] - errors[1]) * (1 if control_first else -1)
    shown = differences(found, "synthetic (folds)", names[0], "full", "mae")
    assert shown["difference"] == pytest.approx(wanted, abs=1e-6)


def test_a_bad_pair_leaves_its_row_empty_and_the_others_as_they_are(tmp_path, caplog):
    made = {
        "full": runs(0.5, (1, 2)),
        "good": runs(1.0, (1, 2)),
        "more": runs(1.0),
        "other": runs(1.0, (1, 2), videos=3),
    }
    there = [folder for variant, tables in made.items() for folder in folders(tmp_path, "decalign", variant, tables)]
    there += folders(tmp_path, "late", "full", runs(1.0, (3,)))  # one run, and no control
    found = comparison(there, resamples=20)
    assert found.query("metric == 'mae'").set_index(["model", "variant"])["n"].tolist() == [2, 2, 3, 2, 1]
    assert differences(found, "synthetic", "decalign", "good").notna().all(axis=None)
    for row in (("decalign", "full"), ("decalign", "more"), ("decalign", "other"), ("late", "full")):
        assert differences(found, "synthetic", *row).isna().all(axis=None)
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in told] == [
        "synthetic decalign more",
        "synthetic decalign other",
        "synthetic late full",
    ]


def test_without_any_pair_the_columns_are_there(tmp_path):
    there = [*folders(tmp_path, "decalign", "full", runs(0.5)), *folders(tmp_path, "late", "full", runs(1.0, (9,)))]
    assert comparison(there)[list(DIFFERENCE)].isna().all(axis=None)
    assert list(comparison([])) == list(comparison(there))


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("mae", 0.1, 0.2, "worse"),
        ("mae", -0.2, -0.1, "better"),
        ("corr", 0.1, 0.2, "better"),
        ("corr", -0.2, -0.1, "worse"),
        ("corr", -0.1, 0.1, "undecided at this n"),
        ("corr", float("nan"), float("nan"), "not compared"),
    ],
)
def test_verdicts(metric, low, high, said):
    assert verdict(metric, low, high) == said
