"""Attention on a CPU against PyTorch's kernel: values, gradients, masks, dropout."""

import math

import pytest
import torch
import torch.nn.functional as F

from decalign_core.nn import attention as room
from decalign_core.nn.attention import attention, attention_weights
from decalign_core.nn.dropout import kept_scale


def inputs(samples=5, heads=2, queries=6, keys=9, width=4, dtype=torch.float64):
    """Heads split off a projection, as the transformer gives them: not contiguous."""
    query, key, value = (
        torch.randn(samples, frames, heads, width, dtype=dtype).transpose(1, 2).requires_grad_()
        for frames in (queries, keys, keys)
    )
    mask = torch.arange(keys) < torch.tensor([keys, 1, 4, 0, 7][:samples]).unsqueeze(1)
    return query, key, value, mask


def pytorchs(query, key, value, mask):
    seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, seen) * mask.any(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("at_once", [1, 2 * 6 * 9 * 2, 10**6])
def test_values_and_gradients_are_pytorchs_however_many_samples_at_a_time(monkeypatch, at_once):
    monkeypatch.setattr(room, "_CACHED", at_once)
    query, key, value, mask = inputs()
    got, wanted = attention(query, key, value, mask), pytorchs(query, key, value, mask)
    assert (got - wanted).abs().max() <= 1e-12
    weight = torch.randn_like(wanted)
    for one, two in zip(*(torch.autograd.grad(x, (query, key, value), weight) for x in (got, wanted)), strict=True):
        assert (one - two).abs().max() <= 1e-12


def test_gradient_is_that_of_finite_differences():
    query, key, value, mask = inputs(samples=2, queries=2, keys=3, width=2)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, mask[:2]), (query, key, value))


def literal_with_dropout(query, key, value, mask, rate):
    weights = attention_weights(query, key, mask)
    return (weights * kept_scale(weights, rate)) @ value


def test_dropout_falls_on_weights_and_its_gradient_is_that_of_the_literal_product(monkeypatch):
    monkeypatch.setattr(room, "_CACHED", 100)
    query, key, value, mask = inputs()
    torch.manual_seed(7)
    got = attention(query, key, value, mask, 0.4)
    torch.manual_seed(7)
    wanted = literal_with_dropout(query, key, value, mask, 0.4)
    assert (got - wanted).abs().max() <= 1e-12
    assert (got - attention(query, key, value, mask)).abs().max() > 0.1
    weight = torch.randn_like(wanted)
    for one, two in zip(*(torch.autograd.grad(x, (query, key, value), weight) for x in (got, wanted)), strict=True):
        assert (one - two).abs().max() <= 1e-12


def test_a_sample_without_a_valid_key_receives_nothing_and_sends_no_gradient():
    query, key, value, mask = inputs()
    attended = attention(query, key, value, mask)
    assert attended[3].eq(0).all() and attended[:3].ne(0).any()
    for gradient in torch.autograd.grad(attended.square().sum(), (query, key, value)):
        assert gradient[3].eq(0).all() and gradient.isfinite().all()


def test_masked_keys_hold_anything_finite():
    query, key, value, mask = inputs()
    wanted = attention(query, key, value, mask)
    with torch.no_grad():
        for tensor in (key, value):
            tensor.masked_fill_(~mask[:, None, :, None], 1e30)
    assert torch.equal(attention(query, key, value, mask), wanted)


def test_bf16_takes_pytorchs_kernel():
    query, key, value, mask = inputs(dtype=torch.bfloat16)
    got = attention(query, key, value, mask)
    assert got.dtype == torch.bfloat16
    assert (got.double() - pytorchs(*(x.double() for x in (query, key, value)), mask)).abs().max() <= 0.05


def test_weights_are_the_softmax_over_valid_keys():
    query, key, _, mask = inputs(samples=3)
    weights = attention_weights(query, key, mask)
    assert weights.sum(-1).allclose(torch.ones(3, 2, 6, dtype=torch.float64))
    score = (query[2, 1, 3] * key[2, 1]).sum(-1)[:4] / math.sqrt(4)
    assert weights[2, 1, 3, :4].allclose(score.softmax(0)) and weights[2, 1, 3, 4:].eq(0).all()
