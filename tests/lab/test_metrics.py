"""The metrics against a literal transcription of MMSA's formulas and against values worked out by hand."""

import math
import warnings

import numpy as np
import pytest
import torch

from decalign_core.lab.metrics import emotion_metrics, higher_is_better, metric_names, sentiment_metrics

SIMS_BINS = {
    "acc2": [-1.01, 0.0, 1.01],
    "acc3": [-1.01, -0.1, 0.1, 1.01],
    "acc5": [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01],
}


def literal_weighted_f1(truth, prediction):
    """The classes' F1, weighted by how often each is the truth; no scikit-learn."""
    total = 0.0
    for label in set(truth.tolist()):
        hits = sum(1 for t, p in zip(truth, prediction, strict=True) if t == label and p == label)
        predicted, actual = sum(p == label for p in prediction), sum(t == label for t in truth)
        total += actual / len(truth) * (2 * hits / (predicted + actual))
    return total


def literal_multiclass_accuracy(prediction, truth):
    return np.sum(np.round(prediction) == np.round(truth)) / float(len(truth))


def literal_mosi(prediction, truth):
    """MMSA's ``__eval_mosei_regression``, line by line."""
    non_zeros = np.array([i for i, e in enumerate(truth) if e != 0])
    non_zeros_truth, non_zeros_pred = truth[non_zeros] > 0, prediction[non_zeros] > 0
    truth_has0, pred_has0 = truth >= 0, prediction >= 0
    clipped = {c: (np.clip(prediction, -c, c), np.clip(truth, -c, c)) for c in (2.0, 3.0)}
    return {
        "mae": np.mean(np.absolute(prediction - truth)).astype(np.float64),
        "corr": np.corrcoef(prediction, truth)[0][1],
        "acc2_has0": np.mean(truth_has0 == pred_has0),
        "f1_has0": literal_weighted_f1(truth_has0, pred_has0),
        "acc2_non0": np.mean(non_zeros_truth == non_zeros_pred),
        "f1_non0": literal_weighted_f1(non_zeros_truth, non_zeros_pred),
        "acc5": literal_multiclass_accuracy(*clipped[2.0]),
        "acc7": literal_multiclass_accuracy(*clipped[3.0]),
    }


def literal_sims(prediction, truth):
    """MMSA's ``__eval_sims_regression``, line by line."""
    prediction, truth = np.clip(prediction, a_min=-1.0, a_max=1.0), np.clip(truth, a_min=-1.0, a_max=1.0)
    result = {}
    for name, edges in SIMS_BINS.items():
        pred_bins, truth_bins = prediction.copy(), truth.copy()
        for i in range(len(edges) - 1):
            pred_bins[np.logical_and(prediction > edges[i], prediction <= edges[i + 1])] = i
            truth_bins[np.logical_and(truth > edges[i], truth <= edges[i + 1])] = i
        result[name] = literal_multiclass_accuracy(pred_bins, truth_bins)
        if name == "acc2":
            result["f1"] = literal_weighted_f1(truth_bins, pred_bins)
    result["mae"] = np.mean(np.absolute(prediction - truth)).astype(np.float64)
    result["corr"] = np.corrcoef(prediction, truth)[0][1]
    return result


LITERAL = {"mosi": literal_mosi, "sims": literal_sims}
MOSI_EDGES = [-4, -3, -2.5, -2, -1.5, -1, -0.5, -0.1, -0.0, 0.0, 0.1, 0.5, 1, 1.5, 2, 2.5, 3, 3.4]
SIMS_EDGES = [
    -1.3,
    -1,
    -0.7000001,
    -0.7,
    -0.6999999,
    -0.1,
    -0.0999999,
    0,
    1e-7,
    0.0999999,
    0.1,
    0.1000001,
    0.7,
    0.8,
    1,
    2,
]
EDGES = {"mosi": MOSI_EDGES, "sims": SIMS_EDGES}


