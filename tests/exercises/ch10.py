"""Answers to the exercises of chapter 10, right and wrong."""

from decalign_core.lab.results import published

GRID = published("figure7").pivot(index=["dataset", "beta"], columns="alpha", values="f1")
MOSI = GRID.loc["mosi"]


def parameters(K, d, full):
    return K * (d + (d * (d + 1) // 2 if full else d)) + K - 1


SOLUTIONS = {
    "ex_10_1": (MOSI[0.05] - MOSI[0.5]).mean(),
    "ex_10_2": lambda alpha, d, d_new: alpha / d_new,
    "ex_10_3": parameters,
    "ex_10_4": lambda valid, test: test[valid.index(min(valid))],
}
WRONG = [
    ("ex_10_1", MOSI.loc[0.05, 0.05] - MOSI.loc[0.05, 0.5], "beta 0.05 alone"),
    ("ex_10_1", (MOSI[0.5] - MOSI[0.05]).mean(), "positive"),
    ("ex_10_1", (MOSI[0.05] - MOSI[0.5]).mean() / 100, "percent"),
    ("ex_10_1", (GRID[0.05] - GRID[0.5])["mosei"].mean(), "MOSEI"),
    ("ex_10_1", (MOSI[0.01] - MOSI[0.5]).mean(), "alpha 0.01"),
    ("ex_10_1", (MOSI.loc[0.05] - MOSI.loc[0.5]).mean(), "other axis"),
    ("ex_10_2", lambda alpha, d, d_new: alpha * d_new, "divide"),
    ("ex_10_2", lambda alpha, d, d_new: alpha / d, "new number"),
    ("ex_10_2", lambda alpha, d, d_new: alpha * d / d_new, "sum before"),
    ("ex_10_2", lambda alpha, d, d_new: alpha, "stays a mean"),
    ("ex_10_2", lambda alpha, d, d_new: alpha / d_new**2, "not d squared"),
    ("ex_10_3", lambda K, d, full: parameters(K, d, full) + 1, "sum to 1"),
    ("ex_10_3", lambda K, d, full: K * (d + (d * d if full else d)) + K - 1, "symmetric"),
    ("ex_10_3", lambda K, d, full: K * (d + (d * (d - 1) // 2 if full else d)) + K - 1, "diagonal belongs"),
    ("ex_10_3", lambda K, d, full: parameters(K, d, full) - K * d, "means are missing"),
    ("ex_10_3", lambda K, d, full: parameters(K, d, full) - K + 1, "weights are missing"),
    ("ex_10_3", lambda K, d, full: parameters(K, d, False), "more than its diagonal"),
    ("ex_10_4", lambda valid, test: min(test), "best of noise"),
    ("ex_10_4", lambda valid, test: min(valid), "report its test error"),
    ("ex_10_4", lambda valid, test: sum(test) / len(test), "one cell"),
    ("ex_10_4", lambda valid, test: test[valid.index(max(valid))], "smallest"),
    ("ex_10_4", lambda valid, test: valid.index(min(valid)), "place"),
]
