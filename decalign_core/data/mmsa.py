"""The pickles that the field shares, read without running them: MMSA's MOSI, MOSEI and CH-SIMS, and IEMOCAP.

A file is a dict of ``train``, ``valid`` (or ``dev``) and ``test`` (MMSA-FET adds ``config``, ignored); each split is a
dict of arrays or lists with N samples:

==============================  ==================================  ==========================================
key                             shape                               meaning
==============================  ==================================  ==========================================
``text``                        (N, T, D)                           BERT states, or GloVe vectors
``text_bert``                   (N, 3, T), int or float             token ids, attention mask, segment ids
``audio``, ``vision``           (N, T_m, D_m)                       frames, zeros behind the end
``audio_lengths``, …            N integers, optional                valid frames; 0 where the modality is absent
``id``                          N strings, optional                 ``"video$_$clip"``
``regression_labels``           (N,); ``labels`` (N, 1, 1) in old   sentiment in [-3, 3], CH-SIMS in [-1, 1]
``regression_labels_T/_A/_V``   (N,), optional                      CH-SIMS: sentiment of one modality alone
``classification_labels``       (N,)                                IEMOCAP: happy, sad, neutral, angry, excited,
                                                                    frustrated = 0 … 5
==============================  ==================================  ==========================================

**Which frames are valid.** Text: the attention mask, else the frames that are not all zero. Audio and vision: their
lengths; without lengths, the attention mask where they have as many frames as the text (aligned rows match word
pieces), else their frames that are not all zero. Padded frames become 0.

**What is repaired, and told in** ``Splits.notes``: NaN and infinite features become 0; MOSI and MOSEI labels up to 1
outside of [-3, 3] are cut off. Each is counted, and logged as a warning. Every other defect raises :class:`DataError`.

**Memory.** What an array holds is read to where it stays and mended there, a part at a time: reading takes little more
than the arrays themselves. Arrays of other types than float32, and those of pickles older than protocol 3, are copied.

**Safety.** A pickle is a program: its opcodes import names and call what they find. Here no name is imported. A fixed
list of names is answered with stand-ins that check their arguments, and nothing else is answered, so the program can
build arrays, strings, numbers and plain containers only.
"""

from __future__ import annotations

import copyreg
import logging
import math
import pickle
import re
import reprlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from decalign_core.files import atomic_path
from decalign_core.types import Batch, Splits

if TYPE_CHECKING:
    from decalign_core.nn.text import TextEncoder

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class DataError(ValueError):
    """A defect of a data file: one line that names the file, the split, the key, what was wanted and what was found."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


# ---------------------------------------------------------------- pickles, read safely


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
    strange = [type(item).__name__ for item in items if not _is_scalar(item)]
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


_PART = 1 << 22  # bytes that are read, or looked at, at a time
_MOST_EMPTY = 1 << 20  # rows, and rows of rows, that an array without numbers may have
_MOST_LISTED = 1 << 28  # numbers in nested lists


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


def _is_scalar(value: object) -> bool:
    # Exact types: a subclass could carry code.
    plain = (str, bytes, bytearray, int, float, complex, bool, type(None))
    return type(value) in plain or isinstance(value, np.generic)


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with arrays in the place of their stand-ins; ``seen`` keeps shared containers shared."""
    if _is_scalar(value):
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


# ---------------------------------------------------------------- the data sets


@dataclass(frozen=True)
class _Dataset:
    """Where a data set lies below the root, and what its labels are."""

    aligned: tuple[str, ...]
    unaligned: tuple[str, ...] = ()
    source: str = "the links under 'Datasets' of https://github.com/thuiar/MMSA"
    scale: str = "mosi"
    limit: float = 3.0
    slack: float = 1.0
    classes: int = 0

    @property
    def has_both_forms(self) -> bool:
        return bool(self.unaligned)


