"""Self-MM: labels that start as the multimodal ones and follow the centres; a resumed run has the same ones."""

import csv
from dataclasses import replace

import pytest
import token_ids
import torch
from killing import killed_after

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab import train
from decalign_core.lab.experiment import configure
from decalign_core.peers import self_mm
from decalign_core.peers.self_mm import GeneratedLabels, SelfMM, SelfMMConfig
from decalign_core.types import Batch

SPEC = ModalitySpec(width=5, length_min=2, length_max=6, noise=0.3)
SMALL = {"width": 8, "output_dropout": 0.0, "unimodal_dropout": 0.0}
EVERY, SCORES = torch.arange(16), torch.tensor([2.0, 1.0, -1.0, -2.0]).repeat(4)


def make(count=3, **settings):
    batch = generate(SyntheticConfig(samples=(16, 4, 4), modalities=modalities(count, SPEC))).train.trimmed()
    return SelfMM(SelfMMConfig(**{"modalities": dict.fromkeys(batch.features, 5)} | SMALL | settings)), batch


def labelled(batch, labels, rows=EVERY):
    return replace(batch, extra_targets=labels.targets(rows))


# --- labels ---


@pytest.mark.parametrize("count", [2, 4])
def test_first_labels_are_the_multimodal_ones_and_weigh_nothing(count):
    model, batch = make(count)
    labels = GeneratedLabels(model.config, batch)
    targets = labels.targets(EVERY)
    assert list(targets) == [f"generated {name}" for name in batch.features]
    assert all(torch.equal(made, batch.target) for made in targets.values())
    assert self_mm.objective(model(batch), labelled(batch, labels), model.config).auxiliary["unimodal"] == 0


def planted(own):
    """Labels after an epoch in which fused features said the truth on a line and the first modality's said ``own``."""
    model, batch = make(2)
    batch = replace(batch, target=SCORES)
    labels, zeros = GeneratedLabels(model.config, batch), torch.zeros(16, 7)
    truth = torch.cat([batch.target.unsqueeze(1), zeros], 1)
    first, second = (f"features {name}" for name in batch.features)
    extras = {first: torch.cat([own.unsqueeze(1), zeros], 1), second: truth}
    labels.observe(EVERY, replace(model(batch), fused=truth, extras=extras))
    labels.end_epoch()
    return batch.target, labels.labels


def test_labels_move_towards_the_side_whose_centre_is_near():
    own = SCORES.clone()
    own[0], own[3] = -2.0, 2.0  # the first modality shows a positive sample as negative, and the other way round
    target, (moved, same) = planted(own)
    assert target[0] == 2 and moved[0] < 0 and target[3] == -2 and moved[3] > 0
    assert torch.allclose(same, target)


def test_new_label_is_the_papers():
    target, own, fused = torch.tensor([1.0, -0.5, 0.0]), torch.tensor([0.2, -0.1, 0.3]), torch.tensor([0.4, -0.2, 0.1])
    wanted = target * own / (2 * fused) + (target + own - fused) / 2
    assert torch.allclose(self_mm.generate(target, own, fused), wanted.clamp(-1, 1))
    assert self_mm.generate(target, own, torch.zeros(3)).isfinite().all()


