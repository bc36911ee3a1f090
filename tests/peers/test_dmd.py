"""DMD: parts that rebuild the frames, kept apart; graphs whose normalised edges distil; padding changes nothing."""

import csv
from dataclasses import replace

import pytest
import token_ids
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab import train
from decalign_core.lab.experiment import configure
from decalign_core.peers import dmd
from decalign_core.peers.dmd import DMD, DMDConfig
from decalign_core.types import Batch

SPEC = ModalitySpec(width=5, length_min=2, length_max=6, noise=0.3)
SMALL = {"width": 8, "heads": 2, "layers": 1, "output_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.0}
TERMS = ("heads", "reconstruction", "cycle", "orthogonality", "margin", "distillation", "balance")
KINDS = ("homogeneous", "heterogeneous")


def make(count=3, **settings):
    batch = generate(SyntheticConfig(samples=(16, 4, 4), modalities=modalities(count, SPEC))).train.trimmed()
    return DMD(DMDConfig(**{"modalities": dict.fromkeys(batch.features, 5)} | SMALL | settings)), batch


def terms(model, batch):
    return dmd.objective(model(batch), batch, model.config).auxiliary


# --- graphs ---


@pytest.mark.parametrize("count", [2, 4])
def test_edges_are_shares_and_none_leads_to_itself(count):
    model, batch = make(count)
    extras = model(batch).extras
    for kind in KINDS:
        edges = extras[f"{kind} edges"]
        assert edges.shape == (16, count, count) and (edges >= 0).all()
        assert torch.allclose(edges.sum(dim=(1, 2)), torch.ones(16))
        assert edges.diagonal(dim1=1, dim2=2).eq(0).all()


def test_an_edge_is_one_linear_map_of_both_ends():
    graph = dmd.GraphDistillation(3, 8, DMDConfig(width=8, heads=2))
    features = list(torch.randn(3, 4, 8))
    predictions, edges = graph(features)
    vertices = [
        torch.cat([graph.of_prediction(predictions[:, m]), graph.of_features(features[m])], dim=1) for m in range(3)
    ]
    weight = torch.cat([graph.sender.weight, graph.receiver.weight], dim=1)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    scores = torch.cat([torch.cat([vertices[i], vertices[j]], dim=1) @ weight.mT for i, j in pairs], dim=1)
    found = torch.stack([edges[:, i, j] for i, j in pairs], dim=1)
    assert torch.allclose(found, scores.softmax(dim=1), atol=1e-6)


def test_distillation_is_nothing_for_equal_predictions():
    edges, present = torch.rand(4, 3, 3), torch.ones(4, 3, dtype=torch.bool)
    equal = torch.randn(4, 1, 2).expand(4, 3, 2)
    assert dmd.distillation(equal, edges, present) == 0
    assert dmd.distillation(torch.randn(4, 3, 2), edges, present) > 0


def test_distillation_moves_the_end_of_an_edge_and_not_its_start():
    predictions = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    edges = torch.tensor([[[0.0, 0.25], [0.0, 0.0]]])
    value = dmd.distillation(predictions, edges, torch.ones(1, 2, dtype=torch.bool))
    value.backward()
    assert value == 0.25 and predictions.grad.flatten().tolist() == [0.0, 0.25]


def test_balance_is_nothing_for_equal_shares():
    assert dmd._imbalance((1 - torch.eye(3)).expand(5, 3, 3) / 6) < 1e-12
    assert dmd._imbalance(torch.eye(3).roll(1, 0).expand(5, 3, 3) / 3) > 0.1


# --- decoupling ---


def test_decoupling_learns_to_rebuild():
    model, batch = make(2, reconstruction_weight=1.0, cycle_weight=1.0)
    before = terms(model, batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        dmd.objective(model(batch), batch, model.config).total.backward()
        optimiser.step()
    representation = model(batch)
    after = dmd.objective(representation, batch, model.config).auxiliary
    assert all(after[name] < 0.2 * before[name] for name in ("reconstruction", "cycle"))
    variance = sum(
        representation.extras[f"projected {name}"][mask].square().mean() for name, mask in batch.masks.items()
    )
    assert after["reconstruction"] < 0.2 * variance


def test_exact_parts_lose_nothing():
    """With encoders that each keep one half of the columns, the decoder that adds the parts is exact."""
    model, batch = make(2)
    half = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4))
    model.common_encoder.weight.data = torch.eye(8) - half
    for name in batch.features:
        model.unique_encoders[name].weight.data = half
        model.decoders[name].weight.data = torch.cat([torch.eye(8), torch.eye(8)], dim=1)
    found = terms(model, batch)
    assert found["reconstruction"] < 1e-10 and found["cycle"] < 1e-10 and found["orthogonality"] < 1e-10


