"""Configurations as data: names, types, identity and variants."""

import hashlib
import json
import re
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from decalign_core.lab.experiment import (
    VARIANTS,
    DataConfig,
    ExperimentConfig,
    TrainingConfig,
    configure,
    with_variant,
)
from decalign_core.lab.presets import preset
from decalign_core.model import DecAlignConfig
from decalign_core.nn.text import TextEncoder
from decalign_core.objective import ObjectiveConfig


def flat(config):
    """Dotted names to values; what a mapping such as the dropouts holds stays whole."""
    values = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            values |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        else:
            values[field.name] = value
    return values


def changes(one, two):
    first, second = flat(one), flat(two)
    return {key: second[key] for key in first if first[key] != second[key]}


# --- configure ---


def test_no_arguments_are_needed():
    assert configure({}) == ExperimentConfig() == preset()
    assert ExperimentConfig().data == DataConfig() and ExperimentConfig().objective == ObjectiveConfig()


@pytest.mark.parametrize(
    ("key", "given", "wanted"),
    [
        ("training.epochs", "3", 3),
        ("training.epochs", 3, 3),
        ("training.learning_rate", "2e-4", 2e-4),
        ("training.learning_rate", 1, 1.0),
        ("training.schedule", "plateau", "plateau"),
        ("model.decoupled", "false", False),
        ("model.decoupled", "true", True),
        ("model.latent_width", "16", 16),
        ("model.latent_width", "null", None),
        ("model.attention_dropout", "0.25", 0.25),
        ("model.attention_dropout", '{"text": 0.1, "audio": 0.0}', {"text": 0.1, "audio": 0.0}),
        ("model.attention_dropout", {"text": 0.1}, {"text": 0.1}),
        ("model.modalities", {"a": 3, "b": 4}, {"a": 3, "b": 4}),
        ("objective.bandwidth", "median", "median"),
        ("objective.bandwidth", "2", 2.0),
        ("objective.bandwidth_multiples", "[1, 2]", (1.0, 2.0)),
        ("objective.sinkhorn_tolerance", None, None),
        ("data.fold", "2", 2),
        ("data.modalities", '["text", "audio"]', ("text", "audio")),
        ("data.modalities", ("text", "audio"), ("text", "audio")),
        ("data.standardise", [], ()),
        ("data.protocol", "", ""),
        ("data.text_encoder", "123", "123"),
        ("data.root", "a folder=with: signs", "a folder=with: signs"),
        ("method", "ridge", "ridge"),
    ],
)
def test_values_may_be_texts(key, given, wanted):
    got = flat(configure({key: given}))[key]
    assert got == wanted and type(got) is type(wanted)


def test_only_what_is_named_changes():
    modalities = {"a": 3, "b": TextEncoder("x")}
    base = replace(configure({"training.epochs": 7}), model=DecAlignConfig(modalities, width=32))
    other = configure({"objective.alpha": 0.2, "model.modalities": {"c": 1, "d": 2}}, base)
    assert changes(base, other) == {"objective.alpha": 0.2, "model.modalities": {"c": 1, "d": 2}}
    assert base.model.modalities == modalities, "the base is left as it was"
    assert configure({"objective.alpha": 0.2}, base).model == base.model
    mapped = configure({"model.input_dropout": {"text": 0.5, "audio": 0.1}})
    assert configure({"model.input_dropout": {"text": 0.0}}, mapped).model.input_dropout == {"text": 0.0}
    assert configure({"model.input_dropout": 0.1}, mapped).model.input_dropout == 0.1


def test_values_may_be_of_the_fields_type():
    modalities = {"a": 3, "b": TextEncoder("x", fine_tune=True)}
    assert configure({"model.modalities": modalities}).model.modalities == modalities


def test_values_may_be_numpys():
    config = configure({"objective.alpha": np.float64(0.2), "training.seed": np.int64(3)})
    assert (config.objective.alpha, config.training.seed) == (0.2, 3)


@pytest.mark.parametrize(
    ("key", "value"), [("data.fold", "x"), ("objective.bandwidth", "wide"), ("model.input_dropout", "much")]
)
def test_messages_about_alternatives_can_be_read(key, value):
    with pytest.raises(ValueError, match=rf"^{key}: wanted ") as caught:
        configure({key: value})
    assert not any(noise in str(caught.value) for noise in ("<class", "Given value type", "Expected", "- "))


