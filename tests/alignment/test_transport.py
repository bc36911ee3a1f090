"""Eq 5, 7, 8: joint cost, entropic and exact plans, against loops, a general minimiser, POT and linear programmes."""

from itertools import permutations

import numpy as np
import oracles
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decalign_core.alignment.bures import bures_wasserstein
from decalign_core.alignment.mixture import GaussianMixture, fit
from decalign_core.alignment.transport import _log_rounds, _scaled_rounds, exact, joint_cost, sinkhorn

SIZES = {2: (3, 4), 3: (3, 2, 4), 4: (2, 3, 2, 3)}
every_m = pytest.mark.parametrize("count", [2, 3, 4], ids=["M=2", "M=3", "M=4"])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def problem(seed, sizes, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.uniform(0, 1, size=sizes), [rng.dirichlet(np.full(size, 3.0)) for size in sizes]


def tensors(cost, marginals, dtype=torch.float64):
    return torch.as_tensor(cost, dtype=dtype), [torch.as_tensor(nu, dtype=dtype) for nu in marginals]


def solve(cost, marginals, epsilon, dtype=torch.float64, iterations=3000, tolerance=1e-13):
    return sinkhorn(*tensors(cost, marginals, dtype), epsilon=epsilon, iterations=iterations, tolerance=tolerance)


def record(mixture, dtype=torch.float64):
    weights, means, covariances = (torch.as_tensor(part, dtype=dtype) for part in mixture)
    return GaussianMixture(weights=weights, means=means, covariances=covariances)


# ---------------------------------------------------------------------------------------------------------------- Eq 5


@both_dtypes
@every_m
@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_joint_cost_is_equation_5_of_equation_6(covariance, count, dtype):
    rng = np.random.default_rng(0)
    mixtures = [oracles.random_mixture(rng, size, 3, covariance) for size in SIZES[count]]
    got = joint_cost([record(mixture, dtype) for mixture in mixtures])
    assert got.shape == SIZES[count]
    assert got.dtype == dtype
    expected = oracles.eq5_joint_cost(mixtures, SIZES[count], oracles.eq6_costs)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10 if dtype == torch.float64 else 2e-5)


@every_m
def test_joint_cost_takes_any_pair_cost(count):
    """Not even symmetric, and the measures need not be mixtures: only pairs i < j are asked for."""
    rng = np.random.default_rng(1)
    points = [rng.normal(size=(size, 2)) for size in SIZES[count]]

    def pair_cost(p, q):
        return p[:, :1] * 2 + q[:, 1:].T ** 2

    got = joint_cost([torch.as_tensor(p) for p in points], cost=pair_cost)
    expected = oracles.eq5_joint_cost(points, SIZES[count], lambda p, q: 2 * p[:, :1] + q[:, 1:].T ** 2)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_joint_cost_of_two_is_the_pair_cost():
    rng = np.random.default_rng(2)
    p, q = (record(oracles.random_mixture(rng, size, 3)) for size in (3, 5))
    torch.testing.assert_close(joint_cost([p, q]), bures_wasserstein(p, q), rtol=0, atol=0)


def test_joint_cost_is_differentiable():
    rng = np.random.default_rng(3)
    means = [torch.as_tensor(rng.normal(size=(size, 2))).requires_grad_() for size in (2, 3, 2)]

    def through(*means):
        ones = [torch.ones_like(m) for m in means]
        return joint_cost(
            [
                GaussianMixture(weights=o[:, 0] / len(o), means=m, covariances=o)
                for m, o in zip(means, ones, strict=True)
            ]
        )

    assert torch.autograd.gradcheck(through, means)


# ------------------------------------------------------------------------------------------- Eq 7, 8: the entropic plan


