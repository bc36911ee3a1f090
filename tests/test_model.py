"""DecAlign for any number of modalities: masks, options, gradients and what the attention maps say."""

import itertools
from dataclasses import replace

import pytest
import tiny_bert
import torch
import torch.nn.functional as F

from decalign_core.model import DecAlign, DecAlignConfig
from decalign_core.nn.frames import Frames
from decalign_core.nn.text import TextEncoder
from decalign_core.objective import ObjectiveConfig, objective
from decalign_core.types import Batch

FRAMES = {"red": 6, "green": 9, "blue": 4, "grey": 7}
WIDTHS = {"red": 5, "green": 3, "blue": 2, "grey": 6}
SAMPLES = 8
OPTIONS = {
    "default": {},
    "not decoupled": {"decoupled": False},
    "own frames": {"cross_modal": False},
    "no positions": {"positions": False},
    "norm last": {"norm_first": False},
    "no latent": {"latent": "off"},
    "latent of each": {"latent": "per_modality", "latent_width": 3},
    "kernel 3": {"kernel_size": 3},
    "kernel 4": {"kernel_size": 4},
    "classes": {"outputs": 5},
    "no layers": {"layers": 0},
}


def make_batch(modalities=3, samples=SAMPLES, classes=0, absent=True):
    """Random lengths per sample and modality; the longest have padding after them; one sample lacks a modality."""
    names = list(FRAMES)[:modalities]
    lengths = {name: torch.randint(1, FRAMES[name] + 1, (samples,)) for name in names}
    if absent:
        lengths[names[0]][1] = 0
    return Batch(
        {name: torch.randn(samples, FRAMES[name] + 2, WIDTHS[name]) for name in names},
        {name: torch.arange(FRAMES[name] + 2) < lengths[name].unsqueeze(1) for name in names},
        torch.randint(0, classes, (samples,)) if classes else torch.randn(samples),
        [f"v$_${index}" for index in range(samples)],
    )


def make_model(modalities=3, training=False, **options):
    chosen = {"width": 8, "heads": 2, "layers": 2} | options
    model = DecAlign(DecAlignConfig({name: WIDTHS[name] for name in list(FRAMES)[:modalities]}, **chosen))
    return model.train(training)


def without_dropout(modalities=3, **options):
    names = ("input", "attention", "feedforward", "residual", "embedding", "output")
    return make_model(modalities, training=True, **{f"{name}_dropout": 0.0 for name in names}, **options)


def tensors(representation):
    """What no padding may change, by name."""
    parts = {"fused": representation.fused, "prediction": representation.prediction}
    for field in ("pooled_unique", "pooled_common", "latent"):
        parts |= {f"{field} {name}": values for name, values in getattr(representation, field).items()}
    return parts


def assert_close(first, second, tolerance=1e-5):
    one, two = tensors(first), tensors(second)
    assert list(one) == list(two)
    for name in one:
        assert (one[name] - two[name]).abs().max() <= tolerance, name


def lengthened(batch, frames=20, value=1e4):
    """Further padded frames of garbage, and garbage in those that there were; token ids get other valid ids."""

    def garbage(x, mask):
        fill = torch.full((len(x), frames, *x.shape[2:]), 3 if x.ndim == 2 else value).to(x.dtype)
        kept = mask if x.ndim == 2 else mask.unsqueeze(-1)
        return torch.cat([x.where(kept, fill[:, :1]), fill], 1)

    features = {name: garbage(x, batch.masks[name]) for name, x in batch.features.items()}
    masks = {name: F.pad(mask, (0, frames)) for name, mask in batch.masks.items()}
    return replace(batch, features=features, masks=masks)


def joined(first, second):
    def join(field):
        return {
            name: torch.cat([values, getattr(second, field)[name]]) for name, values in getattr(first, field).items()
        }

    ids = [*first.ids, *second.ids]
    return Batch(join("features"), join("masks"), torch.cat([first.target, second.target]), ids)


def rows(representation, index):
    def cut(mapping):
        return {name: values[index] for name, values in mapping.items()}

    mappings = ("unique", "common", "pooled_unique", "pooled_common", "latent", "masks")
    return replace(
        representation,
        **{field: cut(getattr(representation, field)) for field in mappings},
        fused=representation.fused[index],
        prediction=representation.prediction[index],
    )


