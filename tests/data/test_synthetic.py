"""The generator: what it promises of shapes, of the planted truth and of the difficulty."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities

SMALL = SyntheticConfig(samples=(40, 10, 20))


@pytest.fixture(scope="module")
def default():
    return generate()


@pytest.fixture(scope="module")
def classes():
    return generate(SyntheticConfig(task="classification"))


def pooled(batch, names=None):
    """Time averages over the valid frames, side by side."""
    means = [
        (batch.features[name] * batch.masks[name][..., None]).sum(1) / batch.masks[name].sum(1, keepdim=True)
        for name in names or batch.features
    ]
    return torch.cat(means, dim=1).numpy()


def ridge(splits, names, wanted):
    """Ridge from the pooled features of ``names`` to ``wanted(split)``: the test part's prediction and its R²."""
    x, test = pooled(splits.train, names), pooled(splits.test, names)
    mean, deviation = x.mean(0), x.std(0)
    model = Ridge(alpha=30.0).fit((x - mean) / deviation, wanted("train"))
    test = (test - mean) / deviation
    return model.predict(test), model.score(test, wanted("test"))


def factor(splits, key):
    return lambda split: splits.truth[split][key].numpy()


def test_the_same_on_every_call_and_another_for_another_seed():
    assert generate(SMALL).fingerprint() == generate(SMALL).fingerprint()
    assert generate(SMALL).fingerprint() != generate(replace(SMALL, seed=1)).fingerprint()
    assert generate().fingerprint() == generate(SyntheticConfig()).fingerprint()


def test_the_size_of_one_split_leaves_the_others_alone():
    one, other = generate(SMALL), generate(replace(SMALL, samples=(30, 10, 25)))
    torch.testing.assert_close(one.valid.features, other.valid.features, rtol=0, atol=0)
    torch.testing.assert_close(one.truth["valid"], other.truth["valid"], rtol=0, atol=0)


def test_no_two_random_streams_are_equal():
    truth = generate(replace(SMALL, samples=(20, 20, 20), unique_size=SMALL.common_size)).truth
    drawn = [values[:, 0] for split in truth.values() for key, values in split.items() if key.startswith("unique")]
    assert len(torch.stack(drawn).unique(dim=0)) == 9
    assert np.abs(np.corrcoef(torch.stack(drawn)) - np.eye(9)).max() < 0.8


def test_what_is_generated_is_a_data_set_of_the_package(default):
    assert (default.name, default.task, default.scale, default.outputs) == ("synthetic", "regression", "mosi", 1)
    assert default.modalities == {"text": 32, "audio": 12, "vision": 20}
    assert [len(batch) for _, batch in default.items()] == [600, 100, 200]
    ids = [name for _, batch in default.items() for name in batch.ids]
    assert (ids[0], ids[-1], len(set(ids))) == ("synthetic$_$000000", "synthetic$_$000899", 900)
    assert default.train.target.dtype == default.train.features["text"].dtype == torch.float32


def test_lengths_masks_and_padding(default):
    for name, spec in SyntheticConfig().modalities.items():
        values, mask = default.train.features[name], default.train.masks[name]
        assert values.shape == (600, spec.length_max, spec.width)
        lengths = mask.sum(1)
        assert (int(lengths.min()), int(lengths.max())) == (spec.length_min, spec.length_max)
        assert torch.equal(mask, torch.arange(spec.length_max) < lengths[:, None])
        assert not values[~mask].any()
        assert values[mask].isfinite().all()


def test_scores_are_means_of_five_answers_on_seven_levels(default):
    for _, batch in default.items():
        scores = batch.target
        assert scores.abs().max() <= 3
        torch.testing.assert_close(scores * 5, (scores * 5).round())
        assert set(scores.round().tolist()) == {-3, -2, -1, 0, 1, 2, 3}
    scores = default.train.target
    assert abs(scores.mean()) < 0.3
    assert 1.3 < scores.std() < 1.8


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_shapes_of_the_truth(task):
    splits = generate(replace(SMALL, task=task, common_size=5, unique_size=2))
    for (split, batch), count in zip(splits.items(), SMALL.samples, strict=True):
        truth = splits.truth[split]
        shapes = {key: tuple(values.shape) for key, values in truth.items()}
        uniques = {f"unique/{name}": (count, 2) for name in batch.features}
        expected = (count,) if task == "regression" else (count, 6)
        assert shapes == {"common": (count, 5), **uniques, "class": (count,), "expected": expected}
        assert truth["class"].dtype == torch.int64


def test_expected_is_the_mean_of_the_target(default):
    """Residuals of the closed-form expectation: centred, uncorrelated with it, and of the size that 5 raters leave."""
    expected, target = default.truth["train"]["expected"], default.train.target
    residual = (target - expected).numpy()
    assert abs(residual.mean()) < 0.06
    assert abs(np.corrcoef(residual, expected)[0, 1]) < 0.1
    assert 0.8 / np.sqrt(5) < residual.std() < 1.05 / np.sqrt(5)


def test_without_rater_noise_nothing_is_left_over():
    splits = generate(replace(SMALL, rater_noise=0.0))
    torch.testing.assert_close(splits.train.target, splits.truth["train"]["expected"])


def test_without_unique_weight_the_target_depends_on_the_common_factor_alone():
    splits = generate(SyntheticConfig(unique_weight=0.0, samples=(400, 2, 200)))
    common = splits.truth["train"]["common"].double()
    score = torch.special.ndtri(((splits.truth["train"]["expected"].double() + 3) / 6).clamp(1e-6, 1 - 1e-6))
    score = score[:, None]
    fitted = common @ torch.linalg.lstsq(common, score).solution
    assert np.corrcoef(fitted[:, 0], score[:, 0])[0, 1] > 0.99


