"""Alignment under stress: whatever the samples, values and gradients are finite and what did not converge says so.

Tests of single rooms lie in the tree that mirrors the package; the properties here run through several of them.
"""

import itertools

import torch
from extremes import EPSILONS, KINDS, SCALES, SEEDS, clouds, generator, gradients, is_finite, off_by, prototypes
from hypothesis import given
from hypothesis import strategies as st

from decalign_core.alignment import many
from decalign_core.alignment.bures import bures_wasserstein
from decalign_core.alignment.matching import median_bandwidth, mmd, moment_distance, moments
from decalign_core.alignment.mixture import GaussianMixture, fit, m_step
from decalign_core.alignment.transport import joint_cost, sinkhorn

COVARIANCES = st.sampled_from(["diag", "full"])


def total(mixture):
    """A scalar that every parameter of a mixture enters, of the size of the parameters."""
    return sum((part * torch.linspace(1, 2, part.numel()).view(part.shape)).sum() for part in vars(mixture).values())


def is_mixture(mixture, x, floor):
    """Weights on the simplex, means within the samples' range, no variance below the floor; rounding aside."""
    slack = 64 * torch.finfo(x.dtype).eps
    rounding = slack * float(x.abs().max())
    mixture = GaussianMixture(*(part.detach() for part in vars(mixture).values()))
    inside = (mixture.means >= x.amin(0) - rounding).all() and (mixture.means <= x.amax(0) + rounding).all()
    simplex = (mixture.weights >= 0).all() and abs(float(mixture.weights.sum()) - 1) <= slack
    c = mixture.covariances.double()
    least = c.min() if mixture.is_diagonal else torch.linalg.eigvalsh(c).min()
    return bool(inside and simplex and least >= floor * (1 - slack) - slack * float(c.abs().max()))


# --- mixture ---


@given(clouds(), st.integers(1, 7), COVARIANCES)
def test_em_gives_a_finite_mixture_with_finite_gradients_for_any_samples(cloud, components, covariance):
    x = cloud.points()
    mixture = fit(x, min(components, cloud.size), covariance=covariance)
    assert is_finite(*vars(mixture).values()) and is_mixture(mixture, x.detach(), 1e-4)
    shares = mixture.responsibilities(x)
    assert is_finite(shares) and (shares.sum(1) - 1).abs().max() <= 1e-4
    assert is_finite(*gradients(total(mixture) + shares.square().sum(), x))


@given(clouds(), st.integers(1, 7), COVARIANCES, SEEDS)
def test_one_hot_responsibilities_and_empty_components_have_finite_statistics_and_gradients(
    cloud, components, covariance, seed
):
    x = cloud.points()
    rows = torch.randint(0, components, (cloud.size,), generator=generator(seed))
    shares = torch.nn.functional.one_hot(rows, components + 1).to(x.dtype).requires_grad_()
    mixture = m_step(x, shares, covariance=covariance)
    assert is_finite(*vars(mixture).values()) and is_mixture(mixture, x.detach(), 1e-4)
    assert mixture.weights[-1] == 0, "nobody is in the last one"
    assert is_finite(*gradients(total(mixture), x, shares))


# --- Bures ---


@st.composite
def pairs_of_prototypes(draw):
    width, full, double = draw(st.integers(1, 5)), draw(st.booleans()), draw(st.booleans())
    return draw(prototypes(width, full, double)), draw(prototypes(width, full, double))


@given(pairs_of_prototypes())
def test_bures_is_finite_symmetric_and_not_negative_at_any_scale_and_for_singular_covariances(pair):
    p, q = (one.mixture() for one in pair)
    cost, back = bures_wasserstein(p, q), bures_wasserstein(q, p)
    assert is_finite(cost) and (cost >= 0).all()
    # a difference of traces: it is as exact as its largest part
    size = max(one.covariances.abs().max() * pair[0].width + one.means.square().sum(1).max() for one in (p, q))
    slack = 1e-9 if pair[0].double else 1e-4
    assert ((cost - back.T).abs() <= slack * size).all()
    assert (bures_wasserstein(p, p).diagonal().abs() <= slack * size).all()
    assert is_finite(*gradients(cost.sum(), p.means, p.covariances, q.means, q.covariances))


