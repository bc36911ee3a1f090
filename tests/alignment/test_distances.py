"""Squared distances: the literal ones, at any size and scale, with the gradient of finite differences."""

import pytest
import torch

from decalign_core.alignment import distances
from decalign_core.alignment.distances import squared_distances


def literal(x, y):
    return torch.stack([torch.stack([(a - b).square().sum() for b in y]) for a in x])


@pytest.mark.parametrize("at_once", [1, 100, 2**20])
def test_they_are_the_literal_ones_in_parts_of_any_size(at_once, monkeypatch):
    monkeypatch.setattr(distances, "_AT_ONCE", at_once)
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(squared_distances(x, y), literal(x, y), rtol=1e-13, atol=0)


def test_batches_are_taken_one_by_one_and_broadcast():
    x, y = torch.randn(2, 3, 6, 4), torch.randn(3, 5, 4)
    got = squared_distances(x, y)
    assert got.shape == (2, 3, 6, 5)
    torch.testing.assert_close(got[1, 2], literal(x[1, 2], y[2]))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equal_points_are_exactly_0_apart_and_near_ones_do_not_cancel(offset):
    x = offset + torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    assert squared_distances(x, x).tolist() == [[0.0, 0.25], [0.25, 0.0]]


def test_gradient_is_the_finite_difference_also_at_equal_points():
    x, y = (torch.randn(2, n, 3, dtype=torch.float64).requires_grad_() for n in (4, 3))
    assert torch.autograd.gradcheck(squared_distances, (x, y))
    assert torch.autograd.gradcheck(lambda z: squared_distances(z, z), x)


def test_the_gradient_of_batches_that_were_broadcast_is_summed():
    x, y = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(squared_distances, (x, y))
