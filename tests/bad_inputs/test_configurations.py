"""Configurations that no run can have: refused where they are made or where they meet the data; nothing is written."""

from dataclasses import replace
from functools import partial

import pytest
from refusals import refusal, untouched

from decalign_core.data import load
from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.lab.experiment import ExperimentConfig, TrainingConfig, configure, with_variant
from decalign_core.lab.presets import preset
from decalign_core.lab.training import train
from decalign_core.model import DecAlign, DecAlignConfig
from decalign_core.objective import ObjectiveConfig

POSITIVE, SHARE, NOT_NEGATIVE = "wanted a positive number", "wanted a number in [0, 1)", "wanted no negative number"

CHANGES = [
    pytest.param("training.epoch", 3, "no such setting, did you mean training.epochs?", id="unknown key"),
    pytest.param("objective.alhpa", 3, "no such setting, did you mean objective.alpha?", id="key misspelt"),
    pytest.param("learning_rate", 3, "no such setting, did you mean training.learning_rate?", id="key without section"),
    pytest.param("seed", 3, "no such setting, did you mean training.seed?", id="short key without section"),
    pytest.param("objective", {}, "no such setting", id="a section as key"),
    pytest.param("", 1, "no such setting", id="empty key"),
    pytest.param("training.epochs", "many", "wanted int, got 'many'", id="word for a number"),
    pytest.param("training.epochs", 2.5, "wanted int, got 2.5", id="fraction for a whole number"),
    pytest.param("training.epochs", "", "wanted int, got ''", id="empty for a number"),
    pytest.param("training.epochs", None, "wanted int, got None", id="nothing for a number"),
    pytest.param("training.epochs", [3], "wanted int, got [3]", id="list for a number"),
    pytest.param("training.learning_rate", "nan", "wanted float, got 'nan'", id="NaN from a text"),
    pytest.param("training.learning_rate", True, "wanted float, got True", id="truth for a number"),
    pytest.param("model.decoupled", "maybe", "wanted bool, got 'maybe'", id="word for a truth"),
    pytest.param("data.fold", "x", "wanted", id="word for a fold"),
    pytest.param("data.modalities", "text", "wanted", id="word for a list"),
    pytest.param("data.clip_percentiles", ["a", 10], "wanted float, got ['a', 10]", id="word among numbers"),
    pytest.param("model.modalities", "text", "wanted a mapping, got 'text'", id="word for a mapping"),
    pytest.param("training.schedule", "linear", "wanted one of cosine, plateau, constant, got 'linear'", id="schedule"),
    pytest.param("training.optimiser", "sgd", "wanted one of adamw, adam, got 'sgd'", id="optimiser"),
    pytest.param("training.precision", "bf17", "wanted one of auto, float32, bf16, got 'bf17'", id="precision"),
    pytest.param("model.latent", "x", "wanted one of off, shared, per_modality, got 'x'", id="latent"),
    pytest.param("objective.coupling", "ring", "wanted one of dense, sampled, chain, star, got 'ring'", id="coupling"),
    pytest.param("method", "lasso", "wanted one of decalign, early, ", id="method"),
    pytest.param("model.width", 0, "wanted at least 1, got 0", id="width 0"),
    pytest.param("model.width", -64, "wanted at least 1, got -64", id="width negative"),
    pytest.param("model.heads", 0, "wanted at least 1, got 0", id="no heads"),
    pytest.param("model.heads", 7, "wanted a divisor of width 64, got 7", id="heads that do not divide d"),
    pytest.param("model.layers", -1, "wanted at least 0, got -1", id="layers negative"),
    pytest.param("model.kernel_size", 0, "wanted at least 1, got 0", id="kernel of 0 frames"),
    pytest.param("model.outputs", 0, "wanted at least 1, got 0", id="no outputs"),
    pytest.param("model.latent_width", 0, "wanted at least 1, got 0", id="latent width 0"),
    pytest.param("model.output_dropout", 1.0, "wanted rates in [0, 1), got 1.0", id="dropout of all"),
    pytest.param("model.attention_dropout", {"text": 2.0}, "wanted rates in [0, 1), got {'text': 2.0}", id="dropout 2"),
    pytest.param("model.modalities", {"a": 3}, "wanted at least 2, got ['a']", id="M = 1"),
    pytest.param("model.modalities", {"a": 3, "b": 0}, "wanted a width of at least 1 for 'b', got 0", id="no columns"),
    pytest.param("training.epochs", 0, f"{POSITIVE}, got 0", id="no epochs"),
    pytest.param("training.epochs", -5, f"{POSITIVE}, got -5", id="epochs negative"),
    pytest.param("training.batch_size", 0, f"{POSITIVE}, got 0", id="batch of 0"),
    pytest.param("training.learning_rate", 0, f"{POSITIVE}, got 0", id="rate 0"),
    pytest.param("training.patience", 0, f"{POSITIVE}, got 0", id="no patience"),
    pytest.param("training.selection_window", 0, f"{POSITIVE}, got 0", id="window 0"),
    pytest.param("training.threads", 0, f"{POSITIVE}, got 0", id="no threads"),
    pytest.param("training.threads", 100_000, "wanted at most 1024, got 100000", id="threads that end the process"),
    pytest.param("training.warmup", 1, f"{SHARE}, got 1", id="warm-up of all"),
    pytest.param("training.average", -0.1, f"{SHARE}, got -0.1", id="average negative"),
    pytest.param("training.seed", -1, f"{NOT_NEGATIVE}, got -1", id="seed negative"),
    pytest.param("training.clip", -1, f"{NOT_NEGATIVE}, got -1", id="clip negative"),
    pytest.param("objective.components", 0, f"{POSITIVE}, got 0", id="K = 0"),
    pytest.param("objective.components", 33, "wanted at most training.batch_size = 32, got 33", id="K over batch_size"),
    pytest.param("objective.em_steps", 0, f"{POSITIVE}, got 0", id="no EM step"),
    pytest.param("objective.epsilon", 0, f"{POSITIVE}, got 0", id="epsilon 0"),
    pytest.param("objective.floor", 0, f"{POSITIVE}, got 0", id="floor 0"),
    pytest.param("objective.temperature", -1, f"{POSITIVE}, got -1", id="temperature negative"),
    pytest.param("objective.sinkhorn_tolerance", 0, "wanted None or a positive number, got 0", id="tolerance 0"),
    pytest.param("objective.alpha", -1, "wanted a number from 0 on, got -1", id="alpha negative"),
    pytest.param("objective.binary_weight", -1, "wanted a number from 0 on, got -1", id="weight negative"),
    pytest.param("objective.bandwidth", -1, "wanted 'median' or a positive number, got -1", id="bandwidth negative"),
    pytest.param("objective.bandwidth", "wide", "wanted", id="bandwidth in words"),
    pytest.param(
        "objective.bandwidth_multiples", [], "wanted positive numbers, one at least, got ()", id="no multiple"
    ),
    pytest.param("objective.bandwidth_multiples", [1, -1], "wanted positive numbers", id="multiple negative"),
]