# --- shapes ---


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_shapes_for_any_number_of_modalities(modalities, outputs):
    batch, model = make_batch(modalities), make_model(modalities, outputs=outputs, latent_width=3)
    representation, cut = model(batch), batch.trimmed()
    assert representation.prediction.shape == (SAMPLES, outputs)
    assert representation.fused.shape == (SAMPLES, 2 * modalities * 8)
    for name in batch.features:
        frames = cut.masks[name].shape[1]
        assert representation.unique[name].shape == representation.common[name].shape == (SAMPLES, frames, 8)
        assert representation.pooled_unique[name].shape == representation.pooled_common[name].shape == (SAMPLES, 8)
        assert representation.latent[name].shape == (SAMPLES, 3)
        assert torch.equal(representation.masks[name], cut.masks[name])
        for part in (representation.unique[name], representation.common[name]):
            assert part[~cut.masks[name]].eq(0).all() and part[cut.masks[name]].ne(0).any()


def test_pooled_parts_are_means_over_valid_frames():
    batch, model = make_batch(), make_model()
    representation = model(batch)
    for name, mask in representation.masks.items():
        for parts, pooled in (
            (representation.unique, representation.pooled_unique),
            (representation.common, representation.pooled_common),
        ):
            for sample in range(SAMPLES):
                frames = parts[name][sample][mask[sample]]
                wanted = frames.mean(0) if len(frames) else torch.zeros(8)
                assert (pooled[name][sample] - wanted).abs().max() <= 1e-6


def test_the_order_of_the_batchs_modalities_does_not_matter():
    batch, model = make_batch(), make_model()
    turned = replace(
        batch,
        features=dict(reversed(batch.features.items())),
        masks=dict(reversed(batch.masks.items())),
    )
    assert_close(model(turned), model(batch), 0)