_DATASETS = {
    "mosi": _Dataset(
        aligned=("MOSI/mosi_aligned_50.pkl", "MOSI/Processed/aligned_50.pkl"),
        unaligned=("MOSI/mosi_unaligned_50.pkl", "MOSI/Processed/unaligned_50.pkl"),
    ),
    "mosei": _Dataset(
        aligned=("MOSEI/mosei_aligned_50.pkl", "MOSEI/Processed/aligned_50.pkl"),
        unaligned=("MOSEI/mosei_unaligned_50.pkl", "MOSEI/Processed/unaligned_50.pkl"),
    ),
    "sims": _Dataset(
        aligned=("CH-SIMS/chsims.pkl", "SIMS/Processed/unaligned_39.pkl", "CH-SIMS/Processed/unaligned_39.pkl"),
        scale="sims",
        limit=1.0,
        slack=0.0,
    ),
    "iemocap": _Dataset(
        aligned=("IEMOCAP/iemocap_data.pkl",),
        source="decalign_core.data.mmsa.iemocap_from_gcnet, which makes it of the features that"
        " https://github.com/zeroQiaoba/GCNet links to (IEMOCAP itself needs its licence)",
        scale="emotion",
        classes=6,
    ),
}
MODALITIES = ("text", "audio", "vision")
_SPLITS = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
_EXTRA_TARGETS = {"T": "text", "A": "audio", "V": "vision"}
_RANKS = {2: "(N, D)", 3: "(N, T, D)"}


@dataclass
class _Part:
    """One split while it is read. Validators raise, :meth:`attempt` collects: one reading finds every defect.

    ``taken`` holds the addresses of arrays of the file that became a batch's own: no two batches share one.
    """

    path: Path
    split: str
    content: dict[str, Any]
    dataset: _Dataset
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)

    def defect(self, key: str, wanted: str, got: object) -> DataError:
        return DataError(f"{self.path}: split {self.split!r}, key {key!r}: wanted {wanted}, got {got}")

    def note(self, key: str, what: str) -> None:
        self.notes.append(f"{self.path}: split {self.split!r}, key {key!r}: {what}.")

    def attempt(self, read: Callable[..., Result], *args: Any) -> Result | None:
        try:
            return read(self, *args)
        except DataError as error:
            self.defects.append(str(error))
            return None

    @property
    def label_key(self) -> str:
        key = "classification_labels" if self.dataset.classes else "regression_labels"
        return "labels" if key == "regression_labels" and key not in self.content else key

    @property
    def counted_key(self) -> str | None:
        """The key whose rows count the samples: the labels, in a file without them what there is."""
        keys = (self.label_key, "text", "text_bert", "audio", "vision")
        return next((key for key in keys if _rows(self.content.get(key)) is not None), None)

    @property
    def samples(self) -> int | None:
        return _rows(self.content.get(self.counted_key))

    def numbers(self, key: str, ranks: Sequence[int] = ()) -> np.ndarray:
        """The array under ``key``: numbers, of one of the ``ranks``, as many rows as there are labels."""
        if self.content.get(key) is None:
            raise self.defect(key, "this key", f"the keys {sorted(map(str, self.content))}")
        array = _numeric(self.content[key])
        if array is None:
            raise self.defect(key, "numbers in a regular array", _describe(self.content[key]))
        if ranks and array.ndim not in ranks:
            wanted = " or ".join(_RANKS[rank] for rank in ranks)
            raise self.defect(key, f"an array {wanted}", f"shape {array.shape}")
        if array.ndim == 0 or len(array) != self.samples:
            raise self.defect(key, f"{self.samples} samples as in {self.counted_key!r}", f"shape {array.shape}")
        return array


def _rows(value: Any) -> int | None:
    counted = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return len(value) if counted else None


