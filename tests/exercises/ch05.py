"""Answers to the exercises of chapter 5, right and wrong."""

import math

import torch


def barycentric(x, weights, means, plan):
    target = plan @ means / plan.sum(1, keepdim=True)
    return (weights * (x[:, None] - target).square().sum(-1)).sum(1).mean()


def with_target(target):
    return lambda x, w, means, plan: (w * (x[:, None] - target(means, plan)).square().sum(-1)).sum(1).mean()


SOLUTIONS = {
    "ex_05_1": [4.0, 20.0],
    "ex_05_2": lambda k, m, e: -e * (m * math.log(k) + 1),
    "ex_05_3": barycentric,
    "ex_05_4": 0.03,
}
WRONG = [
    ("ex_05_1", [4.0, 4.0], "pairs equal indices"),
    ("ex_05_1", [20.0, 4.0], "transport first"),
    ("ex_05_1", torch.tensor([4.0, 40.0]), "not their sum"),
    ("ex_05_1", [4.0], "shape"),
    ("ex_05_2", lambda k, m, e: -e * m * math.log(k), "second reading"),
    ("ex_05_2", lambda k, m, e: -e * (math.log(k) + 1), "diagonal"),
    ("ex_05_2", lambda k, m, e: -(m * math.log(k) + 1), "epsilon"),
    ("ex_05_2", lambda k, m, e: float("nan"), ""),
    ("ex_05_3", with_target(lambda means, plan: means), "plan is not used"),
    ("ex_05_3", with_target(lambda means, plan: plan @ means), "row sums"),
    ("ex_05_3", with_target(lambda means, plan: plan.mT @ means / plan.sum(0).unsqueeze(1)), "transposed"),
    ("ex_05_4", 0.001, "Too sharp"),
    ("ex_05_4", 1.0, "Too blurred"),
    ("ex_05_4", 0.0, "positive"),
]
