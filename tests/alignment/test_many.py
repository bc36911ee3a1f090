"""Plans of many modalities by their pairs, against the dense plan over all tuples."""

import math
from dataclasses import replace

import pytest
import torch

from decalign_core.alignment.many import LEAST_SHARE, chain, complete, pair_costs, pair_plans, sampled, star, tree
from decalign_core.alignment.mixture import GaussianMixture
from decalign_core.alignment.transport import joint_cost, sinkhorn


def mixtures(count, components, width, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.rand(size, generator=generator, dtype=torch.float64)

    def mixture():
        masses, normal = 0.3 + draw(components), torch.special.ndtri(draw(components, width).clamp(1e-6, 1 - 1e-6))
        return GaussianMixture(masses / masses.sum(), normal, 0.1 + draw(components, width))

    return [mixture() for _ in range(count)]


def weights(measures):
    return [mixture.weights for mixture in measures]


def mean_cost(costs):
    return torch.stack([cost.detach().mean() for cost in costs.values()]).mean()


def joint(costs, sizes):
    """The cost of every tuple from the costs of pairs."""
    total = torch.zeros(sizes, dtype=torch.float64)
    for (i, j), cost in costs.items():
        total = total + cost.reshape([sizes[a] if a in (i, j) else 1 for a in range(len(sizes))])
    return total


def test_pairs_of_a_plan_are_its_sums_over_the_other_axes():
    plan = torch.rand(2, 3, 4, dtype=torch.float64)
    found = pair_plans(plan)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), wanted in (((0, 1), "abc->ab"), ((0, 2), "abc->ac"), ((1, 2), "abc->bc")):
        assert (found[i, j] - torch.einsum(wanted, plan)).abs().max() <= 1e-14
    assert torch.equal(pair_plans(plan[0])[0, 1], plan[0])


# --- trees ---

TREES = {"chain": chain(4), "star": star(4), "other": [(1, 3), (0, 1), (1, 2)]}


@pytest.mark.parametrize("pairs", TREES.values(), ids=TREES)
def test_a_tree_is_the_dense_plan_of_its_costs(pairs):
    generator, sizes = torch.Generator().manual_seed(1), (3, 4, 2, 5)
    costs = {(i, j): torch.rand(sizes[i], sizes[j], generator=generator, dtype=torch.float64) for i, j in pairs}
    nus = [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]
    nus = [nu / nu.sum() for nu in nus]
    options = {"epsilon": 0.07, "iterations": 5000, "tolerance": 1e-13}
    dense, got = sinkhorn(joint(costs, sizes), nus, **options), tree(costs, nus, **options)
    product = torch.ones(sizes, dtype=torch.float64)
    for pair in pairs:
        assert (got.plans[pair] - pair_plans(dense.plan)[pair]).abs().max() <= 1e-11
        product = product * got.plans[pair].reshape([sizes[a] if a in pair else 1 for a in range(4)])
    for axis, nu in enumerate(nus):
        degree = sum(axis in pair for pair in pairs)
        product = product / nu.pow(degree - 1).reshape([sizes[axis] if a == axis else 1 for a in range(4)])
    assert (product - dense.plan).abs().max() <= 1e-11
    assert math.isclose(got.value, dense.value, rel_tol=1e-10)
    assert got.converged and got.marginal_error <= 1e-12


def test_fifty_modalities_along_a_chain():
    measures = mixtures(50, 20, 32)
    costs = pair_costs(measures, chain(50))
    got = tree(costs, weights(measures), epsilon=0.1 * mean_cost(costs), iterations=5000, tolerance=1e-6)
    assert got.converged and len(got.plans) == 49


def test_the_gradient_of_a_tree_is_its_plans():
    costs = {pair: torch.rand(3, 3, dtype=torch.float64, requires_grad=True) for pair in chain(4)}
    got = tree(costs, [torch.full((3,), 1 / 3, dtype=torch.float64)] * 4, epsilon=0.2)
    for pair, gradient in zip(costs, torch.autograd.grad(got.value, list(costs.values())), strict=True):
        assert torch.equal(gradient, got.plans[pair])


@pytest.mark.parametrize("pairs", [[(0, 1)], [(0, 1), (1, 2), (0, 2)], [(0, 1), (0, 1)], [(1, 2), (1, 2)]])
def test_what_is_no_tree_is_an_error(pairs):
    with pytest.raises(ValueError, match="costs: wanted the 2 pairs of a tree over 3 modalities"):
        tree({pair: torch.zeros(2, 2) for pair in pairs} | {}, [torch.full((2,), 0.5)] * 3, epsilon=1.0)


# --- the complete graph ---


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equation_5_is_the_spread_about_the_mean(count):
    measures = mixtures(count, 3, 4)
    z = [torch.cat([mixture.means, mixture.covariances.sqrt()], 1) for mixture in measures]
    for _ in range(10):
        at = torch.randint(3, (count,)).tolist()
        chosen = torch.stack([points[k] for points, k in zip(z, at, strict=True)])
        spread = count * (chosen - chosen.mean(0)).square().sum()
        assert math.isclose(spread, joint_cost(measures)[tuple(at)], rel_tol=1e-12)