def _numeric(value: Any) -> np.ndarray | None:
    # Danger: a list that holds one list many times, and that another, can stand for any number of numbers.
    if _listed(value, {}) > _MOST_LISTED:
        return None
    try:
        array = np.asarray(value)
        array = np.asarray(array.tolist()) if array.dtype.hasobject else array
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _listed(value: Any, known: dict[int, int]) -> int:
    """How many things nested lists hold, those that are held twice counted twice."""
    if not isinstance(value, list | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = sum(_listed(item, known) for item in value)
    return known[id(value)]


def _describe(value: Any) -> str:
    kind = f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
    first = f" that begins with {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"{type(value).__name__}{kind}{first}"


# ---------------------------------------------------------------- validators, one a key


def _target(part: _Part) -> Tensor:
    return _classes(part) if part.dataset.classes else _regression(part, part.label_key)


def _flat(part: _Part, key: str) -> np.ndarray:
    values = part.numbers(key)
    if values.size != len(values):
        raise part.defect(key, "one number a sample: (N,), (N, 1) or (N, 1, 1)", f"shape {values.shape}")
    return values.reshape(-1)


def _classes(part: _Part) -> Tensor:
    key, count = part.label_key, part.dataset.classes
    labels = _flat(part, key)
    wrong = ~np.isin(labels, np.arange(count))
    if wrong.any():
        raise part.defect(key, f"classes 0 … {count - 1}", f"{labels[wrong][0]} at sample {_first(wrong)}")
    return torch.from_numpy(labels.astype(np.int64))


def _regression(part: _Part, key: str) -> Tensor:
    limit, slack = part.dataset.limit, part.dataset.slack
    labels = _flat(part, key).astype(np.float64)
    wrong = ~np.isfinite(labels)
    if wrong.any():
        raise part.defect(key, "finite labels", f"{wrong.sum()} that are not, the first at sample {_first(wrong)}")
    outside = np.abs(labels) > limit + 1e-6
    if (np.abs(labels) > limit + slack + 1e-6).any():
        worst = labels[np.abs(labels).argmax()]
        raise part.defect(key, f"labels in [-{limit:g}, {limit:g}]", f"{worst:g} and {outside.sum()} outside in all")
    if outside.any():
        part.note(key, f"{outside.sum()} labels outside of [-{limit:g}, {limit:g}] were cut off")
    return torch.from_numpy(labels.clip(-limit, limit).astype(np.float32))


def _first(wrong: np.ndarray) -> int:
    return int(np.flatnonzero(wrong)[0])


def _extra_targets(part: _Part) -> dict[str, Tensor]:
    keys = {f"regression_labels_{letter}": name for letter, name in _EXTRA_TARGETS.items()}
    found = {key: name for key, name in keys.items() if part.content.get(key) is not None}
    # MMSA-FET writes these columns for every data set, all NaN where nobody labelled single modalities.
    unlabelled = [key for key in found if np.isnan(_flat(part, key).astype(np.float64)).all()]
    for key in unlabelled:
        part.note(key, "left out, every label is NaN")
    return {name: _regression(part, key) for key, name in found.items() if key not in unlabelled}


def _ids(part: _Part) -> list[str]:
    key = "ids" if "ids" in part.content and "id" not in part.content else "id"
    rows = part.content.get(key)
    if rows is None:
        return [f"{part.split}$_${index}" for index in range(part.samples or 0)]
    rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
    if _rows(rows) is None or len(rows) != part.samples:
        wanted = f"{part.samples} names as in {part.counted_key!r}"
        raise part.defect(key, wanted, f"{type(rows).__name__} of {_rows(rows)}")
    ids = [_id(part, key, row) for row in rows]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        part.note(key, f"{len(repeated)} names occur more than once, the first is {repeated[0]!r}")
    return ids


def _id(part: _Part, key: str, row: Any) -> str:
    if isinstance(row, list | tuple) and row and all(map(_is_scalar, row)):  # in old files (video, start, end)
        return "$_$".join(_id(part, key, item) for item in row)
    if isinstance(row, bytes):
        row = row.decode("utf-8", "backslashreplace")
    if not isinstance(row, str | int | float | np.number) or row == "":
        raise part.defect(key, "names as strings", reprlib.repr(row))
    return str(row)


def _tokens(part: _Part) -> np.ndarray | None:
    """``text_bert`` as int64 (N, 3, T), or None where the file has none."""
    key = "text_bert"
    if part.content.get(key) is None:
        return None
    tokens = part.numbers(key)
    if tokens.ndim != 3 or tokens.shape[1] != 3 or tokens.shape[2] == 0:
        raise part.defect(key, "an array (N, 3, T)", f"shape {tokens.shape}")
    if not (np.isfinite(tokens).all() and (tokens == np.round(tokens)).all() and (tokens >= 0).all()):
        raise part.defect(key, "whole numbers from 0 on", f"others, dtype {tokens.dtype}")
    tokens = tokens.astype(np.int64)
    attention = tokens[:, 1]
    if attention.max() > 1:
        raise part.defect(key, "0 or 1 in row 1, the attention mask", f"values up to {attention.max()}")
    unread = (tokens[:, 0] > 0).any(axis=1) & ~(attention > 0).any(axis=1)
    if unread.any():
        rows = "rows (token ids, attention mask, segment ids)"
        raise part.defect(key, rows, f"an empty row 1 beside token ids at sample {_first(unread)}")
    return tokens


def _features(part: _Part, name: str) -> np.ndarray:
    """The features of one modality, float32 (N, T, D), the caller's to write to, without NaN or infinity."""
    values = part.numbers(name, ranks=(2, 3) if part.dataset.classes else (3,))
    if values.size == 0:
        raise part.defect(name, "at least one frame and one column", f"shape {values.shape}")
    values = values[:, None, :] if values.ndim == 2 else values
    part.content[name] = values = _owned(part, values)
    broken = sum(map(_mend, _parts(values)))
    if broken == values.size:
        raise part.defect(name, "finite numbers", f"NaN or infinity in all {broken} places")
    if broken:
        part.note(name, f"{broken} NaN or infinite values became 0")
    return values


def _owned(part: _Part, values: np.ndarray) -> np.ndarray:
    """``values`` as float32 that nothing else holds: themselves where they can be, else a copy."""
    address = values.ctypes.data
    fits = values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable
    if fits and address not in part.taken:
        part.taken.add(address)
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(values, dtype=np.float32, order="C")


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of ``values``, a few megabytes at a time."""
    rows = max(1, _PART // max(1, values[:1].nbytes))
    return (values[start : start + rows] for start in range(0, len(values), rows))


def _mend(values: np.ndarray) -> int:
    """Set what is NaN or infinite to 0; how many there were."""
    broken = ~np.isfinite(values)
    count = np.count_nonzero(broken)
    if count:
        values[broken] = 0.0
    return count


def _lengths(part: _Part, name: str) -> np.ndarray | None:
    """The valid frames of each sample (N,), or None where the file does not tell them."""
    key = f"{name}_lengths"
    if name == "text" or part.content.get(key) is None:
        return None
    lengths = _flat(part, key)
    if not ((lengths >= 0) & (lengths == np.round(lengths))).all():
        raise part.defect(key, "whole numbers from 0 on", f"values from {lengths.min()} to {lengths.max()}")
    return lengths


def _length_mask(part: _Part, name: str, frames: int, lengths: np.ndarray) -> np.ndarray:
    if lengths.max() > frames:
        found = f"{lengths.max()} at sample {lengths.argmax()}"
        raise part.defect(f"{name}_lengths", f"at most {frames}, the frames of {name!r}", found)
    return np.arange(frames) < lengths[:, None]


def _mask(
    part: _Part, name: str, values: np.ndarray, attention: np.ndarray | None, lengths: np.ndarray | None
) -> np.ndarray:
    """Valid frames (N, T), by the rule of the module's documentation."""
    if name == "text" and attention is not None and attention.shape[1] != values.shape[1]:
        raise part.defect("text_bert", f"{values.shape[1]} tokens as in 'text'", str(attention.shape[1]))
    if lengths is not None:
        return _length_mask(part, name, values.shape[1], lengths)
    if attention is not None and attention.shape[1] == values.shape[1]:
        return attention
    return np.concatenate([(rows != 0).any(axis=-1) for rows in _parts(values)])


def _modality(part: _Part, name: str, attention: np.ndarray | None, frames: int | None) -> tuple[Tensor, Tensor]:
    lengths = part.attempt(_lengths, name)
    values = _features(part, name)
    part.widths[name] = values.shape[2:]
    if frames is not None and values.shape[1] != frames:
        wanted = f"{frames} frames as in the text, this file being aligned (aligned=False reads unaligned ones)"
        raise part.defect(name, wanted, str(values.shape[1]))
    mask = _mask(part, name, values, attention, lengths)
    if not mask.any():
        part.note(name, "no sample has a valid frame: the modality is absent from this split")
    values[~mask] = 0.0
    return torch.from_numpy(values), torch.from_numpy(mask.copy())


def _token_ids(part: _Part, tokens: np.ndarray | None) -> tuple[Tensor, Tensor]:
    if tokens is None:
        keys = sorted(map(str, part.content))
        raise part.defect("text_bert", "this key, for a text encoder reads token ids", f"the keys {keys}")
    mask = tokens[:, 1] > 0
    return torch.from_numpy(tokens[:, 0] * mask), torch.from_numpy(mask)


def _frames(part: _Part, tokens: np.ndarray | None) -> int | None:
    if tokens is not None:
        return tokens.shape[2]
    text = np.shape(_numeric(part.content.get("text", [])))
    return text[1] if len(text) == 3 else None


def _batch(part: _Part, names: Sequence[str], encoded: bool, aligned: bool) -> Batch | None:
    """The split as a batch of the modalities ``names``, or None with ``part.defects`` filled."""
    if part.samples == 0:
        part.defects.append(str(part.defect(part.counted_key, "at least one sample", "an empty split")))
        return None
    target = part.attempt(_target)
    tokens = part.attempt(_tokens)
    attention = None if tokens is None else tokens[:, 1] > 0
    frames = _frames(part, tokens) if aligned else None
    read = {}
    for name in names:
        if encoded and name == "text":
            read[name] = part.attempt(_token_ids, tokens)
        else:
            read[name] = part.attempt(_modality, name, attention, None if name == "text" else frames)
    part.ids = part.attempt(_ids) or []
    extras = {} if part.dataset.classes else part.attempt(_extra_targets)
    if part.defects:
        return None
    features = {name: values for name, (values, _) in read.items()}
    masks = {name: mask for name, (_, mask) in read.items()}
    return Batch(features, masks, target, part.ids, extras)


# ---------------------------------------------------------------- files


@dataclass
class _Reading:
    """The three splits of a file, with everything found wrong or repaired on the way."""

    batches: dict[str, Batch] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)


