"""MMSA pickles: every irregularity of the real files, and how the safe reader reads; defects: ``tests/bad_inputs``."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from refusals import mmsa_fixtures as fixtures
from streams import Call, program, text, the_name, touch

from decalign_core.data import load, mmsa, preparation
from decalign_core.data.mmsa import DataError, check, iemocap_from_gcnet, load_mmsa, read_pickle
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


# ---------------------------------------------------------------- reading runs nothing


def test_the_refused_name_is_told(tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(
        DataError, match=r"hostile.pkl: refused, nothing executed: .* got the name '(posix|nt)\.system'"
    ):
        read_pickle(path)


def test_no_module_is_imported(tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(program(the_name("this", "s")))
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
    reconstruct = the_name("numpy._core.multiarray", "_reconstruct")
    for attribute in ("_call", "__call__", "__setstate__", "__class__", "allowed"):
        hostile = program(reconstruct, b"N}", text(attribute), the_name("builtins", "set"), b"s\x86b")
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
    made = the_name("numpy._core.multiarray", "_reconstruct") + the_name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    kind = the_name("numpy", "dtype") + text(dtype) + b"\x89\x88\x87R(K\x03" + text(byteorder) + b"NNNJ" + b"\xff" * 4
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
        ("f4", b"J\xff\xff\xff\x7fK\x00\x86", b"C\x00"),  # as many empty rows
        ("O", b"J\xff\xff\xff\x7fK\x00\x86", b"]"),
        ("V8", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("M8[s]", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("O", b"K\x01\x85", b"C\x08" + bytes(8)),  # pointers
        ("f4,O", b"K\x01\x85", b"C\x08" + bytes(8)),
        ("O", b"K\x01\x85", text("x")),
        ("O", b"K\x01\x85", b"]]a"),  # a list in an object array
        ("O", b"K\x01\x85", b"]" + the_name("builtins", "set") + b"a"),
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
        program(the_name("numpy", "dtype")),  # an allowed callable as the result
        program(the_name("numpy", "ndarray"), b")R"),  # an array that was never filled
        program(the_name("numpy", "dtype"), text("f4"), b"\x85R"),  # a dtype as the result
        program(the_name("_codecs", "encode"), text("a"), text("rot13"), b"\x86R"),
        program(the_name("numpy", "dtype"), b"}\x85R"),
        program(the_name("builtins", "set"), b"K\x05\x85R"),
        program(
            the_name("numpy._core.multiarray", "scalar"),
            the_name("numpy", "dtype"),
            text("O"),
            b"\x85R]K\x01a\x86R",
        ),
        program(b"]" * 100_000 + b"a" * 99_999),  # deeper than the stack
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",  # asks for an exabyte
    ],
)
def test_streams_that_end_in_something_else_are_refused(tmp_path, stream):
    path = tmp_path / "odd.pkl"
    path.write_bytes(stream)
    with pytest.raises(DataError, match="odd.pkl: "):
        read_pickle(path)


@pytest.mark.parametrize("kind", [bytearray, bytes])
def test_an_array_keeps_the_bytes_that_it_was_made_of(tmp_path, monkeypatch, kind):
    """APPENDS lengthens whatever lies on the stack, which may move it: not what an array holds."""
    monkeypatch.setattr(mmsa, "_PART", 16)
    content = pickle.dumps(kind(1024), protocol=5)[11:-1]  # without head, frame and end; memoised as 0
    dtype = the_name("numpy", "dtype") + text("u1") + b"\x85R"
    array = the_name("numpy._core.numeric", "_frombuffer") + b"(h\x00" + dtype + b"M\x00\x04\x85" + text("C") + b"tR"
    (tmp_path / "good.pkl").write_bytes(program(content, b"0", array))
    assert read_pickle(tmp_path / "good.pkl").shape == (1024,)
    (tmp_path / "longer.pkl").write_bytes(program(content, b"0", array, b"h\x00(" + b"K\x01" * 99 + b"e\x86"))
    with pytest.raises(DataError, match="BufferError"):
        read_pickle(tmp_path / "longer.pkl")


def bomb():
    """2^60 numbers in 60 lists."""
    nested = 1.0
    for _ in range(60):
        nested = [nested, nested]
    return nested


def test_what_is_nested_by_reference_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(mmsa, "_PART", 16)
    for tree in (bomb(), [bytes(99)] * 2):
        result = read_pickle(fixtures.write(tree, tmp_path / "bomb.pkl"))
        assert result[0] is result[1]


@pytest.mark.parametrize("key", ["audio", "audio_lengths", "regression_labels", "id"])
def test_lists_nested_by_reference_make_no_array(put, key):
    tree = fixtures.mosi_aligned()
    tree["train"][key] = [bomb()] * len(tree["train"]["id"])
    with pytest.raises(DataError, match=f"key '{key}': wanted "):
        load_mmsa("mosi", put(tree))


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
