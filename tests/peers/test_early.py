"""What the frame of the peers promises, of early fusion and of the methods that are built like it."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab import train
from decalign_core.lab.experiment import configure
from decalign_core.nn.encoders import masked_mean
from decalign_core.nn.text import TextEncoder
from decalign_core.peers import PEERS
from decalign_core.peers.early import EarlyConfig, EarlyFusion
from decalign_core.types import Batch

METHODS = ("early", "late", "tfn", "lmf", "mfm")
SPEC = ModalitySpec(width=8, length_min=2, length_max=6, noise=0.1, offset=0.0, scale=2.0)  # easily learned


def make_splits(count=3, samples=(24, 8, 8), **options):
    return generate(SyntheticConfig(samples=samples, modalities=modalities(count, SPEC), **options))


def make_batch(count=3, **options):
    return make_splits(count, **options).train


def build(method, batch, outputs=1, **settings):
    widths = {name: x.shape[-1] for name, x in batch.features.items()}
    peer = PEERS[method]
    return peer.model(peer.config(modalities=widths, outputs=outputs, width=8, **settings))


def padded(batch, value, frames=3):
    """The batch with further invalid frames, and with ``value`` in all invalid ones."""
    features, masks = {}, {}
    for name, x in batch.features.items():
        masks[name] = torch.cat([batch.masks[name], torch.zeros(len(x), frames, dtype=torch.bool)], dim=1)
        longer = torch.cat([x, torch.zeros(len(x), frames, x.shape[2])], dim=1)
        features[name] = longer.where(masks[name].unsqueeze(-1), value)
    return replace(batch, features=features, masks=masks)


def without(batch, name, rows):
    mask = batch.masks[name].clone()
    mask[rows] = False
    return replace(batch, masks={**batch.masks, name: mask})


def backward(method, model, batch):
    """The losses of a batch, after their gradients have gone back."""
    torch.manual_seed(0)
    losses = PEERS[method].objective(model(batch), batch.trimmed(), model.config)
    losses.total.backward()
    return losses


def gradients(model):
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_modalities(method, count):
    batch = make_batch(count)
    model = build(method, batch).eval()
    representation = model(batch)
    assert representation.prediction.shape == (24, 1)
    assert list(representation.pooled_common) == list(batch.features)
    assert len(representation.fused) == 24


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
def test_padding_changes_nothing(method, value):
    batch = make_batch()
    model = build(method, batch).eval()
    results = []
    for one in (batch, padded(batch, value)):
        model.zero_grad()
        losses = backward(method, model, one)
        results.append([model(one).prediction, losses.total, *gradients(model)])
    assert len(results[0]) > 5
    for wanted, got in zip(*results, strict=True):
        assert (wanted - got).abs().max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [slice(0, 5), slice(None)], ids=["some", "all"])
def test_absent_modality(method, rows):
    batch = make_batch()
    lacking = without(batch, "modality2", rows)
    other = replace(lacking, features={**batch.features, "modality2": batch.features["modality2"] + 1})
    model = build(method, batch).eval()
    losses = backward(method, model, lacking)
    assert losses.total.isfinite() and all(g.isfinite().all() for g in gradients(model))
    assert torch.equal(model(lacking).prediction[rows], model(other).prediction[rows])
    nothing = lacking
    for name in batch.features:
        nothing = without(nothing, name, slice(None))
    assert model(nothing).prediction.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_learns_from_classes(method):
    batch = make_batch(task="classification", classes=4)
    model = build(method, batch, outputs=4)
    losses = backward(method, model, batch)
    assert losses.task.isfinite() and model(batch).prediction.shape == (24, 4)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


class Words(nn.Embedding):
    """Stands for a text encoder's network: one vector a token."""

    width = 6

    def forward(self, tokens, mask):
        return super().forward(tokens)


@pytest.mark.parametrize("method", METHODS)
def test_text_encoder_takes_part(method, monkeypatch):
    monkeypatch.setattr(TextEncoder, "build", lambda self: Words(9, Words.width))
    tokens = torch.tensor([[2, 5, 3], [2, 3, 0], [0, 0, 0]])
    masks = {"words": tokens > 0, "sound": torch.ones(3, 2, dtype=torch.bool)}
    batch = Batch({"words": tokens, "sound": torch.randn(3, 2, 4)}, masks, torch.randn(3), ["a", "b", "c"])
    peer = PEERS[method]
    model = peer.model(peer.config(modalities={"words": TextEncoder("any"), "sound": 4}, width=4))
    assert backward(method, model, batch).total.isfinite()
    grad = model.backbones["words"].weight.grad
    assert grad[[2, 3, 5]].abs().sum(dim=1).gt(0).all() and grad[0].eq(0).all()


@pytest.mark.parametrize("method", METHODS)
def test_short_training_lowers_the_loss(method, tmp_path):
    settings = {"training.epochs": 6, "training.learning_rate": 2e-2, "peer.width": 8, "peer.output_dropout": 0.0}
    settings |= {"method": method, "training.batch_size": 16, "training.average": 0.0, "training.device": "cpu"}
    splits = make_splits(2, samples=(128, 8, 8), rater_noise=0.0)
    record = train(configure(settings), splits, run_dir=tmp_path, progress=False)
    total = pd.read_csv(tmp_path / "history.csv")["total"]
    assert record.model == method and total.iloc[-1] < 0.9 * total.iloc[0]


@pytest.mark.parametrize("method", METHODS)
def test_unknown_setting_is_refused(method):
    with pytest.raises(ValueError, match="peer.colour"):
        configure({"method": method, "peer.colour": 1})
    with pytest.raises(ValueError, match="peer.width"):
        configure({"method": method, "peer.width": 0})


# --- early fusion itself ---


def test_features_are_joined_before_anything_is_learned():
    batch = make_batch()
    model = build("early", batch).eval()
    joined = torch.cat([masked_mean(x, batch.masks[name]) for name, x in batch.features.items()], dim=1)
    assert model.hidden[0].in_features == joined.shape[1] == 24
    assert torch.allclose(model(batch).prediction, model.head(model.hidden(joined)), atol=1e-6)


def test_early_config_is_the_common_one():
    with pytest.raises(ValueError, match="modalities"):
        EarlyFusion(EarlyConfig())
