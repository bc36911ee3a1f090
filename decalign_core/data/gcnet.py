"""IEMOCAP from the features of GCNet: its arrays and labels, turned into the one file that the loader reads."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decalign_core.data.mmsa import EMOTIONS
from decalign_core.data.pickles import DataError, read_pickle, row_count
from decalign_core.files import atomic_path

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
        counts = [row_count(table.get(name)) for table in tables]
        if None in counts or len(set(counts)) > 1:
            wanted = "ids, labels, speakers and sentences of every utterance"
            raise DataError(f"{place}: wanted {wanted}, got counts {counts}")
        classes = range(EMOTIONS)
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
        raise DataError(f"{path}: wanted the tuple {wanted}, got {type(tree).__name__} of {row_count(tree)}")
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
    """Turn GCNet's IEMOCAP features into the file of the loader, usually ``IEMOCAP/iemocap_data.pkl``.

    :func:`~decalign_core.data.mmsa.load_mmsa` reads it. One vector an utterance and modality, ``(N, 1, D)``: faces of
    the speaker are averaged, an utterance without one gets zeros. GCNet has no validation split: here it is
    ``valid_fraction`` of the training dialogues, drawn by ``seed``, so that no dialogue lies in two splits.
    ``out_file`` is written whole or not at all.

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
