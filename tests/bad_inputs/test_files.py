"""Data files: broken, hostile, or with values that cannot be. Refused in one line, or repaired, counted and logged."""

import collections
import copyreg
import datetime
import functools
import gzip
import logging
import os
import pickle
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import assert_line, command_refusal, mmsa_fixtures, outcome, refusal, untouched
from streams import Call, program, text, the_name, touch

from decalign_core.__main__ import main
from decalign_core.data import load
from decalign_core.data.mmsa import check, load_mmsa
from decalign_core.data.pickles import DataError, read_pickle

MOSI = "MOSI/mosi_aligned_50.pkl"


@pytest.fixture
def put(tmp_path):
    """Writes a tree below the root and returns the file."""
    return lambda tree, place=MOSI: mmsa_fixtures.write(tree, tmp_path / place)


# --- a defect of one split: told by load, by check and by the command, with file, split and key ---


def spoil(key, value):
    return lambda content: content.update({key: value})


def edit(key, index, value):
    def spoiled(content):
        content[key] = np.array(content[key])
        content[key][index] = value

    return spoiled


def without(*keys):
    return lambda content: [content.pop(key) for key in keys]


def cut(content):
    content.update({key: value[:0] for key, value in content.items()})


DEFECTS = [
    pytest.param(without("audio"), "audio", "this key", "the keys", id="key missing"),
    pytest.param(without("regression_labels"), "labels", "this key", "the keys", id="labels missing"),
    pytest.param(
        spoil("vision", np.ones((2, 50, 20))), "vision", "3 samples", "shape (2, 50, 20)", id="unequal N of features"
    ),
    pytest.param(
        spoil("regression_labels", [0.0, 1.0]), "text_bert", "2 samples", "shape (3, 3, 50)", id="unequal N of labels"
    ),
    pytest.param(spoil("audio", np.ones((3, 5))), "audio", "an array (N, T, D)", "shape (3, 5)", id="rank 2"),
    pytest.param(
        spoil("text", np.ones((3, 50, 768, 1))), "text", "an array (N, T, D)", "shape (3, 50, 768, 1)", id="rank 4"
    ),
    pytest.param(spoil("audio", np.float64(3)), "audio", "an array", "shape ()", id="rank 0"),
    pytest.param(spoil("audio", np.ones((3, 0, 5))), "audio", "at least one frame", "(3, 0, 5)", id="no frames"),
    pytest.param(spoil("audio", np.ones((3, 50, 0))), "audio", "one column", "(3, 50, 0)", id="no columns"),
    pytest.param(spoil("audio", np.ones((3, 50, 6))), "audio", "the width 5", "6", id="another width"),
    pytest.param(spoil("audio", np.ones((3, 375, 5))), "audio", "50 frames as in the text", "375", id="not aligned"),
    pytest.param(spoil("audio", [["a"], ["b"], ["c"]]), "audio", "numbers in a regular array", "list", id="strings"),
    pytest.param(
        spoil("audio", np.full((3, 50, 5), "x")), "audio", "numbers in a regular array", "<U1", id="string array"
    ),
    pytest.param(
        spoil("audio", np.ones((3, 50, 5), dtype=complex)), "audio", "numbers in", "complex128", id="complex numbers"
    ),
    pytest.param(
        spoil("audio", np.array([["a", 1], [None, 2], [3, 4]], dtype=object)),
        *("audio", "numbers in a regular array", "dtype object"),
        id="object array",
    ),
    pytest.param(
        spoil("audio", [[1.0], [1.0, 2.0], [1.0]]), "audio", "numbers in a regular array", "list", id="ragged rows"
    ),
    pytest.param(spoil("audio", {"left": 1}), "audio", "numbers in a regular array", "dict", id="a dict of features"),
    pytest.param(
        spoil("audio", np.full((3, 50, 5), np.nan)), "audio", "finite numbers", "all 750 places", id="NaN everywhere"
    ),
    pytest.param(
        spoil("vision", np.full((3, 50, 20), -np.inf)), "vision", "finite numbers", "all 3000", id="inf everywhere"
    ),
    pytest.param(edit("text_bert", (1, 1, 0), 2), "text_bert", "0 or 1 in row 1", "up to 2", id="attention of 2"),
    pytest.param(edit("text_bert", (1, 1), 0), "text_bert", "rows (token ids", "sample 1", id="attention empty"),
    pytest.param(edit("text_bert", (1, 0, 0), -1), "text_bert", "whole numbers", "others", id="token id below 0"),
    pytest.param(
        spoil("text_bert", np.full((3, 3, 50), 0.5)), "text_bert", "whole numbers", "float64", id="half a token"
    ),
    pytest.param(
        spoil("text_bert", np.ones((3, 50, 3))), "text_bert", "an array (N, 3, T)", "(3, 50, 3)", id="tokens transposed"
    ),
    pytest.param(
        spoil("text_bert", np.ones((3, 3, 40), int)), "text_bert", "50 tokens as in 'text'", "40", id="tokens fewer"
    ),
    pytest.param(
        edit("regression_labels", 1, np.nan), "regression_labels", "finite labels", "sample 1", id="label NaN"
    ),
    pytest.param(
        edit("regression_labels", 2, -np.inf), "regression_labels", "finite labels", "sample 2", id="label inf"
    ),
    pytest.param(
        edit("regression_labels", 1, -30), "regression_labels", "labels in [-3, 3]", "-30", id="label out of range"
    ),
    pytest.param(
        spoil("regression_labels", np.ones((3, 2))), "regression_labels", "one number a", "(3, 2)", id="two labels"
    ),
    pytest.param(
        spoil("regression_labels", ["good"] * 3), "regression_labels", "numbers in", "list", id="label in words"
    ),
    pytest.param(
        spoil("audio_lengths", [50, 51, 2]), "audio_lengths", "at most 50", "51 at sample 1", id="longer than the array"
    ),
    pytest.param(spoil("audio_lengths", [5, -1, 2]), "audio_lengths", "from 0 on", "from -1 to 5", id="length -1"),
    pytest.param(spoil("audio_lengths", [5, 1.5, 2]), "audio_lengths", "whole numbers", "values", id="length 1.5"),
    pytest.param(spoil("audio_lengths", [5, 2]), "audio_lengths", "3 samples", "shape (2,)", id="fewer lengths"),
    pytest.param(spoil("id", ["a", "b"]), "id", "3 names", "list of 2", id="fewer names"),
    pytest.param(spoil("id", [{}, {}, {}]), "id", "names as strings", "{}", id="names that are dicts"),
    pytest.param(spoil("id", ["a", "", "c"]), "id", "names as strings", "''", id="a name that is empty"),
    pytest.param(
        edit("id", 2, "trainvideo0$_$0001"), "id", "names of its own", "1 that 'train' has too", id="shared sample"
    ),
    pytest.param(
        spoil("regression_labels_T", [0.0, np.nan, 0.0]), "regression_labels_T", "finite", "1 that", id="one NaN in _T"
    ),
    pytest.param(cut, "regression_labels", "at least one sample", "an empty split", id="split empty"),
]


