"""Pickles read without running them: the files that the field shares are pickles of arrays.

**Safety.** A pickle is a program: its opcodes import names and call what they find. Here no name is imported. A fixed
list of names is answered with stand-ins that check their arguments, and nothing else is answered, so the program can
build arrays, strings, numbers and plain containers only.

**Memory.** The bytes of an array are read to where they stay, a part at a time; those of pickles older than protocol 3
are copied.
"""

from __future__ import annotations

import copyreg
import math
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class DataError(ValueError):
    """A defect of a data file: one line that names the file, the split, the key, what was wanted and what was found."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class _Allowed:
    """A callable of the allow list. Danger: BUILD sets attributes, so nothing here may be settable."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"sets the attribute {name!r}")


class _PickledDtype:
    """Stands in for ``numpy.dtype``: plain numbers, strings and (checked later) objects; no records."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[biufcSU]\d{0,9}|O\d?|\?", name):
            raise pickle.UnpicklingError(f"asks for the dtype {name!r}")
        self.dtype = np.dtype("O" if name[0] == "O" else name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Stands in for an array between ``_reconstruct``, which makes it empty, and BUILD, which fills it."""

    __slots__ = ("array",)

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(
    data: Any, dtype: _PickledDtype, shape: Sequence[int], order: str, axes: Sequence[int] | None = None
) -> _PickledArray:
    result = _PickledArray()
    array = _array(data, dtype, shape, "C" if order == "K" else order)
    result.array = array if axes is None else array.transpose(axes)
    return result


def _array(data: Any, dtype: _PickledDtype, shape: Sequence[int], order: str = "C") -> np.ndarray:
    shape = tuple(shape)
    # Danger: an array without any place could have any number of rows, of which lists and names are made.
    if math.prod(max(size, 1) for size in shape) > max(len(data), _MOST_EMPTY):
        raise pickle.UnpicklingError(f"holds {len(data)} bytes or objects for an array of shape {shape}")
    if dtype.dtype.hasobject:
        return _object_array(data, shape)
    raw = data.encode("latin1") if isinstance(data, str) else data
    count, width = math.prod(shape), dtype.dtype.itemsize
    # Danger: an array of strings of length 0 could have any number of them.
    if count * width != len(raw) or (count > 1 and not width):
        raise pickle.UnpicklingError(f"holds {len(raw)} bytes for an array of shape {shape} and type {dtype.dtype}")
    if not len(raw):
        return np.zeros(shape, dtype.dtype)
    # Danger: not np.ndarray(buffer=raw), which does not hold the bytes: an opcode could free them under the array.
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


