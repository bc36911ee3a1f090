"""Eq 2-4: the mixture, its responsibilities, and EM, against literal loops and scikit-learn."""

import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture

from decalign_core.alignment import mixture as mixture_module
from decalign_core.alignment.mixture import GaussianMixture, common_start, e_step, fit, fit_and_assign, m_step

TINY = 1e-12
TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
both_forms = pytest.mark.parametrize("covariance", ["diag", "full"])


def record(mixture, dtype=torch.float64):
    weights, means, covariances = (torch.as_tensor(part, dtype=dtype) for part in mixture)
    return GaussianMixture(weights=weights, means=means, covariances=covariances)


def parts(mixture):
    return mixture.weights, mixture.means, mixture.covariances


def assert_equal_to(mixture, expected, **tolerance):
    for name, got, wanted in zip(("weights", "means", "covariances"), parts(mixture), expected, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), wanted, err_msg=name, **tolerance)


def problem(seed, samples=40, width=3, components=4, covariance="diag"):
    """Clustered samples and a start, both as NumPy."""
    rng = np.random.default_rng(seed)
    x = 1.5 * rng.normal(size=(components, width))[rng.integers(components, size=samples)]
    x += rng.normal(size=(samples, width))
    return x, oracles.random_mixture(rng, components, width, covariance)


# ------------------------------------------------------------------------------------------------------------- Eq 3, 4


@both_dtypes
@both_forms
@pytest.mark.parametrize("seed", range(3))
def test_responsibilities_are_equation_3(seed, covariance, dtype):
    x, start = problem(seed, covariance=covariance)
    mixture, samples = record(start, dtype), torch.as_tensor(x, dtype=dtype)
    got = mixture.responsibilities(samples)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.numpy(), oracles.eq3_responsibilities(x, start), **TOLERANCE[dtype])
    torch.testing.assert_close(e_step(mixture, samples), got, rtol=0, atol=0)
    torch.testing.assert_close(got.sum(1), torch.ones(len(x), dtype=dtype))


@both_forms
def test_log_joint_is_the_log_of_weight_times_equation_4(covariance):
    x, start = problem(5, covariance=covariance)
    got = record(start).log_joint(torch.as_tensor(x))
    weights, means, covariances = start
    for n in range(len(x)):
        for k in range(len(weights)):
            density = oracles.eq4_density(x[n], means[k], covariances[k])
            assert math.isclose(got[n, k].item(), math.log(weights[k] * density), rel_tol=1e-10, abs_tol=1e-10)


@both_dtypes
@both_forms
def test_log_likelihood_is_the_mean_over_samples(covariance, dtype):
    x, start = problem(6, covariance=covariance)
    got = record(start, dtype).log_likelihood(torch.as_tensor(x, dtype=dtype))
    assert got.shape == ()
    assert math.isclose(
        got.item(), oracles.mean_log_likelihood(x, start), rel_tol=1e-10 if dtype.itemsize == 8 else 1e-5
    )


@both_dtypes
@both_forms
@pytest.mark.parametrize("distance", [30.0, 1e4])
def test_far_away_points_stay_finite(distance, covariance, dtype):
    x, start = problem(7, covariance=covariance)
    mixture = record(start, dtype)
    far = torch.as_tensor(x + distance, dtype=dtype)
    w = mixture.responsibilities(far)
    assert torch.isfinite(w).all()
    torch.testing.assert_close(w.sum(1), torch.ones(len(x), dtype=dtype))
    assert torch.isfinite(mixture.log_joint(far)).all()
    assert mixture.log_likelihood(far).item() < -distance  # exp of it is 0: only the log domain can say it
    stepped = fit(far, 4, steps=2, covariance=covariance, init=mixture)
    assert all(torch.isfinite(part).all() for part in parts(stepped))


# ------------------------------------------------------------------------------------------------------------------ EM


@both_dtypes
@both_forms
@pytest.mark.parametrize("steps", [1, 3])
def test_em_is_the_literal_step_repeated(steps, covariance, dtype):
    x, start = problem(8, covariance=covariance)
    expected = start
    for _ in range(steps):
        expected = oracles.em_step(x, expected, covariance, floor=1e-4)
    got = fit(torch.as_tensor(x, dtype=dtype), 4, steps=steps, covariance=covariance, init=record(start, dtype))
    assert all(part.dtype == dtype for part in parts(got))
    assert_equal_to(got, expected, **TOLERANCE[dtype])


