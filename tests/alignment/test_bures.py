"""Eq 6: the squared 2-Wasserstein distance between Gaussians, against sqrtm, POT and its laws."""

import numpy as np
import oracles
import ot
import pytest
import torch

from decalign_core.alignment.bures import bures_wasserstein
from decalign_core.alignment.mixture import GaussianMixture

TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-11}, torch.float32: {"rtol": 2e-5, "atol": 2e-5}}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
both_forms = pytest.mark.parametrize("covariance", ["diag", "full"])


def record(mixture, dtype=torch.float64):
    weights, means, covariances = (torch.as_tensor(part, dtype=dtype) for part in mixture)
    return GaussianMixture(weights=weights, means=means, covariances=covariances)


def pair(seed, width=3, sizes=(4, 3), covariance="diag"):
    rng = np.random.default_rng(seed)
    return [oracles.random_mixture(rng, size, width, covariance) for size in sizes]


def symmetric(matrices):
    return (matrices + matrices.mT) / 2


# --------------------------------------------------------------------------------------------------------------- value


@both_dtypes
@both_forms
@pytest.mark.parametrize("width", [1, 3, 6])
def test_cost_is_equation_6(width, covariance, dtype):
    p, q = pair(0, width, covariance=covariance)
    got = bures_wasserstein(record(p, dtype), record(q, dtype))
    assert got.shape == (4, 3)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.numpy(), oracles.eq6_costs(p, q), **TOLERANCE[dtype])


@both_forms
def test_cost_is_the_matrix_square_root_form(covariance):
    p, q = pair(1, covariance=covariance)
    got = bures_wasserstein(record(p), record(q))
    for k in range(4):
        for j in range(3):
            expected = oracles.eq6_pair(p[1][k], p[2][k], q[1][j], q[2][j])
            assert got[k, j].item() == pytest.approx(expected, rel=1e-9)


@both_forms
def test_cost_is_pot(covariance):
    p, q = pair(2, width=4, covariance=covariance)
    got = bures_wasserstein(record(p), record(q)).numpy()
    if covariance == "full":
        np.testing.assert_allclose(got, ot.gmm.dist_bures_squared(p[1], q[1], p[2], q[2]), rtol=1e-9)
    for k in range(4):
        for j in range(3):
            matrices = oracles.as_matrix(p[2][k]), oracles.as_matrix(q[2][j])
            distance = ot.gaussian.bures_wasserstein_distance(p[1][k], q[1][j], *matrices)
            assert got[k, j] == pytest.approx(distance**2, rel=1e-9)


def test_full_form_of_diagonal_matrices_is_the_diagonal_form():
    p, q = pair(3)
    full = [(weights, means, np.stack([np.diag(v) for v in variances])) for weights, means, variances in (p, q)]
    torch.testing.assert_close(
        bures_wasserstein(record(full[0]), record(full[1])), bures_wasserstein(record(p), record(q)), rtol=1e-11, atol=0
    )


def test_one_dimension_by_hand():
    """(0 - 3)^2 + (1 - 2)^2 for N(0, 1) and N(3, 4): squared means' distance plus squared distance of deviations."""
    p = record(([1.0], [[0.0]], [[1.0]]))
    q = record(([1.0], [[3.0]], [[4.0]]))
    assert bures_wasserstein(p, q).item() == pytest.approx(10.0, rel=1e-14)


def test_float32_keeps_its_digits_with_large_means_and_small_variances():
    rng = np.random.default_rng(4)
    p = (np.full(3, 1 / 3), 30 + rng.normal(size=(3, 16)), np.full((3, 16), 1e-4))
    q = (np.full(3, 1 / 3), 30 + rng.normal(size=(3, 16)), np.full((3, 16), 2e-4))
    p, q = ([part.astype(np.float32).astype(np.float64) for part in m] for m in (p, q))
    expected = oracles.eq6_costs(p, q)
    got = bures_wasserstein(record(p, torch.float32), record(q, torch.float32)).numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-5)


# ---------------------------------------------------------------------------------------------------------------- laws


@both_dtypes
@both_forms
def test_identical_gaussians_cost_nothing(covariance, dtype):
    p, _ = pair(5, width=5, covariance=covariance)
    got = bures_wasserstein(record(p, dtype), record(p, dtype)).diagonal()
    scale = np.trace(oracles.as_matrix(p[2][0]))
    assert got.abs().max().item() <= scale * (1e-13 if dtype == torch.float64 else 5e-6)
    assert covariance == "full" or not got.any()  # without a root of a matrix to round: exactly 0


@both_dtypes
def test_identical_gaussians_at_the_variance_floor_cost_exactly_nothing(dtype):
    """An epsilon inside the root would make these costs negative."""
    p = record((np.full(2, 0.5), np.zeros((2, 64)), np.full((2, 64), 1e-4)), dtype)
    torch.testing.assert_close(bures_wasserstein(p, p), torch.zeros(2, 2, dtype=dtype), rtol=0, atol=1e-8)