def test_more_prototypes_than_samples_of_a_batch():
    with pytest.raises(ValueError, match=r"^objective\.components: wanted at most training\.batch_size = 4, got 7$"):
        configure({"training.batch_size": 4})
    assert configure({"training.batch_size": 4, "objective.components": 4}).objective.components == 4
    with pytest.raises(ValueError, match=r"^objective\.components"):
        ExperimentConfig(objective=ObjectiveConfig(components=33))


# --- identity ---

ODD = ExperimentConfig(
    DataConfig(fold=2, modalities=("a", "b"), standardise=(), clip_percentiles=(0.5, 99.5)),
    DecAlignConfig({"a": 3, "b": TextEncoder("folder", True, 20)}, input_dropout={"a": 0.5}, latent="off"),
    ObjectiveConfig.letter(alpha=0.3, bandwidth="median", sinkhorn_tolerance=None),
    TrainingConfig(seed=5, selection="corr", precision="bf16"),
    "ridge",
    "no_mmd",
)


@pytest.mark.parametrize("config", [ExperimentConfig(), ODD, preset("official", "sims"), preset("paper", "mosei")])
def test_round_trip_through_json(config):
    values = json.loads(json.dumps(config.to_dict()))
    again = ExperimentConfig.from_dict(values)
    assert again == config
    assert again.hash() == config.hash()
    assert again.to_dict() == values


def test_integers_for_numbers_are_the_same_configuration():
    """clip=0 is how the docstring says "do not clip": such a run must be found again by its hash."""
    config = ExperimentConfig(training=TrainingConfig(clip=0, weight_decay=0), objective=ObjectiveConfig(alpha=1))
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    assert ExperimentConfig.from_dict(config.to_dict()).hash() == config.hash()


def test_unknown_names_in_a_file_are_errors():
    for values in ({"data": {"nope": 1}}, {"nope": 1}, {"training": {"epochs": 2, "epoch": 2}}):
        with pytest.raises(ValueError, match="no such setting"):
            ExperimentConfig.from_dict(values)
    with pytest.raises(TypeError, match="nope"):
        TrainingConfig(nope=1)


def test_partial_files_take_the_defaults():
    assert ExperimentConfig.from_dict({"training": {"epochs": 2}}) == configure({"training.epochs": 2})


def test_hash_leaves_out_folder_and_device():
    hashed = ExperimentConfig().hash()
    assert len(hashed) == 16 and int(hashed, 16) >= 0
    assert configure({"data.root": "/elsewhere", "training.device": "cuda:1"}).hash() == hashed


def test_complete_data_have_the_hash_of_before_the_setting_existed():
    """The digest of the values without the setting; with it, another for each chance."""
    values = ExperimentConfig().to_dict()
    assert values["data"].pop("missing") == 0
    assert not values["training"].pop("bucketed") and not values["training"].pop("compile")
    for key, section in (("root", "data"), ("device", "training")):
        values[section].pop(key)
    values.pop("peer")
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    assert ExperimentConfig().hash() == configure({"data.missing": 0}).hash() == digest
    assert len({configure({"data.missing": chance}).hash() for chance in (0, 0.1, 0.2)}) == 3


@pytest.mark.parametrize("chance", [-0.1, 1.1, float("nan")])
def test_a_chance_out_of_range_is_told(chance):
    with pytest.raises(ValueError, match=r"^data.missing: wanted a chance in \[0, 1\], got"):
        DataConfig(missing=chance)


OTHER = {
    "objective.coupling": "chain",
    "data.dataset": "mosi",
    "data.protocol": "classification",
    "data.fold": 1,
    "data.modalities": ["text", "audio"],
    "data.text_encoder": "bert",
    "data.standardise": [],
    "data.clip_percentiles": [1.0, 99.0],
    "model.modalities": {"a": 1, "b": 2},
    "model.heads": 4,
    "model.width": 32,
    "model.latent_width": 4,
    "model.latent": "off",
    "objective.task": "mae",
    "objective.penalty": "signed",
    "objective.covariance": "full",
    "objective.sinkhorn_tolerance": None,
    "objective.bandwidth": 1.0,
    "objective.bandwidth_multiples": [1.0],
    "training.optimiser": "adam",
    "training.schedule": "constant",
    "training.selection": "corr",
    "training.precision": "float32",
    "method": "svr",
    "variant": "other",
}


