"""The records that pass between the floors: what a batch accepts, how it is cut, what the fingerprint of data sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from decalign_core.nn.text import TextEncoder
from decalign_core.types import Batch, Splits

LENGTHS = {"near": [3, 1, 5, 2], "far": [2, 0, 4, 4]}
WIDTHS = {"near": 2, "far": 3}
PADDED = {"near": 8, "far": 6}


def make_batch(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    fields = {
        "features": {m: torch.randn(4, PADDED[m], WIDTHS[m], generator=generator) for m in PADDED},
        "masks": {m: torch.arange(PADDED[m]) < torch.tensor(LENGTHS[m]).unsqueeze(1) for m in PADDED},
        "target": torch.randn(4, generator=generator),
        "ids": ["v$_$1", "v$_$2", "w$_$1", "w$_$2"],
        "extra_targets": {"far": torch.randn(4, generator=generator)},
    }
    return Batch(**fields | changes)


def assert_same(first, second):
    assert list(first.ids) == list(second.ids)
    assert torch.equal(first.target, second.target)
    for name in ("features", "masks", "extra_targets"):
        one, two = getattr(first, name), getattr(second, name)
        assert list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def test_targets_in_a_column_are_flattened():
    flat = make_batch()
    column = make_batch(target=flat.target.unsqueeze(1))
    assert column.target.shape == (4,) and len(column) == 4
    assert_same(flat, column)
    single = make_batch()[:1]
    assert replace(single, target=single.target.unsqueeze(1)).target.shape == (1,)


def test_integer_targets_stay_integers():
    assert make_batch(target=torch.tensor([0, 1, 2, 1])).target.dtype == torch.int64


def changed(field, name, value):
    return {field: {**getattr(make_batch(), field), name: value}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": torch.zeros(4, 2)}, r"^target: wanted shape \(B,\) or \(B, 1\), got \(4, 2\)$"),
        ({"target": torch.tensor(1.0)}, r"^target: wanted .* got \(\)$"),
        ({"ids": ["a", "b"]}, r"^ids: wanted 4 .* got 2$"),
        ({"masks": {"near": make_batch().masks["near"]}}, r"^masks: wanted .*'far', 'near'.* got \['near'\]$"),
        (changed("masks", "other", torch.ones(4, 2).bool()), r"^masks: wanted .* got .*'other'"),
        (changed("features", "near", torch.zeros(4)), r"^features\['near'\]: wanted \(B, T, D\) .* got \(4,\)$"),
        (changed("features", "near", torch.zeros(4, 8)), r"^features\['near'\]: .* int64, got torch.float32$"),
        (
            changed("features", "near", torch.zeros(4, 8).int()),
            r"^features\['near'\]: token ids .* int64, got torch.int32$",
        ),
        (changed("masks", "near", torch.ones(4, 8)), r"^masks\['near'\]: wanted bool, got torch.float32$"),
        (changed("masks", "far", torch.ones(4, 5).bool()), r"^masks\['far'\]: wanted shape \(4, 6\), got \(4, 5\)$"),
        (changed("masks", "far", torch.ones(3, 6).bool()), r"^masks\['far'\]: wanted shape \(4, 6\), got \(3, 6\)$"),
        (
            {
                "features": {m: torch.zeros(3, 8, 2) for m in PADDED},
                "masks": {m: torch.ones(3, 8).bool() for m in PADDED},
            },
            r"^features\['near'\]: wanted 4 samples, .* got 3$",
        ),
    ],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_batch(**changes)
    assert "\n" not in str(caught.value)


def test_token_ids_are_accepted():
    tokens = torch.randint(0, 9, (4, 8))
    batch = make_batch(**changed("features", "near", tokens))
    assert torch.equal(batch[[2]].features["near"], tokens[2:3])
    assert torch.equal(batch.trimmed().features["near"], tokens[:, :5])


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        ([3, 0], [3, 0]),
        ([2], [2]),
        ([-1, 1], [3, 1]),
        ([True, False, False, True], [0, 3]),
        (np.array([1, 1, 2]), [1, 1, 2]),
        (np.array([False, True, True, False]), [1, 2]),
        (torch.tensor([3, 2]), [3, 2]),
        (torch.tensor([True, False, True, False]), [0, 2]),
        (slice(4, None), []),
    ],
)
def test_rows_go_together(index, rows):
    batch = make_batch()
    part = batch[index]
    assert len(part) == len(rows)
    assert list(part.ids) == [batch.ids[row] for row in rows]
    assert torch.equal(part.target, batch.target[rows])
    assert torch.equal(part.extra_targets["far"], batch.extra_targets["far"][rows])
    for name in PADDED:
        assert torch.equal(part.features[name], batch.features[name][rows])
        assert torch.equal(part.masks[name], batch.masks[name][rows])


def test_each_modality_is_cut_after_its_last_valid_frame():
    batch = make_batch()
    cut = batch.trimmed()
    assert {name: mask.shape[1] for name, mask in cut.masks.items()} == {"near": 5, "far": 4}
    for name, length in {"near": 5, "far": 4}.items():
        assert torch.equal(cut.features[name], batch.features[name][:, :length])
        assert torch.equal(cut.masks[name].sum(1), batch.masks[name].sum(1))
    assert batch.features["near"].shape[1] == 8, "the batch itself is left as it was"
    assert_same(cut, cut.trimmed())


def test_cutting_rows_of_a_cut_batch_cuts_again():
    part = make_batch().trimmed()[[1, 3]].trimmed()
    assert {name: mask.shape[1] for name, mask in part.masks.items()} == {"near": 2, "far": 4}
    assert_same(part, make_batch()[[1, 3]].trimmed())


def test_at_least_one_frame_stays():
    absent = make_batch()[[1]]
    assert absent.trimmed().masks["far"].tolist() == [[False]]
    assert absent.trimmed().features["far"].shape == (1, 1, 3)


def test_gaps_between_valid_frames_are_no_padding():
    mask = torch.tensor([[True, False, False, True, False, False, False, False]]).expand(4, -1)
    assert make_batch(**changed("masks", "near", mask)).trimmed().masks["near"].shape[1] == 4


def test_moving_carries_every_tensor():
    moved = make_batch().to("meta")
    tensors = [*moved.features.values(), *moved.masks.values(), moved.target, *moved.extra_targets.values()]
    assert len(tensors) == 6 and all(values.device.type == "meta" for values in tensors)
    assert_same(make_batch(), make_batch().to("cpu"))
    assert list(moved.ids) == list(make_batch().ids)


# --- splits ---


def make_splits(**changes):
    parts = {split: make_batch(seed) for seed, split in enumerate(("train", "valid", "test"))}
    return Splits(**parts | changes)


def test_splits_say_what_a_model_must_know():
    splits = make_splits()
    assert [name for name, _ in splits.items()] == ["train", "valid", "test"]
    assert splits.modalities == {"near": 2, "far": 3}
    encoder = TextEncoder("any")
    assert make_splits(encoders={"near": encoder}).modalities == {"near": encoder, "far": 3}


def touched(batch, field, name):
    values = {key: tensor.clone() for key, tensor in getattr(batch, field).items()}
    last = values[name].view(-1)
    last[-1] = ~last[-1] if last.dtype == torch.bool else last[-1] + 1e-3
    return replace(batch, **{field: values})


CHANGES = {
    "feature": lambda batch: touched(batch, "features", "far"),
    "mask": lambda batch: touched(batch, "masks", "near"),
    "target": lambda batch: replace(batch, target=batch.target + torch.tensor([0, 0, 1e-3, 0])),
    "id": lambda batch: replace(batch, ids=[*batch.ids[:-1], "w$_$3"]),
    "order": lambda batch: batch[[1, 0, 2, 3]],
    "sample": lambda batch: batch[:3],
    "length": lambda batch: batch.trimmed(),
    "modality name": lambda batch: replace(
        batch,
        features={"near": batch.features["near"], "farther": batch.features["far"]},
        masks={"near": batch.masks["near"], "farther": batch.masks["far"]},
    ),
}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_sees_every_change(change, split):
    splits = make_splits()
    other = replace(splits, **{split: CHANGES[change](getattr(splits, split))})
    assert other.fingerprint() != splits.fingerprint()


def test_fingerprint_keeps_ids_apart():
    first = make_splits(train=make_batch(ids=["a|b", "c", "d", "e"]))
    second = make_splits(train=make_batch(ids=["a", "b|c", "d", "e"]))
    assert first.fingerprint() != second.fingerprint()


def test_fingerprint_sees_nothing_else():
    splits, wanted = make_splits(), make_splits().fingerprint()
    assert int(wanted, 16) >= 0 and splits.fingerprint() == wanted

    def stored_otherwise(batch):
        turned = {m: values.mT.contiguous().mT for m, values in reversed(batch.features.items())}
        return replace(batch, features=turned, ids=tuple(batch.ids))

    other = replace(
        splits, name="other", notes=("a note",), train=stored_otherwise(splits.train), encoders={}, truth={"train": {}}
    )
    assert not other.train.features["far"].is_contiguous()
    assert other.fingerprint() == wanted


def test_fingerprint_tells_the_splits_apart():
    splits = make_splits()
    assert replace(splits, valid=splits.test, test=splits.valid).fingerprint() != splits.fingerprint()


# --- numbers that are none ---

NAN, INFINITY = float("nan"), float("inf")


def with_number(splits, split, place, value):
    """The splits with ``value`` at one place: the target of a sample, or (modality, sample, frame, column)."""
    batch = getattr(splits, split)
    if isinstance(place, int):
        return replace(splits, **{split: replace(batch, target=batch.target.index_fill(0, torch.tensor(place), value))})
    name, *at = place
    values = batch.features[name].clone()
    values[tuple(at)] = value
    return replace(splits, **{split: replace(batch, features={**batch.features, name: values})})


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_what_is_no_number_is_named_with_its_split_modality_and_sample(split, value):
    splits = with_number(make_splits(), split, ("near", 2, 4, 1), value)
    said = (
        rf"^splits.{split}: features\['near'\]: wanted finite numbers, got 1 NaN or infinite, the first in 'w\$_\$1'$"
    )
    with pytest.raises(ValueError, match=said):
        splits.check_finite()
    splits.check_finite(["far"])
    twice = with_number(with_number(splits, split, ("near", 2, 0), value), split, ("near", 3, 1, 0), NAN)
    with pytest.raises(ValueError, match=rf"got {1 + WIDTHS['near'] + 1} NaN or infinite, the first in 'w\$_\$1'$"):
        twice.check_finite(["near"])
    with pytest.raises(ValueError, match=rf"^splits.{split}: target: .* got 1 .* 'v\$_\$2'$"):
        with_number(make_splits(), split, 1, value).check_finite()


def test_numbers_padding_and_token_ids_are_let_through():
    whole = make_splits()
    whole.check_finite()
    for value in (NAN, INFINITY):
        with_number(whole, "train", ("near", 0, 3), value).check_finite()  # the first frame of the padding
    large = torch.finfo(torch.float32).max
    with_number(whole, "test", ("far", 2, 3), large).check_finite()  # their sum is infinite
    words = make_batch(features=whole.train.features | {"near": torch.ones(4, 8, dtype=torch.int64)})
    replace(whole, train=words, encoders={"near": TextEncoder("any")}).check_finite()
    classes = make_batch(target=torch.tensor([0, 1, 2, 1]))
    make_splits(train=classes).check_finite()


def test_a_number_is_found_among_many_samples():
    rows = torch.arange(4).repeat(50)
    batch = make_batch()[rows]
    splits = with_number(
        make_splits(train=replace(batch, ids=[str(row) for row in range(200)])), "train", ("far", 150, 0), NAN
    )
    with pytest.raises(ValueError, match="got 3 NaN or infinite, the first in '150'$"):
        splits.check_finite()


def test_a_trimmed_batch_says_who_is_present():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    full = torch.ones(3, 2, dtype=torch.bool)
    features = {name: torch.zeros(3, 2, 1) for name in ("some", "all")}
    batch = Batch(features, {"some": mask, "all": full}, torch.zeros(3), list("abc"))
    assert batch.present is None
    trimmed = batch.trimmed().to("cpu")
    assert trimmed.present["some"].tolist() == [0, 2]
    assert trimmed.present["all"] is None
    assert trimmed[[0, 2]].present is None