@pytest.mark.parametrize(("count", "components", "width"), [(2, 6, 8), (3, 7, 8), (3, 7, 128), (4, 5, 64)])
@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_sampled_pairs_are_the_dense_plans(count, components, width, rho):
    measures = mixtures(count, components, width)
    costs = pair_costs(measures, complete(count))
    epsilon = rho * count * mean_cost(costs)
    dense = sinkhorn(joint_cost(measures), weights(measures), epsilon=epsilon, iterations=5000, tolerance=1e-10)
    got = sampled(measures, epsilon=epsilon)
    wanted = pair_plans(dense.plan)
    error = max((got.plans[pair] - wanted[pair]).abs().max() for pair in costs)
    product = max((torch.outer(*(weights(measures)[m] for m in pair)) - wanted[pair]).abs().max() for pair in costs)
    assert error <= product / 4
    assert error <= 2 * got.disagreement
    assert got.converged and got.effective_share > 0.8
    assert math.isclose(got.value, dense.value, rel_tol=0.01)


def test_more_samples_are_nearer():
    measures = mixtures(3, 5, 16)
    costs = pair_costs(measures, complete(3))
    epsilon = 0.1 * 3 * mean_cost(costs)
    dense = sinkhorn(joint_cost(measures), weights(measures), epsilon=epsilon, iterations=5000, tolerance=1e-10).plan

    def error(samples):
        found = [
            sampled(measures, epsilon=epsilon, samples=samples, generator=torch.Generator().manual_seed(seed)).plans
            for seed in range(6)
        ]
        return sum(float((plans[pair] - pair_plans(dense)[pair]).square().mean()) for plans in found for pair in plans)

    assert error(8192) < error(256) / 4


def test_a_collapse_is_told():
    measures = mixtures(20, 7, 64)
    costs = pair_costs(measures, complete(20))
    got = sampled(measures, epsilon=0.004 * 20 * mean_cost(costs), samples=2048, iterations=50)
    assert got.effective_share < LEAST_SHARE and not got.converged


def test_neither_a_collapse_nor_missed_marginals_count_as_converged():
    met = sampled(mixtures(3, 4, 8), epsilon=2.0, samples=512)
    assert met.converged
    assert not replace(met, effective_share=0.99 * LEAST_SHARE).converged
    assert not replace(met, marginals=tuple(1.01 * nu for nu in met.marginals)).converged


def test_twenty_modalities():
    measures = mixtures(20, 7, 16)
    costs = pair_costs(measures, complete(20))
    got = sampled(measures, epsilon=0.2 * 20 * mean_cost(costs), samples=4096)
    assert got.converged and len(got.plans) == 190
    assert torch.stack([plan.sum() for plan in got.plans.values()]).allclose(torch.ones(190, dtype=torch.float64))


def test_the_same_call_gives_the_same_plans_and_another_generator_others():
    measures = mixtures(3, 4, 8)
    first, again = (sampled(measures, epsilon=2.0, samples=512).plans[0, 1] for _ in range(2))
    other = sampled(measures, epsilon=2.0, samples=512, generator=torch.Generator().manual_seed(5)).plans[0, 1]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_gradient_reaches_the_mixtures():
    measures = mixtures(3, 4, 8)
    means = [mixture.means.requires_grad_() for mixture in measures]
    got = sampled(measures, epsilon=2.0, samples=512)
    gradients = torch.autograd.grad(got.value, means)
    costs = {pair: cost.detach().requires_grad_() for pair, cost in got.costs.items()}
    by_pair = torch.autograd.grad(sum((got.plans[p] * c).sum() for p, c in costs.items()), list(costs.values()))
    assert all(torch.equal(gradient, got.plans[pair]) for pair, gradient in zip(costs, by_pair, strict=True))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_components_and_identical_points(dtype):
    measures = [
        GaussianMixture(torch.tensor([0.0, 0.4, 0.6], dtype=dtype), means, torch.ones(3, 2, dtype=dtype))
        for means in (torch.zeros(3, 2, dtype=dtype), torch.zeros(3, 2, dtype=dtype))
    ]
    got = sampled(measures, epsilon=1.0, samples=256)
    assert got.plans[0, 1].dtype == dtype and got.converged
    assert (got.plans[0, 1] - torch.outer(*weights(measures))).abs().max() <= 1e-6


def test_wrong_measures_are_an_error():
    with pytest.raises(ValueError, match="measures: wanted at least 2, got 1"):
        sampled(mixtures(1, 3, 4), epsilon=1.0)
    full = [GaussianMixture(m.weights, m.means, m.covariances.diag_embed()) for m in mixtures(2, 3, 4)]
    with pytest.raises(ValueError, match="wanted diagonal covariances"):
        sampled(full, epsilon=1.0)
