"""Dropout on a CPU: how much is kept, that nothing else happens, that streams are the seed's."""

import pytest
import torch
from torch import nn

from decalign_core.nn.dropout import Dropout, dropout, kept_scale


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_share_and_expectation(rate):
    n = 400_000
    kept = dropout(torch.ones(n), rate)
    share = (kept != 0).float().mean()
    assert abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert kept.unique().numel() == 2
    assert abs(kept.max() * round((1 - rate) * 2**16) / 2**16 - 1) < 1e-6


def test_rounded_probability_and_scale_leave_the_expectation_exact():
    rate = 0.123456789
    kept = round((1 - rate) * 2**16)
    assert kept_scale(torch.ones(10_000, dtype=torch.float64), rate).max() == 2**16 / kept


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5)])
def test_neighbours_do_not_share_their_fate(shape):
    torch.manual_seed(0)
    drawn = torch.stack([(kept_scale(torch.ones(shape), 0.5) > 0).flatten() for _ in range(4000)]).double()
    assert (drawn.mean(0) - 0.5).abs().max() < 0.05
    if drawn.shape[1] > 1:
        apart = torch.corrcoef(drawn.T) - torch.eye(drawn.shape[1], dtype=torch.float64)
        assert apart.abs().max() < 0.08


def test_gradient_passes_where_the_value_does():
    x = torch.randn(1000, requires_grad=True)
    y = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (y / x).detach().where(gradient != 0, 0)) or (gradient * x - y).abs().max() < 1e-6


def test_rates_at_the_ends():
    x = torch.randn(1000)
    assert torch.equal(dropout(x, 1e-9), x)
    assert dropout(x, 1 - 1e-9).isfinite().all()


def test_the_seed_decides():
    torch.manual_seed(3)
    first = dropout(torch.ones(99), 0.5)
    second = dropout(torch.ones(99), 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(torch.ones(99), 0.5), first) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_module_acts_while_training_only(dtype):
    module, x = Dropout(0.5), torch.randn(50, 50, dtype=dtype)
    assert isinstance(module, nn.Dropout)
    assert module(x).eq(0).any() and module(x).dtype == dtype
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