@pytest.mark.parametrize(("change", "key", "wanted", "got"), DEFECTS)
def test_a_defect_of_a_split(put, tmp_path, capsys, change, key, wanted, got):
    tree = mmsa_fixtures.mosi_aligned()
    change(tree["valid"])
    path = put(tree)
    said = (f"{path}: split 'valid', key {key!r}: wanted ", wanted, ", got ", got)
    first = refusal(lambda: load_mmsa("mosi", tmp_path), *said)
    defects = check(path)
    assert first.startswith(defects[0])
    with untouched(tmp_path):
        code, out, err = outcome(capsys, main, ["data", "check", path])
    assert code == 2
    assert [f"decalign: {defects[0]}"] == err.splitlines() if len(defects) == 1 else out.splitlines() == defects


TREES = [
    pytest.param([1, 2], "wanted a dict with train, valid and test, got list", id="top level a list"),
    pytest.param(None, "wanted a dict with train, valid and test, got NoneType", id="top level nothing"),
    pytest.param({"train": [1]}, "split 'train': wanted a dict of arrays, got list", id="split a list"),
    pytest.param({}, "split 'train': wanted a dict of arrays, got the keys []", id="no split"),
    pytest.param({"train": {}}, "key 'labels': wanted this key, got the keys []", id="split without keys"),
    pytest.param(
        {k: v for k, v in mmsa_fixtures.mosi_aligned().items() if k != "test"},
        "split 'test': wanted a dict of arrays, got the keys ['train', 'valid']",
        id="split missing",
    ),
]