def _read(
    path: Path,
    tree: Any,
    dataset: _Dataset,
    *,
    names: Sequence[str] = MODALITIES,
    encoded: bool = False,
    aligned: bool = False,
) -> _Reading:
    reading, parts = _Reading(), []
    if type(tree) is not dict:
        reading.defects.append(f"{path}: wanted a dict with train, valid and test, got {type(tree).__name__}")
        return reading
    keys = sorted(map(str, tree))
    for split, spellings in _SPLITS.items():
        # pop: the raw arrays of one split can be freed before the next is copied.
        content = next((tree.pop(key) for key in spellings if key in tree), None)
        if type(content) is not dict:
            got = f"{type(content).__name__}" if content is not None else f"the keys {keys}"
            reading.defects.append(f"{path}: split {split!r}: wanted a dict of arrays, got {got}")
            continue
        part = _Part(path, split, content, dataset, notes=reading.notes, taken=reading.taken)
        parts.append(part)
        batch = _batch(part, names, encoded, aligned)
        reading.defects += part.defects
        if batch is not None:
            reading.batches[split] = batch
    reading.defects += _disagreements(parts)
    return reading


def _disagreements(parts: Sequence[_Part]) -> list[str]:
    """Defects that show only between splits: other widths than in the first one, samples that two splits share."""
    defects, owner, widths = [], {}, {}
    for part in parts:
        for name, own in part.widths.items():
            width = widths.setdefault(name, own)
            if own != width:
                defects.append(str(part.defect(name, f"the width {width[0]} of the first split", own[0])))
        shared = [name for name in part.ids if owner.setdefault(name, part.split) != part.split]
        if shared:
            found = f"{len(shared)} that {owner[shared[0]]!r} has too, as {shared[0]!r}"
            defects.append(str(part.defect("id", "names of its own", found)))
    return defects


