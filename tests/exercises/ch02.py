"""Answers to the exercises of chapter 2, right and wrong."""

import torch

from decalign_core.lab.probes import cross_validated_r2


def unit(x):
    return x / x.norm()


def gradient(u, c):
    return (unit(c) - (unit(u) @ unit(c)) * unit(u)) / u.norm()


def per_frame(unique, common, mask):
    squared = torch.cosine_similarity(unique, common, dim=-1).square().where(mask, 0)
    return (squared.sum(1) / mask.sum(1)).mean()


def quarter_turn(weight):
    plane = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=weight.dtype)
    return torch.block_diag(*[plane] * (len(weight) // 2)) @ weight


def chance(features, factors, seed):
    rows = torch.randperm(len(factors), generator=torch.Generator().manual_seed(seed))
    return cross_validated_r2(features, factors[rows])


def both_shuffled(features, factors, seed):
    rows = torch.randperm(len(factors), generator=torch.Generator().manual_seed(seed))
    return cross_validated_r2(features[rows], factors[rows])


SOLUTIONS = {
    "ex_02_1": [24 / 25 - 1, (24 / 25) ** 2 + 1],
    "ex_02_2": gradient,
    "ex_02_3": per_frame,
    "ex_02_4": quarter_turn,
    "ex_02_5": chance,
    "ex_02_6": {1.0: 0.003, 100.0: -0.004},
}

WRONG = [
    ("ex_02_1", [-0.04 / 3, 1.9216 / 3], "sums over modalities"),
    ("ex_02_1", [1.9216, -0.04], "signed, then squared"),
    ("ex_02_1", [-0.04, 0.0016], "squared the sum"),
    ("ex_02_1", [19.0, 601.0], "both norms"),
    ("ex_02_1", [1.96, 1.9216], "opposite directions"),
    ("ex_02_2", lambda u, c: unit(c) / u.norm(), "depends on u too"),
    ("ex_02_2", lambda u, c: u.norm() * gradient(u, c), "divide by the norm"),
    ("ex_02_2", lambda u, c: 2 * (unit(u) @ unit(c)) * gradient(u, c), "squared cosine"),
    ("ex_02_2", lambda u, c: gradient(c, u), "with respect to c"),
    ("ex_02_2", lambda u, c: -gradient(u, c), "sign is turned"),
    ("ex_02_2", lambda u, c: (u @ c) / u.norm(), "Wanted shape"),
    ("ex_02_3", lambda u, c, mask: torch.cosine_similarity(u, c, dim=-1).square().mean(), "Padded frames"),
    ("ex_02_3", lambda u, c, mask: torch.cosine_similarity(u, c, dim=-1).square().where(mask, 0).mean(), "not by T"),
    ("ex_02_3", lambda u, c, mask: torch.cosine_similarity(u, c, dim=-1)[mask].square().mean(), "within each sample"),
    (
        "ex_02_3",
        lambda u, c, mask: (
            torch.cosine_similarity(*(x.where(mask[..., None], 0).flatten(1) for x in (u, c))).square().mean()
        ),
        "block's cosine",
    ),
    ("ex_02_4", torch.zeros_like, "not invertible"),
    ("ex_02_4", torch.neg, "opposite"),
    ("ex_02_4", lambda weight: torch.linalg.qr(weight).Q, "for every input"),
    ("ex_02_4", lambda weight: weight[:1], "shape"),
    ("ex_02_5", lambda features, factors, seed: cross_validated_r2(features, factors), "as they are"),
    ("ex_02_5", both_shuffled, "one side only"),
    ("ex_02_5", lambda *given: chance(*given).mean(), "one R² a factor"),
    ("ex_02_5", lambda features, factors, seed: chance(features, factors, 0), "Another seed"),
    ("ex_02_6", {1.0: 0.003}, "several weights"),
    ("ex_02_6", {1.0: 0.61, 100.0: 0.6}, "look like R²"),
    ("ex_02_6", {1.0: 0.0, 100.0: float("nan")}, "not finite"),
]
