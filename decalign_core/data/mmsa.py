"""The files that the field shares, in the layout of MMSA: its MOSI, MOSEI and CH-SIMS, and IEMOCAP.

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
outside of [-3, 3] are cut off. Each is counted, and logged as a warning. Every other defect raises
:class:`~decalign_core.data.pickles.DataError`.

**Memory.** Arrays are mended where they were read to, a part at a time: reading takes little more than the arrays
themselves. Arrays of other types than float32, and those of pickles older than protocol 3, are copied.

**Safety.** A file is a pickle; :mod:`decalign_core.data.pickles` reads it, and runs nothing of it.
"""

from __future__ import annotations

import logging
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from decalign_core.data.pickles import DataError, is_scalar, read_pickle, row_count
from decalign_core.types import Batch, Splits

if TYPE_CHECKING:
    from decalign_core.nn.text import TextEncoder

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


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


EMOTIONS = 6  # the classes of IEMOCAP
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
        source="decalign_core.data.gcnet.iemocap_from_gcnet, which makes it of the features that"
        " https://github.com/zeroQiaoba/GCNet links to (IEMOCAP itself needs its licence)",
        scale="emotion",
        classes=EMOTIONS,
    ),
}
MODALITIES = ("text", "audio", "vision")
_SPLITS = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
_EXTRA_TARGETS = {"T": "text", "A": "audio", "V": "vision"}
_RANKS = {2: "(N, D)", 3: "(N, T, D)"}
_PART = 1 << 22  # bytes that are looked at, at a time
_MOST_LISTED = 1 << 28  # numbers in nested lists


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
        return next((key for key in keys if row_count(self.content.get(key)) is not None), None)

    @property
    def samples(self) -> int | None:
        return row_count(self.content.get(self.counted_key))

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
    if row_count(rows) is None or len(rows) != part.samples:
        wanted = f"{part.samples} names as in {part.counted_key!r}"
        raise part.defect(key, wanted, f"{type(rows).__name__} of {row_count(rows)}")
    ids = [_id(part, key, row) for row in rows]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        part.note(key, f"{len(repeated)} names occur more than once, the first is {repeated[0]!r}")
    return ids


def _id(part: _Part, key: str, row: Any) -> str:
    if isinstance(row, list | tuple) and row and all(map(is_scalar, row)):  # in old files (video, start, end)
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
