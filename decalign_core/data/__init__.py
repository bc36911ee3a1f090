"""Data sets by name, each as :class:`~decalign_core.types.Splits`: nothing behind this door knows where they came from.

- ``synthetic``: embedded, planted truth;
- ``mosi_public``: CMU-MOSI from two public repositories, no login;
- ``mosi``, ``mosei``, ``sims``, ``iemocap``: the MMSA pickles that the paper's users have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from decalign_core.data.mmsa import MODALITIES, find_pickle, load_mmsa
from decalign_core.data.mosi_public import ALLOWED, FOLDER, check_fold, find_converted, load_mosi_public
from decalign_core.data.pickles import DataError
from decalign_core.data.preparation import standardised, with_missing
from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.nn.text import TextEncoder
from decalign_core.types import Batch, Splits

__all__ = [
    "NAMES",
    "PROTOCOLS",
    "DataError",
    "check_files",
    "check_setting",
    "describe",
    "load",
    "standardised",
    "with_missing",
]

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "synthetic": ("regression", "classification"),
    "mosi_public": ("unseen", "standard"),
    "mosi": (),
    "mosei": (),
    "sims": (),
    "iemocap": (),
}
NAMES = tuple(PROTOCOLS)


def load(
    name: str,
    root: str | Path = "data",
    protocol: str | None = None,
    aligned: bool = True,
    *,
    fold: int | None = None,
    modalities: Sequence[str] = (),
    text_encoder: str = "",
    fine_tune: bool = False,
    standardise: Sequence[str] | None = None,
    clip_percentiles: Sequence[float] = (),
    missing: float = 0.0,
) -> Splits:
    """Read a data set.

    Args:
        name: one of :data:`NAMES`.
        root: folder that holds the data sets.
        protocol: one of the data set's :data:`PROTOCOLS`, None or "" for its first.
        aligned: word-aligned files, where a data set has both.
        fold: a cross-validation fold in place of the stated split, where a data set has them.
        modalities: the modalities to keep, all if empty.
        text_encoder: a Hugging Face encoder by name or path in place of the text features, where a data set has texts.
        fine_tune: give token ids, so that the encoder is trained along, not its states.
        standardise: modalities to standardise on the training split; None takes what suits the data set.
        clip_percentiles: percentiles outside of which the features to ``standardise`` are cut off before.
        missing: chance with which each modality of a sample is hidden, in every split
            (:func:`~decalign_core.data.preparation.with_missing`); the name of the data then says so. What
            ``standardise`` names is fitted on what is left; what ``mosi_public`` standardises of itself, on all.

    Raises:
        ValueError: for a name or option that is not there.
        DataError: where files are missing or faulty.
    """
    check_setting(name, protocol, fold)
    if clip_percentiles and not (len(clip_percentiles) == 2 and 0 <= clip_percentiles[0] < clip_percentiles[1] <= 100):
        wanted = "two percentiles in [0, 100], the lower first"
        raise ValueError(f"clip_percentiles: wanted {wanted}, got {tuple(clip_percentiles)}")
    if standardise is None:
        standardise = () if name in ("synthetic", "mosi_public") else ("audio", "vision")
    if clip_percentiles and not standardise:
        got = f"{tuple(clip_percentiles)} for {name}"
        raise ValueError(f"clip_percentiles: wanted none where standardise names no modality, got {got}")
    if not 0 <= missing <= 1:
        raise ValueError(f"missing: wanted a chance in [0, 1], got {missing}")
    if text_encoder and name == "synthetic":
        raise ValueError(f"text_encoder: wanted none for synthetic, which has no texts, got {text_encoder!r}")
    if fine_tune and not text_encoder:
        raise ValueError("fine_tune: wanted a text encoder beside it, got none")
    encoder = TextEncoder(text_encoder, fine_tune=fine_tune) if text_encoder else None
    return _load(name, root, protocol, aligned, fold, modalities, encoder, standardise, clip_percentiles, missing)


def check_setting(name: str, protocol: str | None = None, fold: int | None = None) -> None:
    """Whether there is such a data set, protocol and fold; no file is looked at.

    Raises:
        ValueError: in one line, for the first that is not there.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"dataset: wanted one of {', '.join(NAMES)}, got {name!r}")
    if protocol and protocol not in PROTOCOLS[name]:
        wanted = f"one of {', '.join(PROTOCOLS[name])}" if PROTOCOLS[name] else f"none for {name}"
        raise ValueError(f"protocol: wanted {wanted}, got {protocol!r}")
    if fold is not None and name != "mosi_public":
        raise ValueError(f"fold: wanted none for {name}, got {fold}")
    if name == "mosi_public":
        check_fold(protocol or PROTOCOLS[name][0], fold)


