"""MulT: a stream of i from j reads the frames of i and of j, and nothing else; padding and absence change nothing."""

import itertools
from dataclasses import replace

import pytest
import token_ids
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab import train
from decalign_core.lab.experiment import configure
from decalign_core.peers.common import losses
from decalign_core.peers.mult import MulT, MulTConfig
from decalign_core.types import Batch

SPEC = ModalitySpec(width=5, length_min=2, length_max=6, noise=0.3)
SMALL = {"width": 8, "heads": 2, "layers": 1, "output_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.0}


def make(count=3, **settings):
    batch = generate(SyntheticConfig(samples=(16, 4, 4), modalities=modalities(count, SPEC))).train.trimmed()
    return MulT(MulTConfig(**{"modalities": dict.fromkeys(batch.features, 5)} | SMALL | settings)), batch


def changed(batch, name, where):
    features = batch.features[name]
    return replace(batch, features={**batch.features, name: features + torch.randn_like(features) * where.unsqueeze(2)})


def streams(model, batch):
    """Every directed stream, by target and source."""
    frames = {name: model.projections[name](x, batch.masks[name]) for name, x in model.frames(batch).items()}
    return {
        (target, source): stream
        for target in frames
        for source, stream in model.streams.streams(target, frames, batch.masks).items()
    }


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_stream_reads_its_two_modalities_alone(count):
    model, batch = make(count)
    before = streams(model, batch)
    assert set(before) == set(itertools.permutations(batch.features, 2))
    after = streams(model, changed(batch, "modality2", batch.masks["modality2"]))
    for pair, stream in before.items():
        assert torch.allclose(stream, after[pair], atol=1e-6) == ("modality2" not in pair), pair


def test_attention_is_directed():
    """What i takes from j is not what j takes from i: the streams have lengths and weights of their own."""
    model, batch = make(2)
    found = streams(model, batch)
    for target, source in found:
        assert found[target, source].shape == (*batch.masks[target].shape, 8)
    one, other = (set(model.streams.directed[name].parameters()) for name in batch.features)
    assert not one & other


def test_nothing_passes_through_padding():
    model, batch = make()
    before = model(batch)
    for name, mask in batch.masks.items():
        after = model(changed(batch, name, ~mask))
        assert torch.allclose(before.prediction, after.prediction, atol=1e-5)


def test_further_padding_changes_nothing():
    model, batch = make()
    longer = Batch(
        {name: torch.cat([x, torch.full_like(x, 7)], 1) for name, x in batch.features.items()},
        {name: torch.cat([mask, torch.zeros_like(mask)], 1) for name, mask in batch.masks.items()},
        batch.target,
        batch.ids,
    )
    wanted = model(batch)
    for got in (model(longer), model(replace(longer, is_trimmed=True))):
        assert torch.allclose(got.prediction, wanted.prediction, atol=1e-5)
        for name, summary in wanted.pooled_unique.items():
            assert torch.allclose(got.latent[name], summary, atol=1e-5)


def test_absent_modality_has_no_summary_and_the_rest_is_finite():
    model, batch = make()
    masks = {**batch.masks, "modality1": torch.zeros_like(batch.masks["modality1"])}
    representation = model(replace(batch, masks=masks))
    assert representation.pooled_unique["modality1"].eq(0).all()
    assert representation.pooled_unique["modality2"].ne(0).any()
    losses(representation, batch, model.config).total.backward()
    assert representation.prediction.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("count", "outputs"), [(2, 1), (4, 5)])
def test_gradients_reach_everything(count, outputs):
    model, batch = make(count, outputs=outputs, memory_layers=2)
    batch = batch if outputs == 1 else replace(batch, target=torch.arange(16) % outputs)
    losses(model(batch), batch, model.config).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_token_ids():
    batch = token_ids.make_batch()
    model = MulT(MulTConfig(token_ids.MODALITIES, **SMALL))
    model(batch).prediction.sum().backward()
    assert model.backbones["words"].weight.grad.isfinite().all()


def test_trains(tmp_path):
    splits = generate(SyntheticConfig(samples=(48, 12, 12), modalities=modalities(2, SPEC)))
    small = {"peer.width": 8, "peer.heads": 2, "peer.layers": 1, "training.epochs": 5, "training.patience": 5}
    config = configure({"method": "mult", "training.batch_size": 16, "training.learning_rate": 1e-2} | small)
    train(config, splits, run_dir=tmp_path, progress=False)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    task = [float(row.split(",")[1]) for row in rows[1:]]
    assert task[-1] < task[0]