def another(key, value):
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    return value / 2 if isinstance(value, float) and value else value + 1 if isinstance(value, int) else 0.25


@pytest.mark.parametrize(
    "key", [key for key in flat(ExperimentConfig()) if key not in ("data.root", "training.device", "peer")]
)
def test_hash_sees_everything_else(key):
    base = ExperimentConfig()
    other = configure({key: another(key, flat(base)[key])})
    assert list(changes(base, other)) == [key]
    assert other.hash() != base.hash()


# --- peers ---


def test_a_peer_has_settings_of_its_own():
    config = configure({"method": "early", "peer.width": "32"})
    assert config.peer["width"] == 32 and "modalities" not in config.peer
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    assert config.hash() != configure({"method": "early"}).hash()
    assert configure({"peer.output_dropout": 0.1}, config).peer == config.peer | {"output_dropout": 0.1}
    assert configure({"method": "decalign"}, config).peer == ExperimentConfig().peer == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peer.width": 3}, "peer.width: no such setting of the method decalign"),
        ({"method": "early", "peer.rang": 3}, "peer.rang: no such setting"),
        ({"method": "early", "peer.width": "many"}, "peer.width: wanted int, got 'many'"),
        ({"method": "early", "peer.width": 0}, "peer.width: wanted at least 1, got 0"),
        ({"method": "early", "peer.task": "huber"}, "peer.task: wanted "),
        ({"method": "none"}, "method: wanted "),
    ],
)
def test_wrong_settings_of_a_peer(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        configure(changes)


def test_a_record_with_an_unknown_setting_of_a_peer_is_refused():
    values = configure({"method": "early"}).to_dict()
    with pytest.raises(ValueError, match=r"peer\.rank: no such setting of early, wanted one of"):
        ExperimentConfig.from_dict(values | {"peer": {"rank": 4}})


# --- variants: Tables 3 and 4 ---

TRANSPORT = {"objective.transport_weight": 0.0, "objective.prototype_weight": 0.0}
OWN_FRAMES = {"model.cross_modal": False}
SEMANTIC, MMD = {"objective.semantic_weight": 0.0}, {"objective.mmd_weight": 0.0}
UNSPLIT = {"model.decoupled": False, "objective.decoupling_weight": 0.0}
ROWS = {
    "full": {},
    "no_proto_ot": TRANSPORT,
    "no_ct_transformer": OWN_FRAMES,
    "no_ct_contrastive": {"objective.contrastive_weight": 0.0},
    "no_sem": SEMANTIC,
    "no_mmd": MMD,
    "no_hete": TRANSPORT | OWN_FRAMES,
    "no_hete_keep_transformer": TRANSPORT,
    "no_homo": SEMANTIC | MMD,
    "no_hete_homo": TRANSPORT | OWN_FRAMES | SEMANTIC | MMD,
    "no_mfd": TRANSPORT | OWN_FRAMES | SEMANTIC | MMD | UNSPLIT,
}


def test_all_rows_are_there():
    assert set(VARIANTS) == set(ROWS)


@pytest.mark.parametrize("variant", ROWS)
def test_a_variant_is_its_named_difference(variant):
    full = configure({"objective.contrastive_weight": 0.01, "model.width": 32})
    wanted = ROWS[variant] | ({} if variant == "full" else {"variant": variant})
    assert changes(full, with_variant(full, variant)) == wanted
    assert with_variant(full, "full") == full


def test_a_change_does_not_undo_a_variant():
    full = ExperimentConfig()
    assert with_variant(full, "no_mmd", {"objective.alpha": 0.1}) == configure(
        {"objective.alpha": 0.1}, with_variant(full, "no_mmd")
    )
    for key in ("variant", *MMD):
        with pytest.raises(ValueError, match=rf"^{key}: wanted no change of what the variant no_mmd sets, .*, got 1$"):
            with_variant(full, "no_mmd", {key: 1})


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match=r"^variant: wanted one of full, .*no_mfd.*, got 'no_ot'$"):
        with_variant(ExperimentConfig(), "no_ot")