def test_leaning_compares_the_distances_from_the_centres():
    features, labels = torch.tensor([[1.0], [3.0], [-4.0], [9.0]]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    present = torch.tensor([True, True, True, False])
    positive, negative = (features - 2).abs().squeeze(1), (features + 4).abs().squeeze(1)
    assert torch.allclose(self_mm.leaning(features, labels, present), (negative - positive) / positive)


def test_labels_keep_the_range_and_the_momentum_grows():
    model, batch = make()
    labels, steps = GeneratedLabels(model.config, batch), []
    for _ in range(6):
        before = labels.labels.clone()
        labels.observe(EVERY, model(batch))
        labels.end_epoch()
        assert labels.labels.abs().max() <= batch.target.abs().max()
        steps.append((labels.labels - before).abs().mean())
    assert int(labels.epoch) == 7 and 0 < steps[-1] < steps[0]


def test_labels_stay_where_there_is_nothing_to_learn_from():
    model, batch = make()
    mask = batch.masks["modality1"].clone()
    mask[:4] = False
    batch = replace(batch, masks={**batch.masks, "modality1": mask})
    one_sided = replace(batch, target=batch.target.abs() + 0.1)
    for given, rows in ((batch, slice(4)), (one_sided, slice(None))):
        labels = GeneratedLabels(model.config, given)
        labels.observe(EVERY, model(given))
        labels.end_epoch()
        assert torch.equal(labels.labels[0][rows], given.target[rows])


# --- losses ---


def test_unimodal_errors_are_weighted_by_the_labels_distance():
    model, batch = make(2)
    labels = GeneratedLabels(model.config, batch)
    labels.labels += torch.tensor([[1.0], [0.0]])
    representation = model(batch)
    found = self_mm.objective(representation, labelled(batch, labels), model.config)
    error = (representation.extras["prediction modality1"].squeeze(1) - batch.target - 1).abs()
    assert torch.allclose(found.auxiliary["unimodal"], torch.tanh(torch.tensor(1.0)) * error.mean())
    assert torch.allclose(found.total, found.task + found.auxiliary["unimodal"])


def test_classes_train_the_multimodal_head_alone():
    model, batch = make(outputs=3)
    batch = replace(batch, target=torch.arange(16) % 3)
    labels = GeneratedLabels(model.config, batch)
    assert labels.targets(EVERY) == {}
    representation = model(batch)
    labels.observe(EVERY, representation)
    labels.end_epoch()
    found = self_mm.objective(representation, batch, model.config)
    found.total.backward()
    assert found.total == found.task and all(p.grad is not None for p in model.parameters())


# --- the model ---


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
    one, other = model(batch), model(longer)
    assert torch.allclose(one.prediction, other.prediction, atol=1e-5)
    assert all(torch.allclose(x, other.extras[name], atol=1e-5) for name, x in one.extras.items())


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_finite_also_where_a_modality_is_absent(count, recurrent):
    model, batch = make(count, recurrent=recurrent)
    batch = replace(batch, masks={**batch.masks, "modality1": torch.zeros_like(batch.masks["modality1"])})
    labels = GeneratedLabels(model.config, batch)
    labels.labels += 1
    self_mm.objective(model(batch), labelled(batch, labels), model.config).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.eq(0).all() for p in model.unimodal["modality1"].parameters())


def test_token_ids():
    batch = token_ids.make_batch()
    model = SelfMM(SelfMMConfig(token_ids.MODALITIES, **SMALL))
    model(batch).prediction.sum().backward()
    assert model.backbones["words"].weight.grad.isfinite().all()


# --- runs ---

RUN = {"method": "self_mm", "peer.width": 8, "training.epochs": 5, "training.batch_size": 16, "training.patience": 5}


def make_splits():
    return generate(SyntheticConfig(samples=(48, 12, 12), modalities=modalities(2, SPEC)))


def history(folder):
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("after", [1, 3])
def test_resumed_run_equals_the_undisturbed_one(tmp_path, after):
    splits = make_splits()
    train(configure(RUN), splits, run_dir=tmp_path / "whole", progress=False)
    with killed_after(after):
        train(configure(RUN), splits, run_dir=tmp_path / "cut", progress=False)
    train(configure(RUN), splits, run_dir=tmp_path / "cut", progress=False)
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["labels"] for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["labels"][0], splits.train.target)
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    predictions = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("whole", "cut")]
    assert predictions[0] == predictions[1]


def test_trains(tmp_path):
    train(configure(RUN | {"training.learning_rate": 1e-2}), make_splits(), run_dir=tmp_path, progress=False)
    rows = history(tmp_path)
    assert float(rows[-1]["task"]) < float(rows[0]["task"])
    assert float(rows[0]["unimodal"]) == 0 and float(rows[-1]["unimodal"]) > 0
