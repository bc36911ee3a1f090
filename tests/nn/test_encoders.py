"""Projection, pooling and latent encoders against literal loops, with padding that holds anything."""

import math

import pytest
import torch
from torch import nn

from decalign_core.nn.encoders import LatentEncoder, TemporalProjection, masked_mean, part_encoder

BAD = [0.0, 1e30, math.inf, -math.inf, math.nan]


def masked_sequences(samples=3, frames=7, width=4, lengths=(7, 3, 5)):
    mask = torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(samples, frames, width), mask


def literal_convolution(x, weight):
    """Same-padded cross-correlation: one more zero frame on the right where the kernel is even."""
    frames, (width, features, size) = x.shape[1], weight.shape
    before = (size - 1) // 2
    result = torch.zeros(len(x), frames, width)
    for b in range(len(x)):
        for t in range(frames):
            for k in range(size):
                at = t + k - before
                if 0 <= at < frames:
                    for feature in range(features):
                        result[b, t] += weight[:, feature, k] * x[b, at, feature]
    return result


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_projection_is_a_same_padded_convolution_of_the_valid_frames(kernel_size):
    x, mask = masked_sequences()
    projection = TemporalProjection(4, 3, kernel_size)
    wanted = literal_convolution(x * mask.unsqueeze(-1), projection.convolution.weight) * mask.unsqueeze(-1)
    got = projection(x, mask)
    assert got.shape == (3, 7, 3)
    assert (got - wanted).abs().max() <= 1e-5


def test_kernel_of_one_is_the_same_as_conv1d():
    x, mask = masked_sequences()
    projection = TemporalProjection(4, 3, 1)
    wanted = projection.convolution(x.mT).mT
    assert (projection(x, mask) - wanted)[mask].abs().max() <= 1e-6


def test_a_bounded_projection_is_the_tanh_of_the_plain_one():
    x, mask = masked_sequences()
    plain, bounded = TemporalProjection(4, 3, 3), TemporalProjection(4, 3, 3, bounded=True)
    bounded.load_state_dict(plain.state_dict())
    assert torch.equal(bounded(x, mask), plain(x, mask).tanh())


@pytest.mark.parametrize("kernel_size", [1, 3, 4])
@pytest.mark.parametrize("bad", BAD)
def test_projection_does_not_read_padding(kernel_size, bad):
    x, mask = masked_sequences()
    projection = TemporalProjection(4, 3, kernel_size)
    wanted = projection(x.where(mask.unsqueeze(-1), 0), mask)
    leaf = x.where(mask.unsqueeze(-1), bad).requires_grad_()
    got = projection(leaf, mask)
    assert torch.equal(got, wanted) and got[~mask].eq(0).all()
    got.square().sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad[~mask].eq(0).all()
    assert projection.convolution.weight.grad.isfinite().all()


@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_longer_padding_changes_no_projection(kernel_size):
    x, mask = masked_sequences()
    projection = TemporalProjection(4, 3, kernel_size)
    longer = torch.cat([x, torch.randn(3, 6, 4)], 1), torch.cat([mask, torch.zeros(3, 6).bool()], 1)
    assert (projection(*longer)[:, :7] - projection(x, mask)).abs().max() <= 1e-6


def test_input_dropout_is_for_training_only():
    x, mask = masked_sequences()
    projection = TemporalProjection(4, 3, 1, dropout=0.5)
    assert not torch.equal(projection(x, mask), projection(x, mask))
    projection.eval()
    assert torch.equal(projection(x, mask), projection(x, mask))


@pytest.mark.parametrize("bad", BAD)
def test_mean_is_over_valid_frames_whatever_the_padding_holds(bad):
    x, mask = masked_sequences(lengths=(7, 0, 5))
    wanted = torch.stack([x[0].mean(0), torch.zeros(4), x[2, :5].mean(0)])
    leaf = x.where(mask.unsqueeze(-1), bad).requires_grad_()
    got = masked_mean(leaf, mask)
    assert (got - wanted).abs().max() <= 1e-6
    got.square().sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad[~mask].eq(0).all()


def test_mean_with_gaps_in_the_mask():
    x, mask = torch.tensor([[[1.0], [50.0], [3.0]]]), torch.tensor([[True, False, True]])
    assert masked_mean(x, mask).tolist() == [[2.0]]


def test_part_encoder_keeps_padding_zero():
    encoder = part_encoder(4)
    assert encoder.bias is None and encoder(torch.zeros(2, 3, 4)).eq(0).all()


def test_latent_encoder_is_a_two_layer_perceptron():
    encoder = LatentEncoder(4, 3, dropout=0.5).eval()
    linear = [module for module in encoder if isinstance(module, nn.Linear)]
    x = torch.randn(5, 4)
    wanted = (x @ linear[0].weight.T + linear[0].bias).clamp_min(0) @ linear[1].weight.T + linear[1].bias
    assert encoder(x).shape == (5, 3)
    assert (encoder(x) - wanted).abs().max() <= 1e-6


def test_every_parameter_gets_a_finite_gradient_and_states_travel():
    for make in (lambda: TemporalProjection(4, 3, 3), lambda: LatentEncoder(4, 3)):
        module, other = make(), make()
        arguments = masked_sequences() if isinstance(module, TemporalProjection) else (torch.randn(5, 4),)
        module(*arguments).square().sum().backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in module.parameters())
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(*arguments), module(*arguments))