@pytest.mark.parametrize(("tree", "said"), TREES)
def test_a_tree_of_another_form(put, tmp_path, tree, said):
    path = put(tree)
    refusal(lambda: load_mmsa("mosi", tmp_path), f"{path}: ", *said.split(" wanted"))
    assert_line(check(path)[0], f"{path}: ", said)


def spoiled(build, key, value):
    tree = build()
    tree["test"][key] = np.array(value)
    return tree


OTHERS = [
    pytest.param(
        "sims",
        "CH-SIMS/chsims.pkl",
        spoiled(mmsa_fixtures.sims, "regression_labels", [1.5, 0]),
        "labels in [-1, 1], got 1.5",
        id="sims label beyond 1",
    ),
    pytest.param(
        "iemocap",
        "IEMOCAP/iemocap_data.pkl",
        spoiled(mmsa_fixtures.iemocap, "classification_labels", [0, 6]),
        "classes 0 … 5, got 6 at sample 1",
        id="iemocap class 6",
    ),
    pytest.param(
        "iemocap",
        "IEMOCAP/iemocap_data.pkl",
        spoiled(mmsa_fixtures.iemocap, "classification_labels", [0.5, 1]),
        "classes 0 … 5, got 0.5 at sample 0",
        id="iemocap half a class",
    ),
    pytest.param(
        "mosi",
        MOSI,
        mmsa_fixtures.mosi_unaligned(),
        "50 frames as in the text, this file being aligned (aligned=False reads unaligned ones), got 375",
        id="unaligned file in the aligned place",
    ),
]


@pytest.mark.parametrize(("dataset", "place", "tree", "said"), OTHERS)
def test_what_one_data_set_cannot_hold(put, tmp_path, dataset, place, tree, said):
    path = put(tree, place)
    refusal(lambda: load_mmsa(dataset, tmp_path), f"{path}: split ", "key ", *said.split(", got "))


def test_check_tells_every_defect_at_once(put, tmp_path, capsys):
    tree = mmsa_fixtures.mosi_aligned()
    train, valid, test = tree["train"], tree["valid"], tree["test"]
    train["regression_labels"][0] = np.nan
    train["audio"], train["audio_lengths"] = train["audio"][:, :, 0], [-1, 2, 3, 4]
    train["vision"][1, 2, 3] = -np.inf
    valid["text_bert"][0, 1, 0] = 5
    valid["id"][0] = train["id"][0]
    valid["vision"] = np.ones((3, 50, 21))
    test["text"] = np.full_like(test["text"], np.nan)
    test["id"] = ["one"]
    path = put(tree)
    with untouched(tmp_path):
        code, out, err = outcome(capsys, main, ["data", "check", path])
    lines = out.splitlines()
    for split, key, wanted in [
        ("train", "regression_labels", "finite labels"),
        ("train", "audio", "an array (N, T, D)"),
        ("train", "audio_lengths", "whole numbers from 0 on"),
        ("valid", "text_bert", "0 or 1 in row 1"),
        ("test", "text", "finite numbers"),
        ("test", "id", "2 names"),
        ("valid", "vision", "the width 20 of the first split"),
        ("valid", "id", "names of its own"),
    ]:
        said = [line for line in lines if f"split {split!r}, key {key!r}: wanted {wanted}" in line]
        assert len(said) == 1 and said[0].startswith(f"{path}: ") and ", got " in said[0]
    assert len(lines) == 9 and lines[-1].startswith("repaired when read: ") and "1 NaN or infinite" in lines[-1]
    assert (code, err) == (2, f"decalign: {path}: 8 defects\n")


# --- files that are no pickle ---

