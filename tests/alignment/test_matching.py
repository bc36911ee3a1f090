"""Eq 10-12: moments, their distance, the Gaussian kernel and MMD, against loops, SciPy, scikit-learn and their laws."""

import math

import numpy as np
import oracles
import pytest
import scipy.stats
import torch
from sklearn.metrics.pairwise import rbf_kernel

from decalign_core.alignment.matching import gaussian_kernel, median_bandwidth, mmd, moment_distance, moments

TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
both_estimators = pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])


def parts(record):
    return record.mean, record.covariance, record.skewness


def samples(seed, count=20, width=3):
    """Skewed, correlated samples with unequal scales."""
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, size=(count, width)) @ rng.normal(size=(width, width)) * np.arange(1, width + 1)


# ------------------------------------------------------------------------------------------------------------- moments


@both_dtypes
@pytest.mark.parametrize("count", [2, 3, 40])
def test_moments_are_the_literal_ones(count, dtype):
    z = samples(0, count)
    got = moments(torch.as_tensor(z, dtype=dtype))
    for name, value, expected in zip(("mean", "covariance", "skewness"), parts(got), oracles.moments(z), strict=True):
        assert value.dtype == dtype
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(value.numpy() / scale, expected / scale, err_msg=name, **TOLERANCE[dtype])


def test_moments_are_numpy_and_scipy():
    z = samples(1, 50, 4)
    got = moments(torch.as_tensor(z))
    np.testing.assert_allclose(got.mean.numpy(), z.mean(0), rtol=1e-12)
    np.testing.assert_allclose(got.covariance.numpy(), np.cov(z.T), rtol=1e-10, atol=1e-12)  # n - 1
    np.testing.assert_allclose(got.skewness.numpy(), scipy.stats.skew(z, bias=True), rtol=1e-10)


def test_skewness_by_hand():
    """0, 0, 3: mean 1, central moments 2 and 2, so 2 / 2^(3/2)."""
    got = moments(torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64))
    assert got.skewness.item() == pytest.approx(1 / math.sqrt(2), rel=1e-14)
    assert got.covariance.item() == pytest.approx(3.0, rel=1e-14)


def test_skewness_ignores_shift_and_scale_and_turns_with_the_sign():
    z = torch.as_tensor(samples(2))
    reference = moments(z).skewness
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(moments(scale * z + 5 * scale).skewness, reference, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moments(-z).skewness, -reference, rtol=1e-12, atol=0)


@both_dtypes
def test_small_variance_is_not_mistaken_for_none(dtype):
    """A floor under the standard deviation would flatten these."""
    z = np.random.default_rng(3).gamma(1.0, size=(60, 2)) * 1e-5
    got = moments(torch.as_tensor(z, dtype=dtype)).skewness
    np.testing.assert_allclose(got.numpy(), scipy.stats.skew(z), rtol=1e-3)


@both_dtypes
def test_one_sample_has_no_covariance_and_no_skewness(dtype):
    z = torch.tensor([[1.0, -2.0]], dtype=dtype, requires_grad=True)
    got = moments(z)
    assert torch.equal(got.mean, z[0])
    assert torch.equal(got.covariance, torch.zeros(2, 2, dtype=dtype))
    assert torch.equal(got.skewness, torch.zeros(2, dtype=dtype))
    (got.mean.sum() + got.covariance.sum() + got.skewness.sum()).backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))


@both_dtypes
@pytest.mark.parametrize("constant", [0.0, 2.0, 0.1])
def test_a_constant_coordinate_has_skewness_0_with_zero_gradient(constant, dtype):
    """0.1 is not a binary fraction: its mean may differ from it by a rounding."""
    z = torch.as_tensor(samples(4, 7), dtype=dtype)
    z[:, 1] = constant
    z.requires_grad_()
    got = moments(z).skewness
    assert got[1].item() == 0
    (gradient,) = torch.autograd.grad(got[1], z, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(z))
    (gradient,) = torch.autograd.grad(got.sum(), z)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 0] != 0).any()
    assert (gradient[:, 1] == 0).all()


