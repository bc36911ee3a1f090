"""Answers to the exercises of chapter 4, right and wrong."""

import torch


def staircase(marginals, *, subtract_all=True):
    plan = torch.zeros([len(marginal) for marginal in marginals], dtype=torch.float64)
    left, k = [marginal.clone() for marginal in marginals], [0] * len(marginals)
    while all(index < len(rest) for index, rest in zip(k, left, strict=True)):
        remaining = torch.stack([rest[index] for index, rest in zip(k, left, strict=True)])
        least = int(remaining.argmin())
        plan[tuple(k)] += remaining.min()
        for axis, (index, rest) in enumerate(zip(k, left, strict=True)):
            if subtract_all or axis == least:
                rest[index] -= remaining.min()
        k[least] += 1
    return plan


def independent(marginals):
    plan = marginals[0]
    for marginal in marginals[1:]:
        plan = plan[..., None] * marginal
    return plan


def backwards(marginals):
    return staircase([*marginals[:-1], marginals[-1].flip(0)]).flip(-1)


def dual(transport):
    return sum(f @ nu for f, nu in zip(transport.potentials, transport.marginals, strict=True))


def update(cost, potentials, marginal, axis, epsilon, *, own=False, sign=1.0, stable=True):
    views = [f.view([-1 if a == i else 1 for a in range(3)]) for i, f in enumerate(potentials)]
    others = [a for a in range(3) if a != axis]
    exponent = (sum(view for a, view in enumerate(views) if own or a != axis) - sign * cost) / epsilon
    log_sum = exponent.logsumexp(others) if stable else exponent.exp().sum(others).log()
    return epsilon * (marginal.log() - log_sum)


SOLUTIONS = {
    "ex_04_1": [2401, 28, 25],
    "ex_04_2": staircase,
    "ex_04_3": dual,
    "ex_04_4": update,
    "ex_04_5": 0.11,
}
WRONG = [
    ("ex_04_1", [4**7, 28, 25], "K is raised to M"),
    ("ex_04_1", [28, 28, 25], "not one for every prototype"),
    ("ex_04_1", [2401, 28, 28], "total mass"),
    ("ex_04_1", [2401, 28, 24], "Only M - 1"),
    ("ex_04_2", independent, "independent plan"),
    ("ex_04_2", backwards, "backwards"),
    ("ex_04_2", lambda marginals: staircase(marginals, subtract_all=False), "every modality's remainder"),
    ("ex_04_2", lambda marginals: torch.zeros(2, 2), "shape"),
    ("ex_04_3", lambda transport: sum(f.sum() for f in transport.potentials), "mean under the marginal"),
    ("ex_04_3", lambda transport: transport.value, "entropy of Eq 7 is missing"),
    ("ex_04_3", lambda transport: dual(transport) - transport.epsilon, "not T"),
    ("ex_04_3", lambda transport: 2 * transport.value - dual(transport), "sign of the entropy"),
    ("ex_04_4", lambda *given: update(*given) / given[-1], "units of epsilon"),
    ("ex_04_4", lambda *given: update(*given, own=True), "own potential"),
    ("ex_04_4", lambda *given: update(*given, sign=-1.0), "minus"),
    ("ex_04_4", lambda *given: update(*given) - given[-1] * given[2].log(), "logarithm of the marginal"),
    ("ex_04_4", lambda *given: update(*given, stable=False), "logsumexp"),
    ("ex_04_5", 1.0, "take a smaller epsilon"),
    ("ex_04_5", 0.05, "a larger epsilon is allowed"),
    ("ex_04_5", 0.0, "positive"),
]