WHOLE = pickle.dumps({"a": np.arange(1000)})
STREAMS = [
    pytest.param(b"", "an empty file", id="empty"),
    pytest.param(WHOLE[:20], "", id="cut in the head"),
    pytest.param(WHOLE[: len(WHOLE) // 2], "", id="cut in an array"),
    pytest.param(WHOLE[:-1], "", id="cut before the last byte"),
    pytest.param(pickle.dumps({"a": np.zeros(1 << 20)})[: 1 << 20], "ends within an array", id="cut within an array"),
    pytest.param(b"\x80\x63" + WHOLE[2:], "ValueError: unsupported pickle protocol: 99", id="protocol 99"),
    pytest.param(b"\x80\x06" + WHOLE[2:], "ValueError: unsupported pickle protocol: 6", id="protocol 6"),
    pytest.param(gzip.compress(WHOLE), "a gzip archive (unpack it first)", id="gzip"),
    pytest.param(b"<!DOCTYPE html><html>Sign in</html>", "begins with b'<!DOCTYPE html>", id="a sign-in page"),
    pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https://git", id="LFS"),
    pytest.param(b"\x93NUMPY\x01\x00", r"begins with b'\x93NUMPY", id="npy"),
    pytest.param(b"PK\x03\x04torch", "a zip archive, as PyTorch and NumPy write them", id="zip"),
    pytest.param(b"\x00" * 4096, r"begins with b'\x00", id="zeros of a broken download"),
    pytest.param(b"text,audio\n1,2\n", "begins with b'text,audio", id="CSV"),
]


@pytest.mark.parametrize(("content", "got"), STREAMS)
def test_a_file_that_is_no_whole_pickle(tmp_path, capsys, content, got):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    said = (f"{path}: wanted a whole pickle of arrays and plain containers, got ", got)
    refusal(lambda: read_pickle(path), *said)
    command_refusal(capsys, main, tmp_path, ["data", "check", path], *said)


@pytest.mark.parametrize(
    ("place", "got"),
    [
        pytest.param("none.pkl", "No such file or directory", id="no file"),
        pytest.param("folder", "Is a directory", id="a folder"),
        pytest.param("file/x.pkl", "Not a directory", id="below a file"),
        pytest.param("n" * 300, "File name too long", id="name too long"),
    ],
)
def test_a_path_that_cannot_be_read(tmp_path, capsys, place, got):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    said = (f"{tmp_path / place}: wanted a readable file, got {got}",)
    command_refusal(capsys, main, tmp_path, ["data", "check", tmp_path / place], *said)


# --- pickles that run something ---


class Thrown:
    """A class of somebody else's, whose ``__setstate__`` does what it likes."""

    def __init__(self, command):
        self.command = command

    def __setstate__(self, state):
        os.system(state["command"])


def opened(path):
    return f"open({str(path)!r}, 'w').close()"


def objects(item):
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


ONE = b"\x85R"  # one argument, REDUCE
RECONSTRUCT = the_name("numpy._core.multiarray", "_reconstruct")

# Each does run where pickle.loads reads it; the second item is the name that must be told
RUNNING = [
    pytest.param(lambda s: pickle.dumps(Call(os.system, touch(s))), "posix.system", id="os.system"),
    pytest.param(lambda s: f"cos\nsystem\n(S{touch(s)!r}\ntR.".encode(), "os.system", id="os.system, protocol 0"),
    pytest.param(lambda s: f"(S{touch(s)!r}\niposix\nsystem\n.".encode(), "posix.system", id="posix by INST"),
    pytest.param(lambda s: b"(" + f"cos\nsystem\nS{touch(s)!r}\n".encode() + b"o.", "os.system", id="OBJ"),
    pytest.param(lambda s: pickle.dumps(Call(subprocess.check_call, ["touch", str(s)])), "subprocess", id="subprocess"),
    pytest.param(lambda s: pickle.dumps(Call(eval, opened(s))), "builtins.eval", id="eval"),
    pytest.param(lambda s: pickle.dumps(Call(exec, opened(s))), "builtins.exec", id="builtins.exec"),
    pytest.param(
        lambda s: f"c__builtin__\nexec\n(S{opened(s)!r}\ntR.".encode(), "__builtin__.exec", id="exec, Python 2 name"
    ),
    pytest.param(lambda s: pickle.dumps(Call(open, str(s), "w")), "io.open", id="open for writing"),
    pytest.param(lambda s: pickle.dumps(Call(Path(s).touch)), "builtins.getattr", id="a bound method"),
    pytest.param(lambda s: pickle.dumps(Call(set, [Call(os.system, touch(s))])), "posix.system", id="nested reduce"),
    pytest.param(
        lambda s: pickle.dumps({Call(os.system, touch(s)): [(Call(os.system, touch(s)),)]}), "posix", id="as a dict key"
    ),
    pytest.param(
        lambda s: pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, touch(s))))),
        "_pickle.loads",
        id="a pickle in a pickle",
    ),
    pytest.param(
        lambda s: pickle.dumps(Call(functools.partial(os.system, touch(s)))), "functools.partial", id="partial"
    ),
    pytest.param(
        lambda s: pickle.dumps(Call(copyreg._reconstructor, Call(os.system, touch(s)), object, None)),
        "copyreg._reconstructor",
        id="copyreg",
    ),
    pytest.param(
        lambda s: pickle.dumps({"train": np.zeros(3), "valid": Call(os.system, touch(s))}),
        "posix",
        id="after good data",
    ),
    pytest.param(
        lambda s: pickle.dumps({"id": objects(Call(os.system, touch(s)))}), "posix.system", id="in an object array"
    ),
    pytest.param(
        lambda s: pickle.dumps({"id": objects([objects(Call(eval, opened(s)))])}), "eval", id="in an array in an array"
    ),
    pytest.param(
        lambda s: pickle.dumps(Call(np._core.multiarray.scalar, np.dtype("O"), Call(os.system, touch(s)))),
        "posix.system",
        id="beside an object scalar",
    ),
    pytest.param(
        lambda s: program(the_name("numpy.testing._private.utils", "runstring"), text(opened(s)), b"}\x86R"),
        "numpy.testing._private.utils.runstring",
        id="numpy runs a string",
    ),
    pytest.param(lambda s: program(the_name("numpy", "save"), text(str(s)), b"]\x86R"), "numpy.save", id="numpy.save"),
]

