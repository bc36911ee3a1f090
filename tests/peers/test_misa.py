"""MISA: shared parts alike, private parts apart, utterances rebuilt; padding and absence change nothing."""

import csv
from dataclasses import replace

import pytest
import token_ids
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab import train
from decalign_core.lab.experiment import configure
from decalign_core.peers import misa
from decalign_core.peers.misa import MISA, MISAConfig
from decalign_core.types import Batch

SPEC = ModalitySpec(width=5, length_min=2, length_max=6, noise=0.3)
SMALL = {"width": 8, "output_dropout": 0.0, "dropout": 0.0}
TERMS = ("similarity", "difference", "reconstruction")


def make(count=3, **settings):
    batch = generate(SyntheticConfig(samples=(16, 4, 4), modalities=modalities(count, SPEC))).train.trimmed()
    return MISA(MISAConfig(**{"modalities": dict.fromkeys(batch.features, 5)} | SMALL | settings)), batch


def terms(model, batch):
    return misa.objective(model(batch), batch, model.config).auxiliary


def test_similarity_is_nothing_for_equal_parts_and_has_a_gradient_there():
    parts = [torch.rand(10, 4).requires_grad_()] * 3
    value = misa.similarity(parts, 5)
    value.backward()
    assert value == 0 and parts[0].grad.isfinite().all()


def test_similarity_is_the_mean_central_moment_discrepancy():
    x, y, z = torch.rand(3, 10, 4)

    def discrepancy(a, b):
        total = (a.mean(0) - b.mean(0)).square().sum().sqrt()
        for k in (2, 3):
            total += (((a - a.mean(0)) ** k).mean(0) - ((b - b.mean(0)) ** k).mean(0)).square().sum().sqrt()
        return total

    wanted = (discrepancy(x, y) + discrepancy(x, z) + discrepancy(y, z)) / 3
    assert torch.allclose(misa.similarity([x, y, z], 3), wanted)
    assert misa.similarity([x, x + 1], 5) > misa.similarity([x, x + 0.1], 5) > 0


def test_difference_is_nothing_for_orthogonal_columns_and_large_for_equal_parts():
    # rows of unit length after centring, every column of one part orthogonal to every column of the others
    signs = torch.tensor([[1.0, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])
    parts = [sign.unsqueeze(1) * torch.tensor([0.6, 0.8]) for sign in signs]
    present = {name: torch.ones(8, dtype=torch.bool) for name in "ab"}
    first, second, third = parts
    # a: private first, shared second; b: private third, shared second
    value = misa.difference({"a": first, "b": third}, {"a": second, "b": second}, present)
    assert value.abs() < 1e-10
    assert misa.difference({"a": first, "b": third}, {"a": first, "b": second}, present) > 1


def test_reconstruction_is_nothing_for_a_perfect_decoder():
    model, batch = make()
    representation = model(batch)
    extras = {key: representation.extras[key.replace("rebuilt", "utterance")] for key in representation.extras}
    perfect = misa.objective(replace(representation, extras=extras), batch, model.config)
    assert perfect.auxiliary["reconstruction"] == 0 and terms(model, batch)["reconstruction"] > 0


def test_total_weighs_the_terms():
    weights = {"similarity_weight": 0.5, "difference_weight": 2.0, "reconstruction_weight": 3.0}
    model, batch = make(**weights)
    found = misa.objective(model(batch), batch, model.config)
    wanted = found.task + sum(weights[f"{name}_weight"] * found.auxiliary[name] for name in TERMS)
    assert torch.allclose(found.total, wanted)


def test_training_shapes_the_parts():
    model, batch = make(2, similarity_weight=1.0)
    before = terms(model, batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        misa.objective(model(batch), batch, model.config).total.backward()
        optimiser.step()
    after = terms(model, batch)
    assert all(after[name] < before[name] for name in ("similarity", "reconstruction"))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_padding_changes_nothing(count, recurrent):
    model, batch = make(count, recurrent=recurrent)
    longer = Batch(
        {name: torch.cat([x.where(batch.masks[name].unsqueeze(2), 9), x], 1) for name, x in batch.features.items()},
        {name: torch.cat([mask, torch.zeros_like(mask)], 1) for name, mask in batch.masks.items()},
        batch.target,
        batch.ids,
        is_trimmed=True,
    )
    one, other = (misa.objective(model(given), given, model.config) for given in (batch, longer))
    assert torch.allclose(one.total, other.total, atol=1e-5)
    for name in TERMS:
        assert torch.allclose(one.auxiliary[name], other.auxiliary[name], atol=1e-5)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("rows", [slice(3), slice(None)])
def test_absent_modality(rows, recurrent):
    """Its parts are 0 and its rows are in no statistic, whatever the features hold."""
    model, batch = make(recurrent=recurrent)
    mask = batch.masks["modality1"].clone()
    mask[rows] = False
    batch = replace(batch, masks={**batch.masks, "modality1": mask})
    representation = model(batch)
    for parts in (representation.unique, representation.common):
        assert parts["modality1"][rows].eq(0).all() and parts["modality2"].ne(0).all()
    found = misa.objective(representation, batch, model.config)
    found.total.backward()
    assert found.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    rest = [name for name in batch.features if name != "modality1"]
    if rows == slice(None):
        wanted = misa.similarity([representation.pooled_common[name] for name in rest], model.config.moments)
        assert torch.allclose(found.auxiliary["similarity"], wanted)


@pytest.mark.parametrize(("count", "outputs"), [(2, 1), (4, 5)])
def test_gradients_reach_everything(count, outputs):
    model, batch = make(count, outputs=outputs)
    batch = batch if outputs == 1 else replace(batch, target=torch.arange(16) % outputs)
    misa.objective(model(batch), batch, model.config).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_one_is_finite():
    model, batch = make()
    found = misa.objective(model(batch[:1]), batch[:1], model.config)
    found.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_token_ids():
    batch = token_ids.make_batch()
    model = MISA(MISAConfig(token_ids.MODALITIES, **SMALL))
    misa.objective(model(batch), batch, model.config).total.backward()
    assert model.backbones["words"].weight.grad.isfinite().all()


def test_trains(tmp_path):
    splits = generate(SyntheticConfig(samples=(48, 12, 12), modalities=modalities(2, SPEC)))
    config = configure({"method": "misa", "peer.width": 8, "training.epochs": 5, "training.batch_size": 16})
    train(config, splits, run_dir=tmp_path, progress=False)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert set(TERMS) <= set(rows[0]) and float(rows[-1]["total"]) < float(rows[0]["total"])