@both_forms
def test_cost_is_symmetric_and_positive(covariance):
    p, q = (record(m) for m in pair(6, covariance=covariance))
    forth, back = bures_wasserstein(p, q), bures_wasserstein(q, p)
    torch.testing.assert_close(forth, back.T, rtol=1e-11, atol=0)
    assert (forth > 0).all()


@both_forms
@pytest.mark.parametrize("seed", range(5))
def test_its_root_obeys_the_triangle_inequality(seed, covariance):
    p, q, r = (record(m) for m in pair(10 + seed, sizes=(3, 3, 3), covariance=covariance))
    pq, qr, pr = (bures_wasserstein(a, b).sqrt() for a, b in ((p, q), (q, r), (p, r)))
    through = (pq[:, :, None] + qr[None]).min(dim=1).values
    assert (pr <= through + 1e-10).all()


def test_common_rotation_and_shift_change_nothing():
    p, q = pair(7, width=4, covariance="full")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    moved = [
        (weights, means @ rotation.T + 5.0, rotation @ covariances @ rotation.T)
        for weights, means, covariances in (p, q)
    ]
    expected = bures_wasserstein(record(p), record(q))
    torch.testing.assert_close(bures_wasserstein(record(moved[0]), record(moved[1])), expected, rtol=1e-10, atol=0)


@both_forms
def test_there_is_no_division_by_the_width(covariance):
    p, q = pair(8, covariance=covariance)

    def doubled(mixture):
        weights, means, covariances = mixture
        twice = np.concatenate([means, means], axis=1)
        if covariance == "diag":
            return record((weights, twice, np.concatenate([covariances, covariances], axis=1)))
        return record((weights, twice, np.stack([np.kron(np.eye(2), matrix) for matrix in covariances])))

    single = bures_wasserstein(record(p), record(q))
    torch.testing.assert_close(bures_wasserstein(doubled(p), doubled(q)), 2 * single, rtol=1e-10, atol=0)


@both_forms
def test_scaling_the_features_scales_the_cost_by_the_square(covariance):
    p, q = pair(9, covariance=covariance)
    scaled = [(weights, 3 * means, 9 * covariances) for weights, means, covariances in (p, q)]
    expected = 9 * bures_wasserstein(record(p), record(q))
    torch.testing.assert_close(bures_wasserstein(record(scaled[0]), record(scaled[1])), expected, rtol=1e-10, atol=0)


@both_forms
def test_weights_play_no_part(covariance):
    p, q = pair(10, covariance=covariance)
    other = (np.array([1.0, 0.0, 0.0, 0.0]), *p[1:])
    assert torch.equal(bures_wasserstein(record(other), record(q)), bures_wasserstein(record(p), record(q)))


# ----------------------------------------------------------------------------------------------------------- gradients


def cost_of(tensors, full):
    """bures_wasserstein as a function of the means and covariances of both sides."""
    records = []
    for means, covariances in (tensors[:2], tensors[2:]):
        weights = torch.full((len(means),), 1 / len(means), dtype=means.dtype)
        sigma = symmetric(covariances) if full else covariances
        records.append(GaussianMixture(weights=weights, means=means, covariances=sigma))
    return bures_wasserstein(*records)


@both_forms
def test_gradient_is_the_finite_difference(covariance):
    p, q = pair(11, sizes=(2, 3), covariance=covariance)
    inputs = [torch.as_tensor(part).requires_grad_() for part in (*p[1:], *q[1:])]
    assert torch.autograd.gradcheck(lambda *tensors: cost_of(tensors, covariance == "full"), inputs, atol=1e-6)


def test_gradient_at_repeated_eigenvalues_is_the_finite_difference():
    """At Sigma = I every eigenvalue is repeated; the cost is smooth there all the same."""
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    means = torch.as_tensor(np.random.default_rng(12).normal(size=(2, 3)))
    inputs = [means.clone(), eye.clone(), means.flip(0).clone(), (2 * eye).clone()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *tensors: cost_of(tensors, True), inputs, atol=1e-6)


@both_dtypes
@pytest.mark.parametrize("scale", [1.0, 1e-4, 50.0])
def test_gradient_at_multiples_of_the_identity_is_known(scale, dtype):
    """d/dS of Tr(S + I s - 2 (S s)^(1/2)) at S = a I is (1 - sqrt(s / a)) I."""
    eye = torch.eye(4, dtype=dtype)[None]
    zero, sigma = torch.zeros(1, 4, dtype=dtype), (scale * eye).requires_grad_()
    cost_of((zero, sigma, zero, eye), True).sum().backward()
    torch.testing.assert_close(sigma.grad, (1 - scale**-0.5) * eye, rtol=1e-4, atol=1e-4)


