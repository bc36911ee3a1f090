"""MMSA pickles: every irregularity of the real files, every defect, and that reading runs nothing."""

from __future__ import annotations

import copyreg
import functools
import importlib.util
import os
import pickle
import re
import struct
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from decalign_core.data import load, mmsa, preparation
from decalign_core.data.mmsa import DataError, check, iemocap_from_gcnet, load_mmsa, read_pickle
from decalign_core.nn.text import TextEncoder

_spec = importlib.util.spec_from_file_location("mmsa_fixtures", Path(__file__).with_name("mmsa_fixtures.py"))
fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixtures)

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


def test_a_number_too_large_for_float32_is_broken_too(put):
    tree = fixtures.mosi_aligned()
    tree["test"]["audio"] = tree["test"]["audio"].astype(np.float64)
    tree["test"]["audio"][0, 0, 0] = 1e300
    splits = load_mmsa("mosi", put(tree))
    assert splits.test.features["audio"][0, 0, 0] == 0 and "1 NaN or infinite" in splits.notes[0]


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


def test_labels_slightly_outside_are_cut_off_with_a_note(put):
    tree = fixtures.mosei_aligned()
    tree["train"]["regression_labels"][1] = 3.4
    splits = load_mmsa("mosei", put(tree, "MOSEI/mosei_aligned_50.pkl"))
    assert splits.train.target[1] == 3.0
    assert "key 'regression_labels': 1 labels outside of [-3, 3]" in splits.notes[0]


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
    monkeypatch.setattr(mmsa, "_PART", 64)
    shared, apart = fixtures.mosi_aligned(), fixtures.mosi_aligned()
    for tree in (shared, apart):
        tree["test"] = tree["valid"] if tree is shared else pickle.loads(pickle.dumps(tree["valid"]))
        for content in tree.values():
            content.pop("id", None)
            content["text"][0, 0, 0] = np.inf
    names = ("text", "audio", "vision")
    one, other = (load_mmsa("mosi", put(tree), standardise=names) for tree in (shared, apart))
    assert one.fingerprint() == other.fingerprint()


