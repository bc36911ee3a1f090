"""MMSA pickles: every irregularity of the real files; defects: ``tests/bad_inputs``."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from refusals import mmsa_fixtures as fixtures

from decalign_core.data import load, mmsa, pickles, preparation
from decalign_core.data.mmsa import check, load_mmsa
from decalign_core.data.pickles import DataError
from decalign_core.nn.text import TextEncoder

MOSI = "MOSI/mosi_aligned_50.pkl"
WORDS = torch.tensor([10, 9, 8, 7])


@pytest.fixture
def put(tmp_path):
    """Writes a tree below the root and returns the root."""

    def write(tree, place=MOSI, protocol=4):
        fixtures.write(tree, tmp_path / place, protocol)
        return tmp_path

    return write


def lengths(batch, name):
    return batch.masks[name].sum(dim=1)


# ---------------------------------------------------------------- the columns of the format table


def test_mosi_aligned_takes_the_attention_mask_for_every_modality(put):
    tree = fixtures.mosi_aligned()
    splits = load_mmsa("mosi", put(tree))
    assert (splits.name, splits.task, splits.scale, splits.outputs) == ("mosi", "regression", "mosi", 1)
    assert splits.modalities == {"text": 768, "audio": 5, "vision": 20}
    assert [len(batch) for _, batch in splits.items()] == [4, 3, 2]
    for name in ("text", "audio", "vision"):
        assert torch.equal(lengths(splits.train, name), WORDS)
        assert splits.train.features[name].dtype == torch.float32
        assert np.array_equal(splits.train.features[name], tree["train"][name])
    assert np.allclose(splits.test.target, tree["test"]["regression_labels"])
    assert list(splits.train.ids) == tree["train"]["id"]
    assert not splits.notes and not splits.encoders and not splits.train.extra_targets


@pytest.mark.parametrize("kept", [("text", "audio"), ("vision", "text"), ("audio", "vision")])
def test_a_file_needs_no_modality_that_is_not_read(put, kept):
    tree = fixtures.mosi_aligned()
    whole = load("mosi", put(tree), modalities=kept, standardise=["audio"])
    for split in tree.values():
        for name in {"text", "audio", "vision"} - {*kept}:
            del split[name]
    found = load("mosi", put(tree), modalities=kept, standardise=["audio"])
    assert tuple(found.modalities) == kept and found.fingerprint() == whole.fingerprint()
    with pytest.raises(DataError, match="wanted this key"):
        load("mosi", put(tree))
    with pytest.raises(ValueError, match="^modalities: wanted some of text, audio, vision, got text, smell$"):
        load("mosi", put(tree), modalities=("text", "smell"))


def test_a_modality_without_a_frame_in_a_split_is_told(put):
    tree = fixtures.mosi_aligned()
    tree["train"]["audio_lengths"] = [0] * 4
    splits = load_mmsa("mosi", put(tree))
    assert any("split 'train', key 'audio': no sample has a valid frame" in note for note in splits.notes)


def test_frames_that_the_mask_excludes_become_zero(put):
    tree = fixtures.mosi_aligned()
    tree["train"]["audio"][:] = 7.0
    batch = load_mmsa("mosi", put(tree)).train
    assert torch.equal(batch.features["audio"], 7.0 * batch.masks["audio"].unsqueeze(-1).expand(-1, -1, 5))


def test_a_zero_frame_inside_an_aligned_text_stays_valid(put):
    tree = fixtures.mosi_aligned()
    tree["train"]["vision"][0, 3] = 0.0
    assert lengths(load_mmsa("mosi", put(tree)).train, "vision")[0] == 10


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_token_ids_of_any_number_type_reach_the_encoder(put, dtype):
    encoder = TextEncoder("some-encoder", fine_tune=True)
    tree = fixtures.mosi_aligned(dtype)
    splits = load_mmsa("mosi", put(tree), encoder=encoder)
    assert splits.encoders == {"text": encoder} and splits.modalities["text"] is encoder
    assert splits.train.features["text"].dtype == torch.int64
    assert np.array_equal(splits.train.features["text"], tree["train"]["text_bert"][:, 0])
    assert torch.equal(lengths(splits.train, "text"), WORDS)


def test_an_encoder_needs_no_text_states_but_token_ids(put):
    tree = fixtures.mosi_aligned()
    for content in tree.values():
        del content["text"]
    assert load_mmsa("mosi", put(tree), encoder=TextEncoder("e")).test.features["text"].shape == (2, 50)
    with pytest.raises(DataError, match=r"split 'train', key 'text': wanted this key"):
        load_mmsa("mosi", put(tree))
    tree = fixtures.mosi_aligned()
    del tree["valid"]["text_bert"]
    with pytest.raises(DataError, match=r"split 'valid', key 'text_bert': wanted this key, for a text encoder"):
        load_mmsa("mosi", put(tree), encoder=TextEncoder("e"))


@pytest.mark.parametrize(
    ("dataset", "build", "place", "frames"),
    [
        ("mosi", fixtures.mosi_unaligned, "MOSI/Processed/unaligned_50.pkl", {"audio": 375, "vision": 500}),
        ("mosei", fixtures.mosei_unaligned, "MOSEI/mosei_unaligned_50.pkl", {"audio": 500, "vision": 500}),
    ],
)
def test_unaligned_files_take_their_lengths(put, dataset, build, place, frames):
    splits = load_mmsa(dataset, put(build(), place), aligned=False)
    assert splits.name == f"{dataset}/unaligned"
    assert torch.equal(lengths(splits.train, "text"), WORDS)
    for name, longest in frames.items():
        assert torch.equal(lengths(splits.train, name), longest - 3 * torch.arange(4))


def test_mosei_aligned(put):
    splits = load_mmsa("mosei", put(fixtures.mosei_aligned(), "MOSEI/Processed/aligned_50.pkl"))
    assert splits.name == "mosei" and splits.modalities == {"text": 768, "audio": 74, "vision": 35}
    assert torch.equal(lengths(splits.train, "audio"), WORDS)


@pytest.mark.parametrize("place", ["CH-SIMS/chsims.pkl", "SIMS/Processed/unaligned_39.pkl"])
def test_sims_has_lists_and_a_target_for_each_modality(put, place):
    tree = fixtures.sims()
    splits = load_mmsa("sims", put(tree, place))
    assert (splits.name, splits.scale) == ("sims", "sims")
    assert set(splits.train.extra_targets) == {"text", "audio", "vision"}
    assert np.allclose(splits.valid.extra_targets["audio"], tree["valid"]["regression_labels_A"])
    assert torch.equal(lengths(splits.train, "vision"), 55 - 3 * torch.arange(4))
    assert splits.train.features["audio"].shape == (4, 400, 33)
    assert splits.train.ids[1] == "trainvideo0$_$0001"


def test_cmu_files_without_names_token_ids_and_flat_labels(put):
    tree = fixtures.cmu()
    tree["train"]["text"][0, 4] = 0.0  # a word that GloVe does not know
    splits = load_mmsa("mosi", put(tree))
    assert splits.modalities["text"] == 300
    assert list(splits.valid.ids) == ["valid$_$0", "valid$_$1", "valid$_$2"]
    assert np.allclose(splits.train.target, tree["train"]["labels"][:, 0, 0])
    assert lengths(splits.train, "text").tolist() == [9, 9, 8, 7]
    assert lengths(splits.train, "audio").tolist() == [10, 9, 8, 7]


@pytest.mark.parametrize("rank", [2, 3])
def test_iemocap_vectors_are_sequences_of_one_frame(put, rank):
    tree = fixtures.iemocap(rank)
    tree["train"]["vision"][2] = 0.0
    splits = load_mmsa("iemocap", put(tree, "IEMOCAP/iemocap_data.pkl"))
    assert (splits.task, splits.scale, splits.outputs, splits.name) == ("classification", "emotion", 6, "iemocap")
    assert splits.train.features["audio"].shape == (4, 1, 512)
    assert splits.train.target.dtype == torch.int64 and splits.train.target.tolist() == [0, 1, 2, 3]
    assert lengths(splits.train, "vision").tolist() == [1, 1, 0, 1]


# ---------------------------------------------------------------- irregularities


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(put, protocol):
    tree = fixtures.mosi_aligned()
    tree["train"]["audio"] = np.asfortranarray(tree["train"]["audio"])
    tree["valid"]["audio"] = tree["valid"]["audio"].astype(">f8")
    tree["train"]["id"] = np.array(tree["train"]["id"])
    tree["valid"]["id"] = np.array(tree["valid"]["id"], dtype=object)
    splits = load_mmsa("mosi", put(tree, protocol=protocol))
    assert np.array_equal(splits.train.features["audio"], tree["train"]["audio"])
    assert np.array_equal(splits.valid.features["audio"], tree["valid"]["audio"].astype(np.float32))
    assert list(splits.train.ids) == tree["train"]["id"].tolist()
    assert list(splits.valid.ids) == tree["valid"]["id"].tolist()


def test_names_as_bytes_numpy_strings_or_rows_of_an_old_file(put):
    tree = fixtures.mosi_aligned()
    tree["train"]["id"] = np.array([name.encode() for name in tree["train"]["id"]])
    tree["valid"]["id"] = [np.str_(name) for name in tree["valid"]["id"]]
    tree["test"]["id"] = np.array([["video", "0.5", "2.5"], ["video", "2.5", "3"]])
    splits = load_mmsa("mosi", put(tree))
    assert splits.train.ids[0] == "trainvideo0$_$0000"
    assert {type(name) for name in splits.valid.ids} == {str}
    assert list(splits.test.ids) == ["video$_$0.5$_$2.5", "video$_$2.5$_$3"]


def test_lists_in_the_place_of_arrays(put):
    tree = fixtures.iemocap()
    whole = load_mmsa("iemocap", put(tree, "IEMOCAP/iemocap_data.pkl"))
    lists = {
        split: {key: np.asarray(value).tolist() for key, value in content.items()} for split, content in tree.items()
    }
    assert load_mmsa("iemocap", put(lists, "IEMOCAP/iemocap_data.pkl")).fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("key", ["audio", "vision", "text"])
def test_broken_values_become_zero_and_are_counted(put, key):
    tree = fixtures.mosi_aligned()
    tree["valid"][key][0, 0, 0], tree["valid"][key][1, 2, 3], tree["valid"][key][2, 1, 1] = -np.inf, np.inf, np.nan
    splits = load_mmsa("mosi", put(tree))
    values = splits.valid.features[key]
    assert torch.isfinite(values).all()
    assert values[0, 0, 0] == values[1, 2, 3] == values[2, 1, 1] == 0
    assert len(splits.notes) == 1
    assert f"mosi_aligned_50.pkl: split 'valid', key '{key}': 3 NaN or infinite values" in splits.notes[0]


def test_length_zero_is_an_absent_modality(put):
    tree = fixtures.sims()
    tree["train"]["audio_lengths"][2] = 0
    batch = load_mmsa("sims", put(tree, "CH-SIMS/chsims.pkl")).train
    assert not batch.masks["audio"][2].any() and not batch.features["audio"][2].any()
    assert batch.masks["audio"][1].any()


def test_without_lengths_and_attention_the_zero_frames_are_padding(put):
    tree = fixtures.mosi_unaligned()
    for content in tree.values():
        del content["audio_lengths"]
    batch = load_mmsa("mosi", put(tree, "MOSI/mosi_unaligned_50.pkl"), aligned=False).train
    assert torch.equal(lengths(batch, "audio"), 375 - 3 * torch.arange(4))


def test_config_and_dev_are_understood(put):
    tree = fixtures.mosi_aligned()
    tree["dev"] = tree.pop("valid")
    tree["config"] = {"audio": {"tool": "openSMILE"}, "seq_lens": (50, 50, 50)}
    assert len(load_mmsa("mosi", put(tree)).valid) == 3


def test_labels_of_single_modalities_that_nobody_gave_are_left_out(put):
    tree = fixtures.mosi_aligned()
    for content in tree.values():
        content["regression_labels_T"] = np.full(len(content["id"]), np.nan)
    tree["train"]["regression_labels_A"] = np.zeros(4)
    splits = load_mmsa("mosi", put(tree))
    assert not splits.train.extra_targets
    assert any("regression_labels_T" in note for note in splits.notes)
    assert any("labels of audio left out" in note for note in splits.notes)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reading_takes_little_more_memory_than_the_arrays(put, protocol, monkeypatch):
    monkeypatch.setattr(pickles, "_PART", 1 << 16)
    monkeypatch.setattr(mmsa, "_PART", 1 << 16)
    monkeypatch.setattr(preparation, "_PART", 1 << 18)
    tree = fixtures.mosei_aligned()
    for content in tree.values():
        for key in ("text", "audio", "vision"):
            content[key] = np.repeat(content[key], 32, axis=0)
            content[key][::5, 30:] = np.nan  # to be mended, and beyond the mask
        content["text_bert"] = np.repeat(content["text_bert"], 32, axis=0)
        content["regression_labels"] = np.repeat(content["regression_labels"], 32)
        content["id"] = [f"{name}/{copy}" for name in content["id"] for copy in range(32)]
    root = put(tree, "MOSEI/mosei_aligned_50.pkl", protocol)
    del tree
    tracemalloc.start()
    try:
        splits = load("mosei", root, clip_percentiles=(1, 99))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(values.nbytes for _, batch in splits.items() for values in batch.features.values())
    assert size > 4e7 and peak < 1.3 * size
    assert len(splits.notes) == 9 and all("infinite values became 0" in note for note in splits.notes)


def test_splits_that_share_their_arrays_are_read_apart(put, monkeypatch):
    monkeypatch.setattr(pickles, "_PART", 64)
    monkeypatch.setattr(mmsa, "_PART", 64)
    shared, apart = fixtures.mosi_aligned(), fixtures.mosi_aligned()
    for tree in (shared, apart):
        tree["test"] = tree["valid"] if tree is shared else pickle.loads(pickle.dumps(tree["valid"]))
        for content in tree.values():
            content.pop("id", None)
            content["text"][0, 0, 0] = np.inf
    names = ("text", "audio", "vision")
    one, other = (load("mosi", put(tree), standardise=names) for tree in (shared, apart))
    assert one.fingerprint() == other.fingerprint()


def test_the_file_itself_as_root_and_unknown_names(put):
    root = put(fixtures.mosi_aligned(), "elsewhere/features.pkl")
    assert len(load_mmsa("mosi", root / "elsewhere/features.pkl").train) == 4
    with pytest.raises(ValueError, match="dataset: wanted one of .*'mosi'.*, got 'sst'"):
        load_mmsa("sst", root)
    with pytest.raises(ValueError, match="dataset: wanted one of"):
        check(root / "elsewhere/features.pkl", dataset="sst")


def test_a_missing_file_names_every_place_and_the_source(tmp_path):
    with pytest.raises(
        DataError, match=r"^mosi: wanted .*mosi_aligned_50.pkl.*Processed/aligned_50.pkl.*thuiar/MMSA"
    ) as e:
        load_mmsa("mosi", tmp_path)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="iemocap_from_gcnet"):
        load_mmsa("iemocap", tmp_path)
    with pytest.raises(DataError, match="mosi_unaligned_50.pkl"):
        load_mmsa("mosi", tmp_path, aligned=False)


# ---------------------------------------------------------------- defects


def test_check_lists_every_defect_and_none_of_a_good_file(put):
    tree = fixtures.mosi_aligned()
    tree["train"]["regression_labels"][0] = np.nan
    tree["train"]["audio"] = tree["train"]["audio"][:, :, 0]
    tree["valid"]["text_bert"][0, 1, 0] = 5
    del tree["test"]
    root = put(tree)
    defects = check(root / MOSI)
    assert len(defects) == 4
    for key, defect in zip(("regression_labels", "audio", "text_bert", "test"), defects, strict=True):
        assert repr(key) in defect
    with pytest.raises(DataError, match=r"\(3 more: data check .* lists them\)"):
        load_mmsa("mosi", root)


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (fixtures.mosi_aligned, MOSI),
        (fixtures.mosei_unaligned, "MOSEI/mosei_unaligned_50.pkl"),
        (fixtures.sims, "CH-SIMS/chsims.pkl"),
        (fixtures.sims, "any/name.pkl"),
        (fixtures.iemocap, "any/name.pkl"),
        (fixtures.cmu, "any/name.pkl"),
    ],
)
def test_check_finds_nothing_in_good_files(put, build, place):
    assert check(put(build(), place) / place) == []


@pytest.mark.parametrize("place", [MOSI, "MOSI/Processed/aligned_50.pkl"])
def test_an_unaligned_file_in_the_place_of_an_aligned_one(put, place):
    root = put(fixtures.mosi_unaligned(), place)
    with pytest.raises(DataError, match=r"key 'audio': wanted 50 frames as in the text.*aligned=False.*got 375"):
        load_mmsa("mosi", root)
    assert len(check(root / place)) == 6
    assert load_mmsa("mosi", root / place, aligned=False).name == "mosi/unaligned"


@pytest.mark.parametrize("key", ["audio", "audio_lengths", "regression_labels", "id"])
def test_lists_nested_by_reference_make_no_array(put, key):
    tree = fixtures.mosi_aligned()
    tree["train"][key] = [fixtures.bomb()] * len(tree["train"]["id"])
    with pytest.raises(DataError, match=f"key '{key}': wanted "):
        load_mmsa("mosi", put(tree))