# --- masks ---


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_padding_changes_nothing(modalities, option):
    model, batch = make_model(modalities, **OPTIONS[option]), make_batch(modalities)
    wanted = model(batch)
    assert_close(model(lengthened(batch)), wanted)  # the model cuts it off
    # beside samples so long that nothing is cut off
    frames = {name: values.shape[1] + 20 for name, values in batch.features.items()}
    longer = replace(
        batch,
        features={name: torch.randn(SAMPLES, length, WIDTHS[name]) for name, length in frames.items()},
        masks={name: torch.ones(SAMPLES, length, dtype=torch.bool) for name, length in frames.items()},
    )
    both = model(joined(lengthened(batch), longer))
    assert {name: mask.shape[1] for name, mask in both.masks.items()} == frames
    assert_close(rows(both, slice(SAMPLES)), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_padding_may_hold_what_is_no_number(value):
    model, batch = make_model(kernel_size=3), make_batch()
    assert_close(model(lengthened(batch, value=value)), model(batch))


@pytest.mark.parametrize("cross_modal", [True, False])
def test_padding_changes_no_attention_map(cross_modal):
    model, batch = make_model(cross_modal=cross_modal), make_batch()
    long = {name: torch.ones(SAMPLES, values.shape[1] + 20).bool() for name, values in batch.features.items()}
    longer = Batch(
        {name: torch.randn(*mask.shape, WIDTHS[name]) for name, mask in long.items()}, long, batch.target, batch.ids
    )
    maps, padded_maps = model.attention_maps(batch), model.attention_maps(joined(lengthened(batch), longer))
    short = {name: mask.shape[1] for name, mask in batch.trimmed().masks.items()}
    for name, layers in maps.items():
        contexts = [other for other in short if other != name] if cross_modal else [name]
        starts = itertools.accumulate([0, *(long[other].shape[1] for other in contexts[:-1])])
        at = torch.cat([torch.arange(short[other]) + start for other, start in zip(contexts, starts, strict=True)])
        for layer, padded in zip(layers, padded_maps[name], strict=True):
            assert (padded[:SAMPLES, :, : short[name]][..., at] - layer).abs().max() <= 1e-5


def test_neighbours_in_the_batch_change_nothing():
    model, batch = make_model(kernel_size=3), make_batch()
    whole = model(batch)
    for sample in range(SAMPLES):
        assert_close(model(batch[[sample]]), rows(whole, [sample]))


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_permuted_samples_give_permuted_outputs(modalities):
    model, batch, order = make_model(modalities), make_batch(modalities), torch.randperm(SAMPLES)
    assert not torch.equal(order, torch.arange(SAMPLES))
    assert_close(model(batch[order]), rows(model(batch), order))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_absent_modalities_leave_everything_finite(modalities, norm_first):
    model, batch = without_dropout(modalities, norm_first=norm_first), make_batch(modalities)
    names = list(batch.masks)
    masks = {name: mask.clone() for name, mask in batch.masks.items()}
    masks[names[0]][:2] = False  # one modality of sample 0 and 1
    for name in names[1:]:
        masks[name][2] = False  # all but one of sample 2
    for name in names:
        masks[name][3] = False  # nothing at all of sample 3
    batch = replace(batch, masks=masks)
    representation = model(batch)
    assert all(values.isfinite().all() for values in tensors(representation).values())
    assert representation.pooled_unique[names[0]][:2].eq(0).all()
    objective(representation, batch, ObjectiveConfig(components=3, contrastive_weight=0.1)).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    maps = model.attention_maps(batch)
    assert all(layer.isfinite().all() for layers in maps.values() for layer in layers)


def test_a_modality_absent_everywhere():
    model, batch = without_dropout(3), make_batch(3)
    batch = replace(batch, masks=batch.masks | {"green": torch.zeros_like(batch.masks["green"])})
    representation = model(batch)
    objective(representation, batch, ObjectiveConfig(components=3)).total.backward()
    assert representation.prediction.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


# --- options ---


@pytest.mark.parametrize(("modalities", "classes"), [(2, 0), (3, 5), (4, 0)])
@pytest.mark.parametrize("option", [name for name in OPTIONS if name not in ("classes", "no layers")])
def test_every_parameter_gets_a_finite_gradient(option, modalities, classes):
    model = without_dropout(modalities, **OPTIONS[option], outputs=classes or 1)
    batch = make_batch(modalities, classes=classes)
    objective(model(batch), batch, ObjectiveConfig(components=3)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    largest = [
        parameter.grad.abs().max() for name, parameter in model.named_parameters() if "key_value.bias" not in name
    ]
    assert min(largest) > 0


@pytest.mark.parametrize("option", OPTIONS)
def test_states_travel(option):
    first, second, batch = make_model(**OPTIONS[option]), make_model(**OPTIONS[option]), make_batch()
    assert not torch.equal(first(batch).prediction, second(batch).prediction)
    second.load_state_dict(first.state_dict())
    assert_close(first(batch), second(batch), 0)


def test_unique_and_common_encoders():
    model, batch = make_model(), make_batch()
    projected = {}
    for name, projection in model.projections.items():
        projection.register_forward_hook(lambda _, __, output, name=name: projected.update({name: output}))
    representation = model(batch)
    for name, x in projected.items():
        assert (representation.unique[name] - x @ model.unique_encoders[name].weight.T).abs().max() <= 1e-6
        assert (representation.common[name] - x @ model.common_encoder.weight.T).abs().max() <= 1e-6
    weights = [encoder.weight for encoder in model.unique_encoders.values()]
    assert len({id(weight) for weight in weights}) == 3, "an encoder of its own for each modality"


def test_without_decoupling_both_parts_are_the_projected_features():
    model, batch = make_model(decoupled=False), make_batch()
    projected = {}
    for name, projection in model.projections.items():
        projection.register_forward_hook(lambda _, __, output, name=name: projected.update({name: output}))
    representation = model(batch)
    for name, x in projected.items():
        assert torch.equal(representation.unique[name], x) and torch.equal(representation.common[name], x)
    difference = sum(p.numel() for p in make_model().parameters()) - sum(p.numel() for p in model.parameters())
    assert difference == 4 * 8 * 8


def test_latent_encoders():
    batch = make_batch()
    off, shared, own = (make_model(latent=latent) for latent in ("off", "shared", "per_modality"))
    representation = off(batch)
    assert all(torch.equal(representation.latent[m], z) for m, z in representation.pooled_common.items())
    counts = [sum(p.numel() for p in model.parameters()) for model in (off, shared, own)]
    one = 2 * (8 * 8 + 8)
    assert (counts[1] - counts[0], counts[2] - counts[0]) == (one, 3 * one)
    assert len({id(encoder) for encoder in shared.latent_encoders.values()}) == 1
    for model in (shared, own):
        representation = model(batch)
        for name, z in representation.pooled_common.items():
            assert torch.equal(representation.latent[name], model.latent_encoders[name](z))
            assert not torch.equal(representation.latent[name], z)


def shuffled(batch):
    """Each sample's valid frames in another order, the masks as they were."""
    features = {name: values.clone() for name, values in batch.features.items()}
    for name, mask in batch.masks.items():
        for sample in range(len(batch)):
            at = mask[sample].nonzero().squeeze(1)
            features[name][sample, at] = batch.features[name][sample, at.flip(0)]
    return replace(batch, features=features)


@pytest.mark.parametrize("cross_modal", [True, False])
def test_the_order_of_frames_is_seen_with_positions_only(cross_modal):
    batch = make_batch()
    blind, seeing = (make_model(positions=positions, cross_modal=cross_modal) for positions in (False, True))
    assert (blind(shuffled(batch)).prediction - blind(batch).prediction).abs().max() <= 1e-5
    assert (seeing(shuffled(batch)).prediction - seeing(batch).prediction).abs().max() > 1e-3


def test_a_wider_kernel_sees_the_order_of_frames():
    model, batch = make_model(positions=False, kernel_size=3), make_batch()
    assert (model(shuffled(batch)).prediction - model(batch).prediction).abs().max() > 1e-3


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_own_frames_take_as_many_parameters_and_no_other_modality(modalities):
    cross, own = (make_model(modalities, cross_modal=cross_modal) for cross_modal in (True, False))
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (cross, own)]
    assert shapes[0] == shapes[1]
    own.load_state_dict(cross.state_dict())
    batch = make_batch(modalities, absent=False)
    name = next(iter(batch.features))
    other = replace(batch, features=batch.features | {name: batch.features[name] + 1})
    rest = slice(8, 8 * modalities)  # the refined features of the other modalities
    assert torch.equal(own(other).fused[:, rest], own(batch).fused[:, rest])
    assert (cross(other).fused[:, rest] - cross(batch).fused[:, rest]).abs().max() > 1e-4


def test_dropout_rates_by_modality():
    model = make_model(training=True, attention_dropout={"red": 0.5}, input_dropout={"green": 0.25, "red": 0.125})
    assert [layer.attention_dropout for layer in model.transformers["red"].layers] == [0.5, 0.5]
    assert [layer.attention_dropout for layer in model.transformers["blue"].layers] == [0.0, 0.0]
    rates = {name: projection.dropout.p for name, projection in model.projections.items()}
    assert rates == {"red": 0.125, "green": 0.25, "blue": 0.0}


@pytest.mark.parametrize("name", ["input", "attention", "feedforward", "residual", "embedding", "output"])
def test_each_dropout_acts_in_training_only(name):
    model, batch = without_dropout(), make_batch()
    assert torch.equal(model(batch).prediction, model(batch).prediction)
    rates = {f"{other}_dropout": 0.5 if other == name else 0.0 for other in _DROPOUTS}
    model = make_model(training=True, **rates)
    assert not torch.equal(model(batch).prediction, model(batch).prediction)
    model.eval()
    assert torch.equal(model(batch).prediction, model(batch).prediction)


_DROPOUTS = ("input", "attention", "feedforward", "residual", "embedding", "output")


# --- attention maps ---


@pytest.mark.parametrize("option", ["default", "own frames", "norm last", "no positions", "kernel 3"])
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_attention_maps_are_what_forward_uses(modalities, option):
    model, batch = make_model(modalities, layers=3, **OPTIONS[option]), make_batch(modalities)
    attended, values = {}, {}  # by layer, of valid frames: the heads' weighted values side by side, and the values

    def keep(store, key, tensor):
        store.setdefault(key, tensor)  # the maps' own pass comes second

    for name, transformer in model.transformers.items():
        for index, layer in enumerate(transformer.layers):
            key = name, index
            layer.output.register_forward_pre_hook(lambda _, x, key=key: keep(attended, key, x[0]))
            layer.key_value.register_forward_hook(lambda _, __, out, key=key: keep(values, key, out[..., 8:]))
    model(batch)
    maps = model.attention_maps(batch)
    masks = batch.trimmed().masks
    for name, layers in maps.items():
        contexts = [name] if option == "own frames" else [other for other in masks if other != name]
        mask = torch.cat([masks[other] for other in contexts], 1)
        assert len(layers) == 3
        for index, weights in enumerate(layers):
            assert weights.shape == (SAMPLES, 2, masks[name].shape[1], mask.shape[1])
            assert weights.masked_select(~mask[:, None, None]).eq(0).all()
            wanted = mask.any(1).float()[:, None, None].expand(weights.shape[:3])
            assert (weights.sum(-1) - wanted).abs().max() <= 1e-5
            heads = Frames(mask).unpack(values[name, index]).unflatten(-1, (2, 4)).transpose(1, 2)
            recomputed = Frames(masks[name]).pack((weights @ heads).transpose(1, 2).flatten(2))
            assert (recomputed - attended[name, index]).abs().max() <= 1e-5


# --- a text encoder as a modality ---


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("tiny-bert"))