def test_standardising_on_the_way(put):
    splits = load_mmsa("mosi", put(fixtures.mosi_aligned()), standardise=("audio",), clip_percentiles=(1, 99))
    frames = splits.train.features["audio"][splits.train.masks["audio"]]
    assert torch.allclose(frames.mean(dim=0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(frames.std(dim=0, unbiased=False), torch.ones(5), atol=1e-4)
    with pytest.raises(ValueError, match="clip_percentiles: wanted modalities"):
        load_mmsa("mosi", put(fixtures.mosi_aligned()), clip_percentiles=(1, 99))


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


def spoil(key, value):
    return lambda content: content.update({key: value})


def edit(key, index, value):
    def spoiled(content):
        content[key] = np.array(content[key])
        content[key][index] = value

    return spoiled


DEFECTS = {
    "no audio": (lambda c: c.pop("audio"), r"key 'audio': wanted this key, got the keys"),
    "no labels": (lambda c: c.pop("regression_labels"), r"key 'labels': wanted this key"),
    "N differs": (spoil("vision", np.ones((2, 50, 20))), r"key 'vision': wanted 3 samples .*shape \(2, 50, 20\)"),
    "labels fewer": (
        spoil("regression_labels", [0.0, 1.0]),
        r"key 'text_bert': wanted 2 samples as in 'regression_labels'",
    ),
    "rank": (spoil("audio", np.ones((3, 5))), r"key 'audio': wanted an array \(N, T, D\), got shape \(3, 5\)"),
    "no frames": (spoil("audio", np.ones((3, 0, 5))), r"key 'audio': wanted at least one frame"),
    "width": (spoil("audio", np.ones((3, 50, 6))), r"key 'audio': wanted the width 5 of the first split, got 6"),
    "not aligned": (spoil("audio", np.ones((3, 375, 5))), r"key 'audio': wanted 50 frames as in the text.*got 375"),
    "strings": (spoil("audio", [["a"], ["b"], ["c"]]), r"key 'audio': wanted numbers in a regular array, got list"),
    "ragged": (spoil("audio", [[1.0], [1.0, 2.0], [1.0]]), r"key 'audio': wanted numbers in a regular array"),
    "mask": (edit("text_bert", (1, 1, 0), 2), r"key 'text_bert': wanted 0 or 1 in row 1.*got values up to 2"),
    "mask is empty": (edit("text_bert", (1, 1), 0), r"key 'text_bert': wanted rows \(token ids.*sample 1"),
    "ids negative": (edit("text_bert", (1, 0, 0), -1), r"key 'text_bert': wanted whole numbers"),
    "bert shape": (spoil("text_bert", np.ones((3, 50, 3))), r"key 'text_bert': wanted an array \(N, 3, T\), got shape"),
    "bert T": (spoil("text_bert", np.ones((3, 3, 40), int)), r"key 'text_bert': wanted 50 tokens as in 'text', got 40"),
    "NaN label": (edit("regression_labels", 1, np.nan), r"key 'regression_labels': wanted finite labels.*sample 1"),
    "label": (edit("regression_labels", 1, -30), r"key 'regression_labels': wanted labels in \[-3, 3\], got -30"),
    "label rank": (spoil("regression_labels", np.ones((3, 2))), r"key 'regression_labels': wanted one number a sample"),
    "long": (spoil("audio_lengths", [50, 51, 2]), r"key 'audio_lengths': wanted at most 50.*got 51 at sample 1"),
    "negative length": (spoil("audio_lengths", [5, -1, 2]), r"key 'audio_lengths': wanted whole numbers from 0 on"),
    "lengths fewer": (spoil("audio_lengths", [5, 2]), r"key 'audio_lengths': wanted 3 samples"),
    "names fewer": (spoil("id", ["a", "b"]), r"key 'id': wanted 3 names.*got list of 2"),
    "names are numbers' lists": (spoil("id", [{}, {}, {}]), r"key 'id': wanted names as strings"),
    "shared name": (edit("id", 2, "trainvideo0$_$0001"), r"key 'id': wanted names of its own, got 1 .*'train' has too"),
    "one NaN in T": (spoil("regression_labels_T", [0.0, np.nan, 0.0]), r"key 'regression_labels_T': wanted finite"),
    "empty": (
        lambda c: c.update({k: v[:0] for k, v in c.items()}),
        r"key 'regression_labels': wanted at least one sample, got an empty split",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_named_by_load_and_by_check(put, name):
    change, message = DEFECTS[name]
    tree = fixtures.mosi_aligned()
    change(tree["valid"])
    root = put(tree)
    with pytest.raises(DataError, match=r"mosi_aligned_50\.pkl: split 'valid', " + message) as error:
        load_mmsa("mosi", root)
    assert "\n" not in str(error.value)
    defects = check(root / MOSI)
    assert str(error.value).startswith(defects[0])
    assert all("\n" not in defect and str(root / MOSI) in defect for defect in defects)


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
    with pytest.raises(DataError, match=r"\(3 more: check\(.*\) lists them\)"):
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


def test_sims_labels_end_at_one_and_emotions_at_five(put):
    tree = fixtures.sims()
    tree["test"]["regression_labels"][0] = 1.5
    with pytest.raises(DataError, match=r"split 'test'.*wanted labels in \[-1, 1\], got 1.5"):
        load_mmsa("sims", put(tree, "CH-SIMS/chsims.pkl"))
    tree = fixtures.iemocap()
    tree["test"]["classification_labels"] = np.array([0, 6])
    with pytest.raises(DataError, match=r"key 'classification_labels': wanted classes 0 … 5, got 6 at sample 1"):
        load_mmsa("iemocap", put(tree, "IEMOCAP/iemocap_data.pkl"))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], "wanted a dict with train, valid and test, got list"),
        ({"train": [1]}, "split 'train': wanted a dict of arrays, got list"),
        ({}, r"split 'train': wanted a dict of arrays, got the keys \[\]"),
    ],
)
def test_the_top_level(put, tree, message):
    root = put(tree)
    with pytest.raises(DataError, match=message):
        load_mmsa("mosi", root)
    assert re.search(message, check(root / MOSI)[0])


# ---------------------------------------------------------------- reading runs nothing


class Call:
    """Pickles as the call ``function(*args)``, with a state to BUILD where one is given."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """Protocol 4's STACK_GLOBAL, which follows dots."""
    return text(module) + text(attribute) + b"\x93"


