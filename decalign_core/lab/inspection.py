"""What a finished run shows beside its metrics: which scores it confuses, and how far apart its parts lie.

Both are counts and distances, so they can be kept and shown where the data they come from cannot.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from decalign_core.files import write_table
from decalign_core.lab.controls import CONTROLS
from decalign_core.lab.gap import modality_gap
from decalign_core.lab.results import RunRecord
from decalign_core.lab.training import EVALUATION_BATCH, load_run
from decalign_core.types import Batch, ByModality, Splits

_LAST = "confusion.csv"
BOUND = 3  # sentiment scores are rounded to -3 ... 3


def inspect(folder: str | Path, splits: Splits) -> None:
    """Write ``gap.csv``, for a model with common parts, and then ``confusion.csv`` into a finished run's folder."""
    folder = Path(folder)
    record = RunRecord.load(folder / "record.json")
    head = {name: getattr(record, name) for name in ("dataset", "model", "variant", "fold", "seed")}
    tables = {} if record.model in CONTROLS else {"gap.csv": gaps(load_run(folder).model, splits.test)}
    tables[_LAST] = confusion(pd.read_csv(folder / "predictions.csv"))
    for name, table in tables.items():
        for place, (key, value) in enumerate(head.items()):
            table.insert(place, key, value)
        write_table(folder / name, table)


def is_inspected(folder: str | Path) -> bool:
    """Whether :func:`inspect` has come to its end in a run's folder."""
    return (Path(folder) / _LAST).is_file()


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Counts of test samples by ``truth`` and ``pred``: classes, or scores clipped to -3 ... 3 and rounded.

    Args:
        predictions: a run's ``predictions.csv``.
    """
    test = predictions[predictions["split"] == "test"]
    logits = [name for name in test if name.startswith("logit_")]
    if logits:
        truth, predicted = test["target"].to_numpy(), test[logits].to_numpy().argmax(axis=1)
        kinds = np.arange(len(logits))
    else:
        truth, predicted = (test[name].to_numpy().clip(-BOUND, BOUND).round() for name in ("target", "prediction"))
        kinds = np.arange(-BOUND, BOUND + 1)
    rows = [(t, p, int(((truth == t) & (predicted == p)).sum())) for t in kinds for p in kinds]
    return pd.DataFrame(rows, columns=["truth", "pred", "count"])


@torch.no_grad()
def gaps(model: nn.Module, batch: Batch) -> pd.DataFrame:
    """The modality gap of a model's pooled parts on a batch, a row a part and pair of modalities.

    Parts that a model does not have, or whose modalities differ in width, are left out, and so are pairs of modalities
    that fewer than two samples have.
    """
    model.eval()
    pieces = [model(part.trimmed()) for part in _chunks(batch)]
    present, tables = _present(batch), []
    shared = [pair for pair in combinations(present, 2) if int((present[pair[0]] & present[pair[1]]).sum()) > 1]
    for part in ("pooled_unique", "pooled_common", "latent"):
        names = getattr(pieces[0], part)
        points = {name: torch.cat([getattr(piece, part)[name] for piece in pieces]) for name in names}
        if len(points) > 1 and len({values.shape[1] for values in points.values()}) == 1:
            of_pairs = ({name: points[name] for name in pair} for pair in shared)
            tables += [modality_gap(pair, present=present).table().assign(part=part) for pair in of_pairs]
    columns = ["part", "pair", "centroid", "paired", "normalised", "consistency", "matching"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _chunks(batch: Batch) -> list[Batch]:
    return [batch[rows] for rows in torch.arange(len(batch)).split(EVALUATION_BATCH)]


def _present(batch: Batch) -> ByModality:
    return {name: mask.any(dim=1) for name, mask in batch.masks.items()}