@pytest.mark.parametrize("classes", [False, True])
def test_margin_is_the_literal_triplet_loss(classes):
    target = torch.tensor([0, 1, 1, 2]) if classes else torch.tensor([0.0, 1.0, 1.0, -2.0])
    pooled, present = {"a": torch.randn(4, 3), "b": torch.randn(4, 3)}, torch.ones(4, 2, dtype=torch.bool)
    present[3, 1] = False
    total = []
    for i, j in ((0, 1), (1, 0)):
        own, other = list(pooled.values())[i], list(pooled.values())[j]
        found = []
        for a in range(4):
            for p in range(4):
                for n in range(4):
                    there = present[a, i] and present[p, j] and present[n, i]
                    if there and target[a] == target[p] and target[a] != target[n]:
                        margin = 0.5 if classes else 0.5 * (target[a] - target[n]).abs()
                        near, far = (torch.cosine_similarity(own[a], x, dim=0) for x in (other[p], own[n]))
                        found.append((margin - near + far).clamp_min(0))
        total.append(torch.stack(found).mean())
    assert torch.allclose(dmd.margin_loss(pooled, present, target, 0.5), torch.stack(total).mean())


# --- the model ---


def test_total_weighs_the_terms():
    model, batch = make(heads_weight=0.3, margin_weight=2.0)
    found = dmd.objective(model(batch), batch, model.config)
    wanted = found.task + sum(getattr(model.config, f"{name}_weight") * found.auxiliary[name] for name in TERMS)
    assert set(found.auxiliary) == set(TERMS) and torch.allclose(found.total, wanted)


@pytest.mark.parametrize("count", [2, 4])
def test_padding_changes_nothing(count):
    model, batch = make(count)
    longer = Batch(
        {name: torch.cat([x.where(batch.masks[name].unsqueeze(2), 9), x], 1) for name, x in batch.features.items()},
        {name: torch.cat([mask, torch.zeros_like(mask)], 1) for name, mask in batch.masks.items()},
        batch.target,
        batch.ids,
        is_trimmed=True,
    )
    one, other = (dmd.objective(model(given), given, model.config) for given in (batch, longer))
    for name in TERMS:
        assert torch.allclose(one.auxiliary[name], other.auxiliary[name], atol=1e-4), name
    assert torch.allclose(one.total, other.total, atol=1e-4)


@pytest.mark.parametrize("rows", [slice(3), slice(None)])
def test_absent_modality(rows):
    model, batch = make()
    mask = batch.masks["modality1"].clone()
    mask[rows] = False
    batch = replace(batch, masks={**batch.masks, "modality1": mask})
    representation = model(batch)
    for parts in (representation.unique, representation.common, representation.pooled_common):
        assert parts["modality1"][rows].eq(0).all() and parts["modality2"].ne(0).any()
    found = dmd.objective(representation, batch, model.config)
    found.total.backward()
    assert all(term.isfinite() for term in found.auxiliary.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("count", "outputs"), [(2, 1), (4, 5)])
def test_gradients_reach_everything(count, outputs):
    model, batch = make(count, outputs=outputs)
    batch = batch if outputs == 1 else replace(batch, target=torch.arange(16) % outputs)
    dmd.objective(model(batch), batch, model.config).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_token_ids():
    batch = token_ids.make_batch()
    model = DMD(DMDConfig(token_ids.MODALITIES, **SMALL))
    dmd.objective(model(batch), batch, model.config).total.backward()
    assert model.backbones["words"].weight.grad.isfinite().all()


def test_trains(tmp_path):
    splits = generate(SyntheticConfig(samples=(48, 12, 12), modalities=modalities(2, SPEC)))
    small = {"peer.width": 8, "peer.heads": 2, "peer.layers": 1, "training.epochs": 4, "training.batch_size": 16}
    train(configure({"method": "dmd"} | small), splits, run_dir=tmp_path, progress=False)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert set(TERMS) <= set(rows[0]) and float(rows[-1]["total"]) < float(rows[0]["total"])
