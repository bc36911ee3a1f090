"""The cross-modal transformer against PyTorch's own attention with the same weights, and its masks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decalign_core.nn.transformer import CrossModalTransformer, sinusoidal_positions

WIDTH, HEADS = 8, 2


def lengths_mask(frames, lengths):
    return torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)


def sequences():
    """Queries (3, 5, d), two contexts of other lengths, and their masks; every query has a key."""
    queries, contexts = torch.randn(3, 5, WIDTH), [torch.randn(3, 4, WIDTH), torch.randn(3, 6, WIDTH)]
    return queries, contexts, lengths_mask(5, [5, 2, 4]), [lengths_mask(4, [1, 4, 0]), lengths_mask(6, [6, 0, 3])]


def shaken(module):
    """The module with random biases and norms, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1 if parameter.mean() > 0.5 else 0, 0.5)
    return module.eval()


def torch_attention(layer, x, keys, mask):
    """``torch.nn.functional.multi_head_attention_forward`` with the layer's weights; batch first."""
    weight = torch.cat([layer.query.weight, layer.key_value.weight])
    bias = torch.cat([layer.query.bias, layer.key_value.bias])
    attended, weights = F.multi_head_attention_forward(
        *(x.transpose(0, 1), keys.transpose(0, 1), keys.transpose(0, 1)),
        *(WIDTH, HEADS, weight, bias, None, None, False, 0.0, layer.output.weight, layer.output.bias),
        training=False,
        key_padding_mask=~mask,
        average_attn_weights=False,
    )
    return attended.transpose(0, 1), weights


def literal(transformer, queries, contexts, query_mask, context_masks, norm_first):
    """MulT's encoder: the keys stay the embedded contexts, the queries go through the layers."""

    def embed(x):
        position = sinusoidal_positions(x.shape[1], WIDTH) if transformer.positions else 0
        return math.sqrt(WIDTH) * x + position

    x, keys, mask = embed(queries), torch.cat([embed(c) for c in contexts], 1), torch.cat(context_masks, 1)
    maps = []
    for layer in transformer.layers:
        norm = layer.attention_norm
        attended, weights = torch_attention(layer, *((norm(x), norm(keys)) if norm_first else (x, keys)), mask)
        maps.append(weights)
        x = x + attended if norm_first else norm(x + attended)
        hidden = layer.feedforward_norm(x) if norm_first else x
        x = x + layer.feedforward[3](layer.feedforward[0](hidden).relu())
        x = x if norm_first else layer.feedforward_norm(x)
    x = transformer.norm(x) if norm_first else x
    return x * query_mask.unsqueeze(-1), maps


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_cross_attention_is_pytorchs_with_the_same_weights(norm_first, positions, layers):
    transformer = shaken(CrossModalTransformer(WIDTH, HEADS, layers, positions=positions, norm_first=norm_first))
    arguments = sequences()
    wanted, maps = literal(transformer, *arguments, norm_first)
    assert (transformer(*arguments) - wanted).abs().max() <= 1e-5
    queries, contexts, query_mask, masks = arguments
    got = transformer.attention_maps(queries, contexts, query_mask, masks)
    assert len(got) == layers
    for one, two in zip(got, maps, strict=True):
        assert (one - two).abs().amax(dim=(1, 3))[query_mask].max() <= 1e-6  # what a padded frame asks means nothing


def as_torch_encoder(transformer, norm_first):
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=norm_first),
        len(transformer.layers),
        norm=nn.LayerNorm(WIDTH) if norm_first else None,
        enable_nested_tensor=False,
    )
    for theirs, ours in zip(encoder.layers, transformer.layers, strict=True):
        theirs.self_attn.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).data
        theirs.self_attn.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).data
        theirs.self_attn.out_proj.load_state_dict(ours.output.state_dict())
        theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feedforward[3].state_dict())
        theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
        theirs.norm2.load_state_dict(ours.feedforward_norm.state_dict())
    if norm_first:
        encoder.norm.load_state_dict(transformer.norm.state_dict())
    return encoder  # left in training mode, without dropout: evaluation would take a fused kernel of its own


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("norm_first", [True, False])
def test_own_frames_as_context_make_a_self_attention_transformer(norm_first, layers):
    transformer = shaken(CrossModalTransformer(WIDTH, HEADS, layers, norm_first=norm_first))
    queries, _, mask, _ = sequences()
    embedded = math.sqrt(WIDTH) * queries + sinusoidal_positions(5, WIDTH)
    wanted = as_torch_encoder(transformer, norm_first)(embedded, src_key_padding_mask=~mask)
    got = transformer(queries, [], mask, [])
    assert (got - wanted)[mask].abs().max() <= 1e-5
    assert got[~mask].eq(0).all()


