"""What is measured beside other code, and of many modalities: each function makes a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.official import Official
from benchmarks.problems import FRAMES, SAMPLES, WIDTH, WIDTHS, Options
from benchmarks.timing import paired
from decalign_core.alignment.many import chain, complete, pair_costs, pair_plans, sampled, tree
from decalign_core.alignment.transport import joint_cost, sinkhorn
from decalign_core.objective import heterogeneity, homogeneity
from decalign_core.types import Batch


def training_step(options: Options) -> pd.DataFrame:
    """One step: forward, backward, optimiser, at the official configuration, with full and with real lengths."""
    generator = torch.Generator().manual_seed(0)
    official = options.official and Official(options.official, WIDTHS, FRAMES, options.device)
    tables = []
    for name, frames in problems.lengths(generator).items():
        batch = problems.batch(frames, generator)
        candidates = {"official": partial(official.step, batch)} if official else {}
        candidates["ours"] = _step(batch, options.device, compiled=False)
        if options.compile:
            candidates["ours, compiled"] = _step(batch, options.device, compiled=True)
        candidates = {what: _finished(call, options.device) for what, call in candidates.items()}
        tables.append(paired(candidates, rounds=options.rounds).assign(case=name))
    table = pd.concat(tables)
    ours = problems.trainer(batch).model
    models = [official.model if what == "official" else ours for what in table["what"]]
    return table.assign(parameters=[sum(p.numel() for p in model.parameters()) for model in models])


def _step(batch: Batch, device: str, *, compiled: bool) -> Callable[[], object]:
    changes = {"training.compile": compiled}
    if device != "cpu":  # a fixed number of rounds: a look at the marginal error would wait for the device
        changes["objective.sinkhorn_tolerance"] = None
    return partial(problems.trainer(batch, device, changes).step, torch.arange(SAMPLES))


def _finished(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, and the wait until the device has done what it put into the queue."""

    def whole() -> None:
        call()
        if torch.device(device).type != "cpu":
            torch.accelerator.synchronize()

    return whole


def alignment_terms(options: Options) -> pd.DataFrame:
    """EM, costs, transport and both losses of 32 samples, 64 wide, three modalities, with their backward pass."""
    config = problems.configuration().objective
    generator = torch.Generator().manual_seed(0)

    def features() -> dict[str, Tensor]:
        return {name: torch.randn(SAMPLES, WIDTH, generator=generator).requires_grad_() for name in WIDTHS}

    draws = [(features(), features()) for _ in range(16)]  # how long transport takes depends on them

    def ours(unique: dict[str, Tensor], latent: dict[str, Tensor]) -> None:
        hete, homo = heterogeneity(unique, config), homogeneity(latent, config)
        (hete.transport + hete.prototype + homo.semantic + homo.mmd).backward()

    candidates: dict[str, Callable[[], object]] = {}
    if options.official:
        official, given = Official(options.official, WIDTHS, FRAMES), itertools.cycle(draws)
        candidates["official"] = lambda: official.alignment(*next(given)).backward()
    taken = itertools.cycle(draws)
    table = paired(candidates | {"ours": lambda: ours(*next(taken))}, rounds=4 * options.rounds)
    errors = [float(heterogeneity(unique, config).plan.marginal_error) for unique, _ in draws]
    return table.assign(case="alignment terms", marginal_error=[math.nan] * len(candidates) + [max(errors)])


def transport(options: Options) -> pd.DataFrame:
    """Two marginals beside POT, three beside OTT-JAX (where it is installed), at the same marginal error."""
    rng, tables = np.random.default_rng(0), []
    for points in (50, 200, 1000):
        tables.append(_two_marginals(rng, points, options.rounds))
    for components in (7, 20, 50):
        tables.append(_three_marginals(rng, components, options.rounds))
    return pd.concat(tables)


