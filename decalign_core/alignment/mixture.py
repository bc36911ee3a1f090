r"""Gaussian mixtures and expectation maximisation (Eq 2-4).

The unique features of a modality are summarised by K prototypes, Gaussians with weights (Eq 2):

.. math:: P_m = \{(\pi^k_m, \mu^k_m, \Sigma^k_m)\}_{k=1}^K .

A sample belongs to prototype k with the posterior probability (Eq 3), its responsibility,

.. math:: w^n(k) = \frac{\pi_k\, N(x^n; \mu_k, \Sigma_k)}{\sum_j \pi_j\, N(x^n; \mu_j, \Sigma_j)},

where N is the Gaussian density (Eq 4). One EM step computes the responsibilities (E) and then the weights, means and
covariances that maximise the expected log-likelihood under them (M).

Everything is computed from :math:`\log \pi_k + \log N` and normalised by log-sum-exp: a sample far from every
prototype has a density of 0 in floating point but still a well-defined posterior. Gradients flow through the steps;
for diagonal covariances :func:`fit` takes them by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    r"""K weighted Gaussians in d dimensions (Eq 2).

    Attributes:
        weights: :math:`\pi`, ``(K,)``, non-negative, summing to 1.
        means: :math:`\mu`, ``(K, d)``.
        covariances: :math:`\Sigma`, ``(K, d)`` where diagonal, ``(K, d, d)`` where full.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __len__(self) -> int:
        return self.means.shape[-2]

    @property
    def is_diagonal(self) -> bool:
        """Whether ``covariances`` holds variances only."""
        return self.covariances.ndim == self.means.ndim

    def log_joint(self, x: Tensor) -> Tensor:
        r""":math:`\log \pi_k + \log N(x_n; \mu_k, \Sigma_k)` (Eq 4) of samples ``(N, d)``, shape ``(N, K)``."""
        centred = x.unsqueeze(-2) - self.means.unsqueeze(-3)  # (N, K, d)
        if self.is_diagonal:
            variances = self.covariances.unsqueeze(-3)
            mahalanobis = (centred.square() / variances).sum(-1)
            log_det = self.covariances.log().sum(-1)
        else:
            factor = torch.linalg.cholesky(self.covariances)  # (K, d, d)
            whitened = torch.linalg.solve_triangular(factor, centred.movedim(-3, -1), upper=False)  # (K, d, N)
            mahalanobis = whitened.square().sum(-2).mT
            log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_norm = x.shape[-1] * math.log(2 * math.pi) + log_det
        return _safe_log(self.weights).unsqueeze(-2) - 0.5 * (mahalanobis + log_norm.unsqueeze(-2))

    def responsibilities(self, x: Tensor) -> Tensor:
        """Posterior of each prototype (Eq 3) for samples ``(N, d)``, shape ``(N, K)``, rows summing to 1."""
        return self.log_joint(x).softmax(dim=-1)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Mean log-density of the samples ``(N, d)``, a scalar in nats."""
        return self.log_joint(x).logsumexp(dim=-1).mean(dim=-1)


def e_step(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Responsibilities (Eq 3) of samples ``(N, d)``, shape ``(N, K)``."""
    return mixture.responsibilities(x)


def m_step(x: Tensor, responsibilities: Tensor, *, covariance: str = "diag", floor: float = 1e-4) -> GaussianMixture:
    """The mixture that maximises the expected log-likelihood of samples ``(N, d)`` under responsibilities ``(N, K)``.

    Variances (diagonal) or eigenvalues (full) below ``floor``, in squared feature units, are raised to it; nothing is
    added. A component without any sample gets weight 0 and the mean and covariance of the batch.

    Raises:
        ValueError: where ``covariance`` is neither ``"diag"`` nor ``"full"``, or the shapes disagree.
    """
    if covariance not in _SCATTER:
        raise ValueError(f"covariance: wanted 'diag' or 'full', got {covariance!r}")
    if responsibilities.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"responsibilities: wanted {tuple(x.shape[:-1])} samples, got {tuple(responsibilities.shape)}")
    mass = responsibilities.sum(dim=-2)  # (K,)
    empty = mass < _least_mass(x.dtype)
    share = responsibilities / torch.where(empty, 1, mass).unsqueeze(-2)
    share = torch.where(empty.unsqueeze(-2), 1 / x.shape[-2], share)  # an empty component takes the batch's statistics
    means = share.mT @ x
    weights = torch.where(empty, 0, mass) / x.shape[-2]
    return GaussianMixture(weights, means, _SCATTER[covariance](x, share, means, floor))


def _least_mass(dtype: torch.dtype) -> float:
    # far below any sample's rounding, yet far enough above the smallest number that gradients divided by it are finite
    return torch.finfo(dtype).tiny ** 0.75