def text_batch():
    batch = make_batch(2)
    ids = torch.randint(5, len(tiny_bert.WORDS), batch.masks["red"].shape)
    return replace(batch, features={"red": ids, "green": batch.features["green"]})


@pytest.mark.parametrize("fine_tune", [True, False])
def test_token_ids_go_in(bert, fine_tune):
    options = {"width": 8, "heads": 2, "layers": 1}
    model = DecAlign(DecAlignConfig({"red": TextEncoder(bert, fine_tune), "green": WIDTHS["green"]}, **options))
    batch = text_batch()
    objective(model(batch), batch, ObjectiveConfig(components=3)).total.backward()
    for name, parameter in model.named_parameters():
        if fine_tune or not name.startswith("backbones"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
    model.eval()
    wanted = model(batch)
    assert wanted.prediction.isfinite().all()
    assert_close(model(lengthened(batch)), wanted)
    assert_close(rows(model(joined(lengthened(batch), lengthened(full(batch)))), slice(SAMPLES)), wanted)


def full(batch):
    return replace(batch, masks={name: torch.ones_like(mask) for name, mask in batch.masks.items()})


# --- errors ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": {"red": 5}}, r"^model\.modalities: wanted at least 2, got \['red'\]$"),
        ({"heads": 3, "width": 8}, r"^model\.heads: wanted a divisor of width 8, got 3$"),
        ({"width": 0}, r"^model\.width: wanted at least 1, got 0$"),
        ({"outputs": 0}, r"^model\.outputs: wanted at least 1, got 0$"),
        ({"kernel_size": 0}, r"^model\.kernel_size: wanted at least 1, got 0$"),
        ({"layers": -1}, r"^model\.layers: wanted at least 0, got -1$"),
        ({"latent": "own"}, r"^model\.latent: wanted .* got 'own'$"),
        ({"latent_width": 0}, r"^model\.latent_width: wanted at least 1, got 0$"),
        ({"input_dropout": 1.0}, r"^model\.input_dropout: wanted rates in \[0, 1\), got 1\.0$"),
        ({"attention_dropout": {"red": -0.1}}, r"^model\.attention_dropout: wanted rates .* got"),
        ({"feedforward_dropout": 2}, r"^model\.feedforward_dropout: wanted rates .* got 2$"),
        ({"residual_dropout": float("nan")}, r"^model\.residual_dropout: wanted rates .* got nan$"),
        ({"modalities": {"red": 0, "green": 3}}, r"^model\.modalities: .*red.* got .*0"),
    ],
)
def test_impossible_configurations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DecAlignConfig(**options)


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="depth"):
        DecAlignConfig(depth=3)