def _object_array(items: Any, shape: tuple[int, ...]) -> np.ndarray:
    if type(items) is not list:
        raise pickle.UnpicklingError(f"holds an object array made of {type(items).__name__}")
    strange = [type(item).__name__ for item in items if not is_scalar(item)]
    if strange:
        raise pickle.UnpicklingError(f"holds an object array with {strange[0]} in it, not only strings and numbers")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _scalar(dtype: _PickledDtype, data: Any) -> np.generic:
    # Danger: with an object dtype, NumPy's own version hands back whatever it is given.
    if dtype.dtype.hasobject:
        raise pickle.UnpicklingError("asks for a NumPy scalar of type object")
    return _array(data, dtype, ())[()] if dtype.dtype.itemsize else dtype.dtype.type()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError(f"asks to encode by {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _allow_list() -> dict[tuple[str, str], _Allowed]:
    names = {
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _PickledDtype,
        ("numpy", "ndarray"): _PickledArray,
        ("collections", "OrderedDict"): dict,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _PickledArray
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for builtins in ("builtins", "__builtin__"):
        names |= {(builtins, kind.__name__): kind for kind in (set, frozenset, complex)}
        names[builtins, "bytes"] = _empty_bytes
    return {name: _Allowed(call) for name, call in names.items()}


class _Buffer(bytearray):
    """Many bytes of a pickle, writable, so that they become an array's own memory; ``bytes`` would be copied."""

    __slots__ = ()


_PART = 1 << 22  # bytes that are read at a time
_MOST_EMPTY = 1 << 20  # rows, and rows of rows, that an array without numbers may have


class _Unpickler(pickle._Unpickler):
    """Answers names from the allow list, by exact match: nothing is imported, no attribute is followed.

    It is the one written in Python: the one written in C has no place to say where bytes are read to.
    """

    allowed = _allow_list()
    dispatch = dict(pickle._Unpickler.dispatch)

    def _load_many(self, length: str, kind: type[bytearray]) -> None:
        (size,) = struct.unpack(length, self.read(struct.calcsize(length)))
        if size < _PART and kind is _Buffer:
            self.append(self.read(size))
            return
        # Danger: not kind(size), with which a few bytes could ask for all memory.
        buffer = kind()
        while len(buffer) < size:
            part = self.read(min(_PART, size - len(buffer)))
            if not part:
                raise EOFError("the file ends within an array")
            buffer += part
        self.append(buffer)

    dispatch[pickle.BINBYTES[0]] = lambda self: self._load_many("<I", _Buffer)
    dispatch[pickle.BINBYTES8[0]] = lambda self: self._load_many("<Q", _Buffer)
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self._load_many("<Q", bytearray)

    def find_class(self, module: str, name: str) -> _Allowed:
        try:
            return self.allowed[module, name]
        except KeyError:
            wanted = "wanted NumPy arrays and plain containers"
            raise DataError(f"refused, nothing executed: {wanted}, got the name {f'{module}.{name}'!r:.200}") from None


def is_scalar(value: object) -> bool:
    """Whether ``value`` is a string, bytes, a number or None, by its exact type: a subclass could carry code."""
    plain = (str, bytes, bytearray, int, float, complex, bool, type(None))
    return type(value) in plain or isinstance(value, np.generic)


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with arrays in the place of their stand-ins; ``seen`` keeps shared containers shared."""
    if is_scalar(value):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if type(value) is _Buffer:
        seen[id(value)] = bytes(value)
        return seen[id(value)]
    if type(value) is _PickledArray and value.array is not None:
        return value.array
    if type(value) is dict:
        result = seen[id(value)] = {}
        result.update((_plain(key, seen), _plain(item, seen)) for key, item in value.items())
    elif type(value) in (list, tuple, set, frozenset):
        result = seen[id(value)] = type(value)(_plain(item, seen) for item in value)
    else:
        raise pickle.UnpicklingError(f"holds an incomplete {type(value).__name__.strip('_')}")
    return result


def read_pickle(path: str | Path) -> Any:
    """What a pickle holds, of NumPy arrays, strings, numbers and plain containers; nothing in it is executed.

    Small arrays may be read-only. Strings written by Python 2 are decoded as latin-1; an
    ``OrderedDict`` comes back as a dict.

    Raises:
        DataError: if the file is missing, empty, cut off, no pickle, or asks for anything else (the name is told).
    """
    copyreg.clear_extension_cache()  # else an extension opcode would bypass find_class
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.peek(24)[:24]
            return _plain(_Unpickler(file, encoding="latin1").load(), {})
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: wanted a readable file, got {error.strerror or error}") from error
    except Exception as error:  # a damaged or hostile stream can raise nearly anything
        raise DataError(
            f"{path}: wanted a whole pickle of arrays and plain containers, got {_found(head, error)}"
        ) from error


def _found(head: bytes, error: Exception) -> str:
    """What a file is that is no pickle, as far as its first bytes and the error tell."""
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive, as PyTorch and NumPy write them"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive (unpack it first)"
    return f"{type(error).__name__}: {error!s:.200} (the file begins with {head!r})" if head else "an empty file"


def row_count(value: Any) -> int | None:
    """The rows of a list, a tuple or an array; None of anything else."""
    counted = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return len(value) if counted else None