@both_dtypes
@both_forms
def test_gradient_at_identical_mixtures_is_zero_for_a_gaussian_and_itself(covariance, dtype):
    p, _ = pair(13, covariance=covariance)
    tensors = [torch.as_tensor(part, dtype=dtype).requires_grad_() for part in (*p[1:], *p[1:])]
    cost_of(tensors, covariance == "full").diagonal().sum().backward()
    for tensor in tensors:
        torch.testing.assert_close(tensor.grad, torch.zeros_like(tensor), rtol=0, atol=2e-4)


@both_dtypes
@both_forms
@pytest.mark.parametrize("other", [1.0, 0.0])
def test_a_zero_eigenvalue_leaves_the_other_terms_gradients_alone(other, covariance, dtype):
    """Variances (0, 4) against (other, 1), as eigenvalues along the axes."""
    zero = torch.zeros(1, 2, dtype=dtype)
    left, right = torch.tensor([[0.0, 4.0]], dtype=dtype), torch.tensor([[other, 1.0]], dtype=dtype)
    if covariance == "full":
        left, right = torch.diag_embed(left), torch.diag_embed(right)
    left, right = left.requires_grad_(), right.requires_grad_()
    cost = cost_of((zero, left, zero, right), covariance == "full")
    assert cost.item() == pytest.approx(other + 1.0)
    cost.sum().backward()
    assert torch.isfinite(left.grad).all()
    assert torch.isfinite(right.grad).all()
    assert left.grad[0, 1, ...].sum().item() == pytest.approx(1 - 0.5)  # 1 - sqrt(1 / 4)
    assert right.grad[0, 1, ...].sum().item() == pytest.approx(1 - 2.0)  # 1 - sqrt(4 / 1)
    if other > 0:  # (0 - sqrt(r))^2 = r: this side is smooth
        assert right.grad[0, 0, ...].sum().item() == pytest.approx(1.0)


@both_dtypes
@pytest.mark.parametrize("other", [1.0, 0.0])
def test_gradient_at_a_zero_eigenvalue_is_the_same_in_both_forms(other, dtype):
    zero, gradients = torch.zeros(1, 2, dtype=dtype), []
    for full in (False, True):
        sides = [torch.tensor([side], dtype=dtype) for side in ([0.0, 4.0], [other, 1.0])]
        sides = [(torch.diag_embed(side) if full else side).requires_grad_() for side in sides]
        cost_of((zero, sides[0], zero, sides[1]), full).sum().backward()
        gradients.append([side.grad.diagonal(dim1=-2, dim2=-1) if full else side.grad for side in sides])
    for diagonal, matrix in zip(*gradients, strict=True):
        torch.testing.assert_close(diagonal, matrix)


@both_dtypes
@both_forms
def test_gradient_is_finite_at_zero_and_both_zero_covariances(covariance, dtype):
    shape = (2, 3) if covariance == "diag" else (2, 3, 3)
    p, _ = pair(14, sizes=(2, 2), covariance=covariance)
    some = torch.as_tensor(p[2], dtype=dtype)
    means = torch.as_tensor(p[1], dtype=dtype)
    for left, right in ((torch.zeros(shape, dtype=dtype), some), (torch.zeros(shape, dtype=dtype),) * 2):
        tensors = [means.clone(), left.clone(), means.flip(0).clone(), right.clone()]
        tensors = [tensor.requires_grad_() for tensor in tensors]
        cost = cost_of(tensors, covariance == "full")
        traces = [s.sum(-1) if covariance == "diag" else s.diagonal(dim1=-2, dim2=-1).sum(-1) for s in (left, right)]
        squares = (means[:, None] - means.flip(0)[None]).square().sum(-1)
        torch.testing.assert_close(cost, squares + traces[0][:, None] + traces[1][None])
        cost.sum().backward()
        assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


@both_dtypes
def test_singular_full_covariance_has_the_right_value_and_a_finite_gradient(dtype):
    p, q = pair(15, width=4, covariance="full")
    factors = np.random.default_rng(1).normal(size=(4, 4, 2))
    p = (p[0], p[1], factors @ factors.transpose(0, 2, 1))  # rank 2 of 4
    got = bures_wasserstein(record(p, dtype), record(q, dtype))
    tolerance = 1e-7 if dtype == torch.float64 else 1e-3
    np.testing.assert_allclose(got.numpy(), oracles.eq6_costs(p, q), rtol=tolerance, atol=tolerance)
    tensors = [torch.as_tensor(part, dtype=dtype).requires_grad_() for part in (*p[1:], *q[1:])]
    cost_of(tensors, True).sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


@both_forms
def test_gradient_of_the_means_is_twice_their_difference(covariance):
    p, q = pair(16, sizes=(1, 1), covariance=covariance)
    tensors = [torch.as_tensor(part).requires_grad_() for part in (*p[1:], *q[1:])]
    cost_of(tensors, covariance == "full").sum().backward()
    np.testing.assert_allclose(tensors[0].grad.numpy(), 2 * (p[1] - q[1]), rtol=1e-12)
    np.testing.assert_allclose(tensors[2].grad.numpy(), -2 * (p[1] - q[1]), rtol=1e-12)