# These need more than pickle.loads to do harm, or are only another's class
FOREIGN = [
    pytest.param(lambda s: pickle.dumps(Thrown(touch(s))), "Thrown", id="a class with __setstate__"),
    pytest.param(
        lambda s: program(the_name("builtins", "getattr"), the_name("builtins", "set"), text("__class__"), b"\x86R"),
        "builtins.getattr",
        id="getattr",
    ),
    pytest.param(lambda s: pickle.dumps(Call(__import__, "os")), "builtins.__import__", id="__import__"),
    pytest.param(lambda s: program(the_name("numpy", "load"), text(str(s)), ONE), "numpy.load", id="numpy.load"),
    pytest.param(
        lambda s: program(the_name("numpy.core.multiarray", "_reconstruct.__globals__")),
        "__globals__",
        id="dotted globals",
    ),
    pytest.param(
        lambda s: program(the_name("numpy", "os.system"), text("x"), ONE), "os.system", id="dotted path to os"
    ),
    pytest.param(lambda s: program(the_name("numpy", "dtype.__class__")), "dtype.__class__", id="dotted dtype"),
    pytest.param(lambda s: program(the_name("_codecs", "encode.__self__")), "encode.__self__", id="dotted encode"),
    pytest.param(
        lambda s: program(RECONSTRUCT, the_name("numpy", "memmap"), b"K\x00\x85C\x01b\x87R"),
        "numpy.memmap",
        id="a subclass of ndarray",
    ),
    pytest.param(lambda s: program(text(touch(s)), b"Q"), "persistent", id="persistent id"),
    pytest.param(lambda s: pickle.dumps(Call(bytearray, 10**15)), "builtins.bytearray", id="a petabyte"),
    pytest.param(lambda s: pickle.dumps({"train": pd.DataFrame({"a": [1]})}), "pandas.", id="a pandas table"),
    pytest.param(lambda s: pickle.dumps({"train": torch.zeros(2)}), "torch._utils._rebuild", id="a tensor"),
    pytest.param(lambda s: pickle.dumps([Path("x")]), "pathlib", id="a path"),
    pytest.param(lambda s: pickle.dumps(datetime.date(2020, 1, 1)), "datetime.date", id="a date"),
    pytest.param(lambda s: pickle.dumps(collections.defaultdict(list)), "collections.defaultdict", id="a defaultdict"),
    pytest.param(lambda s: pickle.dumps(np.array([(1, "a")], dtype="i4,U1")), "dtype 'V8'", id="an array of records"),
    pytest.param(lambda s: pickle.dumps(np.array(["2020"], dtype="M8[Y]")), "dtype 'M8'", id="an array of dates"),
    pytest.param(lambda s: pickle.dumps(objects({"a": 1})), "object array with dict", id="an array of dicts"),
]


