"""CMU-MOSI without a login: 2,199 utterances of 93 videos, each with a sentiment score in [-3, 3].

The data are joined from the files of two public repositories:

- ``bc-lstm/`` (Poria et al. 2017): ``transcripts.csv`` holds id, transcript, video number and whether the score is
  ≥ 0; the first column of ``text_{train,test}.csv`` is a row of it, counted from 0, the other 100 a text-CNN vector;
  the rows of ``audio_*0.csv`` (73 openSMILE values) and ``video_*0.csv`` (100 values of a 3D-CNN), each with the
  binary label behind, follow the order of those.
- ``cm-bert/`` (Yang et al. 2020): transcript and score of each utterance, in the standard split (Zadeh et al. 2016).

The transcript joins the two, its white space normalised. Two texts are said twice within one video; running through a
split file, clip numbers of one video change little from row to row, and that tells which score is whose.

**Leak.** The text-CNN and the 3D-CNN were trained on the labels of the 1,447 utterances of ``text_train.csv``, which
overlap every part of the standard split. Hence two protocols: ``"standard"`` leaves both features out, ``"unseen"``
keeps to the 752 utterances of 31 videos that those networks never saw, and splits them by video.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decalign_core.data.pickles import DataError
from decalign_core.data.preparation import standardised
from decalign_core.files import atomic_path
from decalign_core.nn.text import TextEncoder, encode
from decalign_core.types import Batch, Splits

FOLDER = "MOSI-public"
FOLDS = 5
LONGEST = 50
REPOSITORIES = {
    "bc-lstm": ("https://github.com/soujanyaporia/contextual-utterance-level-multimodal-sentiment-analysis", "f1199e6"),
    "cm-bert": ("https://github.com/thuiar/Cross-Modal-BERT", "3e44dce"),
}
SHA256 = {
    "bc-lstm/data/transcripts.csv": "e7689e6d70720addd2a6b316419d245a68839c32b014ff426c406063ee777466",
    "bc-lstm/data/text_train.csv": "73770b6302ad0f7a51f4eddcae6788efde4d0b6802e09f78249d5b538d1c1d67",
    "bc-lstm/data/text_test.csv": "f3b735070bf07ceff7a6ef6c8f4c32757e988de484e35bd6d38b2aecef851a59",
    "bc-lstm/data/audio/audio_train0.csv": "5435398a54664e7b00304587dc59ae84a438852be033c2a2fba779588624a2a1",
    "bc-lstm/data/audio/audio_test0.csv": "ddd17eeefd3d951d51d4e2ef8a0d132652d8161e1886f71eb7262b7a14bffff6",
    "bc-lstm/data/video/video_train0.csv": "b6efc0413132d627efd06f67f1706830e775e90af9a75696f535c48dbc73f12f",
    "bc-lstm/data/video/video_test0.csv": "cab836253d81100f59d533fa2ff65cd53c486be3ec9fd82203c5e25a7a77265f",
    "cm-bert/data/text/train.tsv": "45ed01aa7225c7864c60575938d546cb40b316fce5017d9cc2400ceb5dc423c7",
    "cm-bert/data/text/dev.tsv": "182523735663ed435e224ab88076363765b47afe35ce78cc11c47e2e490aad4c",
    "cm-bert/data/text/test.tsv": "20fdfec92624b7e0aaa86330296c045869dd7c473b69f263f437fa7bfb07ba5c",
}
STANDARD = {"train": "train", "valid": "dev", "test": "test"}
SPLITS = tuple(STANDARD)
ARRAYS = {"text": "text_cnn", "audio": "audio", "vision": "vision"}
ALLOWED = {"unseen": ("text", "audio", "vision"), "standard": ("text", "audio")}


def convert(source: str | Path, out: str | Path) -> dict[str, int]:
    """Join the two repositories' files into ``out/MOSI-public/utterances.csv`` and ``features.npz``.

    The table has the columns id (``"video$_$clip"``), video, clip, transcript, score, split (of the standard protocol)
    and seen (whether the row trained the text-CNN and the 3D-CNN); the arrays ``text_cnn (2199, 100)``,
    ``audio (2199, 73)`` and ``vision (2199, 100)``, float32, follow its order, which is that of ``transcripts.csv``.

    Args:
        source: folder with both repositories, in ``bc-lstm/`` and ``cm-bert/``.
        out: the data root; files that lie there already are replaced.

    Returns:
        How many utterances and videos there are in all and in each split of each protocol.

    Raises:
        DataError: for a file that is missing or differs from the named commit's.
    """
    source = Path(source)
    for name, wanted in SHA256.items():
        _verify(source, name, wanted)
    table = _transcripts(source)
    features, table["seen"] = _features(source, len(table))
    table[["score", "split"]] = _scores(source, table)
    folder = Path(out) / FOLDER
    with atomic_path(folder / "features.npz") as temporary:
        np.savez(temporary, **features)
    with atomic_path(folder / "utterances.csv") as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return _counts(table)


def load_mosi_public(
    root: str | Path,
    *,
    protocol: str = "unseen",
    fold: int | None = None,
    encoder: TextEncoder | None = None,
    modalities: Sequence[str] | None = None,
    hash_width: int = 768,
) -> Splits:
    """The converted data under one of the two protocols; target: the score, float.

    =======  =========================  =============================
    feature  ``"unseen"``               ``"standard"``
    =======  =========================  =============================
    samples  465 / 83 / 204             1284 / 229 / 686
    text     text-CNN ``(B, 1, 100)``   words ``(B, T, hash_width)``
    audio    ``(B, 1, 73)``             ``(B, 1, 73)``
    vision   ``(B, 1, 100)``            left out, see the module
    =======  =========================  =============================

    Features of one frame are standardised on the training split. The standard protocol's words are
    :func:`hashed_words`.

    Args:
        root: the data root, which holds ``MOSI-public/``.
        protocol: ``"unseen"`` (21 videos train, 3 valid, 7 test, drawn once) or ``"standard"``.
        fold: 0 to 4, ``"unseen"`` only: this fifth of the videos is the test split, the next fifth the valid split.
        encoder: encodes the transcripts, in lower case, instead: frozen into states ``(B, T, width)``, which are
            cached below ``root``, or, if it is to be fine-tuned, into token ids ``(B, T)``.
        modalities: which to keep, all that the protocol allows if None.
        hash_width: columns of the hashed word vectors.

    Raises:
        ValueError: for an unknown protocol, fold or modality, or an encoder that cannot be loaded.
        DataError: where the files have not been converted yet, or do not fit together.
    """
    names = _checked_modalities(protocol, fold, modalities)
    encoder = encoder if "text" in names else None
    folder = Path(root) / FOLDER
    table, arrays = _read(folder)
    rows = np.flatnonzero(~table["seen"]) if protocol == "unseen" else np.arange(len(table))
    table = table.iloc[rows].reset_index(drop=True)
    pairs = {name: _frame(arrays[ARRAYS[name]][rows]) for name in names}
    single = list(names)
    if "text" in names and (encoder or protocol == "standard"):
        pairs["text"] = _sequences(list(table["transcript"]), encoder, hash_width, folder)
        single.remove("text")
    split = _unseen_splits(table["video"], fold) if protocol == "unseen" else table["split"].to_numpy()
    splits = Splits(
        **_batches(table, pairs, split),
        name=_name(protocol, encoder),
        encoders={"text": encoder} if encoder and encoder.fine_tune else {},
        notes=_notes(protocol),
    )
    return standardised(splits, single)


def hashed_words(texts: Sequence[str], width: int = 768) -> tuple[Tensor, Tensor]:
    """One standard normal vector a word, ``(B, T, width)`` float, and the mask ``(B, T)``.

    The vector's seed is a digest of the word: the same on every machine, with no meaning and no training behind it.
    Words are runs of letters, digits and apostrophes, whatever their case; T is the longest text in words, at most 50.
    """
    if width < 1:
        raise ValueError(f"hash_width: wanted at least 1 column, got {width}")
    words = [re.findall(r"[\w']+", text.lower())[:LONGEST] for text in texts]
    vocabulary = list(dict.fromkeys(word for sentence in words for word in sentence))
    vectors = torch.stack([torch.zeros(width), *(_word_vector(word, width) for word in vocabulary)])
    places = {word: place for place, word in enumerate(vocabulary, start=1)}
    index = torch.zeros(len(words), max(1, *map(len, words)), dtype=torch.int64)
    for row, sentence in enumerate(words):
        index[row, : len(sentence)] = torch.tensor([places[word] for word in sentence])
    return vectors[index], index > 0


def _word_vector(word: str, width: int) -> Tensor:
    seed = np.frombuffer(hashlib.blake2b(word.encode(), digest_size=16).digest(), dtype="<u4")
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(width)).float()


def _verify(source: Path, name: str, wanted: str) -> None:
    path = source / name
    if not path.is_file():
        clones = "; ".join(
            f"git clone {url} {source / place} && git -C {source / place} checkout {commit}"
            for place, (url, commit) in REPOSITORIES.items()
        )
        raise DataError(f"{path}: wanted the file of {_origin(name)}, got none; fetch both with: {clones}")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != wanted:
        raise DataError(f"{path}: wanted the file of {_origin(name)}, sha256 {wanted}, got sha256 {got}")


def _origin(name: str) -> str:
    url, commit = REPOSITORIES[name.split("/")[0]]
    return f"{url} at commit {commit}"


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _transcripts(source: Path) -> pd.DataFrame:
    raw = pd.read_csv(source / "bc-lstm/data/transcripts.csv", header=None, dtype=str, keep_default_na=False)
    parts = raw[0].str.rpartition("_")
    video, clip = parts[0], parts[2].astype(int)
    ids = video + "$_$" + parts[2]
    return pd.DataFrame({"id": ids, "video": video, "clip": clip, "transcript": raw[1].map(_normalised)})


def _features(source: Path, utterances: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The three arrays in the order of ``transcripts.csv``, and which of its rows are in ``text_train.csv``."""
    data = source / "bc-lstm/data"
    table = {part: pd.read_csv(data / f"text_{part}.csv", header=None).to_numpy() for part in ("train", "test")}
    blocks = [
        {
            "text_cnn": values[:, 1:],
            "audio": pd.read_csv(data / f"audio/audio_{part}0.csv", header=None).to_numpy()[:, :-1],
            "vision": pd.read_csv(data / f"video/video_{part}0.csv", header=None).to_numpy()[:, :-1],
        }
        for part, values in table.items()
    ]
    rows = np.concatenate([values[:, 0] for values in table.values()]).astype(int)
    order = np.argsort(rows)
    arrays = {name: np.concatenate([b[name] for b in blocks])[order].astype(np.float32) for name in blocks[0]}
    return arrays, np.isin(np.arange(utterances), table["train"][:, 0].astype(int))


