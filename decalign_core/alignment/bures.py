r"""The squared 2-Wasserstein distance between Gaussians (Eq 6).

.. math:: C(p, q) = |\mu_p - \mu_q|^2 + \mathrm{Tr}\big(\Sigma_p + \Sigma_q - 2 (\Sigma_p \Sigma_q)^{1/2}\big)

The second summand is the squared Bures distance of the covariances. :math:`\Sigma_p \Sigma_q` is not symmetric; its
square root has the same trace as that of the symmetric :math:`X = \Sigma_p^{1/2} \Sigma_q \Sigma_p^{1/2}`, which is
what is computed. For diagonal covariances it is :math:`\sum_j (\sqrt{v_{pj}} - \sqrt{v_{qj}})^2`.

The gradient of the trace is half the optimal transport map between the Gaussians, in closed form:

.. math:: \frac{\partial\,\mathrm{Tr}\,X^{1/2}}{\partial \Sigma_p} = \tfrac12 \Sigma_p^{-1/2} X^{1/2} \Sigma_p^{-1/2},
    \qquad \frac{\partial\,\mathrm{Tr}\,X^{1/2}}{\partial \Sigma_q} = \tfrac12 \Sigma_p^{1/2} X^{-1/2} \Sigma_p^{1/2}.

It is finite at repeated eigenvalues, where differentiating the eigenvectors would not be. Where an eigenvalue is 0 the
gradient of its square root is defined as 0; that of its trace, 1, remains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decalign_core.alignment.distances import by_differences, gradients, squared_distances
from decalign_core.alignment.mixture import GaussianMixture


def bures_wasserstein(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Eq 6 between all components of two mixtures, ``(K_p, K_q)``, in squared feature units; weights play no part.

    Raises:
        ValueError: where the two live in different dimensions.
    """
    if p.means.shape[-1] != q.means.shape[-1]:
        raise ValueError(f"q: wanted means of width {p.means.shape[-1]} as p's, got {q.means.shape[-1]}")
    if p.is_diagonal and q.is_diagonal:
        other = (part.clone() if q is p else part for part in (q.means, q.covariances))
        return _Diagonal.apply(p.means, p.covariances, *other)  # given one tensor twice, it could not be compiled
    return squared_distances(p.means, q.means) + _bures(_full(p), _full(q))


class _Diagonal(torch.autograd.Function):
    """Eq 6 for variances: the squared distance of the points (means, standard deviations)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, *parts: Tensor) -> Tensor:
        points = [torch.cat([means, variances.sqrt()], -1) for means, variances in (parts[:2], parts[2:])]
        ctx.save_for_backward(*points)
        return by_differences(*points)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        towards = []
        for to_point, point, axis in zip(
            gradients(gradient, *ctx.saved_tensors), ctx.saved_tensors, (-1, -2), strict=True
        ):
            to_means, to_roots = to_point.tensor_split(2, -1)
            roots = point.tensor_split(2, -1)[1]
            # at a variance of 0 the root's gradient is defined as 0; that of the trace is left
            of_trace = gradient.sum(axis).unsqueeze(-1).sum_to_size(*roots.shape[:-1], 1)
            towards += [to_means, torch.where(roots > 0, to_roots / (2 * roots), of_trace)]
        return tuple(towards)


def _full(mixture: GaussianMixture) -> Tensor:
    return mixture.covariances.diag_embed() if mixture.is_diagonal else mixture.covariances


def _bures(p: Tensor, q: Tensor) -> Tensor:
    traces = [matrices.diagonal(dim1=-2, dim2=-1).sum(-1) for matrices in (p, q)]
    cross = _CrossTrace.apply(p.unsqueeze(-3), q.unsqueeze(-4))
    return (traces[0].unsqueeze(-1) + traces[1].unsqueeze(-2) - 2 * cross).clamp_min(0)


class _CrossTrace(torch.autograd.Function):
    """Tr (P^{1/2} Q P^{1/2})^{1/2} of broadcast symmetric matrices, with the closed-form gradient above."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, p: Tensor, q: Tensor) -> Tensor:
        # square roots of eigenvalues near 0 lose half their digits: float64 inside keeps float32's outside
        root, inverse_root = _roots(p.double())
        x_root, x_inverse_root = _roots(root @ q.double() @ root)
        ctx.save_for_backward(inverse_root @ x_root @ inverse_root, root @ x_inverse_root @ root)
        ctx.shapes = p.shape, q.shape
        return x_root.diagonal(dim1=-2, dim2=-1).sum(-1).to(p.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        scale = 0.5 * gradient[..., None, None]
        return tuple(
            (scale * towards.to(gradient.dtype)).sum_to_size(shape)
            for towards, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        )


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and pseudo-inverse square root of symmetric positive semi-definite matrices."""
    values, vectors = torch.linalg.eigh(matrices)
    cutoff = values[..., -1:].clamp_min(0) * matrices.shape[-1] * torch.finfo(matrices.dtype).eps
    positive = values > cutoff
    roots = torch.where(positive, values, 0).sqrt()
    inverse = torch.where(positive, torch.where(positive, values, 1).rsqrt(), 0)
    return tuple((vectors * s.unsqueeze(-2)) @ vectors.mT for s in (roots, inverse))
