"""Rows of padded batches: packed and not, both ways, whatever padding holds."""

import math

import pytest
import torch

from decalign_core.nn.encoders import TemporalProjection
from decalign_core.nn.frames import Frames
from decalign_core.nn.transformer import CrossModalTransformer

MASK = torch.arange(5) < torch.tensor([[5], [2], [0], [3]])


def test_packed_rows_are_the_valid_frames_in_order():
    x = torch.randn(4, 5, 3)
    at = Frames(MASK)
    assert torch.equal(at.pack(x), x[MASK])
    assert torch.equal(at.unpack(at.pack(x)), x.where(MASK.unsqueeze(-1), 0))


@pytest.mark.parametrize("packed", [True, False])
def test_padding_is_not_read(packed):
    x = torch.randn(4, 5, 3).where(MASK.unsqueeze(-1), math.nan)
    at = Frames(MASK, packed)
    assert at.pack(x).isfinite().all()
    assert torch.equal(at.unpack(at.pack(x)), x.where(MASK.unsqueeze(-1), 0))


def test_a_full_batch_is_only_seen_otherwise():
    x = torch.randn(4, 5, 3)
    at = Frames(torch.ones(4, 5, dtype=torch.bool))
    assert at.pack(x).data_ptr() == x.data_ptr() and torch.equal(at.unpack(at.pack(x)), x)


def every_frame(monkeypatch):
    start = Frames.__init__
    monkeypatch.setattr(Frames, "__init__", lambda self, mask, packed=None: start(self, mask, False))


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_transformer_without_packing_gives_the_same_values_and_gradients(monkeypatch, norm_first):
    transformer = CrossModalTransformer(8, 2, 2, norm_first=norm_first).double()
    queries, context = torch.randn(4, 5, 8).double(), torch.randn(4, 6, 8).double()
    context_mask = torch.arange(6) < torch.tensor([[1], [6], [3], [0]])

    def outcome():
        refined = transformer(queries, [context, queries], MASK, [context_mask, MASK])
        return refined, torch.autograd.grad(refined.square().sum(), transformer.parameters())

    packed, packed_gradients = outcome()
    every_frame(monkeypatch)
    plain, plain_gradients = outcome()
    assert (packed - plain).abs().max() <= 1e-12
    for one, two in zip(packed_gradients, plain_gradients, strict=True):
        assert (one - two).abs().max() <= 1e-10


def test_the_projection_without_packing_gives_the_same_values_and_finite_gradients(monkeypatch):
    projection = TemporalProjection(3, 2).double()
    x = torch.randn(4, 5, 3).double().where(MASK.unsqueeze(-1), math.nan)
    packed = projection(x, MASK)
    every_frame(monkeypatch)
    plain = projection(x, MASK)
    assert (packed - plain).abs().max() <= 1e-14
    (gradient,) = torch.autograd.grad(plain.square().sum(), projection.convolution.weight)
    assert gradient.isfinite().all()