def program(*body: bytes) -> bytes:
    return b"\x80\x04" + b"".join(body) + b"."


def touch(path) -> str:
    return f"touch {path}"


def payloads(sentinel: Path) -> dict[str, bytes]:
    command = touch(sentinel)
    code = f"open({str(sentinel)!r}, 'w').close()"
    call = b"\x85R"  # one argument, REDUCE
    dotted = name("numpy.core.multiarray", "_reconstruct.__globals__")
    return {
        "os.system": pickle.dumps(Call(os.system, command)),
        "os.system, protocol 0": f"cos\nsystem\n(S{command!r}\ntR.".encode(),
        "posix by INST": f"(S{command!r}\niposix\nsystem\n.".encode(),
        "OBJ": b"(" + f"cos\nsystem\nS{command!r}\n".encode() + b"o.",
        "eval": pickle.dumps(Call(eval, code)),
        "exec, Python 2 name": f"c__builtin__\nexec\n(S{code!r}\ntR.".encode(),
        "getattr": program(name("builtins", "getattr"), name("builtins", "set"), text("__class__"), b"\x86R"),
        "__import__": pickle.dumps(Call(__import__, "os")),
        "partial": pickle.dumps(Call(functools.partial(os.system, command))),
        "partial with state": pickle.dumps(functools.partial(os.system, command)),
        "numpy.load": program(name("numpy", "load"), text(str(sentinel)), call),
        "numpy.fromfile": program(name("numpy.core.multiarray", "fromfile"), text(str(sentinel)), call),
        "numpy.save": program(name("numpy", "save"), text(str(sentinel)), b"]\x86R"),
        "numpy testing": program(name("numpy.testing._private.utils", "runstring"), text(code), b"}\x86R"),
        "dotted globals": program(dotted),
        "dotted path to os": program(name("numpy", "os.system"), text(command), call),
        "dotted dtype": program(name("numpy", "dtype.__class__")),
        "dotted encode": program(name("_codecs", "encode.__self__")),
        "subclass of ndarray": program(
            name("numpy._core.multiarray", "_reconstruct"), name("numpy", "memmap"), b"K\x00\x85C\x01b\x87R"
        ),
        "persistent id": program(text(command), b"Q"),
        "pickle in a pickle": pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, command)))),
        "bytearray bomb": pickle.dumps(Call(bytearray, 10**15)),
        "after good data": pickle.dumps({"train": np.zeros(3), "valid": Call(os.system, command)}),
        "in an object array": pickle.dumps({"id": np.array([Call(os.system, command)], dtype=object)}),
        "next to an object scalar": pickle.dumps(
            Call(np._core.multiarray.scalar, np.dtype("O"), Call(os.system, command))
        ),
    }


@pytest.mark.parametrize("kind", sorted(payloads(Path("x"))))
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, kind):
    sentinel = tmp_path / "executed"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(payloads(sentinel)[kind])
    with pytest.raises(DataError, match=r"hostile\.pkl: ") as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert not sentinel.exists()
    assert check(path) == [str(error.value)]


def test_the_payloads_work_where_pickle_is_used(tmp_path):
    sentinel = tmp_path / "executed"
    pickle.loads(payloads(sentinel)["os.system"])
    assert sentinel.exists()