def _scores(source: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Columns score and split for each row of ``table``."""
    found = {}
    for split, name in STANDARD.items():
        with open(source / f"cm-bert/data/text/{name}.tsv", encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file.read().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
        rows = _match([_normalised(line["text"]) for line in lines], table)
        found |= {row: (float(line["label"]), split) for row, line in zip(rows, lines, strict=True)}
    if len(found) != len(table):
        raise DataError(f"transcripts: wanted {len(table)} of them in the split files, each once, got {len(found)}")
    return pd.DataFrame.from_dict(found, orient="index", columns=["score", "split"]).sort_index()


def _match(texts: Sequence[str], table: pd.DataFrame) -> list[int]:
    """The row of ``table`` that each line of a split file belongs to."""
    candidates = table.groupby("transcript").indices
    lines: dict[str, list[int]] = {}
    for line, text in enumerate(texts):
        lines.setdefault(text, []).append(line)
    rows = [-1] * len(texts)
    for text in sorted(lines, key=lambda text: len(lines[text])):
        places = candidates.get(text, ())
        if len(places) != len(lines[text]):
            raise DataError(f"transcript {text!r}: wanted {len(lines[text])} utterances with it, got {len(places)}")
        choices = [_placed(rows, lines[text], chosen) for chosen in permutations(map(int, places))]
        rows = min(choices, key=lambda choice: _unrest(choice, lines[text], table)) if len(choices) > 1 else choices[0]
    return rows


def _placed(rows: list[int], lines: Sequence[int], chosen: Sequence[int]) -> list[int]:
    result = rows.copy()
    for line, row in zip(lines, chosen, strict=True):
        result[line] = row
    return result


def _unrest(rows: Sequence[int], lines: Sequence[int], table: pd.DataFrame) -> int:
    """How far clip numbers jump around ``lines`` from one line of a split file to the next of the same video."""
    near = sorted({pair for line in lines for pair in pairwise(range(line - 1, line + 2))})
    known = [(rows[i], rows[j]) for i, j in near if i >= 0 and j < len(rows)]
    video, clip = table["video"], table["clip"]
    return sum(abs(int(clip[a]) - int(clip[b])) for a, b in known if min(a, b) >= 0 and video[a] == video[b])


def _counts(table: pd.DataFrame) -> dict[str, int]:
    unseen = table[~table["seen"]]
    standard, drawn = Counter(table["split"]), Counter(_unseen_splits(unseen["video"], None))
    return {
        "utterances": len(table),
        "videos": table["video"].nunique(),
        **{f"standard_{split}": standard[split] for split in SPLITS},
        "unseen": len(unseen),
        "unseen_videos": unseen["video"].nunique(),
        **{f"unseen_{split}": drawn[split] for split in SPLITS},
    }


def _unseen_splits(videos: pd.Series, fold: int | None) -> np.ndarray:
    """The split of each utterance, by its video's place in one fixed permutation."""
    order = np.random.RandomState(0).permutation(sorted(set(videos)))
    place = np.arange(len(order))
    if fold is None:
        valid, test = (place >= 21) & (place < 24), place >= 24
    else:
        valid, test = place % FOLDS == (fold + 1) % FOLDS, place % FOLDS == fold
    split = dict(zip(order, np.select([valid, test], ["valid", "test"], "train"), strict=True))
    return np.array([split[video] for video in videos])


def check_fold(protocol: str, fold: int | None) -> None:
    """Whether the protocol has such a fold.

    Raises:
        ValueError: where it has not.
    """
    if fold is not None and protocol != "unseen":
        raise ValueError(f"fold: wanted None, as the protocol {protocol!r} has one split only, got {fold!r}")
    if fold is not None and fold not in range(FOLDS):
        raise ValueError(f"fold: wanted None or a number from 0 to {FOLDS - 1}, got {fold!r}")


def _checked_modalities(protocol: str, fold: int | None, modalities: Sequence[str] | None) -> list[str]:
    if protocol not in ALLOWED:
        raise ValueError(f"protocol: wanted one of {', '.join(map(repr, ALLOWED))}, got {protocol!r}")
    check_fold(protocol, fold)
    names = list(ALLOWED[protocol] if modalities is None else dict.fromkeys(modalities))
    if not names or not set(names) <= set(ALLOWED[protocol]):
        raise ValueError(f"modalities: wanted some of {ALLOWED[protocol]} for protocol {protocol!r}, got {names}")
    return names


def find_converted(folder: Path) -> tuple[Path, Path]:
    """The table and the arrays in the folder ``MOSI-public/``; an error where one is not there."""
    paths = folder / "utterances.csv", folder / "features.npz"
    if missing := [path.name for path in paths if not path.is_file()]:
        command = f"python -m decalign_core data mosi-public --source FOLDER_OF_BOTH_CLONES --out {folder.parent}"
        raise DataError(f"{folder}: wanted the converted data, got no {missing[0]}; convert with: {command}")
    return paths


def _read(folder: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    paths = find_converted(folder)
    table = _read_table(paths[0])
    try:
        with np.load(paths[1], allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS.values()}
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise DataError(f"{paths[1]}: wanted the arrays {', '.join(ARRAYS.values())}, got {error}") from None
    for name, values in arrays.items():
        if len(values) != len(table):
            raise DataError(f"{paths[1]}: wanted {len(table)} rows of {name}, as in utterances.csv, got {len(values)}")
        if values.ndim != 2 or values.dtype.kind not in "iuf":
            got = f"shape {values.shape} of dtype {values.dtype}"
            raise DataError(f"{paths[1]}: wanted numbers (N, D) as {name}, got {got}")
        if broken := np.count_nonzero(~np.isfinite(values)):
            raise DataError(f"{paths[1]}: wanted finite numbers as {name}, got {broken} that are NaN or infinite")
    return table, arrays


_COLUMNS = ("id", "video", "transcript", "score", "split", "seen")


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"id": str, "video": str, "transcript": str})
    except ValueError as error:  # pandas' own errors of parsing, and what is not UTF-8
        raise DataError(f"{path}: wanted a CSV with the columns {', '.join(_COLUMNS)}, got {error}") from None
    if missing := [name for name in _COLUMNS if name not in table]:
        raise DataError(f"{path}: wanted the columns {', '.join(_COLUMNS)}, got none named {', '.join(missing)}")
    wrong = {
        "score": ("numbers in [-3, 3]", ~pd.to_numeric(table["score"], errors="coerce").between(-3, 3)),
        "split": (f"one of {', '.join(SPLITS)}", ~table["split"].isin(SPLITS)),
        "seen": ("True or False", ~table["seen"].isin([True, False])),
        "id": ("each name once", table["id"].duplicated()),
    }
    for name, (wanted, rows) in wrong.items():
        if rows.any():
            row = int(rows.to_numpy().argmax())
            raise DataError(f"{path}: column {name!r}: wanted {wanted}, got {table[name][row]!r} in row {row}")
    return table