def load_mmsa(
    dataset: str,
    root: str | Path,
    *,
    aligned: bool = True,
    encoder: TextEncoder | None = None,
    modalities: Sequence[str] = (),
) -> Splits:
    """MOSI, MOSEI, CH-SIMS or IEMOCAP from the file that the field shares.

    Features are float32 ``(N, T_m, D_m)`` under the names text, audio and vision. Targets are sentiment scores,
    clipped to [-3, 3] (``"sims"``: [-1, 1]), or the six emotions as classes 0 … 5.

    Args:
        dataset: ``"mosi"``, ``"mosei"``, ``"sims"`` or ``"iemocap"``.
        root: the folder above ``MOSI/``, ``MOSEI/``, ``CH-SIMS/`` (or MMSA's ``SIMS/``), ``IEMOCAP/``; or the file.
        aligned: read the word-aligned file of MOSI or MOSEI; the other two exist in one form only.
        encoder: reads the token ids of ``text_bert``, so the text becomes ``(N, T)`` int64. None: the states ``text``.

        modalities: those to read, the file needs no others; all three if empty.

    Raises:
        DataError: if no file is found, or for the first defect of the file (:func:`check` lists all).
        ValueError: for an unknown data set or modality.
    """
    if dataset not in _DATASETS:
        raise ValueError(f"dataset: wanted one of {sorted(_DATASETS)}, got {dataset!r}")
    names = tuple(modalities) or MODALITIES
    if not set(names) <= set(MODALITIES):
        raise ValueError(f"modalities: wanted some of {', '.join(MODALITIES)}, got {', '.join(names)}")
    source = _DATASETS[dataset]
    aligned = aligned or not source.has_both_forms
    path = find_pickle(dataset, Path(root), aligned)
    words = aligned and source.has_both_forms
    reading = _read(path, read_pickle(path), source, names=names, encoded=encoder is not None, aligned=words)
    if reading.defects:
        more = f" ({len(reading.defects) - 1} more: data check {path} lists them)" if reading.defects[1:] else ""
        raise DataError(reading.defects[0] + more)
    for note in reading.notes:
        _log.warning(note)
    return Splits(
        **_with_common_targets(reading),
        name=dataset if aligned else f"{dataset}/unaligned",
        task="classification" if source.classes else "regression",
        scale=source.scale,
        outputs=source.classes or 1,
        encoders={} if encoder is None or "text" not in names else {"text": encoder},
        notes=tuple(reading.notes),
    )


