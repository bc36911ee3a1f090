"""Answers to the exercises of chapter 11, right and wrong."""

import numpy as np
import torch

from decalign_core.lab.gap import modality_gap


def acc5(counts):
    merge = np.clip(np.arange(-3, 4), -2, 2)
    return counts[merge[:, None] == merge[None]].sum() / counts.sum()


def matching(x, y):
    return modality_gap({"x": x, "y": y}).matching[0]


def shuffled(x, y, orders):
    return torch.stack([matching(x, y[order]) for order in orders])


def over_all_pairs(x, y, orders):
    own = torch.stack([(x - y[order]).norm(dim=1).mean() for order in orders])
    return own / torch.cdist(x, y).mean()


SOLUTIONS = {
    "ex_11_1": [0.8, 0.8, 11 / 15],
    "ex_11_2": acc5,
    "ex_11_3": lambda p, m: p - p**m / m,
    "ex_11_4": shuffled,
}
WRONG = [
    ("ex_11_1", [0.8, 8 / 11, (8 / 11 + 4 / 6 + 20 / 23) / 3], "Rows are truths"),
    ("ex_11_1", [0.8, 0.8, 0.8], "same weight"),
    ("ex_11_1", [11 / 15, 0.8, 11 / 15], "counts utterances"),
    ("ex_11_1", [80, 80, 1100 / 15], "percent"),
    ("ex_11_1", [0.8, 0.8], "shape"),
    ("ex_11_2", lambda counts: counts.trace() / counts.sum(), "That is Acc-7"),
    ("ex_11_2", lambda counts: counts[1:-1, 1:-1].trace() / counts[1:-1, 1:-1].sum(), "does not drop"),
    ("ex_11_2", lambda counts: counts[1:-1, 1:-1].trace() / counts.sum(), "stay in the total"),
    ("ex_11_2", lambda counts: (counts.trace() + counts[1, 0] + counts[5, 6]) / counts.sum(), "both sides"),
    (
        "ex_11_2",
        lambda counts: sum(counts.diagonal(shift).sum() for shift in (-1, 0, 1)) / counts.sum(),
        "not all neighbours",
    ),
    ("ex_11_2", lambda counts: acc5(counts) * counts.sum(), "number of utterances"),
    ("ex_11_3", lambda p, m: p, "luckiest"),
    ("ex_11_3", lambda p, m: p - p**m, "given back"),
    ("ex_11_3", lambda p, m: p * (m - 1) / m, "multiply"),
    ("ex_11_3", lambda p, m: 1 - 1 / m, "largest share"),
    ("ex_11_4", lambda x, y, orders: shuffled(x, y, orders * 0 + torch.arange(len(x))), "true partners"),
    (
        "ex_11_4",
        lambda x, y, orders: torch.stack([matching(x[order], y[order]) for order in orders]) + 0.0,
        "true partners",
    ),
    ("ex_11_4", over_all_pairs, "leaves the new partners out"),
    (
        "ex_11_4",
        lambda x, y, orders: torch.stack([(x - y[order]).norm(dim=1).mean() for order in orders]),
        "mean distance",
    ),
    ("ex_11_4", lambda x, y, orders: shuffled(x, y, orders).mean(), "shape"),
]