def _batches(table: pd.DataFrame, pairs: Mapping[str, tuple[Tensor, Tensor]], split: np.ndarray) -> dict[str, Batch]:
    batch = Batch(
        {name: values for name, (values, _) in pairs.items()},
        {name: mask for name, (_, mask) in pairs.items()},
        torch.from_numpy(table["score"].to_numpy(np.float32)),
        list(table["id"]),
    )
    return {name: batch[np.flatnonzero(split == name)] for name in SPLITS}


def _frame(values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Vectors ``(B, D)`` as sequences of one valid frame."""
    return torch.from_numpy(values).unsqueeze(1), torch.ones(len(values), 1, dtype=torch.bool)


def _sequences(texts: list[str], encoder: TextEncoder | None, hash_width: int, folder: Path) -> tuple[Tensor, Tensor]:
    if encoder is None:
        return hashed_words(texts, hash_width)
    lower = [text.lower() for text in texts]  # the transcripts are in capitals, which cased tokenizers cut to pieces
    return encoder.tokens(lower) if encoder.fine_tune else _cached_states(encoder, lower, folder)


def _cached_states(encoder: TextEncoder, texts: list[str], folder: Path) -> tuple[Tensor, Tensor]:
    """What :func:`encode` returns, kept in a file that is named after all that it depends on."""
    ids, mask = encoder.tokens(texts)
    digest = hashlib.blake2b(encoder.build().fingerprint().encode(), digest_size=16)
    for part in (ids, mask):
        digest.update(f"{tuple(part.shape)}".encode() + part.numpy().tobytes())
    path = folder / f"states-{digest.hexdigest()}.npy"
    if not path.is_file():
        states, _ = encode(encoder, texts)
        with atomic_path(path) as temporary:
            np.save(temporary, states.numpy())
    return torch.from_numpy(np.load(path, allow_pickle=False)), mask


def _name(protocol: str, encoder: TextEncoder | None) -> str:
    if encoder:
        return f"mosi_public/{protocol}-{'finetuned' if encoder.fine_tune else 'frozen'}"
    return "mosi_public/unseen" if protocol == "unseen" else "mosi_public/standard-hashed"


def _notes(protocol: str) -> tuple[str, ...]:
    if protocol == "unseen":
        return ("1447 utterances are left out: the text-CNN and the 3D-CNN were trained on their labels.",)
    return ("vision and text-CNN are left out: both were trained on labels that overlap this split.",)
