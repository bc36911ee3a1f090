"""Answers to the exercises of chapter 6, right and wrong."""

import math


def p_value(observed, null):
    return (1 + (null >= observed).sum()) / (1 + len(null))


SOLUTIONS = {
    "ex_06_1": 28 / 3,
    "ex_06_2": lambda n, kappa: 2 / n * (1 - kappa),
    "ex_06_3": 25,
    "ex_06_4": p_value,
    "ex_06_5": 32,
}
WRONG = [
    ("ex_06_1", 14 / 3, "no factor"),
    ("ex_06_1", 4.0, "opposite signs"),
    ("ex_06_1", 16 / 3, "means differ"),
    ("ex_06_1", 2 + 4 / math.sqrt(3), "squared norm"),
    ("ex_06_1", 4 + (2 * 6 / 4**1.5) ** 2, "population"),
    ("ex_06_2", lambda n, kappa: 2 / n, "saturated"),
    ("ex_06_2", lambda n, kappa: (1 - kappa) / n, "Both samples"),
    ("ex_06_2", lambda n, kappa: 0, "unbiased"),
    ("ex_06_2", lambda n, kappa: 2 * kappa / n, "with itself"),
    ("ex_06_2", lambda n, kappa: ..., "should return a number"),
    ("ex_06_3", 50, "halves it again"),
    ("ex_06_3", 12.5, "before the division"),
    ("ex_06_3", 5, "not the distance"),
    ("ex_06_3", 0, "goes to 0"),
    ("ex_06_4", lambda observed, null: (null >= observed).double().mean(), "p can be 0"),
    ("ex_06_4", lambda observed, null: (null >= observed).sum() / (1 + len(null)), "Add 1 to the count"),
    ("ex_06_4", lambda observed, null: (1 + (null > observed).sum()) / (1 + len(null)), ">="),
    ("ex_06_4", lambda observed, null: (1 + (null <= observed).sum()) / (1 + len(null)), "smaller values"),
    ("ex_06_4", lambda observed, null: None, "should return a number"),
    ("ex_06_5", 16, "one step further"),
    ("ex_06_5", 64, "first one"),
    ("ex_06_5", 256, "first one"),
    ("ex_06_5", 1, ""),
]
