"""A sample without a modality trains and predicts, in DecAlign and in every peer, and what is absent is never read."""

from dataclasses import replace

import pytest
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.lab.experiment import configure
from decalign_core.lab.training import Trainer, predict
from decalign_core.peers import PEERS

METHODS = ("decalign", *PEERS)
GARBAGE = (float("nan"), float("inf"), -3e38, 1e4)
SPEC = ModalitySpec(width=3, length_min=2, length_max=4, noise=0.3)


def settings(method):
    small = {"model.width": 8, "model.heads": 2, "model.layers": 1, "objective.components": 3}
    if method != "decalign":
        small = {"peer.width": 8}
    return configure(small | {"method": method, "training.batch_size": 8, "training.epochs": 1, "training.seed": 3})


def hidden(batch, absent, value=None):
    """A batch in which these modalities of these samples are absent, and their features hold a value, if given."""
    features, masks = dict(batch.features), {name: mask.clone() for name, mask in batch.masks.items()}
    for name, rows in absent.items():
        masks[name][rows] = False
        if value is not None:
            features[name] = features[name].clone()
            features[name][rows] = value
    return replace(batch, features=features, masks=masks)


def absences(names, samples):
    """Sample 0 has the first modality only, 1 the last only, 2 lacks the first; one batch in two lacks the second."""
    first, *middle, last = names
    half = list(range(samples // 2, samples))
    return {first: [1, 2], last: [0, *half[::3]]} | {name: [0, 1, *half] for name in middle}


def incomplete(task="regression", count=3, value=None):
    config = SyntheticConfig(task=task, samples=(16, 8, 8), modalities=modalities(count, SPEC))
    splits = generate(config)
    return replace(
        splits,
        **{name: hidden(part, absences(list(part.features), len(part)), value) for name, part in splits.items()},
    )


def trained(method, splits):
    trainer = Trainer(settings(method), splits, torch.device("cpu"))
    losses = [trainer.step(rows) for rows in torch.arange(len(splits.train)).split(8)]
    return trainer, losses


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("method", METHODS)
def test_samples_that_lack_modalities_train_and_predict(method, count, task):
    splits = incomplete(task, count)
    trainer, losses = trained(method, splits)
    assert all(value.isfinite() for step in losses for value in step.values())
    found = [p.grad for p in trainer.model.parameters() if p.requires_grad and p.grad is not None]
    assert found and all(gradient.isfinite().all() for gradient in found)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert predict(trainer.model, splits.test).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_single_sample_of_a_single_modality_trains_and_predicts(method):
    splits = incomplete()
    for row in (0, 1):
        one = splits.train[[row]]
        assert sum(mask.any() for mask in one.masks.values()) == 1
        trainer, losses = trained(method, replace(splits, train=one))
        assert all(value.isfinite() for value in losses[0].values())
        assert predict(trainer.model, one).isfinite().all()
        alone, among = predict(trainer.model, one)[0], predict(trainer.model, splits.train)[row]
        assert torch.allclose(alone, among, atol=1e-5), "the others' modalities make no difference"


@pytest.mark.parametrize("method", METHODS)
def test_a_modality_that_no_sample_has_trains_and_predicts(method):
    splits = incomplete()
    first, *_ = splits.train.features
    splits = replace(splits, **{name: hidden(part, {first: slice(None)}) for name, part in splits.items()})
    trainer, losses = trained(method, splits)
    assert all(value.isfinite() for step in losses for value in step.values())
    assert predict(trainer.model, splits.test).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_what_an_absent_modality_holds_changes_neither_training_nor_prediction(method):
    splits = incomplete(value=0.0)
    trainer, _ = trained(method, splits)
    wanted = predict(trainer.model, splits.test)
    for value in GARBAGE:
        spoiled = incomplete(value=value)
        assert torch.equal(predict(trainer.model, spoiled.test), wanted), value
    other, _ = trained(method, incomplete(value=float("nan")))
    for one, two in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
