r"""Comparing two samples by their moments (Eq 10) and by their kernel means (Eq 11, 12).

**Moments.** Mean, covariance (divided by n - 1) and the skewness of each coordinate, its third central moment over the
cube of its population standard deviation. The bracket of Eq 10 is

.. math:: |\mu_x - \mu_y|^2 + \|\Sigma_x - \Sigma_y\|_F^2 + |\Gamma_x - \Gamma_y|^2 .

**Maximum mean discrepancy.** The squared distance of the two kernel means, the bracket of Eq 11,

.. math:: E\,k(x, x') + E\,k(y, y') - 2\,E\,k(x, y),
    \qquad k(x, y) = \exp(-|x - y|^2 / (2 \sigma^2)) \quad (\text{Eq } 12).

The biased estimate takes the means over all pairs, :math:`x = x'` included: never negative, and about 2/n for two
samples of one law with a saturated kernel. The unbiased one leaves the pairs :math:`x = x'` out and may be negative.
A bandwidth far below the distances between samples saturates the kernel, k = 0 off the diagonal: no gradient is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decalign_core.alignment.distances import squared_distances

Bandwidth = float | Tensor | Sequence[float | Tensor]


@dataclass(frozen=True)
class Moments:
    r"""First three moments of a sample (Eq 10).

    Attributes:
        mean: :math:`\mu`, ``(..., p)``.
        covariance: :math:`\Sigma`, ``(..., p, p)``, divided by n - 1; 0 at n = 1.
        skewness: :math:`\Gamma`, ``(..., p)``; 0 with zero gradient where a coordinate does not vary.
    """

    mean: Tensor
    covariance: Tensor
    skewness: Tensor

    def flattened(self) -> Tensor:
        """All numbers in a row, ``(..., p + p^2 + p)``: Eq 10's bracket is the squared distance of two such rows."""
        return torch.cat([self.mean, self.covariance.flatten(-2), self.skewness], -1)


def moments(z: Tensor) -> Moments:
    """Mean, covariance and skewness of samples ``(..., n, p)``, of each batch over the leading axes.

    Raises:
        ValueError: where ``z`` is not a matrix with at least one row.
    """
    if z.ndim < 2 or not z.shape[-2]:
        raise ValueError(f"z: wanted samples (n, p) with n >= 1, got shape {tuple(z.shape)}")
    n = z.shape[-2]
    mean = z.mean(-2)
    centred = z - mean.unsqueeze(-2)
    covariance = centred.mT @ centred / max(n - 1, 1)
    varies = z.amax(-2) > z.amin(-2)  # the variance of equal numbers is that of their mean's rounding, not 0
    # skewness has no unit: divided by the largest entry first, so that no scale under- or overflows when cubed
    scaled = centred / torch.where(varies, centred.detach().abs().amax(-2), 1).unsqueeze(-2)
    squared = scaled.square()
    cubed = torch.where(varies, squared.mean(-2), 1).pow(1.5)
    skewness = torch.where(varies, (squared * scaled).mean(-2) / cubed, 0)
    return Moments(mean, covariance, skewness)


def moment_distance(x: Tensor | Moments, y: Tensor | Moments) -> Tensor:
    """The bracket of Eq 10 between samples ``(..., n, p)`` and ``(..., n', p)``, or between their moments; ``(...)``.

    Raises:
        ValueError: where the widths differ.
    """
    a, b = (z if isinstance(z, Moments) else moments(z) for z in (x, y))
    if a.mean.shape[-1] != b.mean.shape[-1]:
        raise ValueError(f"y: wanted width {a.mean.shape[-1]} as x's, got {b.mean.shape[-1]}")
    return (a.flattened() - b.flattened()).square().sum(-1)


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Eq 12 between samples ``(n, p)`` and ``(n', p)``: ``(n, n')``; ``bandwidth`` is sigma, in units of x.

    Raises:
        ValueError: where the samples are not matrices of one width, or the bandwidth is not positive.
    """
    _check(x, y, bandwidth)
    return _kernel(squared_distances(x, y), bandwidth)


def mmd(x: Tensor, y: Tensor, bandwidth: Bandwidth, *, unbiased: bool = False) -> Tensor:
    """The bracket of Eq 11, squared MMD between samples ``(..., n, p)`` and ``(..., n', p)``; ``(...)``.

    Args:
        x: samples of the first law.
        y: samples of the second law.
        bandwidth: sigma of Eq 12, a number or one a batch, ``(...)``; of several, the kernel is the mean of theirs.
        unbiased: leave out the pairs of a sample with itself; with a single sample the biased mean is taken.

    Raises:
        ValueError: as :func:`gaussian_kernel`.
    """
    _check(x, y, bandwidth)
    shares = [_pair_shares(z, unbiased) for z in (x, y)]
    between = x.new_full((x.shape[-2], y.shape[-2]), -1 / (x.shape[-2] * y.shape[-2]))
    shares = torch.cat([torch.cat([shares[0], between], 1), torch.cat([between.mT, shares[1]], 1)])
    return (shares * _kernel(_pooled_distances(x, y), bandwidth)).sum((-2, -1))


def _pair_shares(z: Tensor, unbiased: bool) -> Tensor:
    """What each pair of samples counts in a mean over pairs, ``(n, n)``."""
    n = z.shape[-2]
    if not unbiased or n == 1:
        return z.new_full((n, n), 1 / n**2)
    return z.new_full((n, n), 1 / (n * (n - 1))).fill_diagonal_(0)


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median distance between distinct points of the pooled samples, ``(...)`` without gradient (1 where it is 0)."""
    with torch.no_grad():
        squared = _pooled_distances(x, y)
        rows, columns = torch.triu_indices(*squared.shape[-2:], offset=1, device=squared.device)
        median = squared[..., rows, columns].median(-1).values.sqrt()
        return torch.where(median > 0, median, 1)


def _pooled_distances(x: Tensor, y: Tensor) -> Tensor:
    pooled = torch.cat([x, y], -2)
    return squared_distances(pooled, pooled)


def _check(x: Tensor, y: Tensor, bandwidth: Bandwidth) -> None:
    if x.ndim < 2 or y.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"y: wanted samples (n', p) beside x {tuple(x.shape)}, got {tuple(y.shape)}")
    # a tensor may lie on an accelerator: looking at its value would wait for it
    numbers = [sigma for sigma in _several(bandwidth) if not isinstance(sigma, Tensor)]
    if not all(sigma > 0 for sigma in numbers):
        raise ValueError(f"bandwidth: wanted positive numbers, got {numbers}")


def _several(bandwidth: Bandwidth) -> Sequence[float | Tensor]:
    return bandwidth if isinstance(bandwidth, Sequence) else [bandwidth]


def _kernel(squared: Tensor, bandwidth: Bandwidth) -> Tensor:
    batch = squared.shape[:-2]
    several = [s.expand(batch) if isinstance(s, Tensor) else squared.new_full(batch, s) for s in _several(bandwidth)]
    sigmas = torch.stack(several)[..., None, None]
    return (squared * (-0.5 / sigmas.square())).exp().mean(0)