@both_dtypes
def test_a_constant_coordinate_has_skewness_0_whatever_its_value_and_the_batch(dtype):
    """The mean of equal numbers may be off by a few roundings: what is left is not a shape."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        constant = float(rng.normal() * 10 ** rng.uniform(-3, 3))
        z = torch.full((int(rng.integers(2, 300)), 1), constant, dtype=dtype)
        assert moments(z).skewness.item() == 0, (len(z), constant)


def test_gradient_of_the_moments():
    z = torch.as_tensor(samples(5, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: parts(moments(z)), z)


# ------------------------------------------------------------------------------------------------------ moment distance


@both_dtypes
@pytest.mark.parametrize("sizes", [(20, 20), (20, 9), (1, 5), (1, 1)])
def test_moment_distance_is_the_bracket_of_equation_10(sizes, dtype):
    x, y = samples(6, sizes[0]), samples(7, sizes[1])
    got = moment_distance(*(torch.as_tensor(z, dtype=dtype) for z in (x, y)))
    assert got.shape == ()
    assert got.item() == pytest.approx(oracles.eq10_bracket(x, y), rel=1e-9 if dtype == torch.float64 else 1e-3)


def test_moment_distance_is_zero_on_itself_and_symmetric():
    x, y = (torch.as_tensor(samples(seed, 15)) for seed in (8, 9))
    assert moment_distance(x, x).item() == 0
    assert moment_distance(x, x[torch.randperm(15)]).item() == pytest.approx(0, abs=1e-18)
    assert moment_distance(x, y).item() == pytest.approx(moment_distance(y, x).item(), rel=1e-12)


def test_a_shift_moves_the_mean_term_alone():
    x = torch.as_tensor(samples(10))
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert moment_distance(x, x + shift).item() == pytest.approx(1 + 4 + 0.25, rel=1e-10)


def test_a_reflection_about_the_mean_moves_the_skewness_term_alone():
    x = torch.as_tensor(samples(11))
    reflected = 2 * x.mean(0) - x
    expected = np.sum((2 * scipy.stats.skew(x.numpy())) ** 2)
    assert moment_distance(x, reflected).item() == pytest.approx(expected, rel=1e-9)


def test_a_scaling_about_the_mean_moves_the_covariance_term_alone():
    x = torch.as_tensor(samples(12))
    stretched = x.mean(0) + 2 * (x - x.mean(0))
    expected = np.sum((3 * np.cov(x.numpy().T)) ** 2)
    assert moment_distance(x, stretched).item() == pytest.approx(expected, rel=1e-9)


def test_moment_distance_sums_over_coordinates_and_averages_nothing():
    x, y = samples(13, 10), samples(14, 10)
    zeros = np.zeros((10, 5))
    padded = [torch.as_tensor(np.concatenate([z, zeros], axis=1)) for z in (x, y)]
    plain = moment_distance(torch.as_tensor(x), torch.as_tensor(y))
    assert moment_distance(*padded).item() == pytest.approx(plain.item(), rel=1e-12)


def test_gradient_of_the_moment_distance():
    x, y = (torch.as_tensor(samples(seed, size, 2)).requires_grad_() for seed, size in ((15, 5), (16, 6)))
    assert torch.autograd.gradcheck(moment_distance, (x, y), rtol=1e-4)


# -------------------------------------------------------------------------------------------------------------- kernel


@both_dtypes
@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 7.0])
def test_kernel_is_equation_12(bandwidth, dtype):
    x, y = samples(17, 6), samples(18, 4)
    got = gaussian_kernel(*(torch.as_tensor(z, dtype=dtype) for z in (x, y)), bandwidth)
    assert got.shape == (6, 4)
    expected = [[oracles.eq12_kernel(a, b, bandwidth) for b in y] for a in x]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10 if dtype == torch.float64 else 1e-3, atol=1e-12)


def test_kernel_is_scikit_learn():
    x, y = samples(19, 6), samples(20, 4)
    got = gaussian_kernel(torch.as_tensor(x), torch.as_tensor(y), 3.0)
    np.testing.assert_allclose(got.numpy(), rbf_kernel(x, y, gamma=1 / (2 * 3.0**2)), rtol=1e-10)


def test_bandwidth_is_a_length_not_its_square():
    x = torch.tensor([[0.0]], dtype=torch.float64)
    y = torch.tensor([[3.0]], dtype=torch.float64)
    assert gaussian_kernel(x, y, 3.0).item() == pytest.approx(math.exp(-0.5), rel=1e-14)


@both_dtypes
def test_kernel_of_a_point_and_itself_is_1_also_far_from_the_origin(dtype):
    """|x|^2 + |y|^2 - 2 x y would lose these digits."""
    x = 1e3 + torch.as_tensor(np.random.default_rng(21).normal(size=(6, 8)), dtype=dtype)
    got = gaussian_kernel(x, x, 1.0)
    torch.testing.assert_close(got.diagonal(), torch.ones(6, dtype=dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(got, gaussian_kernel(x - 1e3, x - 1e3, 1.0), rtol=2e-3, atol=1e-6)


def test_gradient_of_the_kernel_is_finite_at_coincident_points():
    x = torch.as_tensor(samples(22, 4)).requires_grad_()
    gaussian_kernel(x, x, 1.0).sum().backward()
    assert torch.isfinite(x.grad).all()


# ----------------------------------------------------------------------------------------------------------------- MMD


@both_dtypes
@both_estimators
@pytest.mark.parametrize("sizes", [(8, 8), (9, 5), (2, 3)])
def test_mmd_is_the_bracket_of_equation_11(sizes, unbiased, dtype):
    x, y = samples(23, sizes[0]), samples(24, sizes[1])
    got = mmd(*(torch.as_tensor(z, dtype=dtype) for z in (x, y)), 3.0, unbiased=unbiased)
    assert got.shape == ()
    assert got.item() == pytest.approx(
        oracles.eq11_bracket(x, y, 3.0, unbiased), abs=1e-12 if dtype.itemsize == 8 else 1e-5
    )


def test_biased_is_the_default():
    x, y = (torch.as_tensor(samples(seed, 6)) for seed in (25, 26))
    assert torch.equal(mmd(x, y, 2.0), mmd(x, y, 2.0, unbiased=False))
    assert mmd(x, y, 2.0) > mmd(x, y, 2.0, unbiased=True)


@both_dtypes
@pytest.mark.parametrize("bandwidth", [0.1, 1.0, 10.0])
def test_biased_is_never_negative_and_zero_on_itself(bandwidth, dtype):
    for seed in range(10):
        x = torch.as_tensor(np.random.default_rng(seed).normal(size=(12, 3)), dtype=dtype)
        y = torch.as_tensor(np.random.default_rng(seed + 1000).normal(size=(9, 3)), dtype=dtype)
        assert mmd(x, y, bandwidth).item() >= (-1e-6 if dtype == torch.float32 else -1e-14)
        assert mmd(x, x, bandwidth).item() == pytest.approx(0, abs=1e-6 if dtype == torch.float32 else 1e-14)


def test_several_bandwidths_are_the_mean_of_their_mmds():
    x, y = samples(37, 6), samples(38, 5)
    expected = np.mean([oracles.eq11_bracket(x, y, sigma) for sigma in (0.5, 2.0, 9.0)])
    got = mmd(torch.as_tensor(x), torch.as_tensor(y), [0.5, torch.tensor(2.0, dtype=torch.float64), 9.0])
    assert got.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 2), (1, 1)])
def test_median_bandwidth_is_the_median_distance_of_distinct_points(sizes):
    x, y = samples(39, sizes[0]), samples(40, sizes[1])
    pooled = np.concatenate([x, y])
    distances = [np.linalg.norm(pooled[i] - pooled[j]) for i in range(len(pooled)) for j in range(i)]
    assert len(distances) % 2 == 1
    a, b = (torch.as_tensor(z).requires_grad_() for z in (x, y))
    got = median_bandwidth(a, b)
    assert got.item() == pytest.approx(np.median(distances), rel=1e-12)
    assert not got.requires_grad
    assert median_bandwidth(a, a[:1]) > 0
    assert mmd(a, a, median_bandwidth(a[:1], a[:1])).item() == pytest.approx(0, abs=1e-14)  # no distance: no 0 / 0


@both_estimators
def test_mmd_is_symmetric_and_ignores_the_order_of_samples(unbiased):
    x, y = (torch.as_tensor(samples(seed, size)) for seed, size in ((27, 8), (28, 5)))
    forth = mmd(x, y, 3.0, unbiased=unbiased).item()
    assert mmd(y, x, 3.0, unbiased=unbiased).item() == pytest.approx(forth, abs=1e-14)
    assert mmd(x.flip(0), y.roll(2, 0), 3.0, unbiased=unbiased).item() == pytest.approx(forth, abs=1e-14)


def test_unbiased_is_centred_under_the_null_and_biased_is_not():
    """200 draws of two samples of one law: the mean is 0 within 4 standard errors; some values are below 0."""
    rng = np.random.default_rng(29)
    draws = [[torch.as_tensor(rng.normal(size=(10, 2))) for _ in range(2)] for _ in range(200)]
    unbiased = np.array([mmd(x, y, 1.0, unbiased=True).item() for x, y in draws])
    biased = np.array([mmd(x, y, 1.0).item() for x, y in draws])
    assert unbiased.min() < 0 < unbiased.max()
    assert abs(unbiased.mean()) < 4 * unbiased.std() / math.sqrt(200)
    assert biased.mean() > 10 * biased.std() / math.sqrt(200)


def test_biased_under_the_null_in_a_wide_space_is_2_over_n():
    """The official code's setting: 32 samples, 64 dimensions, sigma 1: only the diagonal is left of the kernel."""
    rng = np.random.default_rng(30)
    x, y = (torch.as_tensor(rng.normal(size=(32, 64))) for _ in range(2))
    assert mmd(x, y, 1.0).item() == pytest.approx(2 / 32, rel=1e-6)
    assert mmd(x, y, 1.0, unbiased=True).item() == pytest.approx(0, abs=1e-6)