def find_pickle(dataset: str, root: Path, aligned: bool) -> Path:
    """The pickle of a data set below ``root``, or ``root`` if it is a file; an error where there is none."""
    source = _DATASETS[dataset]
    paths = [root / name for name in (source.aligned if aligned else source.unaligned)]
    found = root if root.is_file() else next((path for path in paths if path.is_file()), None)
    if found is None:
        tried = ", ".join(map(str, paths))
        raise DataError(f"{dataset}: wanted a file at one of {tried}, got none; it comes from {source.source}")
    return found


def _with_common_targets(reading: _Reading) -> dict[str, Batch]:
    """The batches, with those further targets that every split has."""
    common = set.intersection(*(set(batch.extra_targets) for batch in reading.batches.values()))
    for split, batch in reading.batches.items():
        dropped = sorted(set(batch.extra_targets) - common)
        if dropped:
            reading.notes.append(f"split {split!r}: labels of {', '.join(dropped)} left out, not in every split.")
        kept = {name: values for name, values in batch.extra_targets.items() if name in common}
        reading.batches[split] = replace(batch, extra_targets=kept)
    return reading.batches


class Findings(NamedTuple):
    """What is wrong with a file, one line each: what no reading gets past, and what is repaired when it is read."""

    defects: list[str]
    repairs: list[str]


def check(path: str | Path, dataset: str | None = None) -> list[str]:
    """The defects that :func:`examine` finds; none if :func:`load_mmsa` can load the file without an encoder."""
    return examine(path, dataset).defects


def examine(path: str | Path, dataset: str | None = None) -> Findings:
    """Every defect and every repair of a file, at once.

    Args:
        path: a pickle in the layout of this module.
        dataset: whose labels are expected; None tells it by the path, then by the keys.

    Raises:
        ValueError: for an unknown data set.
    """
    if dataset is not None and dataset not in _DATASETS:
        raise ValueError(f"dataset: wanted one of {sorted(_DATASETS)}, got {dataset!r}")
    path = Path(path)
    try:
        tree = read_pickle(path)
    except DataError as error:
        return Findings([str(error)], [])
    source = _DATASETS[dataset or _guess(path, tree)]
    words = source.has_both_forms and f"/{path.as_posix()}".endswith(tuple(f"/{name}" for name in source.aligned))
    reading = _read(path, tree, source, aligned=words)
    return Findings(reading.defects, reading.notes)