@pytest.mark.parametrize("width", [2, 7, 8])
def test_positions_are_sines_and_cosines(width):
    half = (width + 1) // 2
    got = sinusoidal_positions(11, width)
    assert got.shape == (11, width)
    for position in range(11):
        for column in range(width):
            step = math.log(10_000) / max(half - 1, 1)
            angle = position * math.exp(-step * (column % half))
            wanted = math.sin(angle) if column < half else math.cos(angle)
            assert math.isclose(got[position, column], wanted, abs_tol=1e-5)


def test_longer_positions_begin_with_the_shorter():
    assert torch.equal(sinusoidal_positions(20, 6)[:9], sinusoidal_positions(9, 6))


def padded(x, mask, frames, value):
    garbage = torch.full((len(x), frames, x.shape[2]), value)
    return torch.cat([x, garbage], 1), torch.cat([mask, torch.zeros(len(x), frames, dtype=torch.bool)], 1)


@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_further_changes_no_refined_frame_and_no_map(norm_first):
    transformer = shaken(CrossModalTransformer(WIDTH, HEADS, 2, norm_first=norm_first))
    queries, contexts, query_mask, masks = sequences()
    longer_queries, longer_query_mask = padded(queries, query_mask, 4, 7.0)
    longer = [padded(x, mask, frames, -9.0) for x, mask, frames in zip(contexts, masks, (3, 20), strict=True)]
    longer_contexts, longer_masks = zip(*longer, strict=True)
    wanted = transformer(queries, contexts, query_mask, masks)
    got = transformer(longer_queries, longer_contexts, longer_query_mask, longer_masks)
    assert (got[:, :5] - wanted).abs().max() <= 1e-5 and got[:, 5:].eq(0).all()
    maps = transformer.attention_maps(queries, contexts, query_mask, masks)
    longer_maps = transformer.attention_maps(longer_queries, longer_contexts, longer_query_mask, longer_masks)
    for one, two in zip(maps, longer_maps, strict=True):
        first, second = two[:, :, :5, :4], two[:, :, :5, 7:13]
        assert (torch.cat([first, second], -1) - one).abs().max() <= 1e-6
        assert two[..., 4:7].eq(0).all() and two[..., 13:].eq(0).all()


def test_queries_without_any_key_get_nothing_from_attention():
    transformer = shaken(CrossModalTransformer(WIDTH, HEADS, 2))
    queries, contexts, query_mask, masks = sequences()
    masks = [mask.clone() for mask in masks]
    for mask in masks:
        mask[1] = False
    wanted = transformer(queries, contexts, query_mask, masks)
    other = [torch.where(torch.tensor([0, 1, 0]).bool().view(3, 1, 1), 5 + x, x) for x in contexts]
    leaves = [x.clone().requires_grad_() for x in other]
    got = transformer(queries, leaves, query_mask, masks)
    assert got.isfinite().all() and torch.equal(got, wanted)
    got.square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad[1].eq(0).all() for x in leaves)
    assert all(p.grad.isfinite().all() for p in transformer.parameters())
    assert all(weights[1].eq(0).all() for weights in transformer.attention_maps(queries, contexts, query_mask, masks))


def test_no_layers_give_the_embedded_queries_masked():
    transformer = CrossModalTransformer(WIDTH, HEADS, 0, positions=False)
    queries, contexts, query_mask, masks = sequences()
    got = transformer(queries, contexts, query_mask, masks)
    direction = F.cosine_similarity(got, queries, dim=-1)[query_mask]
    assert (direction - 1).abs().max() <= 1e-5 and got[~query_mask].eq(0).all()


@pytest.mark.parametrize(
    "option", ["attention_dropout", "feedforward_dropout", "residual_dropout", "embedding_dropout"]
)
def test_each_dropout_acts_in_training_only(option):
    transformer, arguments = CrossModalTransformer(WIDTH, HEADS, 1, **{option: 0.5}), sequences()
    assert not torch.equal(transformer(*arguments), transformer(*arguments))
    transformer.eval()
    assert torch.equal(transformer(*arguments), transformer(*arguments))


@pytest.mark.parametrize("norm_first", [True, False])
def test_every_parameter_gets_a_finite_gradient_and_states_travel(norm_first):
    transformer = CrossModalTransformer(WIDTH, HEADS, 2, norm_first=norm_first)
    other = CrossModalTransformer(WIDTH, HEADS, 2, norm_first=norm_first)
    arguments = sequences()
    transformer(*arguments).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in transformer.parameters())
    other.load_state_dict(transformer.state_dict())
    assert torch.equal(other(*arguments), transformer(*arguments))
