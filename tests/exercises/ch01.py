"""Answers to the exercises of chapter 1, right and wrong."""

import torch


def by_weights(x, mask):
    weights = mask[..., None] / mask.sum()
    mean = (weights * x).sum(dim=(0, 1))
    return (weights * (x - mean).square()).sum(dim=(0, 1)).sqrt()


def after_swaps(x, y, swaps):
    signs = 1 - 2 * swaps.double()
    return torch.einsum("rn,nd->rd", signs, x - y).norm(dim=1) / len(x)


SOLUTIONS = {
    "ex_01_1": 1.2 * 10 / 4,
    "ex_01_2": lambda x, mask: x[mask].std(dim=0, correction=0),
    "ex_01_3": 2,
    "ex_01_4": after_swaps,
    "ex_01_5": [True, True, False, False, True],
}
ALSO_RIGHT = [("ex_01_2", by_weights)]
WRONG = [
    ("ex_01_1", 1.2, "all ten"),
    ("ex_01_1", 0.48, "other way round"),
    ("ex_01_1", 12, "not yet divided"),
    ("ex_01_1", 2.0, "padded ones"),
    ("ex_01_1", 7.0, "values are not"),
    ("ex_01_2", lambda x, mask: x.flatten(0, 1).std(dim=0, correction=0), "whatever they hold"),
    ("ex_01_2", lambda x, mask: (x * mask[..., None]).flatten(0, 1).std(dim=0, correction=0), "zeros count too"),
    ("ex_01_2", lambda x, mask: x[mask].std(dim=0), "one less"),
    ("ex_01_2", lambda x, mask: x[mask].std(correction=0), r"Wanted shape \(2,\)"),
    ("ex_01_2", lambda x, mask: None, "got NoneType"),
    ("ex_01_3", 1, "radius below"),
    ("ex_01_3", 0.5, "denominator"),
    ("ex_01_3", 4, "not by 1/4"),
    ("ex_01_4", lambda x, y, s: (torch.where(s[..., None], y, x) - y).mean(dim=1).norm(dim=1), "Both change places"),
    ("ex_01_4", lambda x, y, s: (x - y).mean(dim=0).norm().expand(len(s)), "Nothing has changed places"),
    ("ex_01_4", lambda x, y, s: (x - y).norm(dim=1).mean().expand(len(s)), "length of their mean"),
    ("ex_01_4", lambda x, y, s: (x - y).mean(dim=0).norm(), "Wanted shape"),
    ("ex_01_5", [True] * 5, "Not every harmless"),
    ("ex_01_5", [False] * 5, "plain containers pass"),
    ("ex_01_5", [True, True, True, False, True], "DataFrame"),
    ("ex_01_5", [True, True, False, True, True], "tensor is built"),
    ("ex_01_5", [True, False, False, False, True], "OrderedDict"),
]