def check_files(name: str, root: str | Path, aligned: bool = True) -> None:
    """Whether the files of a data set are below ``root``; they are not read.

    Raises:
        DataError: in one line, where one is missing.
    """
    if name == "mosi_public":
        find_converted(Path(root) / FOLDER)
    elif name != "synthetic":
        find_pickle(name, Path(root), aligned)


def _load(
    name: str,
    root: str | Path,
    protocol: str | None,
    aligned: bool,
    fold: int | None,
    modalities: Sequence[str],
    encoder: TextEncoder | None,
    standardise: Sequence[str],
    clip_percentiles: Sequence[float],
    missing: float,
) -> Splits:
    # there: what may be named, though of files only what is kept is read
    if name == "synthetic":
        splits = generate(SyntheticConfig(task=protocol or "regression"))
        there = tuple(splits.train.features)
    elif name == "mosi_public":
        protocol = protocol or "unseen"
        there = ALLOWED[protocol]
        splits = load_mosi_public(root, protocol=protocol, fold=fold, encoder=encoder, modalities=modalities or None)
    else:
        there, splits = MODALITIES, load_mmsa(name, root, aligned=aligned, encoder=encoder, modalities=modalities)
    unknown = sorted(set(standardise) - set(there))
    if unknown:
        raise ValueError(f"standardise: wanted some of {', '.join(there)}, got {', '.join(unknown)}")
    kept = _hidden(_kept(splits, modalities), missing)
    names = [modality for modality in standardise if modality in kept.train.features]
    return standardised(kept, names, tuple(clip_percentiles) or None, in_place=True) if names else kept


def _kept(splits: Splits, modalities: Sequence[str]) -> Splits:
    there = list(splits.train.features)
    if not set(modalities) <= set(there):
        raise ValueError(f"modalities: wanted some of {', '.join(there)}, got {', '.join(modalities)}")
    names = list(modalities) or there

    def kept(batch: Batch) -> Batch:
        features, masks = ({m: values[m] for m in names} for values in (batch.features, batch.masks))
        return replace(batch, features=features, masks=masks)

    encoders = {m: encoder for m, encoder in splits.encoders.items() if m in names}
    return replace(splits, **{split: kept(batch) for split, batch in splits.items()}, encoders=encoders)


def _hidden(splits: Splits, missing: float) -> Splits:
    if not missing:
        return splits
    hidden = {split: with_missing(batch, missing) for split, batch in splits.items()}
    return replace(splits, **hidden, name=f"{splits.name}-missing-{missing:g}")


def describe(splits: Splits) -> pd.DataFrame:
    """What is in a data set: a row a split and modality, with samples, width, frames and absent samples."""
    rows = []
    for split, batch in splits.items():
        for name, mask in batch.masks.items():
            lengths = mask.sum(dim=1)
            width = splits.encoders[name].name if name in splits.encoders else batch.features[name].shape[-1]
            sizes = {"samples": len(batch), "width": width, "mean frames": float(lengths.float().mean())}
            longest = {"most frames": int(lengths.max()), "absent": int((lengths == 0).sum())}
            rows.append({"split": split, "modality": name} | sizes | longest)
    return pd.DataFrame(rows)
