"""Presets: the project's own, the official code's and the paper's numbers, data set by data set."""

from dataclasses import asdict, replace

import pytest

from decalign_core.data import NAMES
from decalign_core.lab.experiment import ExperimentConfig, configure
from decalign_core.lab.presets import PRESETS, preset
from decalign_core.objective import ObjectiveConfig


def flat(config):
    """Dotted names to values, of the four sections."""
    sections = ("data", "model", "objective", "training")
    return {f"{name}.{key}": value for name in sections for key, value in vars(getattr(config, name)).items()}


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_exist_for_every_data_set(name, dataset):
    config = preset(name, dataset)
    assert config.data.dataset == dataset and config.variant == "full" and config.method == "decalign"
    if dataset in ("synthetic", "mosi_public"):
        assert config.data.text_encoder == "" and not config.data.fine_tune
    assert ExperimentConfig.from_dict(config.to_dict()).hash() == config.hash()


SIMS_ATTENTION = {"text": 0.4, "audio": 0.3, "vision": 0.1}
# The official code at 6fa8df9: width, heads, layers, kernel, batch, rates, epochs, patience, alpha, beta, CT, K
OFFICIAL = {
    "mosi": (64, 8, 5, 1, 32, 6e-5, 6e-5, 18, 6, 0.05, 0.07, 0.003, 7),
    "mosei": (64, 8, 4, 5, 128, 5e-5, 1e-5, 16, 5, 0.005, 0.0, 0.001, 7),
    "sims": (32, 8, 4, 5, 24, 3.5e-5, 7.5e-6, 55, 11, 0.0175, 0.0525, 0.01, 7),
    "iemocap": (48, 4, 4, 1, 32, 1e-4, 1e-4, 50, 5, 0.05, 0.05, 0.0, 6),
}
NUMBERS = (
    *("model.width", "model.heads", "model.layers", "model.kernel_size", "training.batch_size"),
    *("training.learning_rate", "training.encoder_learning_rate", "training.epochs", "training.patience"),
    *("objective.alpha", "objective.beta", "objective.contrastive_weight", "objective.components"),
)


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_official_numbers(dataset):
    values = flat(preset("official", dataset))
    assert {key: values[key] for key in NUMBERS} == dict(zip(NUMBERS, OFFICIAL[dataset], strict=True))
    assert values["training.weight_decay"] == 0.005
    assert values["training.clip"] == (0.5 if dataset == "sims" else 0.6)
    # its method: squared cosine, costs and moments per coordinate, its kernel, no positions, norm after the block
    assert values["objective.penalty"] == "squared" and values["objective.covariance"] == "diag"
    assert values["objective.epsilon"] == 0.1 and not values["objective.relative_epsilon"]
    assert values["objective.sinkhorn_iterations"] == 50 and values["objective.em_steps"] == 5
    assert values["objective.bandwidth"] == 1.0 and values["objective.bandwidth_multiples"] == (1.0,)
    assert values["model.latent"] == "per_modality"
    assert not values["model.positions"] and not values["model.norm_first"]
    assert values["training.optimiser"] == "adam" and values["training.schedule"] == "plateau"


def test_official_particulars():
    sims, mosei, mosi = (preset("official", name) for name in ("sims", "mosei", "mosi"))
    assert sims.model.attention_dropout == SIMS_ATTENTION and sims.data.text_encoder == "bert-base-chinese"
    assert sims.objective.binary_weight == 0.01 and sims.objective.temperature == 0.07
    assert sims.training.selection == "f1" and not sims.data.aligned
    assert mosei.training.selection == "acc2_non0" and mosei.data.clip_percentiles == (0.5, 99.5)
    assert mosei.data.standardise == ("audio", "vision") == sims.data.standardise
    assert mosi.data.standardise == () and mosi.data.text_encoder == "bert-base-uncased" and mosi.data.fine_tune
    assert preset("official", "iemocap").data.text_encoder == ""


# The paper's appendix, as far as it is quoted: width, heads, layers, kernel, batch, rate, epochs, patience, K
APPENDIX = {
    "mosi": (40, 10, 5, 1, 32, 2e-4, 50, 10, 7),
    "mosei": (64, 8, 4, 5, 32, 1e-4, 100, 5, 7),
    "sims": (32, 8, 4, 5, 32, 5e-5, 50, 5, 7),
    "iemocap": (48, 4, 4, 1, 32, 1e-4, 50, 5, 6),
}


@pytest.mark.parametrize("dataset", APPENDIX)
def test_the_papers_numbers(dataset):
    values = flat(preset("paper", dataset))
    keys = [
        *("model.width", "model.heads", "model.layers", "model.kernel_size", "training.batch_size"),
        *("training.learning_rate", "training.epochs", "training.patience", "objective.components"),
    ]
    assert {key: values[key] for key in keys} == dict(zip(keys, APPENDIX[dataset], strict=True))
    assert values["training.weight_decay"] == 0.005
    assert values["training.clip"] == (0.5 if dataset == "sims" else 0.6)
    assert values["objective.alpha"] == values["objective.beta"] == 0.05
    if dataset == "sims":
        assert values["model.attention_dropout"] == SIMS_ATTENTION
        assert (values["model.output_dropout"], values["model.input_dropout"]) == (0.6, {"text": 0.5})


@pytest.mark.parametrize("dataset", NAMES)
def test_the_papers_objective_is_the_letter(dataset):
    got, letter = preset("paper", dataset).objective, ObjectiveConfig.letter()
    listed = {"alpha", "beta", "components", "epsilon", "task"}
    assert {key for key, value in asdict(got).items() if value != asdict(letter)[key]} <= listed
    assert got.task == "mse" and got.contrastive_weight == 0 and got.penalty == "signed"
    assert replace(got, components=letter.components) == letter


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match=r"^preset: wanted one of default, official, paper, got 'best'$"):
        preset("best")
    with pytest.raises(ValueError, match=r"^dataset: wanted .* got 'mosy'$"):
        preset("official", "mosy")


def test_a_peers_preset_takes_the_training_and_input_dropout_of_the_data_set():
    ours, early = (preset("default", "mosi_public", "standard", method=method) for method in ("decalign", "early"))
    assert early.training == ours.training and early.peer["input_dropout"] == ours.model.input_dropout
    assert preset("default", "mosi_public", method="tfn").training.batch_size == 32, "its own go over them"
    assert preset("default", "mosi_public") == configure(
        {"data.protocol": ""}, preset("default", "mosi_public", "unseen")
    )
    with pytest.raises(ValueError, match="preset: wanted 'default' with the method 'early', got 'official'"):
        preset("official", "mosi_public", method="early")


def test_a_fine_tuned_encoder_has_settings_of_its_own():
    frozen, tuned = (preset("default", "mosi_public", "standard", "some/encoder", fine_tune=f) for f in (False, True))
    assert not frozen.data.fine_tune and tuned.data.fine_tune
    assert tuned.training.epochs < frozen.training.epochs
    assert preset("official", "mosi", text_encoder="some/encoder").data.fine_tune, "as the official code does"
