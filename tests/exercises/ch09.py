"""Answers to the exercises of chapter 9, right and wrong."""

import math

from decalign_core.lab.experiment import VARIANTS


def word(low, high, higher):
    if not (low > 0 or high < 0):
        return "undecided"
    return "reproduced" if (low > 0) != higher else "not reproduced"


def needed(delta, s, rho):
    return 2 * (1 - rho) * (1.96 * s / delta) ** 2


SOLUTIONS = {
    "ex_09_1": {"objective.transport_weight": 0},
    "ex_09_2": needed,
    "ex_09_3": lambda videos, drawn: [list(drawn).count(video) for video in videos],
    "ex_09_4": word,
}
WRONG = [
    ("ex_09_1", {}, "full model"),
    ("ex_09_1", "no_proto_ot", "dictionary"),
    ("ex_09_1", {"objective.transport": 0.0}, "No such setting"),
    ("ex_09_1", VARIANTS["no_proto_ot"], "prototype term too"),
    ("ex_09_1", {"objective.alpha": 0.0}, "weighs both terms"),
    ("ex_09_1", {"objective.prototype_weight": 0.0}, "Without prototype"),
    ("ex_09_1", {"objective.mmd_weight": 0.0, "objective.transport_weight": 0.0}, "transport and mmd"),
    ("ex_09_1", {"objective.transport_weight": 0.0, "model.cross_modal": False}, "More changes"),
    ("ex_09_2", lambda delta, s, rho: needed(delta, s, 0), "without pairing"),
    ("ex_09_2", lambda delta, s, rho: needed(delta, s, rho) / 2, "both sides"),
    ("ex_09_2", lambda delta, s, rho: math.sqrt(needed(delta, s, rho)), "square the ratio"),
    ("ex_09_2", lambda delta, s, rho: needed(delta, s, -rho), "not more"),
    ("ex_09_2", lambda delta, s, rho: needed(delta, s, rho**2), "not squared"),
    ("ex_09_3", lambda videos, drawn: [video in drawn for video in videos], "counts twice"),
    ("ex_09_3", lambda videos, drawn: [drawn.count(v) / videos.count(v) for v in videos], "video's size"),
    ("ex_09_3", lambda videos, drawn: [drawn.count(v) / len(drawn) for v in videos], "divides by the sum"),
    ("ex_09_3", lambda videos, drawn: [videos.count(v) for v in videos], "drawn videos"),
    ("ex_09_3", lambda videos, drawn: [drawn.count(v) for v in sorted(set(videos))], "shape"),
    ("ex_09_4", lambda low, high, higher: word(low, high, not higher), "higher throughout"),
    ("ex_09_4", lambda low, high, higher: word(low, high, False), "F1"),
    ("ex_09_4", lambda low, high, higher: "reproduced" if (low > 0) != higher else "not reproduced", "lower|around 0"),
]