@pytest.mark.parametrize(("stream", "told"), [*RUNNING, *FOREIGN])
def test_nothing_in_a_pickle_is_run(tmp_path, capsys, stream, told):
    sentinel, path = tmp_path / "executed", tmp_path / "hostile.pkl"
    path.write_bytes(stream(sentinel))
    with pytest.raises(DataError) as error:
        read_pickle(path)
    assert_line(str(error.value), f"{path}: ", "wanted", "got ", "")
    assert told in str(error.value)
    command_refusal(capsys, main, tmp_path, ["data", "check", path], f"{path}: ")
    assert not sentinel.exists()


@pytest.mark.parametrize(("stream", "told"), RUNNING)
def test_the_same_pickles_do_run_where_pickle_reads_them(tmp_path, monkeypatch, stream, told):
    monkeypatch.chdir(tmp_path)
    with suppress(Exception):
        pickle.loads(stream(tmp_path / "executed"))
    assert list(tmp_path.glob("executed*"))


# --- what can be repaired safely: counted in the notes, logged, told by check ---


def broken(key, *values):
    def change(tree):
        for row, value in enumerate(values):
            tree["valid"][key] = np.array(tree["valid"][key], dtype=np.float64)
            tree["valid"][key][row, 0, 0] = value

    return change


def twice(tree):
    tree["valid"]["id"] = ["a", "a", "b"]


def unlabelled(tree):
    for content in tree.values():
        content["regression_labels_V"] = np.full(len(content["id"]), np.nan)


def slightly_outside(tree):
    tree["valid"]["regression_labels"][:2] = 3.4, -3.2


REPAIRS = [
    pytest.param(broken("audio", -np.inf, -np.inf), "audio", "2 NaN or infinite values became 0", id="-inf in COVAREP"),
    pytest.param(broken("vision", np.nan), "vision", "1 NaN or infinite values became 0", id="NaN in vision"),
    pytest.param(broken("text", np.inf, np.nan), "text", "2 NaN or infinite values became 0", id="inf in text"),
    pytest.param(broken("audio", 1e300), "audio", "1 NaN or infinite values became 0", id="too large for float32"),
    pytest.param(
        slightly_outside, "regression_labels", "2 labels outside of [-3, 3] were cut off", id="labels cut off"
    ),
    pytest.param(unlabelled, "regression_labels_V", "left out, every label is NaN", id="labels that nobody gave"),
    pytest.param(twice, "id", "1 names occur more than once, the first is 'a'", id="a name twice in a split"),
]


@pytest.mark.parametrize(("change", "key", "what"), REPAIRS)
def test_what_is_repaired_is_counted_and_logged(put, tmp_path, capsys, caplog, change, key, what):
    tree = mmsa_fixtures.mosi_aligned()
    change(tree)
    path = put(tree)
    with caplog.at_level(logging.WARNING):
        splits = load("mosi", tmp_path, standardise=())
    for _, batch in splits.items():
        assert all(values.isfinite().all() for values in batch.features.values())
        assert batch.target.abs().max() <= 3
    said = f"{path}: split 'valid', key {key!r}: {what}."
    assert said in splits.notes
    assert [record.message for record in caplog.records] == list(splits.notes)
    with untouched(tmp_path):
        code, out, err = outcome(capsys, main, ["data", "check", path])
    assert (code, err) == (0, "") and f"repaired when read: {said}" in out.splitlines()


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        pytest.param([1], "1 of 5 columns of 'audio' became 0", id="one constant column"),
        pytest.param([0, 1, 2, 3, 4], "5 of 5 columns of 'audio' became 0", id="constant features"),
    ],
)
def test_constant_columns_become_0_and_are_counted(put, tmp_path, caplog, columns, what):
    tree = mmsa_fixtures.mosi_aligned()
    for content in tree.values():
        content["audio"][..., columns] = 7.0
    put(tree)
    with caplog.at_level(logging.WARNING):
        splits = load("mosi", tmp_path)
    assert splits.test.features["audio"][..., columns].eq(0).all()
    (note,) = splits.notes
    assert_line(note, "standardise: ", what, "constant in every valid training frame")
    assert [record.message for record in caplog.records] == [note]


