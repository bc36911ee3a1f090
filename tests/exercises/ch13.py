"""Answers to the exercises of chapter 13, right and wrong."""

import math

import numpy as np
import torch


def slope(values, times):
    return np.polyfit(np.log(values), np.log(times), 1)[0]


SOLUTIONS = {
    "ex_13_1": 10,
    "ex_13_2": lambda z: torch.pdist(z).square().sum(),
    "ex_13_3": slope,
    "ex_13_4": lambda first, second, middle: torch.einsum("ij,jk->ijk", first, second / middle[:, None]),
    "ex_13_5": lambda p, s: s / (s * (1 - p) + p),
    "ex_13_6": lambda w: 1 / (len(w) * (w / w.sum()).square().sum()),
}
WRONG = [
    ("ex_13_1", 30 * math.log(2) / math.log(7), "whole"),
    ("ex_13_1", 11, "four bytes"),
    ("ex_13_1", 9, ""),
    ("ex_13_2", lambda z: torch.cdist(z, z).square().sum(), "Each pair once"),
    ("ex_13_2", lambda z: (z - z.mean(0)).square().sum(), "M times it"),
    ("ex_13_2", lambda z: z.square().sum() - z.sum(0).square().sum(), "factor is M"),
    ("ex_13_2", lambda z: 3 * z.square().sum() - z.sum(0).square().sum(), "M - 1"),
    ("ex_13_2", lambda z: 4 * z.square().sum() - z.sum() ** 2, "Sum the points first"),
    ("ex_13_2", lambda z: ..., "should return"),
    ("ex_13_3", lambda x, y: np.polyfit(x, y, 1)[0], "logarithms"),
    ("ex_13_3", lambda x, y: slope(y, x), "swapped"),
    ("ex_13_3", lambda x, y: np.polyfit(np.log(x), np.log(y), 1)[1], "slope"),
    ("ex_13_3", lambda x, y: np.polyfit(x, np.log(y), 1)[0], "exponential"),
    ("ex_13_3", lambda x, y: np.log(y[-1] / y[0]) / np.log(x[-1] / x[0]), "fit all"),
    ("ex_13_4", lambda a, b, nu: a[:, :, None] * b, "divide by it once"),
    ("ex_13_4", lambda a, b, nu: a[:, :, None] * b / nu[:, None] ** 2, "too often"),
    ("ex_13_4", lambda a, b, nu: torch.einsum("i,j,k->ijk", a.sum(1), nu, b.sum(0)), "same in both"),
    ("ex_13_4", lambda a, b, nu: a @ b, "Wanted shape"),
    ("ex_13_5", lambda p, s: 1 - p + p / s, "one over it"),
    ("ex_13_5", lambda p, s: s, "stays"),
    ("ex_13_5", lambda p, s: 1 - p + p * s, "average"),
    ("ex_13_5", lambda p, s: 1 / (1 - p), "p / s"),
    ("ex_13_6", lambda w: w.sum() ** 2 / w.square().sum(), "effective number"),
    ("ex_13_6", lambda w: 1 / (len(w) * w.square().sum()), "sum to 1"),
    ("ex_13_6", lambda w: len(w) * w.square().sum() / w.sum() ** 2, "one over it"),
    ("ex_13_6", lambda w: w.sum() / (len(w) * w.max()), "largest weight"),
]