def test_the_refused_name_is_told(tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(
        DataError, match=r"hostile.pkl: refused, nothing executed: .* got the name '(posix|nt)\.system'"
    ):
        read_pickle(path)


def test_no_module_is_imported(tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(program(name("this", "s")))
    sys.modules.pop("this", None)
    with pytest.raises(DataError, match="this.s"):
        read_pickle(path)
    assert "this" not in sys.modules


def test_an_extension_code_that_is_registered_and_cached_is_refused(tmp_path):
    sentinel = tmp_path / "executed"
    copyreg.add_extension("os", "system", 240)
    try:
        extended = b"\x80\x02\x82\xf0" + f"(S{touch(sentinel)!r}\ntR.".encode()
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system  # fills the cache
        path = tmp_path / "hostile.pkl"
        path.write_bytes(extended)
        with pytest.raises(DataError, match="os.system"):
            read_pickle(path)
    finally:
        copyreg.remove_extension("os", "system", 240)
        copyreg.clear_extension_cache()
    assert not sentinel.exists()


def test_build_cannot_alter_what_the_reader_trusts(tmp_path):
    """BUILD with a slot state sets attributes of whatever lies on the stack."""
    good = fixtures.write({"a": {1, 2}, "x": np.arange(3)}, tmp_path / "good.pkl")
    reconstruct = name("numpy._core.multiarray", "_reconstruct")
    for attribute in ("_call", "__call__", "__setstate__", "__class__", "allowed"):
        hostile = program(reconstruct, b"N}", text(attribute), name("builtins", "set"), b"s\x86b")
        (tmp_path / "hostile.pkl").write_bytes(hostile)
        with pytest.raises(DataError):
            read_pickle(tmp_path / "hostile.pkl")
        hostile = program(reconstruct, b"}", text(attribute), b"K\x01sb")
        (tmp_path / "hostile.pkl").write_bytes(hostile)
        with pytest.raises(DataError):
            read_pickle(tmp_path / "hostile.pkl")
    assert not any(hasattr(stand_in, "__dict__") for stand_in in mmsa._Unpickler.allowed.values())
    again = read_pickle(good)
    assert again["a"] == {1, 2} and again["x"].tolist() == [0, 1, 2]


def array_state(dtype: str, shape: bytes, data: bytes, byteorder: str = "<") -> bytes:
    """An array as protocol 4 writes it, with a shape and a content of one's own."""
    made = name("numpy._core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    kind = name("numpy", "dtype") + text(dtype) + b"\x89\x88\x87R(K\x03" + text(byteorder) + b"NNNJ" + b"\xff" * 4
    return made + b"(K\x01" + shape + kind + b"J" + b"\xff" * 4 + b"K\x00tb\x89" + data + b"tb"


def test_the_handmade_array_is_a_real_one(tmp_path):
    path = tmp_path / "array.pkl"
    path.write_bytes(program(array_state("f4", b"K\x02\x85", b"C\x08" + struct.pack("<ff", 1.5, -2.0))))
    assert read_pickle(path).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("f4", b"J\xff\xff\xff\x7f\x85", b"C\x08" + bytes(8)),  # more elements than bytes
        ("f4", b"J\xfe\xff\xff\xff\x85", b"C\x08" + bytes(8)),  # negative
        ("U0", b"J\xff\xff\xff\x7f\x85", b"C\x00"),  # as many empty strings as you like
        ("V8", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("M8[s]", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("O", b"K\x01\x85", b"C\x08" + bytes(8)),  # pointers
        ("f4,O", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("O", b"K\x01\x85", text("x")),
        ("O", b"K\x01\x85", b"]]a"),  # a list in an object array
        ("O", b"K\x01\x85", b"]" + name("builtins", "set") + b"a"),
    ],
)
def test_arrays_that_lie_about_themselves_are_refused(tmp_path, dtype, shape, data):
    path = tmp_path / "array.pkl"
    path.write_bytes(program(array_state(dtype, shape, data)))
    with pytest.raises(DataError, match="array.pkl: "):
        read_pickle(path)


@pytest.mark.parametrize(
    "stream",
    [
        program(name("numpy", "dtype")),  # an allowed callable as the result
        program(name("numpy", "ndarray"), b")R"),  # an array that was never filled
        program(name("numpy", "dtype"), text("f4"), b"\x85R"),  # a dtype as the result
        program(name("_codecs", "encode"), text("a"), text("rot13"), b"\x86R"),
        program(name("numpy", "dtype"), b"}\x85R"),
        program(name("builtins", "set"), b"K\x05\x85R"),
        program(name("numpy._core.multiarray", "scalar"), name("numpy", "dtype"), text("O"), b"\x85R]K\x01a\x86R"),
        program(b"]" * 100_000 + b"a" * 99_999),  # deeper than the stack
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",  # asks for an exabyte
    ],
)
def test_streams_that_end_in_something_else_are_refused(tmp_path, stream):
    path = tmp_path / "odd.pkl"
    path.write_bytes(stream)
    with pytest.raises(DataError, match="odd.pkl: "):
        read_pickle(path)


def test_lists_nested_by_reference_are_read_once(tmp_path):
    bomb = "x"
    for _ in range(60):
        bomb = [bomb, bomb]
    result = read_pickle(fixtures.write(bomb, tmp_path / "bomb.pkl"))
    assert result[0] is result[1]


@pytest.mark.parametrize("many", [1 << 22, 2], ids=["few bytes", "many bytes"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_things_come_back_as_they_were(tmp_path, monkeypatch, protocol, many):
    monkeypatch.setattr(mmsa, "_PART", many)
    shared = [1, 2]
    tree = {
        "set": {1, "a"},
        "frozen": frozenset({2}),
        "complex": 1 + 2j,
        "none": None,
        "numbers": (1, 2.5, True, 10**30),
        "bytes": b"\x00\xff",
        "long bytes": bytes(range(256)) * 2,
        "empty": b"",
        "ordered": OrderedDict(a=1),
        "scalar": np.float32(0.5),
        "string": np.str_("é"),
        "nothing": np.str_(""),
        "wide": np.array(["a", "bcé"]),
        "narrow": np.array([b"a", b"bc"]),
        "objects": np.array([["a", 1], [b"c", None]], dtype=object),
        "bools": np.array([True, False]),
        "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "empty array": np.zeros((0, 3), dtype=np.float32),
        "zero rank": np.array(3.0),
        "shared": [shared, shared],
    }
    result = read_pickle(fixtures.write(tree, tmp_path / "plain.pkl", protocol))
    for key, value in tree.items():
        same = np.array_equal if isinstance(value, np.ndarray) else lambda a, b: a == b
        assert same(result[key], value), key
        assert type(result[key]) is (dict if key == "ordered" else type(value)), key
        assert not isinstance(value, np.ndarray) or result[key].dtype == value.dtype, key


def test_names_of_old_and_new_numpy(tmp_path):
    stream = pickle.dumps(np.arange(4), protocol=2)
    path = tmp_path / "old.pkl"
    path.write_bytes(stream.replace(b"numpy._core", b"numpy.core"))
    assert read_pickle(path).tolist() == [0, 1, 2, 3]


def test_strings_of_python_2_are_read_as_latin_1(tmp_path):
    path = tmp_path / "python2.pkl"
    path.write_bytes(b"\x80\x02](U\x01\xe9U\x01ae.")
    assert read_pickle(path) == ["é", "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (pickle.dumps({"a": np.arange(1000)})[:-200], "wanted a whole pickle"),
        (pickle.dumps({"a": np.zeros(1 << 20)})[: 1 << 20], "wanted a whole pickle.*ends within an array"),
        (pickle.dumps({"a": 1})[:-1], "wanted a whole pickle"),
        (b"<!DOCTYPE html><html>Sign in</html>", r"wanted a whole pickle.*begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https://git-lfs"),
        (b"\x93NUMPY\x01\x00", "wanted a whole pickle"),
    ],
)
def test_files_that_are_no_whole_pickle(tmp_path, content, message):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file\.pkl: .*" + message) as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert check(path) == [str(error.value)]


def test_a_path_without_a_file(tmp_path):
    with pytest.raises(DataError, match="none.pkl: wanted a readable file, got No such file"):
        read_pickle(tmp_path / "none.pkl")


# ---------------------------------------------------------------- IEMOCAP from GCNet


@pytest.fixture
def gcnet(tmp_path):
    stored = fixtures.gcnet_folder(tmp_path / "features")
    (tmp_path / "labels.pkl").write_bytes(fixtures.gcnet_labels()[1])
    return tmp_path, stored


def convert(root, **options):
    return iemocap_from_gcnet(root / "features", root / "labels.pkl", root / "data/IEMOCAP/iemocap_data.pkl", **options)


def test_gcnet_features_become_a_file_that_loads(gcnet):
    root, stored = gcnet
    counts = convert(root, valid_fraction=0.25, seed=1)
    splits = load_mmsa("iemocap", root / "data")
    assert counts == {split: len(batch) for split, batch in splits.items()}
    assert sum(counts.values()) == 10 and counts["test"] == 2
    assert splits.modalities == {"text": 6, "audio": 4, "vision": 5}
    labels = {
        f"{d}_{who}{i:03d}": fixtures.GCNET[d][1][i]
        for d in fixtures.GCNET
        for i, who in enumerate(fixtures.GCNET[d][0])
    }
    for _, batch in splits.items():
        for row, name in enumerate(batch.ids):
            utterance = name.split("$_$")[1]
            assert batch.target[row] == labels[utterance]
            assert np.allclose(batch.features["audio"][row, 0], stored["audio"][utterance])
            faces = stored["vision"][utterance]
            assert batch.masks["vision"][row, 0].item() == bool(len(faces))
            wanted = faces.mean(axis=0) if len(faces) else np.zeros(5)
            assert np.allclose(batch.features["vision"][row, 0], wanted, atol=1e-6)


def test_the_validation_split_takes_whole_training_dialogues(gcnet):
    root, _ = gcnet
    drawn = set()
    for seed in range(8):
        convert(root, seed=seed)
        splits = load_mmsa("iemocap", root / "data")
        dialogues = {split: {name.split("$_$")[0] for name in batch.ids} for split, batch in splits.items()}
        assert dialogues["test"] == fixtures.GCNET_TEST
        assert len(dialogues["valid"]) == 1 and len(dialogues["train"]) == 3
        assert not dialogues["valid"] & (dialogues["train"] | dialogues["test"])
        drawn |= dialogues["valid"]
    assert len(drawn) > 1
    convert(root, seed=0)
    first = load_mmsa("iemocap", root / "data").fingerprint()
    convert(root, seed=0)
    assert load_mmsa("iemocap", root / "data").fingerprint() == first


def test_faces_in_a_folder_are_those_of_the_speaker(gcnet):
    root, _ = gcnet
    folder = root / "features/manet_UTT/Ses05F_impro01_M001"
    folder.with_suffix(".npy").unlink()
    folder.mkdir()
    for face, value in {"F_0001": 1.0, "M_0001": 2.0, "M_0002": 4.0}.items():
        np.save(folder / f"{face}.npy", np.full(5, value))
    convert(root)
    batch = load_mmsa("iemocap", root / "data").test
    row = list(batch.ids).index("Ses05F_impro01$_$Ses05F_impro01_M001")
    assert batch.features["vision"][row, 0].tolist() == [3.0] * 5


def test_gcnet_defects_name_the_file_and_leave_no_output(gcnet):
    root, _ = gcnet
    missing = root / "features/wav2vec-large-c-UTT/Ses01F_impro01_F000.npy"
    kept = np.load(missing)
    missing.unlink()
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a NumPy array, got FileNotFoundError"):
        convert(root)
    np.save(missing, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a NumPy array, got ValueError"):
        convert(root)
    np.save(missing, np.zeros(0))
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a feature vector, got an empty array"):
        convert(root)
    np.save(missing, np.zeros(9))
    with pytest.raises(DataError, match="wanted 9 columns as before, got 4"):
        convert(root)
    assert not (root / "data").exists()
    np.save(missing, kept)
    assert sum(convert(root).values()) == 10


def test_gcnet_label_file_defects(gcnet):
    root, _ = gcnet
    tree, _ = fixtures.gcnet_labels()
    with pytest.raises(ValueError, match="valid_fraction: wanted a number between 0 and 1, got 1"):
        convert(root, valid_fraction=1)
    wrong = [
        (tree[:5], "labels.pkl: wanted the tuple .* got tuple of 5"),
        ((*tree[:4], tree[4] | tree[5], tree[5]), "got 5 and 1, 1 in both"),
        ((tree[0], tree[1] | {"Ses01F_impro01": [9, 9]}, *tree[2:]), "'Ses01F_impro01': wanted classes 0 … 5, got 9"),
        ((tree[0], tree[1] | {"Ses01F_impro01": [0]}, *tree[2:]), r"'Ses01F_impro01': wanted ids.*\[2, 1, 2, 2\]"),
        ((*tree[:4], tree[4], "Ses05"), "as four dicts and two sets"),
        ((tree[0] | {"Ses01F_impro01": ["/a", "b"]}, *tree[1:]), "wanted utterance ids that name a file, got '/a'"),
    ]
    for content, message in wrong:
        (root / "labels.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            convert(root)
