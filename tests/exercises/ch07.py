"""Answers to the exercises of chapter 7, right and wrong."""

import math

import torch


def weights(scores, mask):
    masked = scores.masked_fill(~mask[:, None], -math.inf)
    return torch.where(mask.any(1)[:, None, None], masked.softmax(-1), 0)


def uniform_where_empty(scores, mask):
    return scores.masked_fill(~mask[:, None], -1e30).softmax(-1)


def mean(x, mask):
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def fuse(refined, common, masks, pool=mean):
    return torch.cat([pool(x, masks[name]) for part in (refined, common) for name, x in part.items()], dim=1)


def by_modality(refined, common, masks):
    return torch.cat([mean(part[name], mask) for name, mask in masks.items() for part in (refined, common)], dim=1)


SOLUTIONS = {
    "ex_07_1": [256, 4, 12],
    "ex_07_2": [0.25, 0.75, 0],
    "ex_07_3": weights,
    "ex_07_4": fuse,
    "ex_07_5": {"positions": False, "kernel_size": 1},
}
WRONG = [
    ("ex_07_1", [128, 4, 12], "Two parts"),
    ("ex_07_1", [256, 12, 12], "one transformer per modality"),
    ("ex_07_1", [256, 4, 6], "direction"),
    ("ex_07_1", [256, 4, 16], "itself"),
    ("ex_07_2", [0.1, 0.9, 0], "square root of the head's width first"),
    ("ex_07_2", [1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5), 0], "not by the width"),
    ("ex_07_2", [1 / 8, 3 / 8, 1 / 2], "padding"),
    ("ex_07_2", [1 / 8, 3 / 8, 0], "before the softmax"),
    ("ex_07_3", lambda scores, mask: scores.masked_fill(~mask[:, None], -math.inf).softmax(-1), "not a number"),
    ("ex_07_3", lambda scores, mask: scores.softmax(-1), "plays no part"),
    ("ex_07_3", lambda scores, mask: scores.softmax(-1) * mask[:, None], "before the softmax"),
    ("ex_07_3", lambda scores, mask: weights(scores, ~mask), "True means valid"),
    ("ex_07_3", uniform_where_empty, "equal weights"),
    ("ex_07_3", lambda scores, mask: scores.softmax(1) * mask[:, None], "over the queries"),
    ("ex_07_3", lambda scores, mask: weights(scores, mask).mean(1), "shape"),
    ("ex_07_4", lambda refined, common, masks: fuse(refined, common, masks, lambda x, mask: x.mean(1)), "valid frames"),
    ("ex_07_4", lambda refined, common, masks: fuse(refined, common, masks, lambda x, mask: x.sum(1)), "the sum"),
    ("ex_07_4", lambda refined, common, masks: fuse(common, refined, masks), "come first, then"),
    ("ex_07_4", by_modality, "modality by modality"),
    ("ex_07_4", lambda refined, common, masks: fuse(refined, {}, masks), "shape"),
    ("ex_07_5", {"positions": False}, "neighbours"),
    ("ex_07_5", {"kernel_size": 1}, "its place"),
    ("ex_07_5", {}, "its place and the projection"),
    ("ex_07_5", {"layers": 0, "kernel_size": 1}, "at least one layer"),
    ("ex_07_5", {"cross_modal": False, "positions": False, "kernel_size": 1}, "Keep the cross-modal attention"),
]