@pytest.mark.parametrize(("key", "value", "said"), CHANGES)
def test_a_setting(key, value, said):
    line = refusal(lambda: configure({key: value}), f"{key}: ", *said.split(", got "))
    assert ", got " in line or "no such setting" in line
    assert not any(noise in line for noise in ("<class", "typing.", "Literal[", "Expected"))


MADE = [
    pytest.param(lambda: TrainingConfig(optimiser="sgd"), "training.optimiser: wanted one of", "'sgd'", id="optimiser"),
    pytest.param(
        lambda: TrainingConfig(learning_rate=float("inf")), f"learning_rate: {POSITIVE}", "inf", id="rate inf"
    ),
    pytest.param(lambda: TrainingConfig(weight_decay=float("nan")), f"decay: {NOT_NEGATIVE}", "nan", id="decay NaN"),
    pytest.param(
        lambda: ObjectiveConfig(beta=float("nan")), "objective.beta: wanted a number from 0", "nan", id="beta"
    ),
    pytest.param(lambda: ObjectiveConfig(task="huber"), "objective.task: wanted one of", "'huber'", id="task"),
    pytest.param(
        lambda: ObjectiveConfig(coupling="sampled", covariance="full"),
        "covariance: wanted 'diag'",
        "'full'",
        id="sampled",
    ),
    pytest.param(
        lambda: ObjectiveConfig(coupling="chain", through_marginals=True),
        "coupling: wanted 'dense'",
        "'chain'",
        id="chain",
    ),
    pytest.param(
        lambda: ExperimentConfig(objective=ObjectiveConfig(components=40)),
        "wanted at most",
        "40",
        id="K over batch_size",
    ),
    pytest.param(lambda: ExperimentConfig(method="lasso"), "method: wanted one of", "'lasso'", id="method"),
    pytest.param(lambda: DecAlign(DecAlignConfig()), "modalities: wanted", "", id="a model of no modality"),
    pytest.param(lambda: ExperimentConfig.from_dict([]), "configuration: wanted a mapping", "list", id="a list"),
    pytest.param(lambda: with_variant(ExperimentConfig(), "no_ot"), "variant: wanted one of full", "'no_ot'", id="row"),
    pytest.param(lambda: preset("best"), "preset: wanted one of", "'best'", id="preset"),
    pytest.param(lambda: preset("default", "mosy"), "dataset: wanted one of", "'mosy'", id="unknown dataset"),
    pytest.param(
        lambda: preset("official", method="early"), "preset: wanted 'default'", "'official'", id="peer's preset"
    ),
    pytest.param(
        lambda: configure({"method": "early", "peer.width": 0}), "peer.width: wanted at least 1", "0", id="peer's width"
    ),
    pytest.param(
        lambda: configure({"method": "mult", "peer.heads": 5}), "peer.heads: wanted a divisor", "5", id="peer's heads"
    ),
]


