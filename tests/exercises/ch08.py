"""Answers to the exercises of chapter 8, right and wrong."""


def weighted(losses, c, inner=True, outer=True, contrastive=True, swap=False):
    alpha, beta = ((c.beta, c.alpha) if swap else (c.alpha, c.beta)) if outer else (1, 1)
    own = (c.transport_weight, c.prototype_weight, c.semantic_weight, c.mmd_weight) if inner else (1, 1, 1, 1)
    hete = own[0] * losses.transport + own[1] * losses.prototype
    homo = own[2] * losses.semantic + own[3] * losses.mmd
    total = losses.task + c.decoupling_weight * losses.decoupling + alpha * hete + beta * homo
    return total + contrastive * c.contrastive_weight * losses.contrastive


def unweighted(losses, c):
    return sum(value for name, value in vars(losses).items() if name not in ("auxiliary", "total", "marginal_error"))


def means(errors, window):
    return [sum(errors[max(0, end - window) : end]) / min(end, window) for end in range(1, len(errors) + 1)]


def best(errors, window):
    return 1 + means(errors, window).index(min(means(errors, window)))


def last_best(errors, window):
    values = means(errors, window)
    return max(n for n, value in enumerate(values, 1) if value == min(values))


def centred(errors, window):
    half = window // 2
    values = [sum(part) / len(part) for n in range(len(errors)) if (part := errors[max(0, n - half) : n + half + 1])]
    return 1 + values.index(min(values))


def alpha(task, hete, share):
    return share * task.norm() / hete.norm()


COMMON = {"task", "decoupling", "semantic", "mmd", "contrastive"}
SOLUTIONS = {
    "ex_08_1": COMMON,
    "ex_08_2": [10, 2, 1],
    "ex_08_3": weighted,
    "ex_08_4": best,
    "ex_08_5": alpha,
}
WRONG = [
    ("ex_08_1", COMMON | {"transport"}, "unique parts"),
    ("ex_08_1", COMMON - {"decoupling"}, "both"),
    ("ex_08_1", {"decoupling", "semantic", "mmd"}, "fused vector"),
    ("ex_08_1", COMMON - {"mmd"}, "latent features"),
    ("ex_08_1", {"homo"}, "No term is called homo"),
    ("ex_08_2", [10, 10, 1], "cuts the norm"),
    ("ex_08_2", [10, 1, 1], "below 1"),
    ("ex_08_2", [10, 2, 10], "cancels"),
    ("ex_08_2", [10, 2, 2], "clipped or not"),
    ("ex_08_3", unweighted, "multiply"),
    ("ex_08_3", lambda losses, c: weighted(losses, c, inner=False), "weights of its own"),
    ("ex_08_3", lambda losses, c: weighted(losses, c, contrastive=False), "contrastive term is missing"),
    ("ex_08_3", lambda losses, c: weighted(losses, c, outer=False), "alpha or beta is missing"),
    ("ex_08_3", lambda losses, c: weighted(losses, c) + 0.5 * losses.decoupling, "decoupling has a weight"),
    ("ex_08_3", lambda losses, c: weighted(losses, c, swap=True), "other way round"),
    ("ex_08_3", lambda losses, c: losses.total, "values are not"),
    ("ex_08_4", lambda errors, window: best(errors, window) - 1, "count from 1"),
    ("ex_08_4", lambda errors, window: best(errors, 1), "lucky"),
    ("ex_08_4", centred, "not known yet"),
    ("ex_08_4", last_best, "has to be better"),
    ("ex_08_4", lambda errors, window: 1 + means(errors, window).index(max(means(errors, window))), "Lower is better"),
    ("ex_08_5", lambda task, hete, share: share * hete.norm() / task.norm(), "other way round"),
    ("ex_08_5", lambda task, hete, share: task.norm() / hete.norm(), "share is missing"),
    ("ex_08_5", lambda task, hete, share: share * task.square().sum() / hete.square().sum(), "squared norms"),
    ("ex_08_5", lambda task, hete, share: share / (1 - share) * task.norm() / hete.norm(), "sum of both"),
    ("ex_08_5", lambda task, hete, share: share * task.sum() / hete.sum(), "values are not"),
]
