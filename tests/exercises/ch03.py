"""Answers to the exercises of chapter 3, right and wrong."""

import math

import torch

from decalign_core.alignment.mixture import fit
from decalign_core.lab.check.ch03 import points_of_5

WEIGHTS, MEANS, VARIANCES = (2 / 3, 1 / 3), (1.5, 9.0), (1.25, 1.0)


def share(weights, scale):
    joint = [
        w * math.exp(-((5 - m) ** 2) / (2 * v)) / scale(v) for w, m, v in zip(weights, MEANS, VARIANCES, strict=True)
    ]
    return joint[0] / sum(joint)


def stable(log_joint):
    joint = (log_joint - log_joint.max(dim=1, keepdim=True).values).exp()
    return joint / joint.sum(dim=1, keepdim=True)


def literal(log_joint):
    return log_joint.exp() / log_joint.exp().sum(dim=1, keepdim=True)


def shifted_by_one_maximum(log_joint):
    joint = (log_joint - log_joint.max()).exp()
    return joint / joint.sum(dim=1, keepdim=True)


def total(mixture):
    centred = mixture.means - mixture.weights @ mixture.means
    return torch.einsum("k,kij->ij", mixture.weights, mixture.covariances) + (mixture.weights * centred.mT) @ centred


def best_index(judge):
    scores = [fit(points_of_5()[0], k, steps=30).log_likelihood(judge).item() for k in range(1, 11)]
    return scores.index(max(scores))


ON_FITTED, ON_HELD_OUT = map(best_index, points_of_5())
SOLUTIONS = {
    "ex_03_1": share(WEIGHTS, math.sqrt),
    "ex_03_2": next(d for d in range(1, 1000) if 1 / (1 + math.exp(-d * 0.4**2 / 2)) >= 0.999),
    "ex_03_3": stable,
    "ex_03_4": total,
    "ex_03_5": ON_HELD_OUT + 1,
}
ALSO_RIGHT = [("ex_03_1", round(share(WEIGHTS, math.sqrt), 3))]
WRONG = [
    ("ex_03_1", share((0.5, 0.5), math.sqrt), "weights"),
    ("ex_03_1", share(WEIGHTS, lambda variance: 1.0), "determinant"),
    ("ex_03_1", 1 - share(WEIGHTS, math.sqrt), "second prototype"),
    ("ex_03_1", 0.5, "values are not"),
    ("ex_03_2", 44, "factor 1/2"),
    ("ex_03_2", 35, "squared"),
    ("ex_03_2", 10, "add over"),
    ("ex_03_2", 86, "just below"),
    ("ex_03_3", literal, "largest value"),
    ("ex_03_3", shifted_by_one_maximum, "each row's"),
    ("ex_03_3", lambda log_joint: log_joint.softmax(0), "columns"),
    ("ex_03_3", lambda log_joint: log_joint.log_softmax(1), "logarithms"),
    ("ex_03_3", lambda log_joint: None, "returns nothing"),
    ("ex_03_4", lambda m: torch.einsum("k,kij->ij", m.weights, m.covariances), "their means is missing"),
    ("ex_03_4", lambda m: m.covariances.mean(0) + torch.cov(m.means.mT, correction=0), "use the weights"),
    ("ex_03_4", lambda m: torch.cov(m.means.mT, aweights=m.weights, correction=0), "within the prototypes is missing"),
    ("ex_03_4", lambda m: total(m).diagonal(), "shape"),
    ("ex_03_4", lambda m: None, "returns nothing"),
    ("ex_03_5", ON_FITTED + 1, "fitted to"),
    ("ex_03_5", ON_HELD_OUT, "begins at 0"),
]
