"""How the safe reader reads, and that it runs nothing; more that it refuses: ``tests/bad_inputs``."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
from collections import OrderedDict

import numpy as np
import pytest
from refusals import mmsa_fixtures as fixtures
from streams import Call, program, text, the_name, touch

from decalign_core.data import pickles
from decalign_core.data.pickles import DataError, read_pickle


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
    assert not any(hasattr(stand_in, "__dict__") for stand_in in pickles._Unpickler.allowed.values())
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
    monkeypatch.setattr(pickles, "_PART", 16)
    content = pickle.dumps(kind(1024), protocol=5)[11:-1]  # without head, frame and end; memoised as 0
    dtype = the_name("numpy", "dtype") + text("u1") + b"\x85R"
    array = the_name("numpy._core.numeric", "_frombuffer") + b"(h\x00" + dtype + b"M\x00\x04\x85" + text("C") + b"tR"
    (tmp_path / "good.pkl").write_bytes(program(content, b"0", array))
    assert read_pickle(tmp_path / "good.pkl").shape == (1024,)
    (tmp_path / "longer.pkl").write_bytes(program(content, b"0", array, b"h\x00(" + b"K\x01" * 99 + b"e\x86"))
    with pytest.raises(DataError, match="BufferError"):
        read_pickle(tmp_path / "longer.pkl")


def test_what_is_nested_by_reference_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "_PART", 16)
    for tree in (fixtures.bomb(), [bytes(99)] * 2):
        result = read_pickle(fixtures.write(tree, tmp_path / "bomb.pkl"))
        assert result[0] is result[1]


@pytest.mark.parametrize("many", [1 << 22, 2], ids=["few bytes", "many bytes"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_things_come_back_as_they_were(tmp_path, monkeypatch, protocol, many):
    monkeypatch.setattr(pickles, "_PART", many)
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