@both_forms
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_em_is_scikit_learn_from_the_same_start(seed, steps, covariance):
    x, start = problem(seed, samples=60, covariance=covariance)
    weights, means, covariances = start
    reference = SklearnMixture(
        n_components=4,
        covariance_type=covariance,
        weights_init=weights,
        means_init=means,
        precisions_init=1 / covariances if covariance == "diag" else np.linalg.inv(covariances),
        reg_covar=0,
        tol=0,
        max_iter=steps,
        init_params="random_from_data",
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(x)
    got = fit(torch.as_tensor(x), 4, steps=steps, covariance=covariance, floor=TINY, init=record(start))
    assert_equal_to(got, (reference.weights_, reference.means_, reference.covariances_), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got.responsibilities(torch.as_tensor(x)).numpy(), reference.predict_proba(x), atol=1e-8)
    assert math.isclose(got.log_likelihood(torch.as_tensor(x)).item(), reference.score(x), rel_tol=1e-9)


@both_forms
@pytest.mark.parametrize("floor", [1e-6, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_likelihood_never_falls(seed, floor, covariance):
    """Raising what is below the floor is the exact M step under the constraint, so this holds for any floor."""
    x, start = problem(20 + seed, samples=50, covariance=covariance)
    samples, mixture = torch.as_tensor(x), record(start)
    history = [mixture.log_likelihood(samples).item()]
    for _ in range(15):
        mixture = fit(samples, 4, steps=1, covariance=covariance, floor=floor, init=mixture)
        history.append(mixture.log_likelihood(samples).item())
    assert np.diff(history).min() >= -1e-9
    assert history[-1] > history[0] + 0.05


@both_forms
def test_more_steps_from_the_default_start_raise_the_likelihood(covariance):
    x, _ = problem(3, samples=60, covariance=covariance)
    samples = torch.as_tensor(x)
    history = [
        fit(samples, 4, steps=steps, covariance=covariance, floor=1e-6).log_likelihood(samples).item()
        for steps in (1, 2, 4, 8, 16)
    ]
    assert np.diff(history).min() >= -1e-9
    assert history[-1] > history[0]


@both_forms
def test_permuting_the_start_permutes_the_fit(covariance):
    x, start = problem(9, covariance=covariance)
    order = [2, 0, 3, 1]
    samples = torch.as_tensor(x)
    straight = fit(samples, 4, covariance=covariance, init=record(start))
    permuted = fit(samples, 4, covariance=covariance, init=record([part[order] for part in start]))
    assert_equal_to(permuted, [part[order].numpy() for part in parts(straight)], rtol=1e-9, atol=1e-10)


@both_forms
def test_permuting_the_samples_leaves_a_fit_from_a_given_start(covariance):
    x, start = problem(10, covariance=covariance)
    shuffled = np.random.default_rng(0).permutation(x)
    straight = fit(torch.as_tensor(x), 4, covariance=covariance, init=record(start))
    other = fit(torch.as_tensor(shuffled), 4, covariance=covariance, init=record(start))
    assert_equal_to(other, [part.numpy() for part in parts(straight)], rtol=1e-8, atol=1e-10)


def test_default_start_is_deterministic_and_leaves_the_global_generator():
    samples = torch.as_tensor(problem(11)[0])
    torch.manual_seed(0)
    first = fit(samples, 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = fit(samples, 4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(parts(first), parts(second), strict=True))


def test_a_generator_decides_the_start():
    samples = torch.as_tensor(problem(11)[0])
    fits = [fit(samples, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(fits[0].means, fits[1].means)
    assert not torch.allclose(fits[0].means, fits[2].means)


def test_default_start_spreads_over_separated_clusters():
    rng = np.random.default_rng(12)
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    x = np.concatenate([centre + rng.normal(size=(20, 2)) for centre in centres])  # sorted by cluster
    got = fit(torch.as_tensor(x), 3, steps=20)
    found = np.array(sorted(got.means.numpy().tolist()))
    np.testing.assert_allclose(found, np.array(sorted(centres.tolist())), atol=1.0)
    np.testing.assert_allclose(got.weights.numpy(), 1 / 3, atol=1e-6)


@both_dtypes
@both_forms
def test_weights_are_a_distribution_and_shapes_are_those_promised(covariance, dtype):
    samples = torch.as_tensor(problem(13, width=5)[0], dtype=dtype)
    got = fit(samples, 3, covariance=covariance)
    assert got.weights.shape == (3,)
    assert got.means.shape == (3, 5)
    assert got.covariances.shape == ((3, 5) if covariance == "diag" else (3, 5, 5))
    assert (got.weights >= 0).all()
    torch.testing.assert_close(got.weights.sum(), torch.ones((), dtype=dtype))


# ------------------------------------------------------------------------------------------ m_step: floor, empty, K = N


@both_forms
def test_m_step_is_the_weighted_moments(covariance):
    x, start = problem(14, covariance=covariance)
    w = np.random.default_rng(0).dirichlet(np.ones(4), size=len(x))
    got = m_step(torch.as_tensor(x), torch.as_tensor(w), covariance=covariance, floor=TINY)
    assert_equal_to(got, oracles.m_step(x, w, covariance), rtol=1e-10, atol=1e-12)


@both_forms
def test_floor_is_a_maximum_not_an_addition(covariance):
    rng = np.random.default_rng(15)
    x = rng.normal(size=(50, 3)) * np.array([2.0, 1.0, 1e-3])
    one = torch.ones(50, 1, dtype=torch.float64)
    floored = m_step(torch.as_tensor(x), one, covariance=covariance, floor=0.01)
    free = m_step(torch.as_tensor(x), one, covariance=covariance, floor=TINY)
    if covariance == "diag":
        torch.testing.assert_close(floored.covariances[0, :2], free.covariances[0, :2], rtol=1e-14, atol=0)
        assert math.isclose(floored.covariances[0, 2].item(), 0.01, rel_tol=1e-12)
    else:
        values, raised = (torch.linalg.eigvalsh(mixture.covariances[0]) for mixture in (free, floored))
        torch.testing.assert_close(raised[1:], values[1:], rtol=1e-12, atol=0)
        assert math.isclose(raised[0].item(), 0.01, rel_tol=1e-10)
    assert_equal_to(floored, oracles.m_step(x, np.ones((50, 1)), covariance, floor=0.01), rtol=1e-9, atol=1e-12)


@both_forms
def test_full_rank_floor_makes_degenerate_batches_usable(covariance):
    x = torch.as_tensor(np.random.default_rng(16).normal(size=(4, 9)))
    got = fit(x, 2, covariance=covariance, floor=1e-3)
    if covariance == "full":
        assert torch.linalg.eigvalsh(got.covariances).min().item() > 0.999e-3
    else:
        assert got.covariances.min().item() >= 1e-3
    assert torch.isfinite(got.log_likelihood(x))


@both_dtypes
@both_forms
def test_an_empty_component_takes_weight_0_and_the_moments_of_the_batch(covariance, dtype):
    x = np.random.default_rng(17).normal(size=(30, 3))
    w = np.zeros((30, 3))
    w[:10, 0], w[10:, 2] = 1, 1
    got = m_step(torch.as_tensor(x, dtype=dtype), torch.as_tensor(w, dtype=dtype), covariance=covariance, floor=1e-4)
    assert got.weights[1].item() == 0
    batch = np.cov(x.T, bias=True)
    np.testing.assert_allclose(got.means[1].numpy(), x.mean(0), **TOLERANCE[dtype])
    expected = np.diag(batch) if covariance == "diag" else batch
    np.testing.assert_allclose(got.covariances[1].numpy(), expected, **TOLERANCE[dtype])
    assert_equal_to(got, oracles.m_step(x, w, covariance, floor=1e-4), **TOLERANCE[dtype])
    again = got.responsibilities(torch.as_tensor(x, dtype=dtype))
    assert torch.isfinite(again).all()
    assert (again[:, 1] == 0).all()
    assert torch.isfinite(got.log_likelihood(torch.as_tensor(x, dtype=dtype)))


@both_forms
def test_an_empty_component_arises_in_fit_without_nan_in_value_or_gradient(covariance):
    x, start = problem(18, covariance=covariance)
    start[1][2] = 1e6  # component 2 is out of reach of every sample
    for dtype in (torch.float32, torch.float64):
        samples = torch.as_tensor(x, dtype=dtype).requires_grad_()
        got = fit(samples, 4, steps=2, covariance=covariance, init=record(start, dtype))
        assert got.weights[2].item() == 0
        np.testing.assert_allclose(got.means[2].detach().numpy(), x.mean(0), **TOLERANCE[dtype])
        through_parameters = sum(part.square().sum() for part in parts(got))
        for value in (through_parameters, got.responsibilities(samples).square().sum(), got.log_likelihood(samples)):
            (gradient,) = torch.autograd.grad(value, samples, retain_graph=True)
            assert torch.isfinite(gradient).all()


@both_dtypes
@both_forms
def test_as_many_components_as_samples_in_a_wide_space_is_one_hot(covariance, dtype):
    x = torch.as_tensor(np.random.default_rng(19).normal(size=(6, 64)), dtype=dtype)
    got = fit(x, 6, covariance=covariance)
    w = got.responsibilities(x)
    torch.testing.assert_close(w.max(1).values, torch.ones(6, dtype=dtype))
    assert sorted(w.argmax(1).tolist()) == list(range(6))
    torch.testing.assert_close(got.weights, torch.full((6,), 1 / 6, dtype=dtype))
    torch.testing.assert_close(got.means[w.argmax(1)], x)
    torch.testing.assert_close(torch.linalg.vector_norm(got.covariances[0]), torch.tensor(1e-4 * 8, dtype=dtype))


@pytest.mark.parametrize("seed", range(2))
def test_more_components_than_samples_is_an_error_that_names_both(seed):
    x = torch.as_tensor(np.random.default_rng(seed).normal(size=(5, 3)))
    with pytest.raises(ValueError, match="components") as caught:
        fit(x, 17)
    assert "17" in str(caught.value)
    assert "5" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"x": torch.zeros(5)}, r"\bx\b"),
        ({"covariance": "spherical"}, "covariance"),
        ({"components": 0}, "components"),
        ({"init": record(problem(0, width=3, components=4)[1], torch.float32)}, "init"),
    ],
)
def test_errors_name_the_argument(arguments, name):
    wanted = {"x": torch.randn(8, 3), "components": 2} | arguments
    with pytest.raises(ValueError, match=name):
        fit(**wanted)


def test_one_component_is_the_moments_of_the_batch_whatever_the_start():
    x, start = problem(21, components=1)
    got = fit(torch.as_tensor(x), 1, steps=1, covariance="full", floor=TINY)
    np.testing.assert_allclose(got.means[0].numpy(), x.mean(0), atol=1e-12)
    np.testing.assert_allclose(got.covariances[0].numpy(), np.cov(x.T, bias=True), atol=1e-12)
    assert got.weights.item() == pytest.approx(1)


# ----------------------------------------------------------------------------------------------------------- gradients


@both_forms
@pytest.mark.parametrize("given_start", [True, False], ids=["given start", "default start"])
def test_gradient_through_the_steps_is_the_finite_difference(given_start, covariance):
    x, start = problem(22, samples=9, width=2, components=2, covariance=covariance)
    init = record(start) if given_start else None

    def through(samples):
        return parts(fit(samples, 2, steps=2, covariance=covariance, init=init))

    assert torch.autograd.gradcheck(through, torch.as_tensor(x).requires_grad_(), atol=1e-6, rtol=1e-4)


@both_forms
def test_gradient_stops_at_the_floor(covariance):
    """Some variances above the floor, some raised to it: the finite difference says what passes."""
    x = np.random.default_rng(25).normal(size=(7, 3)) * np.array([2.0, 1.0, 0.05])
    w = torch.as_tensor(np.random.default_rng(26).dirichlet(np.ones(2), size=7))
    free = m_step(torch.as_tensor(x), w, covariance=covariance, floor=TINY).covariances
    spectrum = torch.linalg.eigvalsh(free) if covariance == "full" else free
    assert (spectrum < 0.05).any()
    assert (spectrum > 0.15).any()

    def through(samples):
        return m_step(samples, w, covariance=covariance, floor=0.1).covariances

    assert torch.autograd.gradcheck(through, torch.as_tensor(x).requires_grad_())


@both_forms
def test_gradient_of_log_joint_and_responsibilities(covariance):
    x, start = problem(23, samples=5, width=2, components=3, covariance=covariance)
    inputs = [torch.as_tensor(part).requires_grad_() for part in (x, *start)]

    def through(samples, weights, means, covariances):
        symmetric = covariances if covariance == "diag" else (covariances + covariances.mT) / 2
        mixture = GaussianMixture(weights=weights, means=means, covariances=symmetric)
        return mixture.log_joint(samples), mixture.responsibilities(samples), mixture.log_likelihood(samples)

    assert torch.autograd.gradcheck(through, inputs, atol=1e-6, rtol=1e-4)


@both_dtypes
@both_forms
def test_gradient_is_finite_where_the_batch_is_degenerate(covariance, dtype):
    """Fewer samples than dimensions: eigenvalues repeat at 0 and all sit on the floor."""
    x = torch.as_tensor(np.random.default_rng(24).normal(size=(5, 12)), dtype=dtype).requires_grad_()
    got = fit(x, 2, covariance=covariance)
    weight = torch.linspace(-1, 1, got.covariances.numel(), dtype=dtype).view_as(got.covariances)
    (got.means.sum() + (weight * got.covariances).sum() + got.log_likelihood(x)).backward()
    assert torch.isfinite(x.grad).all()


@both_dtypes
@both_forms
def test_gradient_is_finite_where_a_component_is_nearly_empty(covariance, dtype):
    """A mass just above the smallest float: 1 / mass is finite, 1 / mass times a gradient may not be."""
    x = np.random.default_rng(0).normal(size=(12, 3))
    unit = np.ones((2, 3)) if covariance == "diag" else np.stack([np.eye(3)] * 2)
    for reach in np.arange(8, 16, 0.05) if dtype == torch.float32 else np.arange(32, 42, 0.05):
        means = np.array([[0.0, 0.0, 0.0], [reach + x[:, 0].max(), 0.0, 0.0]])
        samples = torch.as_tensor(x, dtype=dtype).requires_grad_()
        init = record((np.full(2, 0.5), means, unit), dtype)
        got = fit(samples, 2, steps=2, covariance=covariance, init=init)
        (sum(part.square().sum() for part in parts(got)) + got.log_likelihood(samples)).backward()
        assert torch.isfinite(samples.grad).all(), f"second component {reach:.2f} away"


@both_forms
def test_identical_samples_give_floor_and_finite_gradient(covariance):
    x = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    got = fit(x, 2, covariance=covariance, floor=1e-4)
    expected = torch.full((2, 3), 1e-4, dtype=torch.float64)
    torch.testing.assert_close(got.covariances, expected if covariance == "diag" else torch.diag_embed(expected))
    sum(part.square().sum() for part in parts(got)).backward()
    assert torch.isfinite(x.grad).all()


def in_steps(x, start, steps, floor):
    """What :func:`fit` promises: an M step of an E step, again and again, differentiated operator by operator."""
    for _ in range(steps):
        start = m_step(x, e_step(start, x), floor=floor)
    return start.weights, start.means, start.covariances


@pytest.mark.parametrize(
    ("samples", "width", "components", "scale"), [(32, 64, 7, 1.0), (9, 3, 4, 1e3), (64, 5, 2, 1e-2)]
)
def test_the_hand_written_steps_are_the_plain_ones_and_so_is_their_gradient(samples, width, components, scale):
    generator = torch.Generator().manual_seed(samples)
    x = 5 * scale + scale * torch.randn(3, samples, width, generator=generator)
    floor = 1e-4 * scale**2
    got_x, wanted_x = x.clone().requires_grad_(), x.double().requires_grad_()
    got = parts(fit(got_x, components, floor=floor))
    wanted = in_steps(wanted_x, fit(wanted_x, components, steps=0, floor=floor), 5, floor)
    assert [part.dtype for part in got] == [torch.float32] * 3
    units = (1, scale, scale**2)
    for mine, plain, unit in zip(got, wanted, units, strict=True):
        torch.testing.assert_close(mine.double() / unit, plain / unit, rtol=1e-4, atol=1e-5)
    directions = [torch.randn(part.shape, generator=generator) / unit for part, unit in zip(got, units, strict=True)]
    for found in (got, wanted):
        sum((part * direction).sum() for part, direction in zip(found, directions, strict=True)).backward()
    torch.testing.assert_close(got_x.grad.double() * scale, wanted_x.grad * scale, rtol=1e-3, atol=2e-4)


def test_the_hand_written_gradient_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setattr(mixture_module, "_is_fast", lambda x: True)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 10, 3, dtype=torch.float64, generator=generator).requires_grad_()
    start = parts(fit(x.detach(), 3, steps=1))
    given = [part.clone().requires_grad_() for part in start]
    assert torch.autograd.gradcheck(lambda x: parts(fit(x, 3, steps=4)), x)
    assert torch.autograd.gradcheck(
        lambda x, *init: parts(fit(x, 3, steps=2, init=GaussianMixture(*init))), (x, *given)
    )


@both_dtypes
@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_assigned_samples_are_one_more_step_without_a_floor(covariance, dtype):
    """Values and gradients, those of both mixtures at once; some variances lie under the floor."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.03])
    factors = torch.randn(6, generator=generator, dtype=torch.float64)
    found = []
    for assign in (True, False):
        samples = x.to(dtype if assign else torch.float64).requires_grad_()
        if assign:
            mixtures = fit_and_assign(samples, 3, covariance=covariance, floor=1e-2)
        else:
            start = fit(samples, 3, steps=0, covariance=covariance, floor=1e-2)
            for _ in range(5):
                start = m_step(samples, e_step(start, samples), covariance=covariance, floor=1e-2)
            mixtures = start, m_step(samples, e_step(start, samples), floor=0.0)
        every = [part for mixture in mixtures for part in parts(mixture)]
        sum((factor * part).square().sum() for factor, part in zip(factors, every, strict=True)).backward()
        found.append([*every, samples.grad])
    assert found[0][-2].min() < 1e-2
    exact = dtype == torch.float64
    for mine, plain in zip(*found, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), plain, rtol=1e-9 if exact else 1e-3, atol=1e-11 if exact else 1e-4)


@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_the_hand_written_steps_keep_empty_components_empty(floor):
    x = torch.tensor([[0.0, 1.0], [0.1, 1.2], [0.2, 0.9]], requires_grad=True)
    start = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[0.1, 1.0], [1e4, 1e4]]), torch.ones(2, 2))
    got = parts(fit(x, 2, steps=1, init=start, floor=floor))
    for mine, plain in zip(got, in_steps(x, start, 1, floor), strict=True):
        torch.testing.assert_close(mine, plain)
    sum(part.sum() for part in got).backward()
    assert got[0][1] == 0 and torch.isfinite(x.grad).all()


def test_what_is_not_finite_passes_through_without_a_warning():
    x = torch.randn(8, 3)
    x[2, 1] = torch.nan
    assert torch.isnan(fit(x.requires_grad_(), 2).means).any()


# -------------------------------------------------------------------------------------------------------- common start


def literal_start(present, components):
    """Sample by sample: evenly spaced ones that all have, else those that most have; others where one is lacking."""
    held = present.sum(0)
    widely = [n for n in range(len(held)) if held[n] == held.max()]
    if len(widely) >= components:
        chosen = [widely[round(k * (len(widely) - 1) / max(components - 1, 1))] for k in range(components)]
    else:
        chosen = sorted(sorted(range(len(held)), key=lambda n: (-held[n], n))[:components])
    starts = []
    for row in present:
        others = iter(n for n in range(len(held)) if row[n] and n not in chosen)
        samples = [n if row[n] else next(others) for n in chosen]
        starts.append([int(row[:n].sum()) for n in samples])
    return starts


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8, 1.0])
def test_common_start_is_the_literal_one(share):
    rng = np.random.default_rng(0)
    for samples, components in itertools.product((7, 20, 33), (1, 2, 5, 7)):
        present = rng.random((3, samples)) < share
        present[:, :components] |= present.sum(1, keepdims=True) < components  # every modality has K samples
        assert common_start(torch.as_tensor(present), components).tolist() == literal_start(present, components)


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complete_modalities_start_as_a_fit_alone_does(covariance, dtype):
    x = torch.as_tensor(np.random.default_rng(1).normal(size=(20, 4)), dtype=dtype)
    (start, same) = common_start(torch.ones(2, 20, dtype=torch.bool), 7)
    assert start.tolist() == same.tolist()
    for given, alone in zip(
        fit_and_assign(x, 7, covariance=covariance, start=start),
        fit_and_assign(x, 7, covariance=covariance),
        strict=True,
    ):
        torch.testing.assert_close(vars(given), vars(alone), rtol=0, atol=0)


def test_prototypes_of_one_index_hold_the_same_samples_though_others_are_absent():
    """Two modalities that are the same, with other samples absent in each: most samples keep one index in both."""
    rng = np.random.default_rng(2)
    x = torch.as_tensor(rng.normal(size=(60, 8)))
    present = torch.as_tensor(rng.random((2, 60)) < 0.7)
    agree = {}
    for how, starts in {"common": common_start(present, 5), "apart": [None, None]}.items():
        fits = [fit_and_assign(x[rows], 5, start=start)[0] for rows, start in zip(present, starts, strict=True)]
        both = [e_step(mixture, x[present.all(0)]).argmax(1) for mixture in fits]
        agree[how] = float((both[0] == both[1]).float().mean())
    assert agree["common"] > 0.6 > agree["apart"]