@pytest.mark.parametrize(("make", "wanted", "got"), MADE)
def test_a_record_made_by_hand(make, wanted, got):
    refusal(make, wanted, got)


OPTIONS = [
    pytest.param({"name": "mosy"}, "dataset: wanted one of synthetic, ", "'mosy'", id="unknown dataset"),
    pytest.param(
        {"name": "synthetic", "protocol": "unseen"}, "protocol: wanted one of regr", "'unseen'", id="protocol"
    ),
    pytest.param(
        {"name": "mosi", "protocol": "unseen"}, "protocol: wanted none for mosi", "'unseen'", id="no protocols"
    ),
    pytest.param({"name": "synthetic", "fold": 0}, "fold: wanted none for synthetic", "0", id="no folds"),
    pytest.param({"name": "mosi_public", "fold": 5}, "fold: wanted None or a number from 0 to 4", "5", id="fold 5"),
    pytest.param({"name": "mosi_public", "fold": 0, "protocol": "standard"}, "fold: wanted None", "0", id="one split"),
    pytest.param({"name": "synthetic", "text_encoder": "bert"}, "text_encoder: wanted none", "'bert'", id="no texts"),
    pytest.param({"name": "mosi", "fine_tune": True}, "fine_tune: wanted a text encoder", "none", id="nothing to tune"),
    pytest.param({"name": "synthetic", "modalities": ["smell"]}, "modalities: wanted some of", "smell", id="modality"),
    pytest.param({"name": "synthetic", "standardise": ["smell"]}, "standardise: wanted", "smell", id="standardise"),
    pytest.param(
        {"name": "synthetic", "standardise": ["smell"], "modalities": ["text"]},
        "standardise: wanted some of text, audio, vision",
        "smell",
        id="standardise, some kept",
    ),
    pytest.param(
        {"name": "synthetic", "clip_percentiles": [1, 99]}, "clip_percentiles: wanted none", "(1, 99)", id="cut nothing"
    ),
    pytest.param(
        {"name": "mosi_public", "clip_percentiles": [1, 99]}, "standardise names no", "(1, 99)", id="cut no frame"
    ),
    pytest.param(
        {"name": "mosei", "standardise": [], "clip_percentiles": [1, 99]}, "names no", "(1, 99)", id="cut none named"
    ),
    pytest.param({"name": "synthetic", "clip_percentiles": [5.0]}, "clip_percentiles: wanted two", "(5.0,)", id="one"),
    pytest.param({"name": "synthetic", "clip_percentiles": [5, 101]}, "in [0, 100]", "(5, 101)", id="beyond 100"),
    pytest.param({"name": "synthetic", "clip_percentiles": [90, 10]}, "the lower first", "(90, 10)", id="reversed"),
    pytest.param({"name": "synthetic", "missing": 1.5}, "missing: wanted a chance in [0, 1]", "1.5", id="missing > 1"),
    pytest.param({"name": "synthetic", "missing": float("nan")}, "missing: wanted a chance", "nan", id="missing nan"),
]