def test_difficulty(default):
    """Mean < one modality < all of them < the truth, each step clear."""
    target = default.test.target.numpy()

    def error(prediction):
        return np.abs(prediction - target).mean()

    wanted = {"train": default.train.target.numpy(), "test": target}.get
    together = error(ridge(default, None, wanted)[0])
    alone = [error(ridge(default, [name], wanted)[0]) for name in default.modalities]
    assert error(np.median(wanted("train"))) > max(alone) + 0.1
    assert min(alone) > together + 0.08
    assert together > error(default.truth["test"]["expected"].numpy()) + 0.2


def test_every_modality_shows_the_common_factor_and_only_its_own_unique_one(default):
    for name in default.modalities:
        assert ridge(default, [name], factor(default, "common"))[1] > 0.5
        for other in default.modalities:
            score = ridge(default, [name], factor(default, f"unique/{other}"))[1]
            assert score > 0.4 if other == name else score < 0.05


def test_the_modality_gap_is_the_offset():
    def gap(offset):
        """Distance of the modalities' centroids in units of the spread within them."""
        batch = generate(SyntheticConfig(modalities=modalities(2, ModalitySpec(width=24, offset=offset)))).train
        one, other = (pooled(batch, [name]) for name in batch.features)
        return np.linalg.norm(one.mean(0) - other.mean(0)) / np.sqrt((one.var(0).sum() + other.var(0).sum()) / 2)

    assert gap(4.0) > 4
    assert gap(4.0) > 3 * gap(0.0)


def test_classes_have_centres_in_the_common_factor(default):
    truth = default.truth["train"]
    components = [truth["common"][truth["class"] == k] for k in range(7)]
    centres = torch.stack([values.mean(0) for values in components])
    assert torch.pdist(centres).min() > 2 * max(float(values.std(0).mean()) for values in components)
    nearest = torch.cdist(truth["common"], centres).argmin(1)
    assert (nearest == truth["class"]).float().mean() > 0.9


def test_classification(classes):
    assert (classes.name, classes.task, classes.scale, classes.outputs) == (
        "synthetic/classification",
        "classification",
        "emotion",
        6,
    )
    assert classes.train.target.dtype == torch.int64
    counts = classes.train.target.bincount(minlength=6)
    assert counts.min() > 30
    assert counts.argmin() == 0  # happiness is IEMOCAP's rarest class
    probabilities = classes.truth["test"]["expected"]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    best = (probabilities.argmax(1) == classes.test.target).float().mean()
    assert abs(best - probabilities.max(1).values.mean()) < 0.08
    assert 0.7 < best < 0.95
    shares = torch.nn.functional.one_hot(classes.train.target, 6).float().mean(0)
    torch.testing.assert_close(shares, classes.truth["train"]["expected"].mean(0), rtol=0, atol=0.05)


def test_another_number_of_classes():
    splits = generate(replace(SMALL, task="classification", classes=3))
    assert splits.outputs == 3
    assert set(splits.train.target.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_any_number_of_modalities(count, task):
    splits = generate(replace(SMALL, task=task, modalities=modalities(count)))
    assert list(splits.modalities) == [f"modality{number}" for number in range(1, count + 1)]
    assert sum(key.startswith("unique/") for key in splits.truth["test"]) == count


def test_missing_modalities_are_masked_and_change_nothing_else():
    whole = generate(SyntheticConfig(samples=(300, 5, 5)))
    gapped = generate(SyntheticConfig(samples=(300, 5, 5), missing_probability=0.4))
    present = torch.stack([mask.any(1) for mask in gapped.train.masks.values()])
    assert present.any(0).all()
    assert 0.5 < present.float().mean() < 0.75
    for name, here in zip(gapped.modalities, present, strict=True):
        assert not gapped.train.features[name][~here].any()
        assert torch.equal(gapped.train.features[name][here], whole.train.features[name][here])
    assert torch.equal(gapped.train.target, whole.train.target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": modalities(1)}, "modalities: wanted at least 2, got 1"),
        ({"task": "ranking"}, "task: wanted regression or classification, got 'ranking'"),
        ({"samples": (10, 0, 10)}, r"samples \(valid\): wanted at least 1, got 0"),
        ({"samples": (10, 10)}, "samples: wanted 3 numbers"),
        ({"common_size": -1}, "common_size: wanted at least 2, got -1"),
        ({"unique_size": 0}, "unique_size: wanted at least 1, got 0"),
        ({"classes": 1}, "classes: wanted at least 2, got 1"),
        ({"seed": -3}, "seed: wanted at least 0, got -3"),
        ({"rater_noise": float("nan")}, "rater_noise: wanted a number of at least 0, got nan"),
        ({"missing_probability": 1.0}, "missing_probability: wanted a number below 1, got 1.0"),
    ],
)
def test_errors_of_the_configuration(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        SyntheticConfig(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": -4}, "width: wanted at least 1, got -4"),
        ({"length_min": 0}, "length_min: wanted at least 1, got 0"),
        ({"length_min": 9, "length_max": 8}, "length_max: wanted at least 9, got 8"),
        ({"noise": -1.0}, "noise: wanted a number of at least 0, got -1.0"),
        ({"scale": 0.0}, "scale: wanted a number above 0, got 0"),
    ],
)
def test_errors_of_a_modality(changes, message):
    with pytest.raises(ValueError, match=message):
        ModalitySpec(**changes)


def test_one_frame_is_enough():
    splits = generate(replace(SMALL, modalities=modalities(2, ModalitySpec(width=1, length_min=1, length_max=1))))
    assert all(values.isfinite().all() for values in splits.train.features.values())