def test_no_modalities():
    with pytest.raises(ValueError, match=r"^model\.modalities: wanted at least 2 .* got none$"):
        DecAlign(DecAlignConfig())


def test_batches_that_do_not_fit_are_named():
    model, batch = make_model(2), make_batch(3)
    with pytest.raises(ValueError, match=r"^batch: wanted the modalities \['green', 'red'\], got \['blue', 'green'"):
        model(batch)
    two = make_batch(2)
    with pytest.raises(ValueError, match=r"^batch: wanted .* got \['red'\]$"):
        model(replace(two, features={"red": two.features["red"]}, masks={"red": two.masks["red"]}))
    wide = replace(two, features=two.features | {"red": torch.zeros(SAMPLES, 8, 4)})
    with pytest.raises(ValueError, match=r"^batch\.features\['red'\]: wanted \(B, T, 5\), got \(8, 8, 4\)$"):
        model(wide)
    tokens = replace(two, features=two.features | {"red": torch.zeros(SAMPLES, 8, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"^batch\.features\['red'\]: wanted \(B, T, 5\), got \(8, 8\)$"):
        model(tokens)


def test_floats_for_a_text_encoder_are_named(bert):
    model = DecAlign(DecAlignConfig({"red": TextEncoder(bert), "green": WIDTHS["green"]}, width=8, heads=2))
    with pytest.raises(ValueError, match=r"^batch\.features\['red'\]: wanted token ids \(B, T\), got \(8, 8, 5\)$"):
        model(make_batch(2))
