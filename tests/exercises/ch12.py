"""Answers to the exercises of chapter 12, right and wrong."""

import math

from scipy.stats import binomtest, norm

Z = norm.ppf(0.975)


def wilson(right, n):
    return binomtest(right, n).proportion_ci(method="wilson")


def normal(right, n, z=Z):
    p = right / n
    half = z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def words(low, high, higher):
    if not (low > 0 or high < 0):
        return "undecided"
    return "behind" if (low > 0) == higher else "ahead"


def without_ends(low, high, higher):
    return words(low, high, higher) if low < 0 < high else words(low + 1e-9, high, higher)


SOLUTIONS = {
    "ex_12_1": 100 * 287 / 686,
    "ex_12_2": lambda non0, right, zeros: (1 - zeros) * non0 + zeros * right,
    "ex_12_3": wilson,
    "ex_12_4": lambda delta, p: 2 * p * (1 - p) * (Z / delta) ** 2,
    "ex_12_5": words,
}
ALSO_RIGHT = [("ex_12_4", lambda delta, p: math.ceil(SOLUTIONS["ex_12_4"](delta, p)))]
WRONG = [
    ("ex_12_1", 287 / 686, "percent"),
    ("ex_12_1", 100 * 287 / 678, "utterances of the matrix"),
    ("ex_12_1", 287, "divide it by 686"),
    ("ex_12_1", 43.88, ""),
    ("ex_12_2", lambda a, q, z: (a + q) / 2, "how many utterances"),
    ("ex_12_2", lambda a, q, z: z * a + (1 - z) * q, "other way round"),
    ("ex_12_2", lambda a, q, z: (1 - z) * a, "every zero as wrong"),
    ("ex_12_2", lambda a, q, z: (1 - z) * a + z, "every zero as right"),
    ("ex_12_2", lambda a, q, z: a + z * q, "1 - z"),
    ("ex_12_2", lambda a, q, z: ..., "should return a number"),
    ("ex_12_3", normal, "no width"),
    ("ex_12_3", lambda k, n: binomtest(k, n).proportion_ci(0.9, method="wilson"), "on each side"),
    ("ex_12_3", lambda k, n: wilson(k, n)[::-1], "lower end"),
    ("ex_12_3", lambda k, n: [100 * end for end in wilson(k, n)], "not percent"),
    ("ex_12_3", lambda k, n: [(1 + Z**2 / n) * end for end in wilson(k, n)], "both divided"),
    ("ex_12_3", lambda k, n: k / n, "low, high"),
    ("ex_12_4", lambda delta, p: p * (1 - p) * (Z / delta) ** 2, "twice the variance"),
    ("ex_12_4", lambda delta, p: 4 * p * (1 - p) * (Z / delta) ** 2, "standard deviations"),
    ("ex_12_4", lambda delta, p: 2 * p * (1 - p) * (norm.ppf(0.95) / delta) ** 2, "on each side"),
    ("ex_12_4", lambda delta, p: Z / delta * math.sqrt(2 * p * (1 - p)), "square the ratio"),
    ("ex_12_4", lambda delta, p: None, "should return a number"),
    ("ex_12_5", lambda low, high, higher: "behind" if low > 0 else "ahead", "MAE whose difference lies above 0"),
    ("ex_12_5", lambda low, high, higher: words(low, high, not higher), "peer minus ours"),
    ("ex_12_5", without_ends, "ends at 0"),
    ("ex_12_5", lambda low, high, higher: words(low, high, higher) if low == low else "ahead", "single run"),
]