# --- transport ---


@st.composite
def problems(draw):
    """A joint cost and marginals with zeros and tiny masses, for 2 to 5 modalities of 1 to 4 prototypes."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    chance, scale = generator(draw(SEEDS)), draw(SCALES)
    dtype = torch.float64 if draw(st.booleans()) else torch.float32
    kind = draw(st.sampled_from(["plain", "equal", "one far", "signed"]))
    cost = torch.rand(shape, generator=chance, dtype=torch.float64)
    cost = {"plain": cost, "equal": cost * 0 + 1, "one far": cost.index_fill(0, torch.tensor(0), 1e4)}.get(
        kind, cost - 0.5
    )
    marginals = []
    for size in shape:
        masses = torch.rand(size, generator=chance, dtype=torch.float64)
        masses = masses ** draw(st.sampled_from([0, 1, 30, 90]))
        masses[1:][torch.rand(size - 1, generator=chance) < 0.3] = 0
        marginals.append((masses / masses.sum()).to(dtype))
    return (scale * cost).to(dtype).requires_grad_(), marginals


@given(problems(), EPSILONS, st.sampled_from([1, 20, 200]), st.sampled_from([1e-6, 1e-4, None]))
def test_sinkhorn_meets_the_marginals_within_its_tolerance_or_tells_that_it_did_not(
    problem, epsilon, iterations, tolerance
):
    cost, marginals = problem
    transport = sinkhorn(cost, marginals, epsilon=epsilon, iterations=iterations, tolerance=tolerance)
    assert is_finite(transport.plan, transport.value, transport.entropic_value) and (transport.plan >= 0).all()
    held = zip(transport.potentials, marginals, strict=True)
    assert all(is_finite(potential[marginal > 0]) for potential, marginal in held)
    assert 1 <= transport.iterations <= iterations
    rounding = 1e-6 if cost.dtype == torch.float32 else 1e-12
    error = off_by(transport.plan, marginals)
    assert abs(error - float(transport.marginal_error)) <= rounding, "the error that is told is the plan's"
    assert transport.converged == (transport.marginal_error <= transport.tolerance)
    (gradient,) = gradients(transport.value, cost)
    assert torch.equal(gradient, transport.plan)


@given(problems(), st.sampled_from([0.5, 2.0, 100.0]))
def test_sinkhorn_converges_where_epsilon_is_not_small_beside_the_cost(problem, factor):
    cost, marginals = problem
    spread = float((cost.max() - cost.min()).detach()) or 1.0
    transport = sinkhorn(cost, marginals, epsilon=factor * spread, iterations=500, tolerance=1e-5)
    assert transport.converged, f"off by {float(transport.marginal_error)}"


@st.composite
def measures(draw, full=False):
    """2 to 5 mixtures of one width; their scales may be far apart."""
    width, double = draw(st.integers(1, 4)), draw(st.booleans())
    shared = draw(SCALES)
    scales = st.just(shared) if draw(st.booleans()) else SCALES
    return draw(st.lists(prototypes(width, full, double, st.integers(1, 3), scales=scales), min_size=2, max_size=5))


def trained(given_measures):
    """Mixtures as training makes them: no variance below the floor."""
    made = [one.mixture() for one in given_measures]
    return [GaussianMixture(m.weights, m.means, m.covariances.clamp_min(1e-4)) for m in made], made


@given(measures(), EPSILONS)
def test_the_joint_cost_of_prototypes_is_finite_and_its_plan_met_or_not_converged(given_measures, relative):
    mixtures, leaves = trained(given_measures)
    cost = joint_cost(mixtures)
    assert cost.shape == tuple(len(m) for m in mixtures) and is_finite(cost) and (cost >= 0).all()
    epsilon = relative * (float(cost.detach().mean()) or 1.0)
    weights = [m.weights for m in mixtures]
    transport = sinkhorn(cost, weights, epsilon=epsilon, iterations=50, tolerance=1e-5)
    assert is_finite(transport.plan, transport.value)
    assert off_by(transport.plan, weights) <= 1.1e-5 or not transport.converged
    assert is_finite(*gradients(transport.value, *(m.means for m in leaves), *(m.covariances for m in leaves)))


def is_told(transport, mixtures):
    """A plan over pairs: finite, and its error is the one that it tells."""
    assert is_finite(transport.value, *transport.plans.values())
    assert all((plan >= 0).all() for plan in transport.plans.values())
    error = max(off_by(plan, [mixtures[m].weights for m in pair]) for pair, plan in transport.plans.items())
    assert abs(error - float(transport.marginal_error)) <= 1e-6
    return transport.converged == (
        transport.marginal_error <= transport.tolerance and transport.effective_share >= many.LEAST_SHARE
    )


@given(measures(), EPSILONS, st.sampled_from([many.chain, many.star]))
def test_transport_along_trees_is_finite_and_tells_where_it_did_not_converge(given_measures, relative, shape):
    mixtures, leaves = trained(given_measures)
    costs = many.pair_costs(mixtures, shape(len(mixtures)))
    epsilon = relative * (float(sum(cost.detach().mean() for cost in costs.values())) or 1.0)
    transport = many.tree(costs, [m.weights for m in mixtures], epsilon=epsilon, iterations=50)
    assert is_told(transport, mixtures)
    assert is_finite(*gradients(transport.value, *(m.means for m in leaves), *(m.covariances for m in leaves)))


@given(measures(), EPSILONS)
def test_sampled_transport_is_finite_and_tells_where_it_did_not_converge(given_measures, relative):
    mixtures, leaves = trained(given_measures)
    costs = many.pair_costs(mixtures, many.complete(len(mixtures)))
    mean = float(sum(cost.detach().mean() for cost in costs.values()))
    epsilon = relative * (mean or 1.0)
    transport = many.sampled(mixtures, epsilon=epsilon, costs=costs, samples=128, iterations=20, tolerance=1e-4)
    assert set(transport.plans) == set(itertools.combinations(range(len(mixtures)), 2))
    assert is_told(transport, mixtures)
    assert is_finite(*gradients(transport.value, *(m.means for m in leaves), *(m.covariances for m in leaves)))


# --- matching ---


@st.composite
def two_clouds(draw):
    width, double = draw(st.integers(1, 6)), draw(st.booleans())
    return [draw(clouds(widths=st.just(width), double=double)) for _ in range(2)]


@given(clouds(kinds=KINDS))
def test_moments_are_finite_with_finite_gradients_for_any_samples(cloud):
    x = cloud.points()
    found = moments(x)
    assert is_finite(*vars(found).values())
    assert found.skewness.abs().max() <= 1.01 * cloud.size**0.5, "its largest value for n samples"
    assert is_finite(*gradients(sum(part.sum() for part in vars(found).values()), x))


@given(two_clouds())
def test_moment_distance_is_finite_and_not_negative_for_any_two_samples(pair):
    x, y = (cloud.points() for cloud in pair)
    value = moment_distance(x, y)
    assert is_finite(value) and value >= 0
    assert is_finite(*gradients(value, x, y))


@given(two_clouds(), st.booleans(), st.sampled_from(["median", 1e-6, 1.0, 1e6]))
def test_mmd_is_finite_and_bounded_for_any_two_samples_and_bandwidth(pair, unbiased, bandwidth):
    x, y = (cloud.points() for cloud in pair)
    sigma = median_bandwidth(x, y) if bandwidth == "median" else bandwidth
    value = mmd(x, y, [0.5 * sigma, sigma, 2 * sigma], unbiased=unbiased)
    assert is_finite(value) and value <= 2 + 1e-5
    assert unbiased or value >= -1e-5
    assert is_finite(*gradients(value, x, y))