def _diagonal_scatter(x: Tensor, share: Tensor, means: Tensor, floor: float) -> Tensor:
    centred = x.unsqueeze(-2) - means.unsqueeze(-3)
    return (share.unsqueeze(-1) * centred.square()).sum(dim=-3).clamp_min(floor)


def _full_scatter(x: Tensor, share: Tensor, means: Tensor, floor: float) -> Tensor:
    centred = x.unsqueeze(-2) - means.unsqueeze(-3)  # (N, K, d)
    scatter = torch.einsum("...nk,...nki,...nkj->...kij", share, centred, centred)
    return _RaisedEigenvalues.apply(scatter, floor)


_SCATTER = {"diag": _diagonal_scatter, "full": _full_scatter}


class _RaisedEigenvalues(torch.autograd.Function):
    """Symmetric matrices with their eigenvalues raised to ``floor``, and the exact derivative of that.

    For F(S) = U f(w) U' the derivative is U (L * (U' dS U)) U' with L_ij = (f(w_i) - f(w_j)) / (w_i - w_j), f'(w_i) at
    repeated eigenvalues: for f = max(., floor) finite everywhere, unlike the derivative of the eigenvectors. A floor
    that is lost in the rounding of the largest eigenvalue is taken as that rounding, without gradient.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, matrices: Tensor, floor: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        # an eigenvalue that is rounding beside the largest may come out negative once the matrix is put together
        least = (8 * values.shape[-1] * torch.finfo(values.dtype).eps * values[..., -1:]).clamp_min(floor)
        raised = values.maximum(least)
        gap = values.unsqueeze(-1) - values.unsqueeze(-2)
        slope = (values > least).to(values.dtype).unsqueeze(-1).expand_as(gap)
        quotient = (raised.unsqueeze(-1) - raised.unsqueeze(-2)) / torch.where(gap == 0, 1, gap)
        ctx.save_for_backward(vectors, torch.where(gap == 0, slope, quotient))
        return (vectors * raised.unsqueeze(-2)) @ vectors.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        vectors, loewner = ctx.saved_tensors
        symmetric = (gradient + gradient.mT) / 2
        return vectors @ (loewner * (vectors.mT @ symmetric @ vectors)) @ vectors.mT, None


def fit(
    x: Tensor,
    components: int,
    *,
    steps: int = 5,
    covariance: str = "diag",
    floor: float = 1e-4,
    init: GaussianMixture | None = None,
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    """Gaussian mixture of samples ``(N, d)`` after ``steps`` EM steps; differentiable in ``x``.

    Args:
        x: the samples, float32 or float64.
        components: K, at most N.
        steps: EM steps; 0 returns the start.
        covariance: ``"diag"`` or ``"full"``.
        floor: least variance (or eigenvalue), in squared feature units.
        init: the mixture to start from; None takes K samples as means, the batch's covariance and equal weights. Two
            equal samples among them stay two equal components.
        generator: draws the K samples at random; None takes them evenly spaced over the batch, so that component k
            starts from the same sample in every modality.

    Raises:
        ValueError: where ``components`` is not within 1 ... N, or ``x`` or ``init`` has another shape.
    """
    _check(x, components)
    if init is not None and init.means.shape[-2:] != (components, x.shape[-1]):
        raise ValueError(f"init: wanted means {(components, x.shape[-1])}, got {tuple(init.means.shape)}")
    rows = _rows(x.shape[-2], components, generator) if init is None else None
    if steps and covariance == "diag" and (init is None or init.is_diagonal) and _is_fast(x):
        return _diagonal_steps(x, rows if init is None else init, steps, floor)[0]
    mixture = _start(x, rows, covariance, floor) if init is None else init
    for _ in range(steps):
        mixture = m_step(x, e_step(mixture, x), covariance=covariance, floor=floor)
    return mixture


def fit_and_assign(
    x: Tensor,
    components: int,
    *,
    steps: int = 5,
    covariance: str = "diag",
    floor: float = 1e-4,
    start: Tensor | None = None,
) -> tuple[GaussianMixture, GaussianMixture]:
    """:func:`fit`, and how the samples ``(N, d)`` lie about it: their weighted statistics under its responsibilities.

    The second mixture has for each component the mean responsibility, and the mean and the variances of the samples
    weighted by it: one more M step, diagonal whatever ``covariance`` is, without a floor. ``start`` has the rows
    ``(K,)`` of the samples that are the first means, see :func:`common_start`; evenly spaced ones if None.

    Raises:
        ValueError: as :func:`fit`.
    """
    _check(x, components)
    rows = _rows(x.shape[-2], components, None) if start is None else start
    if steps and covariance == "diag" and _is_fast(x):
        return _diagonal_steps(x, rows, steps, floor, assign=True)
    options = {"steps": steps, "covariance": covariance, "floor": floor}
    mixture = fit(x, components, init=_start(x, rows, covariance, floor), **options)
    return mixture, m_step(x, e_step(mixture, x), floor=0.0)


def common_start(present: Tensor, components: int) -> Tensor:
    """Rows ``(M, K)`` of each modality's own samples to start from, so that component k starts alike in all.

    They are evenly spaced over the samples of the batch that all modalities have. Where these are fewer than K, they
    are K samples that most modalities have, and a modality that lacks one takes another of its own in its place.
    Looks at no value on the host.

    Args:
        present: ``(M, B)`` bool, which samples of the batch a modality has; K at least.
        components: K.
    """
    held = present.sum(0)
    widely, turn = (held == held.amax()).sum(), torch.arange(components, device=present.device)
    spaced = (turn * (widely - 1) / max(components - 1, 1)).round().long()
    by_count = held.argsort(descending=True, stable=True)
    chosen = by_count[torch.where(widely >= components, spaced, turn)].sort().values
    has = present[:, chosen]
    others = present & ~torch.zeros_like(present[0]).index_fill(0, chosen, True)
    spare = others.byte().argsort(dim=1, descending=True, stable=True)
    start = torch.where(has, chosen, spare.gather(1, ((~has).cumsum(1) - 1).clamp_min(0)))
    return (present.cumsum(1) - 1).gather(1, start)


def _check(x: Tensor, components: int) -> None:
    if x.ndim < 2:
        raise ValueError(f"x: wanted samples (N, d), got shape {tuple(x.shape)}")
    if not 1 <= components <= x.shape[-2]:
        raise ValueError(f"components: wanted 1 ... {x.shape[-2]}, the number of samples, got {components}")


def _rows(n: int, components: int, generator: torch.Generator | None) -> Tensor:
    """The samples that a fit takes for its first means."""
    if generator is None:
        return torch.linspace(0, n - 1, components).round().long()
    return torch.randperm(n, generator=generator)[:components]


def _start(x: Tensor, rows: Tensor, covariance: str, floor: float) -> GaussianMixture:
    means = x[..., rows.to(x.device, non_blocking=True), :]
    batch = m_step(x, x.new_ones((*x.shape[:-1], 1)), covariance=covariance, floor=floor).covariances
    spread = batch.expand(*x.shape[:-2], len(rows), *batch.shape[x.ndim - 1 :])
    return GaussianMixture(x.new_full(means.shape[:-1], 1 / len(rows)), means, spread)


def _is_fast(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


def _diagonal_steps(
    x: Tensor, start: GaussianMixture | Tensor, steps: int, floor: float, assign: bool = False
) -> tuple[GaussianMixture, ...]:
    """From a mixture, or from the rows of the first means: the mixture after ``steps``, and after one without floor."""
    if isinstance(start, Tensor):
        parts, rows = (None, None, None), start.numpy()
    else:
        given = ((start.weights, 1), (start.means, 2), (start.covariances, 2))
        parts, rows = (part.expand(*x.shape[:-2], *part.shape[-size:]) for part, size in given), None
    found = _DiagonalSteps.apply(x, *parts, rows, [floor] * steps + [0.0] * assign, 1 + assign)
    return tuple(GaussianMixture(*found[i : i + 3]) for i in range(0, len(found), 3))


class _DiagonalSteps(torch.autograd.Function):
    r"""EM steps with diagonal covariances, :func:`m_step` of :func:`e_step`, and their derivative, on a CPU.

    With z = (x, x^2), both halves of a step are matrix products: the logarithm of a density is
    :math:`z \cdot (\mu / v, -1 / 2v) + c`, and a component's mean and mean square are the weighted means of z. Such
    sums cancel where a variance is small beside the square of what it varies about; so x is centred first and z is
    float64, whose digits hold the square of a float32 number. In NumPy: with samples this few, most of the time of
    PyTorch's operators, forward and backward, is not arithmetic.

    A step for each floor, from a mixture or from the rows of :func:`_start`; the mixtures after the ``last`` steps.
    """

    @staticmethod
    @np.errstate(all="ignore")  # what is not finite passes through, as in PyTorch
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weights: Tensor | None,
        means: Tensor | None,
        variances: Tensor | None,
        rows: np.ndarray | None,
        floors: list[float],
        last: int,
    ) -> tuple[Tensor, ...]:
        (samples,) = _arrays(x)
        n, d = samples.shape[-2:]
        centre = samples.sum(-2, keepdims=True) / n
        centred = samples - centre
        z = np.concatenate([centred, centred * centred], -1)
        if rows is None:
            weights, means, variances = _arrays(weights, means, variances)
            means = means - centre
        else:
            means, scatter = centred[..., rows, :], z[..., d:].sum(-2, keepdims=True) / n
            weights, ctx.free = np.full(means.shape[:-1], 1 / len(rows)), scatter > floors[0]
            variances = np.broadcast_to(np.maximum(scatter, floors[0]), means.shape)
        ctx.z, ctx.rows, ctx.kept, found = z, rows, [], []
        for floor in floors:
            density = _Density(weights, means, variances)
            posterior = density.posterior(z)
            mass = posterior.sum(-1)
            mass[mass < _least_mass(x.dtype)] = 0
            share = posterior * _inverse(mass)[..., None]
            share[mass == 0] = 1 / n
            moments = share @ z
            means = moments[..., :d]
            scatter = moments[..., d:] - means * means
            ctx.kept.append((density, posterior, share, mass, means, scatter > floor))
            weights, variances = mass / n, np.maximum(scatter, floor)
            found += [weights, means + centre, variances]
        return tuple(torch.from_numpy(part).to(x.dtype) for part in found[-3 * last :])

    @staticmethod
    @torch.autograd.function.once_differentiable
    @np.errstate(all="ignore")
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, rows, given = ctx.z, ctx.rows, _arrays(*gradients)
        n, d = z.shape[-2], z.shape[-1] // 2
        by_sample, loads = [], []  # the gradient of z is the sum over steps of by_sample' loads
        to_weights, to_means, to_variances = 0.0, 0.0, 0.0
        for density, posterior, share, mass, means, free in reversed(ctx.kept):
            if given:
                *given, of_weights, of_means, of_variances = given
                to_weights, to_means = to_weights + of_weights, to_means + of_means
                to_variances = to_variances + of_variances
            to_scatter = to_variances * free
            to_moments = np.concatenate([to_means - 2 * means * to_scatter, to_scatter], -1)
            to_share = to_moments @ _turned(z)
            to_share -= (share * to_share).sum(-1, keepdims=True)
            to_posterior = to_share * _inverse(mass)[..., None] + (to_weights * (mass > 0) / n)[..., None]
            to_log = posterior * (to_posterior - (posterior * to_posterior).sum(-2, keepdims=True))
            by_sample += [share, to_log]
            loads += [to_moments, density.loadings]
            to_weights, to_means, to_variances = density.gradients(to_log.sum(-1), to_log @ z)
        to_z = _turned(np.concatenate(by_sample, -2)) @ np.concatenate(loads, -2)
        if rows is not None:
            to_z[..., rows, :d] += to_means
            to_z[..., d:] += to_variances.sum(-2, keepdims=True) * ctx.free / n
        to_x = to_z[..., :d] + 2 * z[..., :d] * to_z[..., d:]
        to_start = (None,) * 3 if rows is not None else (to_weights, to_means, to_variances)
        every = (part if part is None else torch.from_numpy(part).to(gradients[0].dtype) for part in (to_x, *to_start))
        return *every, None, None, None


class _Density:
    """The logarithms of a mixture's weighted densities, a linear function of z: loadings and offsets."""

    def __init__(self, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> None:
        self.weights, self.means, self.variances = weights, means, variances
        self.precisions = 1 / variances
        self.scaled = means * self.precisions
        self.loadings = np.concatenate([self.scaled, -0.5 * self.precisions], -1)

    def posterior(self, z: np.ndarray) -> np.ndarray:
        """Eq 3 of z ``(..., N, 2 d)``: ``(..., K, N)``."""
        # without Eq 4's (2 pi)^{-d/2}, the same for every component
        offsets = np.log(self.weights) - 0.5 * (self.means * self.scaled + np.log(self.variances)).sum(-1)
        log_joint = self.loadings @ _turned(z)
        log_joint += offsets[..., None]
        log_joint -= log_joint.max(-2, keepdims=True)
        joint = np.exp(log_joint, out=log_joint)
        joint /= joint.sum(-2, keepdims=True)
        return joint

    def gradients(self, total: np.ndarray, to_loadings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of weights, means and variances: from the logarithms' gradients, summed over samples, and summed times z."""
        d = self.means.shape[-1]
        by_mean, by_square, each = to_loadings[..., :d], to_loadings[..., d:], total[..., None]
        to_means = self.precisions * by_mean - each * self.scaled
        to_precisions = self.means * by_mean - 0.5 * (by_square + each * (self.means * self.means - self.variances))
        return total * _inverse(self.weights), to_means, -to_precisions * self.precisions * self.precisions


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def _turned(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(-1, -2)


def _inverse(masses: np.ndarray) -> np.ndarray:
    """1 / x, and 0 at 0."""
    return (masses > 0) / np.where(masses > 0, masses, 1)


def _safe_log(weights: Tensor) -> Tensor:
    # log 0 = -inf is right in value, but its gradient 1/0 would turn every gradient into NaN
    positive = weights > 0
    return torch.where(positive, torch.where(positive, weights, 1).log(), -math.inf)
