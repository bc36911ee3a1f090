"""Hand-built files in every layout that the loader meets: one function a column of the format table, few samples each.

Frame counts and widths are those of the real files; the values are drawn.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

SIZES = {"train": 4, "valid": 3, "test": 2}


def _frames(rng, lengths, longest, width):
    values = rng.normal(size=(len(lengths), longest, width)).astype(np.float32)
    for row, length in enumerate(lengths):
        values[row, length:] = 0.0
    return values


def _text_bert(rng, lengths, longest, dtype):
    rows = np.zeros((len(lengths), 3, longest), dtype=dtype)
    for row, length in enumerate(lengths):
        rows[row, 0, :length] = rng.integers(1000, 2000, size=length)
        rows[row, 1, :length] = 1
    return rows


def _split(split, seed, text, audio, vision, *, aligned, bert_dtype=np.int64, limit=3.0, as_lists=False):
    """text, audio, vision: (longest, width). Text lengths fall from 10; an aligned file has them for all three."""
    rng = np.random.default_rng(seed)
    count = SIZES[split]
    words = [10 - row for row in range(count)]
    content = {
        "text": _frames(rng, words, *text),
        "text_bert": _text_bert(rng, words, text[0], bert_dtype),
        "raw_text": [f"sentence {row}" for row in range(count)],
        "id": [f"{split}video{row // 2}$_${row:04d}" for row in range(count)],
        "annotations": ["Neutral"] * count,
        "regression_labels": rng.uniform(-limit, limit, size=count).astype(np.float32),
        "classification_labels": np.ones(count),
    }
    for name, (longest, width) in {"audio": audio, "vision": vision}.items():
        lengths = words if aligned else [longest - 3 * row for row in range(count)]
        content[name] = _frames(rng, lengths, longest, width)
        if not aligned:
            content[f"{name}_lengths"] = lengths if as_lists else np.array(lengths)
    return content


def _all(build):
    return {split: build(split, seed) for seed, split in enumerate(SIZES)}


def mosi_aligned(bert_dtype=np.int64):
    return _all(lambda s, i: _split(s, i, (50, 768), (50, 5), (50, 20), aligned=True, bert_dtype=bert_dtype))


def mosi_unaligned():
    return _all(lambda s, i: _split(s, i, (50, 768), (375, 5), (500, 20), aligned=False))


def mosei_aligned():
    return _all(lambda s, i: _split(s, i, (50, 768), (50, 74), (50, 35), aligned=True))


def mosei_unaligned():
    return _all(lambda s, i: _split(s, i, (50, 768), (500, 74), (500, 35), aligned=False))


def sims():
    """CH-SIMS: lists for names and lengths, a label for each modality, clip numbers with leading zeros."""
    tree = _all(
        lambda s, i: _split(s, i, (39, 768), (400, 33), (55, 709), aligned=False, limit=1.0, as_lists=True),
    )
    for seed, content in enumerate(tree.values()):
        rng = np.random.default_rng(100 + seed)
        for letter in "TAV":
            content[f"regression_labels_{letter}"] = rng.uniform(-1, 1, size=len(content["id"])).tolist()
    return tree


def cmu():
    """The older pickles of CMU and MulT: GloVe vectors, labels (N, 1, 1), no token ids, no names."""
    tree = _all(lambda s, i: _split(s, i, (50, 300), (50, 5), (50, 20), aligned=True))
    return {
        split: {k: content[k] for k in ("text", "audio", "vision")}
        | {"labels": content["regression_labels"].astype(np.float64)[:, None, None]}
        for split, content in tree.items()
    }


def iemocap(rank=3):
    """One vector an utterance and modality, (N, 1, D) or (N, D); classes 0 … 5."""
    tree = {}
    for seed, (split, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        shapes = {"text": 1024, "audio": 512, "vision": 1024}
        tree[split] = {
            name: rng.normal(size=(count, 1, width) if rank == 3 else (count, width)).astype(np.float32)
            for name, width in shapes.items()
        }
        tree[split] |= {
            "id": [f"{split}Ses01$_${row}" for row in range(count)],
            "raw_text": ["yes"] * count,
            "classification_labels": np.arange(count) % 6,
        }
    return tree


def write(tree, path: Path, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    return path


# GCNet: two training sessions of dialogues, one for the test; (utterances, speakers) by dialogue
GCNET = {
    "Ses01F_impro01": ("FM", (0, 1)),
    "Ses01F_impro02": ("F", (2,)),
    "Ses02F_impro01": ("MF", (3, 4)),
    "Ses02F_impro02": ("MMF", (5, 0, 1)),
    "Ses05F_impro01": ("FM", (2, 3)),
}
GCNET_TEST = {"Ses05F_impro01"}


def gcnet_labels(protocol: int = 2):
    """The tuple of GCNet's label file, as bytes of a pickle."""
    ids = {name: [f"{name}_{who}{i:03d}" for i, who in enumerate(speakers)] for name, (speakers, _) in GCNET.items()}
    tree = (
        ids,
        {name: list(labels) for name, (_, labels) in GCNET.items()},
        {name: list(speakers) for name, (speakers, _) in GCNET.items()},
        {name: [f"said {utterance}" for utterance in utterances] for name, utterances in ids.items()},
        set(GCNET) - GCNET_TEST,
        set(GCNET_TEST),
    )
    return tree, pickle.dumps(tree, protocol=protocol)


def gcnet_folder(root: Path, widths=(6, 4, 5)) -> dict[str, dict[str, np.ndarray]]:
    """Features below ``root`` as GCNet stores them; returns them by modality and utterance.

    Vision is (faces, D), one utterance without faces.
    """
    folders = {"text": "deberta-large-4-UTT", "audio": "wav2vec-large-c-UTT", "vision": "manet_UTT"}
    rng = np.random.default_rng(0)
    utterances = [name for names in gcnet_labels()[0][0].values() for name in names]
    stored = {}
    for (modality, folder), width in zip(folders.items(), widths, strict=True):
        (root / folder).mkdir(parents=True)
        for row, name in enumerate(utterances):
            faces = (row % 3, width) if modality == "vision" else (width,)
            values = rng.normal(size=faces).astype(np.float32)
            np.save(root / folder / f"{name}.npy", values)
            stored.setdefault(modality, {})[name] = values
    return stored


def bomb():
    """2^60 numbers in 60 lists."""
    nested = 1.0
    for _ in range(60):
        nested = [nested, nested]
    return nested