def _guess(path: Path, tree: Any) -> str:
    place = "/".join(path.parts[-3:]).lower()
    named = [name for name in ("iemocap", "sims", "mosei", "mosi") if name in place]
    if named:
        return named[0]
    splits = [split for split in tree.values() if type(split) is dict] if type(tree) is dict else []
    keys = {key for split in splits for key in split}
    if keys & {f"regression_labels_{letter}" for letter in _EXTRA_TARGETS}:
        return "sims"
    return "iemocap" if "classification_labels" in keys and not keys & {"regression_labels", "labels"} else "mosi"


# ---------------------------------------------------------------- IEMOCAP from GCNet's features

_GCNET_FOLDERS = {"text": "deberta-large-4-UTT", "audio": "wav2vec-large-c-UTT", "vision": "manet_UTT"}


@dataclass(frozen=True)
class _Dialogues:
    """What GCNet's label file says of each dialogue, and which dialogues are for training and for the test."""

    path: Path
    utterances: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[int]]
    speakers: Mapping[str, Sequence[str]]
    sentences: Mapping[str, Sequence[str]]
    train: set[str]
    test: set[str]

    def __post_init__(self) -> None:
        for name in sorted(self.train | self.test):
            self._check_dialogue(name)
        if self.train & self.test or not self.test or len(self.train) < 2:
            got = f"{len(self.train)} and {len(self.test)}, {len(self.train & self.test)} in both"
            raise DataError(f"{self.path}: wanted two training dialogues and a test dialogue at least, got {got}")

    def _check_dialogue(self, name: str) -> None:
        place = f"{self.path}: dialogue {name!r}"
        tables = (self.utterances, self.labels, self.speakers, self.sentences)
        counts = [_rows(table.get(name)) for table in tables]
        if None in counts or len(set(counts)) > 1:
            wanted = "ids, labels, speakers and sentences of every utterance"
            raise DataError(f"{place}: wanted {wanted}, got counts {counts}")
        classes = range(_DATASETS["iemocap"].classes)
        wrong = [label for label in self.labels[name] if label not in classes]
        if wrong:
            raise DataError(f"{place}: wanted classes 0 … {classes[-1]}, got {wrong[0]!r}")
        odd = [item for item in self.utterances[name] if not isinstance(item, str) or Path(item).name != item]
        if odd:
            raise DataError(f"{place}: wanted utterance ids that name a file, got {odd[0]!r}")


def _read_dialogues(path: Path) -> _Dialogues:
    tree = read_pickle(path)
    wanted = "(videoIDs, videoLabels, videoSpeakers, videoSentences, trainVid, testVid)"
    if type(tree) is not tuple or len(tree) != 6:
        raise DataError(f"{path}: wanted the tuple {wanted}, got {type(tree).__name__} of {_rows(tree)}")
    *tables, train, test = tree
    lists = all(isinstance(names, set | frozenset | list | tuple) for names in (train, test))
    if not (lists and all(type(table) is dict for table in tables)):
        got = ", ".join(type(item).__name__ for item in tree)
        raise DataError(f"{path}: wanted {wanted} as four dicts and two sets, got {got}")
    return _Dialogues(path, *tables, train=set(train), test=set(test))