@pytest.mark.parametrize("scale", ["mosi", "sims"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_literal_formulas_on_random_scores(scale, seed):
    generator = np.random.default_rng(seed)
    bound, step = (3, 5) if scale == "mosi" else (1, 5)
    truth = (np.round(generator.uniform(-bound, bound, 300) * step) / step).astype(np.float32)
    prediction = (truth + generator.normal(0, bound / 2, 300)).astype(np.float32)
    assert sentiment_metrics(prediction, truth, scale) == pytest.approx(LITERAL[scale](prediction, truth), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", ["mosi", "sims"])
def test_equals_the_literal_formulas_on_every_pair_of_edge_values(scale, dtype):
    edges = np.array(EDGES[scale], dtype=dtype)
    prediction, truth = (grid.ravel() for grid in np.meshgrid(edges, edges))
    assert sentiment_metrics(prediction, truth, scale) == pytest.approx(LITERAL[scale](prediction, truth), abs=1e-12)


def test_mosi_by_hand():
    prediction = torch.tensor([0.5, 1.5, 2.5, -0.5, -3.7, 0.0])
    truth = torch.tensor([0.0, 2.0, 3.0, -1.0, -3.0, -0.2])
    values = sentiment_metrics(prediction, truth)
    assert list(values) == ["mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"]
    assert values["mae"] == pytest.approx((0.5 + 0.5 + 0.5 + 0.5 + 0.7 + 0.2) / 6)
    assert values["acc7"] == pytest.approx(4 / 6)  # 2.5 rounds to 2 and -0.5 to 0
    assert values["acc5"] == pytest.approx(5 / 6)  # 3 is clipped to 2
    assert values["acc2_has0"] == pytest.approx(5 / 6)  # the prediction 0.0 is positive, -0.2 is not
    assert values["acc2_non0"] == pytest.approx(1.0)  # here 0.0 is not positive
    assert values["f1_has0"] == pytest.approx(3 / 6 * 6 / 7 + 3 / 6 * 4 / 5)


def test_sims_clips_before_the_error_and_counts_zero_as_negative():
    values = sentiment_metrics(np.float32([0.0, 1.5, -2.0, 0.1]), np.float32([-0.2, 1.0, -1.0, 0.2]), "sims")
    assert list(values) == list(metric_names("sims")) == ["acc2", "acc3", "acc5", "f1", "mae", "corr"]
    assert values["mae"] == pytest.approx((0.2 + 0 + 0 + 0.1) / 4)
    assert (values["acc2"], values["f1"]) == (1.0, 1.0)
    assert (values["acc3"], values["acc5"]) == (0.5, 0.5)


def test_shapes_types_and_devices_do_not_matter():
    prediction, truth = torch.randn(20, 1, requires_grad=True), torch.randn(20)
    wanted = sentiment_metrics(prediction, truth)
    assert sentiment_metrics(prediction.detach().numpy()[:, 0], truth.unsqueeze(1).numpy()) == wanted
    assert all(type(value) is float for value in wanted.values())
    assert sentiment_metrics(truth.bfloat16(), truth.half())["acc2_has0"] == 1.0
    assert sentiment_metrics([1, 2, -3], [1, 2, -3])["acc7"] == 1.0


@pytest.mark.parametrize("constant", [0.1, 0.0, -7.3])
@pytest.mark.parametrize("scale", ["mosi", "sims"])
def test_correlation_of_a_constant_is_zero_without_a_warning(scale, constant):
    truth = torch.linspace(-1, 1, 687)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sentiment_metrics(torch.full((687,), constant), truth, scale)["corr"] == 0.0
        assert sentiment_metrics(truth, torch.full((687,), constant), scale)["corr"] == 0.0
        assert sentiment_metrics(truth[:1], truth[:1], scale)["corr"] == 0.0


def test_non_zero_metrics_are_nan_where_every_truth_is_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = sentiment_metrics(np.float32([0.1, -0.2]), np.zeros(2, np.float32))
    assert [name for name, value in values.items() if math.isnan(value)] == ["acc2_non0", "f1_non0"]


@pytest.mark.parametrize(
    ("prediction", "target", "scale", "message"),
    [
        (np.zeros(3), np.zeros(2), "mosi", r"prediction: wanted 2 scores, one a target, got 3"),
        (np.zeros((3, 2)), np.zeros(3), "mosi", r"prediction: wanted shape \(N,\) or \(N, 1\), got \(3, 2\)"),
        (np.zeros(3), np.zeros((1, 3)), "sims", r"target: wanted shape"),
        (np.float32(1), np.zeros(1), "mosi", r"prediction: wanted shape"),
        (np.array([0, np.nan]), np.zeros(2), "mosi", r"prediction: wanted finite scores, got 1 of 2 not finite"),
        (np.zeros(2), np.array([0, np.inf]), "sims", r"target: wanted finite scores"),
        (np.zeros(0), np.zeros(0), "mosi", r"prediction: wanted at least one sample, got none"),
        (np.zeros(2), np.zeros(2), "emotion", r"scale: wanted mosi or sims, got 'emotion'"),
    ],
)
def test_errors_of_scores_say_what_was_wanted_on_one_line(prediction, target, scale, message):
    with pytest.raises(ValueError, match=message) as caught:
        sentiment_metrics(prediction, target, scale)
    assert "\n" not in str(caught.value)


def test_emotions_with_a_missing_class():
    generator = np.random.default_rng(0)
    truth = generator.choice([0, 1, 2, 4, 5], 200)  # nobody is angry
    logits = generator.normal(size=(200, 6)).astype(np.float32) + 1.5 * np.eye(6, dtype=np.float32)[truth]
    predicted = logits.argmax(axis=1)
    assert 3 in predicted
    values = emotion_metrics(torch.from_numpy(logits), torch.from_numpy(truth).unsqueeze(1))
    wanted = {"wacc": np.mean(predicted == truth), "waf1": literal_weighted_f1(truth, predicted)}
    assert values == pytest.approx(wanted, abs=1e-12)
    assert tuple(values) == metric_names("emotion")


def test_weighted_accuracy_is_the_recalls_weighted_by_their_class_sizes():
    logits, truth = np.eye(3)[[0, 0, 1, 2, 1]], np.array([0, 0, 0, 2, 1])
    recalls, sizes = np.array([2 / 3, 1, 1]), np.array([3, 1, 1])
    assert emotion_metrics(logits, truth)["wacc"] == pytest.approx((recalls * sizes).sum() / 5)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (np.zeros((3, 6)), np.zeros(2), r"logits: wanted shape \(N, C\) with N = 2 targets"),
        (np.zeros(2), np.zeros(2), r"logits: wanted shape"),
        (np.full((2, 6), np.nan), np.zeros(2), r"logits: wanted numbers, got nan in 2 of 2 rows"),
        (np.zeros((2, 6)), np.array([0, 6]), r"target: wanted class indices in 0 \.\.\. 5, got values from 0 to 6"),
        (np.zeros((2, 6)), np.array([0, 0.5]), r"target: wanted class indices"),
        (np.zeros((0, 6)), np.zeros(0), r"target: wanted at least one sample"),
    ],
)
def test_errors_of_emotions(logits, target, message):
    with pytest.raises(ValueError, match=message):
        emotion_metrics(logits, target)


def test_names_and_directions():
    assert len(metric_names("mosi")) == 8
    assert [
        name for scale in ("mosi", "sims", "emotion") for name in metric_names(scale) if not higher_is_better(name)
    ] == ["mae"] * 2
    with pytest.raises(ValueError, match="scale: wanted one of mosi, sims, emotion, got 'mosei'"):
        metric_names("mosei")
    with pytest.raises(ValueError, match="name: wanted one of acc2, .*, got 'loss'"):
        higher_is_better("loss")