# --- the converted CMU-MOSI ---


@pytest.fixture
def planted(tmp_path):
    """A converted data set of 80 utterances; returns the function that writes it changed."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "MOSI-public"
    folder.mkdir()
    videos = [f"v{row // 3:02d}" for row in range(80)]
    table = pd.DataFrame(
        {
            "id": [f"{video}$_${row}" for row, video in enumerate(videos)],
            "video": videos,
            "clip": range(80),
            "transcript": "GOOD",
            "score": rng.uniform(-3, 3, 80).round(1),
            "split": [("train", "valid", "test")[row % 3] for row in range(80)],
            "seen": False,
        }
    )
    arrays = {key: rng.normal(size=(80, width)) for key, width in {"text_cnn": 10, "audio": 7, "vision": 9}.items()}

    def write(of_table=lambda table: table, of_arrays=lambda arrays: arrays):
        of_table(table).to_csv(folder / "utterances.csv", index=False)
        np.savez(folder / "features.npz", **of_arrays(arrays))
        return tmp_path

    return write


def replaced(column, value):
    return {"of_table": lambda table: table.assign(**{column: [value, *table[column][1:]]})}


def with_array(change):
    return {"of_arrays": lambda arrays: arrays | {"audio": change(arrays["audio"].copy())}}


def with_nan(values):
    values[3, 2] = np.nan
    return values


CONVERTED = [
    pytest.param(
        {"of_table": lambda table: table.drop(columns="seen")},
        "utterances.csv: wanted the columns id, ",
        "seen",
        id="no seen",
    ),
    pytest.param({"of_table": lambda table: table.iloc[:, :0]}, "utterances.csv: wanted", "", id="no column at all"),
    pytest.param(replaced("score", "x"), "column 'score': wanted numbers in [-3, 3]", "'x' in row 0", id="score"),
    pytest.param(replaced("score", 9.0), "column 'score': wanted numbers in [-3, 3]", "9.0", id="score out of range"),
    pytest.param(replaced("split", "dev"), "column 'split': wanted one of train,", "'dev' in row 0", id="split"),
    pytest.param(replaced("seen", "maybe"), "column 'seen': wanted True or False", "'maybe' in row 0", id="seen"),
    pytest.param(replaced("id", "v00$_$1"), "column 'id': wanted each name once", "'v00$_$1' in row 1", id="id twice"),
    pytest.param(with_array(lambda x: x[:79]), "features.npz: wanted 80 rows of audio", "79", id="rows fewer"),
    pytest.param(with_array(lambda x: x[:, :, None]), "features.npz: wanted numbers (N, D)", "(80, 7, 1)", id="rank"),
    pytest.param(with_array(lambda x: x.astype(str)), "features.npz: wanted numbers (N, D)", "<U", id="strings"),
    pytest.param(with_array(lambda x: x.astype(object)), "features.npz: wanted the arrays", "Object", id="objects"),
    pytest.param(with_array(with_nan), "features.npz: wanted finite numbers as audio", "1 that are NaN", id="NaN"),
    pytest.param(
        {"of_arrays": lambda arrays: {"audio": arrays["audio"]}}, "features.npz: wanted the arrays", "", id="no text"
    ),
]


@pytest.mark.parametrize(("change", "wanted", "got"), CONVERTED)
def test_a_converted_file_that_does_not_hold_together(planted, capsys, change, wanted, got):
    root = planted(**change)
    said = (str(root / "MOSI-public"), wanted, ", got ", got)
    refusal(lambda: load("mosi_public", root), *said)
    command_refusal(capsys, main, root, ["data", "describe", "mosi_public", "--data-dir", root], *said)


def test_the_file_that_they_were_made_of_is_good(planted):
    assert [len(batch) for _, batch in load("mosi_public", planted()).items()]