def test_mmd_grows_with_the_shift():
    x = torch.as_tensor(np.random.default_rng(31).normal(size=(30, 2)))
    values = [mmd(x, x + shift, 1.0).item() for shift in (0.0, 0.3, 1.0, 3.0)]
    assert (np.diff(values) > 0).all()
    assert mmd(x, x + 100, 1.0).item() == pytest.approx(2 * oracles.mean_kernel(x.numpy(), x.numpy(), 1.0), rel=1e-10)


def test_two_points_by_hand():
    """Biased with one sample each: 1 + 1 - 2 k."""
    x, y = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    expected = 2 - 2 * math.exp(-2.0)
    assert mmd(x, y, 1.0).item() == pytest.approx(expected, rel=1e-14)
    assert mmd(x, y, 1.0, unbiased=True).item() == pytest.approx(expected, rel=1e-14)  # falls back


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1)])
def test_unbiased_with_one_sample_on_one_side_is_finite_with_finite_gradient(sizes):
    x, y = (torch.as_tensor(samples(32 + i, size)).requires_grad_() for i, size in enumerate(sizes))
    value = mmd(x, y, 2.0, unbiased=True)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()
    assert value.item() <= oracles.eq11_bracket(x.detach().numpy(), y.detach().numpy(), 2.0) + 1e-12


@both_estimators
def test_gradient_of_the_mmd(unbiased):
    x, y = (torch.as_tensor(samples(seed, size, 2)).requires_grad_() for seed, size in ((34, 4), (35, 5)))
    assert torch.autograd.gradcheck(lambda x, y: mmd(x, y, 2.0, unbiased=unbiased), (x, y))


def test_gradient_of_the_mmd_at_equal_samples_vanishes():
    x = torch.as_tensor(samples(36, 5))
    y = x.clone().requires_grad_()
    mmd(x, y, 2.0).backward()
    torch.testing.assert_close(y.grad, torch.zeros_like(y), rtol=0, atol=1e-14)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "function",
    [moment_distance, lambda x, y: mmd(x, y, 1.0), lambda x, y: gaussian_kernel(x, y, 1.0)],
    ids=["moment_distance", "mmd", "gaussian_kernel"],
)
@pytest.mark.parametrize("width", [3, 1], ids=["", "broadcastable"])
def test_unequal_widths_are_an_error_with_both_numbers(width, function):
    with pytest.raises(ValueError, match=r"\by\b") as caught:
        function(torch.zeros(5, width), torch.zeros(5, 7))
    assert str(width) in str(caught.value)
    assert "7" in str(caught.value)