@every_m
@pytest.mark.parametrize("epsilon", [1.0, 0.2])
def test_plan_and_potentials_are_the_literal_solution(epsilon, count):
    cost, marginals = problem(10 + count, SIZES[count])
    got = solve(cost, marginals, epsilon)
    plan, potentials = oracles.eq7_plan(cost, marginals, epsilon, iterations=300)
    assert oracles.eq8_error(plan, marginals) < 1e-11  # the oracle has arrived
    np.testing.assert_allclose(got.plan.numpy(), plan, rtol=1e-8, atol=1e-12)
    assert got.value.item() == pytest.approx(oracles.eq9_transport(plan, cost), rel=1e-9)
    assert got.entropic_value.item() == pytest.approx(oracles.eq7_objective(plan, cost, epsilon), rel=1e-9)
    for mine, theirs in zip(got.potentials, potentials, strict=True):  # unique up to a constant each, which sum to 0
        np.testing.assert_allclose(np.diff(mine.detach().numpy()), np.diff(theirs), atol=1e-8)
    total = sum(float(f[0]) for f in got.potentials)
    assert total == pytest.approx(sum(f[0] for f in potentials), abs=1e-8)


@pytest.mark.parametrize("sizes", [(2, 3), (2, 2, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_plan_is_what_a_general_minimiser_finds(epsilon, sizes):
    """No Sinkhorn in the oracle: equation 7 under the constraints of equation 8, by quadratic programming."""
    cost, marginals = problem(20 + len(sizes), sizes)
    got = solve(cost, marginals, epsilon)
    np.testing.assert_allclose(got.plan.numpy(), oracles.eq7_plan_by_descent(cost, marginals, epsilon), atol=2e-6)


@pytest.mark.parametrize("epsilon", [0.5, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_two_marginals_are_pot(seed, epsilon):
    cost, (a, b) = problem(30 + seed, (5, 4))
    got = solve(cost, (a, b), epsilon)
    reference = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-14, numItermax=20000)
    np.testing.assert_allclose(got.plan.numpy(), reference, atol=1e-10)
    assert got.value.item() == pytest.approx(np.sum(reference * cost), rel=1e-9)


@both_dtypes
@every_m
def test_marginals_are_met_and_the_plan_is_a_distribution(count, dtype):
    cost, marginals = problem(40 + count, SIZES[count])
    got = solve(cost, marginals, 0.1, dtype, tolerance=1e-6)
    plan = got.plan.detach().double().numpy()
    assert got.plan.dtype == dtype
    assert got.plan.shape == SIZES[count]
    assert plan.min() >= 0
    assert plan.sum() == pytest.approx(1, abs=5e-6)
    assert oracles.eq8_error(plan, marginals) < 5e-6
    assert got.converged
    assert len(got.potentials) == count
    assert [len(f) for f in got.potentials] == list(SIZES[count])


@both_dtypes
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_marginal_error_is_the_largest_violation_also_before_convergence(iterations, dtype):
    cost, marginals = problem(44, SIZES[3])
    got = solve(cost, marginals, 0.02, dtype, iterations=iterations, tolerance=None)
    expected = oracles.eq8_error(got.plan.double().numpy(), marginals)
    assert expected > 1e-3
    assert float(got.marginal_error) == pytest.approx(expected, rel=1e-3)
    assert not got.converged


def test_large_epsilon_is_the_independent_plan_small_epsilon_the_linear_programme():
    cost, marginals = problem(45, SIZES[3])
    independent = np.einsum("a,b,c->abc", *marginals)
    np.testing.assert_allclose(solve(cost, marginals, 1e6).plan.numpy(), independent, rtol=1e-5)
    best = oracles.transport_by_linear_programme(cost, marginals)
    gaps = [
        solve(cost, marginals, epsilon, iterations=20000, tolerance=1e-9).value.item() - best
        for epsilon in (0.3, 0.1, 0.03, 0.01)
    ]
    assert (np.diff(gaps) < 0).all()
    assert -1e-7 < gaps[-1] < 5e-3


@every_m
def test_permuting_the_axes_permutes_the_plan(count):
    cost, marginals = problem(50 + count, SIZES[count])
    straight = solve(cost, marginals, 0.1).plan.numpy()
    for order in list(permutations(range(count)))[1:6]:
        other = solve(np.transpose(cost, order), [marginals[m] for m in order], 0.1).plan.numpy()
        np.testing.assert_allclose(other, np.transpose(straight, order), atol=1e-11)


@every_m
def test_permuting_the_prototypes_permutes_the_plan(count):
    cost, marginals = problem(60 + count, SIZES[count])
    rng = np.random.default_rng(0)
    orders = [rng.permutation(size) for size in SIZES[count]]
    grid = np.ix_(*orders)
    straight = solve(cost, marginals, 0.1).plan.numpy()
    other = solve(cost[grid], [nu[order] for nu, order in zip(marginals, orders, strict=True)], 0.1).plan.numpy()
    np.testing.assert_allclose(other, straight[grid], atol=1e-11)


@every_m
def test_a_constant_and_functions_of_one_index_in_the_cost_leave_the_plan(count):
    cost, marginals = problem(70 + count, SIZES[count])
    rng = np.random.default_rng(0)
    shifted, extra = cost + 7.0, 7.0
    for m, size in enumerate(SIZES[count]):
        g = rng.normal(size=size)
        shifted = shifted + g.reshape([-1 if i == m else 1 for i in range(count)])
        extra += g @ marginals[m]
    straight, other = solve(cost, marginals, 0.2), solve(shifted, marginals, 0.2)
    np.testing.assert_allclose(other.plan.numpy(), straight.plan.numpy(), atol=1e-10)
    assert other.value.item() == pytest.approx(straight.value.item() + extra, rel=1e-9)


def test_scaling_cost_and_epsilon_together_leaves_the_plan():
    cost, marginals = problem(75, SIZES[3])
    straight, other = solve(cost, marginals, 0.1), solve(40 * cost, marginals, 4.0)
    np.testing.assert_allclose(other.plan.numpy(), straight.plan.numpy(), atol=1e-10)


def test_a_plan_that_must_be_the_diagonal():
    """Equal uniform marginals and a cost that forbids every mismatch."""
    cost = 100 * np.ones((3, 3, 3))
    for k in range(3):
        cost[k, k, k] = 0
    plan = solve(cost, [np.full(3, 1 / 3)] * 3, 0.5).plan.numpy()
    expected = np.zeros((3, 3, 3))
    expected[range(3), range(3), range(3)] = 1 / 3
    np.testing.assert_allclose(plan, expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ zero marginals


@both_dtypes
@every_m
def test_zero_marginals_are_zero_slices_and_change_nothing_else(count, dtype):
    cost, marginals = problem(80 + count, SIZES[count])
    marginals[0] = np.array([0.0, *marginals[0][1:]]) / marginals[0][1:].sum()
    marginals[1] = np.array([*marginals[1][:-1], 0.0]) / marginals[1][:-1].sum()
    got = solve(cost, marginals, 0.2, dtype, tolerance=1e-6)
    assert torch.isfinite(got.plan).all()
    assert got.converged
    assert (got.plan[0] == 0).all()
    assert (got.plan[:, -1] == 0).all()
    kept = solve(cost[1:, :-1], [marginals[0][1:], marginals[1][:-1], *marginals[2:]], 0.2, tolerance=1e-9)
    np.testing.assert_allclose(got.plan[1:, :-1].numpy(), kept.plan.numpy(), atol=1e-5)
    assert got.value.item() == pytest.approx(kept.value.item(), rel=1e-4)
    assert got.entropic_value.item() == pytest.approx(kept.entropic_value.item(), rel=1e-4)


@both_dtypes
def test_zero_marginals_bring_no_nan_into_gradients(dtype):
    cost, marginals = problem(84, SIZES[3])
    marginals[0] = np.array([0.0, 0.4, 0.6])
    c, nus = tensors(cost, marginals, dtype)
    c, nus = c.requires_grad_(), [nu.requires_grad_() for nu in nus]
    got = sinkhorn(c, nus, epsilon=0.2)
    got.value.backward()
    assert torch.equal(c.grad, got.plan)
    for f, nu in zip(got.potentials, nus, strict=True):
        assert torch.equal(torch.isfinite(f), nu > 0)  # minus infinity exactly where nothing may be
    dual = sum(f[nu > 0] @ nu[nu > 0] for f, nu in zip(got.potentials, nus, strict=True))
    assert dual.item() == pytest.approx(got.entropic_value.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(got.entropic_value, c)
    assert torch.equal(gradient, got.plan)


# -------------------------------------------------------------------------------------------- the log domain in float32


@pytest.mark.parametrize("ratio", [30, 300, 3000])
@pytest.mark.parametrize("count", [2, 3])
def test_float32_never_loses_mass_and_says_when_it_has_not_arrived(count, ratio):
    """Costs up to 3000 epsilon. A plan is either good to 1e-3 after 200 iterations or says that it is not."""
    for seed in range(8):
        cost, marginals = problem(1000 + seed, (5,) * count, scale=30.0)
        epsilon = 30.0 / ratio
        got = solve(cost, marginals, epsilon, torch.float32, iterations=200, tolerance=1e-6)
        plan = got.plan.double().numpy()
        error = oracles.eq8_error(plan, marginals)
        assert np.isfinite(plan).all()
        assert plan.sum() == pytest.approx(1, abs=1e-3)
        assert float(got.marginal_error) == pytest.approx(error, abs=1e-5)
        assert float(got.marginal_error) <= 1e-3 or not got.converged
        double = solve(cost, marginals, epsilon, iterations=200, tolerance=None)
        assert error <= float(double.marginal_error) + 2e-4  # what is missing is the algorithm's, not the rounding's
        if ratio == 30:
            assert error <= 1e-3


def test_float32_is_as_good_as_float64_up_to_rounding():
    """Where float64 arrives within the iterations, float32's marginals hold to the rounding of cost / epsilon."""
    compared = 0
    for seed in range(12):
        cost, marginals = problem(1100 + seed, (4, 4, 4), scale=30.0)
        double = solve(cost, marginals, 0.1, iterations=400, tolerance=1e-9)
        if float(double.marginal_error) < 1e-6:
            single = solve(cost, marginals, 0.1, torch.float32, iterations=400, tolerance=None)
            assert float(single.marginal_error) < 1e-3
            assert single.value.item() == pytest.approx(double.value.item(), rel=1e-3)
            compared += 1
    assert compared >= 2


def test_the_official_kernel_recipe_collapses_where_the_log_domain_does_not():
    """Costs in [12, 30] at lambda = 0.1, seven prototypes a modality: the kernel is all clamp, the mass is gone."""
    for seed in range(5):
        rng = np.random.default_rng(1200 + seed)
        cost = rng.uniform(12, 30, size=(7, 7, 7))
        marginals = [rng.dirichlet(np.full(7, 3.0)) for _ in range(3)]
        official = oracles.official_kernel_sinkhorn(cost, marginals)
        assert official.sum() < 0.01
        ours = solve(cost, marginals, 0.1, torch.float32, iterations=200, tolerance=1e-6)
        assert ours.plan.sum().item() == pytest.approx(1, abs=2e-3)
        assert ours.value.item() > 12 * (1 - 2e-3)  # a mean of costs is at least the least of them
    mild = rng.uniform(0, 2, size=(7, 7, 7))  # the contrast is a fair copy: it agrees where it works
    agreeing = solve(mild, marginals, 0.5, torch.float32, iterations=50).plan.numpy()
    np.testing.assert_allclose(oracles.official_kernel_sinkhorn(mild, marginals, epsilon=0.5), agreeing, atol=2e-5)


@both_dtypes
@pytest.mark.parametrize("ratio", [1, 30, 300, 3000])
@pytest.mark.parametrize("sizes", [(6, 9), (5, 1, 7), (3, 4, 2, 3)])
def test_rounds_of_scaling_are_rounds_on_logarithms(sizes, ratio, dtype):
    """Cost over epsilon up to 3000, some marginals 0 or tiny: the same plan and potentials after every round."""
    cost, marginals = problem(1300, sizes)
    marginals[0][0], marginals[-1][-1] = 0.0, 1e-9
    log_kernel, nus = -ratio * torch.as_tensor(cost, dtype=dtype), tensors(cost, marginals, dtype)[1]
    nus = tuple(nu / nu.sum() for nu in nus)
    rounding = ratio * torch.finfo(dtype).eps
    for rounds in (1, 2, 3, 10, 100):
        plan, potentials, done = _log_rounds(log_kernel, nus, rounds, None)
        got, scaled, scaled_done = _scaled_rounds(log_kernel, nus, rounds, -1.0, patience=rounds)
        assert done == scaled_done == rounds
        assert (got - plan).abs().max() <= 20 * rounding
        for one, two in zip(scaled, potentials, strict=True):
            apart = (one - two)[torch.isfinite(two)]
            assert torch.equal(torch.isfinite(one), torch.isfinite(two))
            assert (apart - apart[0]).abs().max() <= 200 * rounding


@pytest.mark.parametrize("seed", range(10))
def test_scaling_stops_where_logarithms_do(seed):
    cost, marginals = problem(1400 + seed, (6, 5, 4))
    log_kernel, nus = -30 * torch.as_tensor(cost), tuple(tensors(cost, marginals)[1])
    for tolerance in (1e-2, 1e-4, 1e-8):
        scaled = _scaled_rounds(log_kernel, nus, 500, tolerance, patience=500)
        assert scaled[2] == _log_rounds(log_kernel, nus, 500, tolerance)[2]


@pytest.mark.parametrize("ratio", [1, 30, 100])
@pytest.mark.parametrize("sizes", [(6, 9), (5, 1, 7), (7, 7, 7), (3, 4, 2, 3)])
def test_newton_steps_lead_to_the_plan_of_rounds_alone(sizes, ratio):
    """In no more rounds; some marginals are 0 or tiny."""
    for seed in range(5):
        cost, marginals = problem(1500 + seed, sizes)
        marginals[0][0], marginals[-1][-1] = 0.0, 1e-6
        log_kernel, nus = -ratio * torch.as_tensor(cost), tensors(cost, marginals)[1]
        nus = tuple(nu / nu.sum() for nu in nus)
        wanted, potentials, most = _log_rounds(log_kernel, nus, 20_000, 1e-12)
        got, found, rounds = _scaled_rounds(log_kernel, nus, 20_000, 1e-12)
        assert rounds <= most < 20_000
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
        for one, two in zip(found, potentials, strict=True):
            apart = (one - two)[torch.isfinite(two)]
            assert torch.equal(torch.isfinite(one), torch.isfinite(two))
            assert (apart - apart[0]).abs().max() <= 1e-5


@both_dtypes
def test_newton_steps_end_what_takes_rounds_a_thousand(dtype):
    """Prototypes of 32 samples in 64 dimensions at the official code's epsilon: little mass moves a round."""
    samples = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    found = fit(samples, 7)
    measures = [GaussianMixture(*parts) for parts in zip(found.weights, found.means, found.covariances, strict=True)]
    log_kernel = (-joint_cost(measures) / 64 / 0.1).to(dtype)
    marginals = [mixture.weights.to(dtype) for mixture in measures]
    rounds = _log_rounds(log_kernel, marginals, 10_000, 1e-5)[2]
    plan, _, with_steps = _scaled_rounds(log_kernel, marginals, 10_000, 1e-5)
    assert with_steps < 50 < 1000 < rounds < 10_000
    assert oracles.eq8_error(plan.double().numpy(), [nu.double().numpy() for nu in marginals]) <= 2e-5


@pytest.mark.parametrize(("seed", "sizes", "most"), [(2916, (6, 9), 50), (449, (4, 4), 30), (5686, (2, 2, 2), 30)])
def test_newton_steps_that_lead_astray_are_not_taken(seed, sizes, most):
    """Marginals of which some are tiny, a step tried after every round: taken blindly, they cost thrice ``most``."""
    rng = np.random.default_rng(seed)
    log_kernel = -torch.as_tensor(rng.choice([5, 10, 20, 40]) * rng.uniform(size=sizes))
    marginals = [np.maximum(rng.dirichlet(np.full(size, rng.choice([0.1, 0.5, 3.0]))), 1e-6) for size in sizes]
    marginals = [torch.as_tensor(nu / nu.sum()) for nu in marginals]
    plan, _, rounds = _scaled_rounds(log_kernel, marginals, 500, 1e-9, patience=1)
    assert rounds <= most
    assert oracles.eq8_error(plan.numpy(), [nu.numpy() for nu in marginals]) <= 1e-9 * 1.01


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    zeros=st.booleans(),
)
def test_any_problem_gives_a_distribution(sizes, seed, scale, zeros):
    rng = np.random.default_rng(seed)
    cost = scale * rng.normal(size=sizes)
    marginals = [rng.dirichlet(np.ones(size)) for size in sizes]
    if zeros and sizes[0] > 1:
        marginals[0] = np.append(0.0, rng.dirichlet(np.ones(sizes[0] - 1)))
    got = solve(cost, marginals, 0.5, iterations=50, tolerance=1e-6)
    plan = got.plan.numpy()
    assert np.isfinite(plan).all()
    assert plan.min() >= 0
    assert plan.sum() == pytest.approx(1, abs=1e-9)
    assert float(got.marginal_error) == pytest.approx(oracles.eq8_error(plan, marginals), abs=1e-12)
    assert bool(got.converged) == (float(got.marginal_error) <= 1e-6)


# -------------------------------------------------------------------------------------------------------------- exact


def test_exact_accepts_the_rounding_of_float32_marginals():
    for seed in range(20):
        cost, marginals = problem(200 + seed, (6, 5, 4))
        got = exact(*tensors(cost, marginals, torch.float32))
        assert float(got.marginal_error) < 1e-6
        assert got.value.dtype == torch.float32


@both_dtypes
@pytest.mark.parametrize("seed", range(3))
def test_exact_is_the_earth_movers_distance(seed, dtype):
    cost, marginals = problem(90 + seed, (5, 4))
    got = exact(*tensors(cost, marginals, dtype))
    assert got.value.item() == pytest.approx(ot.emd2(*marginals, cost), rel=1e-6)
    assert oracles.eq8_error(got.plan.double().numpy(), marginals) < 1e-6


@every_m
def test_exact_is_the_linear_programme(count):
    cost, marginals = problem(94 + count, SIZES[count])
    got = exact(*tensors(cost, marginals))
    assert got.value.item() == pytest.approx(oracles.transport_by_linear_programme(cost, marginals), rel=1e-9)
    plan = got.plan.numpy()
    assert plan.min() >= 0
    assert oracles.eq8_error(plan, marginals) < 1e-9
    assert float(got.marginal_error) < 1e-9
    assert got.entropic_value.item() == got.value.item()
    assert np.count_nonzero(plan > 1e-12) <= sum(SIZES[count]) - count + 1  # a vertex of the polytope


def test_exact_has_the_plan_as_gradient():
    c, nus = tensors(*problem(99, SIZES[3]))
    c.requires_grad_()
    got = exact(c, nus)
    got.value.backward()
    assert torch.equal(c.grad, got.plan)


@every_m
def test_exact_is_below_every_entropic_plan(count):
    cost, marginals = problem(100 + count, SIZES[count])
    best = exact(*tensors(cost, marginals)).value.item()
    values = [solve(cost, marginals, epsilon).value.item() for epsilon in (1.0, 0.3, 0.1)]
    assert best < values[2] < values[1] < values[0]


# ----------------------------------------------------------------------------------------------------- gradient policy


@every_m
def test_finite_difference_of_the_entropic_value_in_the_cost_is_the_plan(count):
    cost, marginals = problem(110 + count, SIZES[count])
    got = solve(cost, marginals, 0.2)
    step, rng = 1e-5, np.random.default_rng(0)
    for index in list(np.ndindex(*cost.shape))[:: max(1, cost.size // 12)]:
        up, down = cost.copy(), cost.copy()
        up[index] += step
        down[index] -= step
        slope = (solve(up, marginals, 0.2).entropic_value - solve(down, marginals, 0.2).entropic_value) / (2 * step)
        assert slope.item() == pytest.approx(got.plan[index].item(), abs=1e-8)
    direction = rng.normal(size=cost.shape)
    up, down = (solve(cost + s * step * direction, marginals, 0.2).entropic_value.item() for s in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx(np.sum(got.plan.numpy() * direction), abs=1e-8)


@every_m
def test_finite_difference_of_the_entropic_value_in_the_marginals_is_the_potentials(count):
    """Along directions that sum to 0, since a marginal's mass is 1."""
    cost, marginals = problem(120 + count, SIZES[count])
    got = solve(cost, marginals, 0.2)
    step, rng = 1e-5, np.random.default_rng(0)
    for m in range(count):
        direction = rng.normal(size=SIZES[count][m])
        direction -= direction.mean()
        values = []
        for sign in (1, -1):
            moved = [nu + sign * step * direction if i == m else nu for i, nu in enumerate(marginals)]
            values.append(solve(cost, moved, 0.2).entropic_value.item())
        expected = float(got.potentials[m].detach().numpy() @ direction)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, abs=1e-7)


@both_dtypes
@every_m
@pytest.mark.parametrize("iterations", [1, 3, 200])
def test_gradient_of_the_value_is_the_plan_exactly_and_nothing_else(iterations, count, dtype):
    """No gradient through the iterations, converged or not, and none to the marginals."""
    c, nus = tensors(*problem(130 + count, SIZES[count]), dtype)
    c, nus = c.requires_grad_(), [nu.requires_grad_() for nu in nus]
    got = sinkhorn(c, nus, epsilon=0.05, iterations=iterations, tolerance=None)
    assert not got.plan.requires_grad
    gradients = torch.autograd.grad(got.value, [c, *nus], allow_unused=True)
    assert torch.equal(gradients[0], got.plan)
    assert all(gradient is None or not gradient.any() for gradient in gradients[1:])
    assert got.value.item() == pytest.approx(oracles.eq9_transport(got.plan.numpy(), c.detach().numpy()), rel=1e-5)


@every_m
def test_entropic_value_is_the_dual_value_at_convergence(count):
    cost, marginals = problem(140 + count, SIZES[count])
    got = solve(cost, marginals, 0.2)
    dual = sum(float(f.detach().numpy() @ nu) for f, nu in zip(got.potentials, marginals, strict=True))
    assert got.entropic_value.item() == pytest.approx(dual, rel=1e-9)
    assert got.epsilon == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------------ iterations and errors


@pytest.mark.parametrize("iterations", [1, 7, 50])
def test_without_a_tolerance_all_iterations_run(iterations):
    cost, marginals = problem(150, SIZES[3])
    got = solve(cost, marginals, 10.0, iterations=iterations, tolerance=None)
    assert got.iterations == iterations


def test_with_a_tolerance_it_stops_once_there():
    cost, marginals = problem(151, SIZES[3])
    loose, tight = (solve(cost, marginals, 0.1, iterations=2000, tolerance=t) for t in (1e-3, 1e-10))
    assert 1 <= loose.iterations < tight.iterations < 2000
    assert float(loose.marginal_error) <= 1e-3
    assert float(tight.marginal_error) <= 1e-10
    assert loose.converged
    assert tight.converged
    hasty = solve(cost, marginals, 0.01, iterations=2, tolerance=1e-10)
    assert hasty.iterations == 2
    assert not hasty.converged


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((3, 5), ["(3, 4)", "(5,)"]),  # second marginal too long
        ((3,), ["(3, 4)", "(3,)"]),  # one marginal too few
        ((3, 4, 2), ["(3, 4)", "(2,)"]),  # one too many
    ],
)
def test_wrong_marginals_are_an_error_with_name_wanted_and_got(sizes, told, solver):
    cost = torch.zeros(3, 4)
    marginals = [torch.full((size,), 1 / size) for size in sizes]
    with pytest.raises(ValueError, match="marginals") as caught:
        sinkhorn(cost, marginals, epsilon=0.1) if solver == "sinkhorn" else exact(cost, marginals)
    for shape in told:
        assert shape in str(caught.value)


@pytest.mark.parametrize(
    "marginals",
    [
        [[0.5, 0.5], [-0.5, 1.5]],  # negative
        [[0.5, 0.5], [0.5, 0.4]],  # unequal mass
        [[0.5, 0.5], [0.5, float("nan")]],
    ],
)
def test_impossible_marginals_are_an_error(marginals):
    with pytest.raises(ValueError, match="marginals"):
        sinkhorn(torch.zeros(2, 2), [torch.tensor(nu) for nu in marginals], epsilon=0.1)


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_epsilon_must_be_positive(epsilon):
    cost, marginals = tensors(*problem(152, (3, 4)))
    with pytest.raises(ValueError, match="epsilon"):
        sinkhorn(cost, marginals, epsilon=epsilon)


def test_one_measure_is_no_joint_cost():
    mixture = record(oracles.random_mixture(np.random.default_rng(0), 3, 2))
    with pytest.raises(ValueError, match="measures"):
        joint_cost([mixture])