def _two_marginals(rng: np.random.Generator, points: int, rounds: int) -> pd.DataFrame:
    import ot

    cost = ot.dist(rng.normal(size=(points, 2)), rng.normal(size=(points, 2)))
    mass, epsilon, tolerance = np.full(points, 1 / points), 0.05 * cost.mean(), 1e-6
    ours_cost, ours_mass = torch.from_numpy(cost), torch.from_numpy(mass)
    settings = {"method": "sinkhorn_log", "stopThr": tolerance, "numItermax": 5000}

    def pot() -> np.ndarray:
        return ot.sinkhorn(mass, mass, cost, epsilon, **settings)

    def ours() -> Tensor:
        options = {"epsilon": epsilon, "iterations": 5000, "tolerance": tolerance}
        return sinkhorn(ours_cost, (ours_mass, ours_mass), **options).plan

    table = paired({"POT sinkhorn_log": pot, "ours": ours}, rounds=max(3, rounds // 3))
    table["marginal_error"] = [_error(plan, [mass, mass]) for plan in (pot(), ours().numpy())]
    return table.assign(case=f"M = 2, {points} points")


def _three_marginals(rng: np.random.Generator, components: int, rounds: int) -> pd.DataFrame:
    points = [rng.normal(size=(components, 8)) for _ in range(3)]
    masses = [rng.dirichlet(np.full(components, 5.0)) for _ in range(3)]
    pairs = {(i, j): _squared(points[i], points[j]) for i, j in itertools.combinations(range(3), 2)}
    cost = pairs[0, 1][:, :, None] + pairs[0, 2][:, None] + pairs[1, 2][None]
    epsilon, tolerance = 0.05 * cost.mean(), 1e-4
    tensors = torch.tensor(cost, dtype=torch.float32), [torch.tensor(m, dtype=torch.float32) for m in masses]

    def ours() -> Tensor:
        return sinkhorn(*tensors, epsilon=epsilon, iterations=2000, tolerance=tolerance).plan

    ott = _ott(points, masses, epsilon, tolerance)
    candidates = ({"OTT-JAX mmsinkhorn": ott} if ott else {}) | {"ours": ours}
    table = paired(candidates, rounds=4 * rounds)
    table["marginal_error"] = [_error(np.asarray(call()), masses) for call in candidates.values()]
    return table.assign(case=f"M = 3, K = {components}")


def _ott(points: list, masses: list, epsilon: float, tolerance: float) -> Callable[[], object] | None:
    try:
        import jax
        from ott.experimental.mmsinkhorn import MMSinkhorn
        from ott.geometry.costs import SqEuclidean
    except ImportError:
        return None
    # its threshold is on the summed error: the loosest of these that is as near as ours
    given = [tuple(jax.numpy.asarray(x, dtype="float32") for x in arrays) for arrays in (points, masses)]
    for looseness in (10, 5, 2, 1, 0.5):
        solver = MMSinkhorn(threshold=looseness * tolerance, inner_iterations=1)
        solve = jax.jit(lambda x, a, solver=solver: solver(x, a, SqEuclidean(), epsilon=float(epsilon)).tensor)
        if _error(np.asarray(solve(*given)), masses) <= tolerance:
            break
    return lambda: solve(*given).block_until_ready()


def many_modalities(options: Options) -> pd.DataFrame:
    """Cost against M for the dense plan, along a chain and by samples, K = 7; and a chain of 50 with K = 20."""
    tables = []
    for count in (2, 3, 4, 5, 6, 8, 12, 20):
        measures = problems.mixtures(count, 7, WIDTH)
        costs, nus = pair_costs(measures, complete(count)), [mixture.weights for mixture in measures]
        mean = problems.mean(costs)
        candidates = {
            "chain": lambda m=measures, n=nus, e=0.1 * mean: tree(pair_costs(m, chain(len(m))), n, epsilon=e),
            "sampled": lambda m=measures, e=0.1 * count * mean: sampled(m, epsilon=e),
        }
        if count <= 6:
            candidates["dense"] = lambda m=measures, n=nus, e=0.1 * count * mean: sinkhorn(joint_cost(m), n, epsilon=e)
        table = paired(candidates, rounds=3)
        tables.append(table.assign(case=f"M = {count}, K = 7", modalities=count, cells=7.0**count))
    measures = problems.mixtures(50, 20, WIDTH)
    costs = pair_costs(measures, chain(50))
    epsilon = 0.1 * problems.mean(costs)
    masses = [mixture.weights for mixture in measures]
    long = paired({"chain": lambda: tree(costs, masses, epsilon=epsilon, iterations=5000)}, rounds=options.rounds)
    return pd.concat([*tables, long.assign(case="M = 50, K = 20", modalities=50, cells=20.0**50)])


def sampled_plans(options: Options) -> pd.DataFrame:
    """How near sampled pairs are to the dense plan's, beside products of marginals; epsilon = rho M mean pair cost."""
    rows = []
    sizes = ((3, 7, 8), (3, 7, 128), (4, 5, 128), (5, 5, 64))
    for (count, components, width), rho in itertools.product(sizes, (0.02, 0.1, 0.5)):
        measures = problems.mixtures(count, components, width)
        costs, masses = pair_costs(measures, complete(count)), [mixture.weights for mixture in measures]
        epsilon = rho * count * problems.mean(costs)
        solved = sinkhorn(joint_cost(measures), masses, epsilon=epsilon, iterations=5000, tolerance=1e-9)
        dense = pair_plans(solved.plan)
        product = max(float((torch.outer(masses[i], masses[j]) - dense[i, j]).abs().max()) for i, j in costs)
        for seed in range(5):
            got = sampled(measures, epsilon=epsilon, generator=torch.Generator().manual_seed(seed))
            error = max(float((got.plans[pair] - dense[pair]).abs().max()) for pair in costs)
            row = {"case": f"M = {count}, K = {components}, d = {width}", "rho": rho, "seed": seed, "error": error}
            row |= {"error_of_product": product, "ratio": error / product, "disagreement": got.disagreement}
            rows.append(row | {"effective_share": got.effective_share, "converged": got.converged})
    return pd.DataFrame(rows)


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def _error(plan: np.ndarray, masses: list[np.ndarray]) -> float:
    sums = (plan.sum(tuple(a for a in range(plan.ndim) if a != axis)) for axis in range(plan.ndim))
    return max(float(np.abs(got - mass).max()) for got, mass in zip(sums, masses, strict=True))
