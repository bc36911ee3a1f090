"""The door to the data sets, and the preparation that is fitted on the training split alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import mmsa_fixtures as fixtures

from decalign_core.data import NAMES, PROTOCOLS, DataError, describe, load, preparation, standardised, with_missing
from decalign_core.data.mmsa import load_mmsa
from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.nn.text import TextEncoder
from decalign_core.types import Batch, Splits


@pytest.fixture(scope="module")
def synthetic():
    return load("synthetic")


def tiny(train=6, valid=3, test=4, seed=0):
    """Two float modalities, one of token ids; random lengths, one sample without "low"."""
    generator = torch.Generator().manual_seed(seed)

    def batch(samples):
        lengths = torch.randint(1, 6, (samples, 1), generator=generator)
        mask = torch.arange(5) < lengths
        low = mask.clone()
        low[0] = False
        scale = torch.tensor([1.0, 10.0, 0.1])
        return Batch(
            {
                "low": 3 + scale * torch.randn(samples, 5, 3, generator=generator),
                "high": torch.randn(samples, 5, 2, generator=generator) - 50,
                "words": torch.randint(0, 9, (samples, 5), generator=generator),
            },
            {"low": low, "high": mask, "words": mask},
            torch.randn(samples, generator=generator),
            [f"v$_${index}" for index in range(samples)],
        )

    return Splits(batch(train), batch(valid), batch(test), encoders={"words": TextEncoder("any")})


# --- load ---


def test_names_are_those_of_the_design():
    assert set(NAMES) == {"synthetic", "mosi", "mosei", "sims", "iemocap", "mosi_public"}
    assert set(PROTOCOLS) == set(NAMES)


def test_synthetic_is_the_generators(synthetic):
    assert synthetic.fingerprint() == generate().fingerprint()
    assert synthetic.name == "synthetic" and synthetic.task == "regression" and synthetic.outputs == 1
    named = load("synthetic", "nowhere", "regression")
    assert named.fingerprint() == synthetic.fingerprint()
    classes = load("synthetic", protocol="classification")
    assert classes.name == "synthetic/classification" and classes.outputs == 6 and classes.scale == "emotion"
    assert classes.fingerprint() == generate(SyntheticConfig(task="classification")).fingerprint()


def test_modalities_are_kept_in_the_wanted_order(synthetic):
    some = load("synthetic", modalities=["vision", "text"])
    for split, batch in some.items():
        whole = dict(synthetic.items())[split]
        assert list(batch.features) == list(batch.masks) == ["vision", "text"]
        assert torch.equal(batch.features["vision"], whole.features["vision"])
        assert torch.equal(batch.target, whole.target)
    assert list(some.modalities) == ["vision", "text"]


def test_standardising_by_name_touches_no_other_modality(synthetic):
    some = load("synthetic", standardise=("audio",))
    wanted = standardised(synthetic, ["audio"])
    assert some.fingerprint() == wanted.fingerprint()
    assert torch.equal(some.test.features["text"], synthetic.test.features["text"])
    assert not torch.equal(some.test.features["audio"], synthetic.test.features["audio"])
    clipped = load("synthetic", standardise=("audio",), clip_percentiles=(5, 95))
    assert clipped.fingerprint() == standardised(synthetic, ["audio"], (5, 95)).fingerprint() != some.fingerprint()


def test_standardising_what_was_not_kept_is_no_fault():
    assert list(load("synthetic", modalities=["text", "vision"], standardise=("audio",)).modalities) == [
        "text",
        "vision",
    ]


def test_files_are_standardised_by_name_or_where_it_suits(tmp_path):
    fixtures.write(fixtures.mosi_aligned(), tmp_path / "MOSI/mosi_aligned_50.pkl", 4)
    raw = load_mmsa("mosi", tmp_path)
    named = load("mosi", tmp_path, standardise=("audio",), clip_percentiles=(1, 99))
    assert named.fingerprint() == standardised(raw, ["audio"], (1, 99)).fingerprint()
    suits = standardised(raw, ["audio", "vision"], (1, 99))
    assert load("mosi", tmp_path, clip_percentiles=(1, 99)).fingerprint() == suits.fingerprint()
    alone = load("mosi", tmp_path, modalities=["text"], clip_percentiles=(1, 99))  # a preset's, beside a text alone
    assert torch.equal(alone.train.features["text"], raw.train.features["text"])


@pytest.mark.parametrize("name", ["mosi", "mosei", "sims", "iemocap", "mosi_public"])
def test_missing_files_are_one_line(name, tmp_path):
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    assert isinstance(caught.value, ValueError)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


# --- describe ---


def test_description_counts_by_hand():
    splits = tiny()
    table = describe(splits)
    assert list(table["split"]) == ["train"] * 3 + ["valid"] * 3 + ["test"] * 3
    assert list(table["modality"]) == ["low", "high", "words"] * 3
    for _, row in table.iterrows():
        mask = dict(splits.items())[row["split"]].masks[row["modality"]]
        lengths = [int(sum(sample)) for sample in mask.tolist()]
        assert row["samples"] == len(lengths)
        assert row["mean frames"] == pytest.approx(sum(lengths) / len(lengths))
        assert row["most frames"] == max(lengths)
        assert row["absent"] == lengths.count(0)
    assert list(table["width"][:3]) == [3, 2, "any"]
    assert list(table["absent"][table["modality"] == "low"]) == [1, 1, 1]


# --- standardised ---


def frames(splits, split, name):
    batch = dict(splits.items())[split]
    return batch.features[name][batch.masks[name]]


def test_valid_training_frames_get_mean_zero_and_variance_one():
    splits = tiny(train=40)
    result = standardised(splits)
    for name in ("low", "high"):
        values = frames(result, "train", name).double()
        assert values.mean(0).abs().max() <= 1e-5
        assert (values.std(0, correction=0) - 1).abs().max() <= 1e-5
    assert torch.equal(result.train.features["words"], splits.train.features["words"])


def test_other_splits_take_the_training_splits_map():
    splits = tiny(train=20)
    result = standardised(splits, ["low"])
    raw = frames(splits, "train", "low").double().numpy()
    for split, batch in result.items():
        wanted = (frames(splits, split, "low").double().numpy() - raw.mean(0)) / raw.std(0)
        assert np.abs(frames(result, split, "low").numpy() - wanted).max() <= 1e-4
        assert batch.features["low"][~batch.masks["low"]].eq(0).all()
        assert torch.equal(batch.features["high"], dict(splits.items())[split].features["high"])
        assert batch.features["low"].dtype == torch.float32


def test_statistics_are_of_numbers():
    splits = tiny()
    low = splits.valid.features["low"].clone()
    low[1, 0, 2] = float("nan")
    splits = replace(splits, valid=replace(splits.valid, features={**splits.valid.features, "low": low}))
    with pytest.raises(
        ValueError, match=r"^splits.valid: features\['low'\]: wanted finite numbers, got 1 .* 'v\$_\$1'$"
    ):
        standardised(splits)
    standardised(splits, ["high"])


def test_clipping_comes_before_the_statistics():
    splits = tiny(train=40)
    result = standardised(splits, ["low"], (10, 90))
    raw = frames(splits, "train", "low").double().numpy()
    low, high = np.percentile(raw, 10, axis=0), np.percentile(raw, 90, axis=0)
    cut = np.clip(raw, low, high)
    for split in ("train", "test"):
        wanted = (np.clip(frames(splits, split, "low").double().numpy(), low, high) - cut.mean(0)) / cut.std(0)
        assert np.abs(frames(result, split, "low").numpy() - wanted).max() <= 1e-4


def test_constant_columns_become_zero():
    splits = tiny()
    features = splits.train.features["low"].clone()
    features[..., 1] = 7.0
    train = replace(splits.train, features={**splits.train.features, "low": features})
    result = standardised(replace(splits, train=train), ["low"])
    for _, batch in result.items():
        assert batch.features["low"].isfinite().all() and batch.features["low"][..., 1].eq(0).all()


@pytest.mark.parametrize("bad", [1e6, float("nan"), float("inf"), float("-inf")])
def test_padding_never_enters(bad):
    splits = tiny()

    def spoiled(batch):
        x = batch.features["low"].where(batch.masks["low"].unsqueeze(-1), bad)
        return replace(batch, features={**batch.features, "low": x})

    other = replace(splits, **{split: spoiled(batch) for split, batch in splits.items()})
    for percentiles in (None, (5, 95)):
        wanted, got = standardised(splits, ["low"], percentiles), standardised(other, ["low"], percentiles)
        for (_, one), (_, two) in zip(wanted.items(), got.items(), strict=True):
            assert torch.equal(one.features["low"], two.features["low"])


@pytest.mark.parametrize("percentiles", [None, (5, 95)])
def test_in_place_and_by_parts_it_is_the_same(percentiles, monkeypatch):
    splits = tiny(train=40)
    wanted = standardised(splits, clip_percentiles=percentiles)
    assert splits.fingerprint() == tiny(train=40).fingerprint(), "the features that were given are as before"
    monkeypatch.setattr(preparation, "_PART", 600)  # a column, and a few rows
    by_parts = standardised(splits, clip_percentiles=percentiles)
    result = standardised(splits, clip_percentiles=percentiles, in_place=True)
    assert result.fingerprint() == by_parts.fingerprint()
    for split, batch in wanted.items():
        for name in ("low", "high"):
            values = dict(result.items())[split].features[name]
            assert values is dict(splits.items())[split].features[name]
            torch.testing.assert_close(values, batch.features[name], rtol=1e-6, atol=1e-6)


def test_the_test_split_never_enters():
    one, two = tiny(), tiny(test=9)
    two = replace(two, train=one.train, valid=one.valid)
    assert torch.equal(standardised(one).train.features["low"], standardised(two).train.features["low"])
    assert torch.equal(standardised(one).valid.features["high"], standardised(two).valid.features["high"])


def test_a_modality_absent_from_training_is_left_alone():
    splits = tiny()
    nothing = torch.zeros_like(splits.train.masks["low"])
    splits = replace(splits, train=replace(splits.train, masks=splits.train.masks | {"low": nothing}))
    result = standardised(splits)
    assert torch.equal(result.test.features["low"], splits.test.features["low"])


@pytest.mark.parametrize("name", ["smell", "words"])
def test_unknown_modalities_are_named(name):
    with pytest.raises(ValueError, match=rf"^standardise: wanted modalities among \['low', 'high'\], got '{name}'$"):
        standardised(tiny(), [name])


# --- with_missing ---


def present(batch):
    return torch.stack([mask.any(dim=1) for mask in batch.masks.values()], dim=1)


def test_the_share_that_is_hidden_is_the_chance_less_what_must_stay(synthetic):
    whole = present(synthetic.train)
    for p in (0.1, 0.5, 0.9, 1.0):
        left, m = present(with_missing(synthetic.train, p)), whole.shape[1]
        assert left.any(dim=1).all() and not (left & ~whole).any()
        share = 1 - float(left.sum() / whole.sum())
        wanted = p - p**m / m
        assert abs(share - wanted) <= 4 * (wanted * (1 - wanted) / whole.numel()) ** 0.5 + 1e-9, "four standard errors"


def test_a_greater_chance_hides_more_and_what_a_smaller_one_hides(synthetic):
    left = [present(with_missing(synthetic.train, p)) for p in (0, 0.1, 0.3, 0.6, 0.9)]
    assert torch.equal(left[0], present(synthetic.train))
    assert all(not (more & ~less).any() and more.sum() < less.sum() for less, more in zip(left, left[1:], strict=False))


def test_what_is_hidden_follows_from_draw_sample_and_modality_alone(synthetic):
    rows = torch.randperm(len(synthetic.train))
    one, two = with_missing(synthetic.train, 0.5)[rows], with_missing(synthetic.train[rows], 0.5)
    assert all(torch.equal(one.masks[name], two.masks[name]) for name in one.masks)
    other = with_missing(synthetic.train, 0.5, draw=1)[rows]
    assert 0.2 < float((present(other) != present(one)).float().mean()) < 0.6, "another draw is another half"


def test_hidden_features_are_0_and_the_rest_is_untouched():
    for _, batch in tiny().items():
        hidden = with_missing(batch, 0.7)
        for name, values in batch.features.items():
            gone = ~hidden.masks[name].any(dim=1)
            assert hidden.features[name].dtype == values.dtype
            assert (hidden.features[name][gone] == 0).all()
            assert torch.equal(hidden.features[name][~gone], values[~gone])
            assert torch.equal(hidden.masks[name][~gone], batch.masks[name][~gone])
        assert torch.equal(hidden.target, batch.target) and list(hidden.ids) == list(batch.ids)


def test_a_sample_keeps_one_of_the_modalities_that_it_has():
    batch = tiny().train  # its first sample lacks "low"
    left = present(with_missing(batch, 1.0))
    assert left.sum(dim=1).eq(1).all() and not left[0, 0]


def test_a_trimmed_batch_does_not_say_who_was_present_before():
    assert with_missing(tiny().train.trimmed(), 1.0).present is None


def test_incomplete_data_have_a_name_of_their_own_and_hide_before_they_standardise(synthetic):
    splits = load("synthetic", missing=0.5, standardise=["audio"])
    assert (splits.name, load("synthetic", missing=0.0).name) == ("synthetic-missing-0.5", "synthetic")
    assert load("synthetic", missing=0.0).fingerprint() == synthetic.fingerprint() != splits.fingerprint()
    values = splits.train.features["audio"][splits.train.masks["audio"]]
    assert values.mean(dim=0).abs().max() < 1e-5, "statistics are of what is left"