def iemocap_from_gcnet(
    features_dir: str | Path,
    labels_file: str | Path,
    out_file: str | Path,
    *,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, int]:
    """Turn GCNet's IEMOCAP features into the file that :func:`load_mmsa` reads, usually ``IEMOCAP/iemocap_data.pkl``.

    One vector an utterance and modality, ``(N, 1, D)``: faces of the speaker are averaged, an utterance without one
    gets zeros. GCNet has no validation split: here it is ``valid_fraction`` of the training dialogues, drawn by
    ``seed``, so that no dialogue lies in two splits. ``out_file`` is written whole or not at all.

    Args:
        features_dir: folder of ``deberta-large-4-UTT``, ``wav2vec-large-c-UTT`` and ``manet_UTT``, each with
            ``<utterance>.npy`` (or, for faces, a folder ``<utterance>`` of ``.npy`` files named by speaker, F or M).
        labels_file: GCNet's ``IEMOCAP_features_raw_6way.pkl``.
        out_file: the pickle to write.
        valid_fraction: between 0 and 1, of the training dialogues; at least one and not all of them.
        seed: of the draw.

    Returns:
        The number of utterances by split.

    Raises:
        DataError: for a missing or faulty file, by name.
        ValueError: for a fraction outside of (0, 1).
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction: wanted a number between 0 and 1, got {valid_fraction}")
    dialogues = _read_dialogues(Path(labels_file))
    names = _dialogue_splits(dialogues, valid_fraction, seed)
    tree = {split: _labelled(dialogues, chosen) for split, chosen in names.items()}
    for modality, folder in _GCNET_FOLDERS.items():
        _add_features(tree, modality, Path(features_dir) / folder)
    for content in tree.values():
        del content["utterances"], content["speakers"]
    with atomic_path(out_file) as temporary:
        temporary.write_bytes(pickle.dumps(tree, protocol=4))
    return {split: len(content["id"]) for split, content in tree.items()}


def _dialogue_splits(dialogues: _Dialogues, valid_fraction: float, seed: int) -> dict[str, list[str]]:
    shuffled = np.random.RandomState(seed).permutation(sorted(dialogues.train)).tolist()
    count = min(max(1, round(valid_fraction * len(shuffled))), len(shuffled) - 1)
    return {"train": sorted(shuffled[count:]), "valid": sorted(shuffled[:count]), "test": sorted(dialogues.test)}


def _labelled(dialogues: _Dialogues, names: Sequence[str]) -> dict[str, Any]:
    def joined(table: Mapping[str, Sequence[Any]]) -> list[Any]:
        return [item for name in names for item in table[name]]

    return {
        "id": [f"{name}$_${utterance}" for name in names for utterance in dialogues.utterances[name]],
        "raw_text": joined(dialogues.sentences),
        "classification_labels": np.array(joined(dialogues.labels), dtype=np.int64),
        "utterances": joined(dialogues.utterances),
        "speakers": joined(dialogues.speakers),
    }


def _add_features(tree: Mapping[str, dict[str, Any]], modality: str, folder: Path) -> None:
    vectors = {
        split: [_vector(folder, *pair) for pair in zip(content["utterances"], content["speakers"], strict=True)]
        for split, content in tree.items()
    }
    width = next((len(v) for rows in vectors.values() for v in rows if v is not None), None)
    if width is None:
        raise DataError(f"{folder}: wanted features of one utterance at least, got only empty ones")
    for split, rows in vectors.items():
        for utterance, vector in zip(tree[split]["utterances"], rows, strict=True):
            if vector is None and modality != "vision":
                raise DataError(f"{folder / utterance}.npy: wanted a feature vector, got an empty array")
            if vector is not None and len(vector) != width:
                raise DataError(f"{folder / utterance}: wanted {width} columns as before, got {len(vector)}")
        stacked = [np.zeros(width) if vector is None else vector for vector in rows]
        tree[split][modality] = np.array(stacked, dtype=np.float32)[:, None, :]


def _vector(folder: Path, utterance: str, speaker: str) -> np.ndarray | None:
    """The mean over the rows of an utterance's file, or over its speaker's faces; None where there are none."""
    path = folder / f"{utterance}.npy"
    if (folder / utterance).is_dir():
        faces = sorted((folder / utterance).glob("*.npy"))
        rows = [row for face in faces if _shown(face) in (speaker, "") for row in _array_rows(face)]
    else:
        rows = list(_array_rows(path))
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{folder / utterance}: wanted rows of one width, got {sorted({len(row) for row in rows})}")
    return np.mean(rows, axis=0) if rows else None


def _shown(face: Path) -> str:
    return next((letter for letter in "FM" if letter in face.stem), "")


def _array_rows(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: wanted a NumPy array, got {type(error).__name__}: {error}") from error
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{path}: wanted an array of numbers, got dtype {array.dtype}, shape {array.shape}")
    return array.reshape(-1, array.shape[-1]).astype(np.float64) if array.size else np.empty((0, 0))
