"""The controls against scikit-learn used directly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.svm import SVC, SVR

from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.lab.controls import fit_control
from decalign_core.nn.text import TextEncoder

TASKS = ("regression", "classification")


def splits(task):
    return generate(SyntheticConfig(task=task, samples=(120, 40, 50), missing_probability=0.1))


def averages(batch):
    """Means over valid frames by a loop, 0 where a modality is absent, side by side."""
    rows = []
    for sample in range(len(batch)):
        parts = []
        for name, x in batch.features.items():
            valid = x[sample][batch.masks[name][sample]].double().numpy()
            parts.append(valid.mean(0) if len(valid) else np.zeros(x.shape[-1]))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def by_hand(method, data):
    """Standardised averages of the three splits, the targets, the model that the validation split picks."""
    raw = {split: averages(batch) for split, batch in data.items()}
    centre, spread = raw["train"].mean(0), raw["train"].std(0)
    x = {split: (values - centre) / spread for split, values in raw.items()}
    y = {split: batch.target.numpy() for split, batch in data.items()}
    classify = data.task == "classification"
    if method == "svr":
        return x, (SVC(C=1.0) if classify else SVR(C=1.0, epsilon=0.2)).fit(x["train"], y["train"])
    kind = RidgeClassifier if classify else Ridge
    candidates = [kind(alpha=10.0**power).fit(x["train"], y["train"]) for power in range(-1, 6)]
    return x, max(candidates, key=lambda model: model.score(x["valid"], y["valid"]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["ridge", "svr"])
def test_controls_are_scikit_learns(method, task):
    data = splits(task)
    predict, (x, model) = fit_control(method, data), by_hand(method, data)
    for split, batch in data.items():
        got = predict(batch)
        assert got.dtype == torch.float32 and got.shape == (len(batch), data.outputs)
        if task == "classification":
            assert (got.argmax(1).numpy() == model.predict(x[split])).mean() >= 0.98
            assert np.abs(got.numpy() - model.decision_function(x[split])).max() <= 1e-3
        else:
            assert np.abs(got.squeeze(1).numpy() - model.predict(x[split])).max() <= 1e-4


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["ridge", "svr"])
def test_controls_beat_the_constant(method, task):
    data = splits(task)
    got, target = fit_control(method, data)(data.test), data.test.target
    if task == "classification":
        majority = target.bincount().max() / len(target)
        assert (got.argmax(1) == target).float().mean() > majority
    else:
        assert (got.squeeze(1) - target).abs().mean() < 0.9 * (data.train.target.median() - target).abs().mean()


def test_the_test_split_plays_no_part():
    data = splits("regression")
    other = replace(data, test=data.test[:3])
    assert torch.equal(fit_control("ridge", data)(data.valid), fit_control("ridge", other)(data.valid))


def test_two_classes():
    data = generate(SyntheticConfig(task="classification", classes=2, samples=(80, 30, 30)))
    for method in ("ridge", "svr"):
        got = fit_control(method, data)(data.test)
        assert got.shape == (30, 2)
        assert (got.argmax(1) == data.test.target).float().mean() > 0.5


def test_token_ids_are_refused():
    data = replace(splits("regression"), encoders={"text": TextEncoder("any")})
    with pytest.raises(ValueError, match=r"^method: ridge wanted float features, got token ids for \['text'\]$"):
        fit_control("ridge", data)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"method: wanted .* got 'lasso'"):
        fit_control("lasso", splits("regression"))