@pytest.mark.parametrize(("options", "wanted", "got"), OPTIONS)
def test_a_choice_of_data(options, wanted, got):
    refusal(lambda: load(**options), wanted, f", got {got}")


@pytest.mark.parametrize("method", ["decalign", "early", "ridge", "svr"])
def test_data_that_are_no_numbers(tmp_path, method):
    splits = generate(SyntheticConfig(samples=(8, 4, 4)))
    features, target = splits.train.features["audio"].clone(), splits.train.target.clone()
    features[3, 1, 2] = float("nan")
    target[5] = float("nan")
    said = "splits.train: {}: wanted finite numbers, got 1 NaN or infinite, the first in 'synthetic$_$00000{}'"
    for change, what, sample in (
        ({"features": {**splits.train.features, "audio": features}}, "features['audio']", 3),
        ({"target": target}, "target", 5),
    ):
        data = replace(splits, train=replace(splits.train, **change))
        config = configure({"method": method, "training.device": "cpu"})
        with untouched(tmp_path):
            refusal(partial(train, config, data, run_dir=tmp_path / "run", progress=False), said.format(what, sample))


MEETING = [
    pytest.param({"data.modalities": ["text"]}, "model.modalities: wanted at least 2", "['text']", id="M = 1"),
    pytest.param({"training.selection": "waf1"}, "training.selection: wanted one of mae", "'waf1'", id="selection"),
    pytest.param({"training.device": "abacus"}, "device: wanted 'auto'", "'abacus'", id="device unknown"),
    pytest.param({"training.device": "meta"}, "device: wanted 'auto'", "'meta'", id="device without values"),
    pytest.param({"data.protocol": "unseen"}, "protocol: wanted one of regression", "'unseen'", id="protocol"),
    pytest.param(
        {"model.modalities": {"text": 31, "audio": 12, "vision": 20}}, "wanted those of", "{'text': 31", id="width"
    ),
    pytest.param({"model.modalities": {"text": 32, "audio": 12}}, "wanted those of the data", "{'text'", id="M = 2"),
]


@pytest.mark.parametrize(("changes", "wanted", "got"), MEETING)
def test_a_configuration_that_does_not_fit_leaves_no_folder(tmp_path, changes, wanted, got):
    with untouched(tmp_path):
        refusal(lambda: train(configure(changes), run_dir=tmp_path / "run", progress=False), wanted, f", got {got}")
    # the folder is free: nothing stands in the way of the right setting
    record = train(configure({"method": "ridge"}), run_dir=tmp_path / "run", progress=False)
    assert record.model == "ridge"
