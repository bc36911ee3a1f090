"""Late fusion: the prediction is the weighted mean of what the modalities predict alone."""

from dataclasses import replace

import pytest
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.peers import late
from decalign_core.peers.late import LateConfig, LateFusion


def make(count=3, **settings):
    spec = ModalitySpec(width=5, length_min=2, length_max=6)
    batch = generate(SyntheticConfig(samples=(12, 4, 4), modalities=modalities(count, spec))).train
    config = LateConfig(modalities=dict.fromkeys(batch.features, 5), width=8, **settings)
    model = LateFusion(config).eval()
    model.logits.data.normal_()
    return model, batch


def absent(batch, name, rows):
    mask = batch.masks[name].clone()
    mask[rows] = False
    return replace(batch, masks={**batch.masks, name: mask})


@pytest.mark.parametrize("count", [2, 3, 4])
def test_prediction_is_the_weighted_mean_of_unimodal_predictions(count):
    model, batch = make(count)
    representation = model(batch)
    weights = model.logits.exp() / model.logits.exp().sum()
    for row in range(len(batch)):
        own = [representation.extras[name][row, 0] for name in batch.features]
        wanted = sum(weight * prediction for weight, prediction in zip(weights, own, strict=True))
        assert (representation.prediction[row, 0] - wanted).abs() <= 1e-6


def test_unimodal_predictions_read_their_modality_alone():
    model, batch = make()
    changed = replace(batch, features={**batch.features, "modality1": torch.randn_like(batch.features["modality1"])})
    before, after = model(batch).extras, model(changed).extras
    assert not torch.allclose(before["modality1"], after["modality1"])
    assert all(torch.equal(before[name], after[name]) for name in ("modality2", "modality3"))


def test_absent_modality_has_no_say():
    model, batch = make()
    weights = model.weights(absent(batch, "modality2", slice(0, 4)))
    assert weights[:4, 1].eq(0).all() and weights[4:, 1].gt(0).all()
    assert torch.allclose(weights.sum(dim=1), torch.ones(12))
    kept = model.logits[[0, 2]].softmax(dim=0)
    assert torch.allclose(weights[0, [0, 2]], kept)
    for name in batch.features:
        batch = absent(batch, name, slice(None))
    assert torch.allclose(model.weights(batch), torch.full((12, 3), 1 / 3))


def test_absent_modality_teaches_nothing():
    model, batch = make(2)
    lacking = absent(batch, "modality2", slice(None))
    late.objective(model(lacking), lacking, model.config).total.backward()
    assert all(p.grad.eq(0).all() for p in model.heads["modality2"].parameters())
    assert any(p.grad.ne(0).any() for p in model.heads["modality1"].parameters())


def test_objective_is_the_task_of_the_mean_and_of_each():
    model, batch = make(unimodal_weight=0.5, task="mse")
    representation = model(batch)
    losses = late.objective(representation, batch, model.config)
    own = [(y.squeeze(-1) - batch.target).square().mean() for y in representation.extras.values()]
    assert torch.isclose(losses.auxiliary["unimodal"], sum(own) / 3)
    mean = (representation.prediction.squeeze(-1) - batch.target).square().mean()
    assert torch.isclose(losses.total, mean + 0.5 * sum(own) / 3)


def test_order_of_frames_is_read_unless_averaged():
    model, batch = make(averaged=("modality2",))
    mask = torch.ones_like(batch.masks["modality1"])
    batch = replace(batch, masks=dict.fromkeys(batch.masks, mask))
    turned = replace(batch, features={name: x.flip(1) for name, x in batch.features.items()})
    before, after = model(batch).extras, model(turned).extras
    assert not torch.allclose(before["modality1"], after["modality1"])
    assert torch.allclose(before["modality2"], after["modality2"], atol=1e-6)
    with pytest.raises(ValueError, match="peer.averaged"):
        make(averaged=("words",))
