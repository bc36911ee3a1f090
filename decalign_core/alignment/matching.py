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

Bandwidth = float | Tensor | Sequence[float | Tensor]


@dataclass(frozen=True)
class Moments:
    r"""First three moments of a sample (Eq 10).

    Attributes:
        mean: :math:`\mu`, ``(p,)``.
        covariance: :math:`\Sigma`, ``(p, p)``, divided by n - 1; 0 at n = 1.
        skewness: :math:`\Gamma`, ``(p,)``; 0 with zero gradient where a coordinate does not vary.
    """

    mean: Tensor
    covariance: Tensor
    skewness: Tensor


def moments(z: Tensor) -> Moments:
    """Mean, covariance and skewness of samples ``(n, p)``.

    Raises:
        ValueError: where ``z`` is not a matrix with at least one row.
    """
    if z.ndim != 2 or not len(z):
        raise ValueError(f"z: wanted samples (n, p) with n >= 1, got shape {tuple(z.shape)}")
    mean = z.mean(dim=0)
    centred = z - mean
    covariance = centred.mT @ centred / max(len(z) - 1, 1)
    varies = z.amax(dim=0) > z.amin(dim=0)  # the variance of equal numbers is that of their mean's rounding, not 0
    # skewness has no unit: divided by the largest entry first, so that no scale under- or overflows when cubed
    scaled = centred / torch.where(varies, centred.detach().abs().amax(dim=0), 1)
    variance = torch.where(varies, scaled.square().mean(dim=0), 1)
    skewness = torch.where(varies, scaled.pow(3).mean(dim=0) / variance.pow(1.5), 0)
    return Moments(mean, covariance, skewness)


def moment_distance(x: Tensor | Moments, y: Tensor | Moments) -> Tensor:
    """The bracket of Eq 10 between samples ``(n, p)`` and ``(n', p)``, or between their moments; a scalar.

    Raises:
        ValueError: where the widths differ.
    """
    a, b = (z if isinstance(z, Moments) else moments(z) for z in (x, y))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"y: wanted width {len(a.mean)} as x's, got {len(b.mean)}")
    parts = ((a.mean, b.mean), (a.covariance, b.covariance), (a.skewness, b.skewness))
    return sum((first - second).square().sum() for first, second in parts)


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Eq 12 between samples ``(n, p)`` and ``(n', p)``: ``(n, n')``; ``bandwidth`` is sigma, in units of x.

    Raises:
        ValueError: where the samples are not matrices of one width, or the bandwidth is not positive.
    """
    _check(x, y, bandwidth)
    return _kernel(_squared_distances(x, y), bandwidth)


def mmd(x: Tensor, y: Tensor, bandwidth: Bandwidth, *, unbiased: bool = False) -> Tensor:
    """The bracket of Eq 11, squared MMD between samples ``(n, p)`` and ``(n', p)``; a scalar.

    Args:
        x: samples of the first law.
        y: samples of the second law.
        bandwidth: sigma of Eq 12; of several, the kernel is the mean of theirs.
        unbiased: leave out the pairs of a sample with itself; with a single sample the biased mean is taken.

    Raises:
        ValueError: as :func:`gaussian_kernel`.
    """
    _check(x, y, bandwidth)
    within_x, within_y, between = (_kernel(_squared_distances(a, b), bandwidth) for a, b in ((x, x), (y, y), (x, y)))
    return _within(within_x, unbiased) + _within(within_y, unbiased) - 2 * between.mean()


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median distance between distinct points of the pooled samples, a scalar without gradient (1 if it is 0)."""
    with torch.no_grad():
        pooled = torch.cat([x, y])
        rows, columns = torch.triu_indices(len(pooled), len(pooled), offset=1, device=pooled.device)
        median = _squared_distances(pooled, pooled)[rows, columns].median().sqrt()
        return torch.where(median > 0, median, 1)


def _check(x: Tensor, y: Tensor, bandwidth: Bandwidth) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"y: wanted samples (n', p) beside x {tuple(x.shape)}, got {tuple(y.shape)}")
    # a tensor may lie on an accelerator: looking at its value would wait for it
    numbers = [sigma for sigma in _several(bandwidth) if not isinstance(sigma, Tensor)]
    if not all(sigma > 0 for sigma in numbers):
        raise ValueError(f"bandwidth: wanted positive numbers, got {numbers}")


def _several(bandwidth: Bandwidth) -> Sequence[float | Tensor]:
    return bandwidth if isinstance(bandwidth, Sequence) else [bandwidth]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)


def _kernel(squared: Tensor, bandwidth: Bandwidth) -> Tensor:
    several = _several(bandwidth)
    return sum((-squared / (2 * sigma**2)).exp() for sigma in several) / len(several)


def _within(kernel: Tensor, unbiased: bool) -> Tensor:
    n = len(kernel)
    if unbiased and n > 1:
        return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
    return kernel.mean()
