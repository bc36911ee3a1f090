"""An experiment as data: what is trained, on what, how; ablation variants as named differences.

An :class:`ExperimentConfig` holds everything that a result depends on. Variants, and presets (see
:mod:`decalign_core.lab.presets`), are mappings from dotted names to values, applied by :func:`configure`, which knows
every field's type and refuses unknown names.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from decalign_core.lab.controls import CONTROLS
from decalign_core.model import DecAlignConfig
from decalign_core.objective import ObjectiveConfig
from decalign_core.peers import PEERS
from decalign_core.settings import choices, not_negative, numbers, positive, rate


@dataclass(frozen=True)
class DataConfig:
    """Which data an experiment reads; the arguments of :func:`decalign_core.data.load`.

    Attributes:
        dataset: one of ``decalign_core.data.NAMES``.
        root: folder that holds the data sets; no part of the configuration's identity.
        protocol: the data set's own splits or tasks, "" for its first.
        aligned: word-aligned files, where a data set has both.
        fold: a cross-validation fold in place of the stated split, where a data set has them.
        modalities: the modalities to read, all if empty.
        text_encoder: a Hugging Face encoder by name or path for the text, "" for the features that the data come with.
        fine_tune: train the text encoder along; else its states are computed once.
        standardise: modalities to standardise on the training split; None takes what suits the data set.
        clip_percentiles: percentiles outside of which features are cut off before, none if empty.
        missing: chance with which each modality of a sample is hidden, in every split; at least one stays.
    """

    dataset: str = "synthetic"
    root: str = "data"
    protocol: str = ""
    aligned: bool = True
    fold: int | None = None
    modalities: tuple[str, ...] = ()
    text_encoder: str = ""
    fine_tune: bool = False
    standardise: tuple[str, ...] | None = None
    clip_percentiles: tuple[float, ...] = ()
    missing: float = 0.0

    def __post_init__(self) -> None:
        numbers("data", self, "a chance in [0, 1]", lambda chance: 0 <= chance <= 1, "missing")


@dataclass(frozen=True)
class TrainingConfig:
    """How parameters are found.

    Attributes:
        seed: of initialisation, data order and dropout, each on a stream of its own.
        epochs: at most.
        batch_size: samples a step.
        bucketed: put samples of like lengths into a batch, so that little of it is padding. A departure: batches, with
            them their statistics, are not drawn at random any more.
        learning_rate: of everything but a fine-tuned text encoder.
        encoder_learning_rate: of a fine-tuned text encoder.
        weight_decay: decoupled from the gradient ("adamw") or added to it ("adam").
        optimiser: "adamw" or "adam".
        schedule: "cosine" to 0 over all steps with a linear warm-up, "plateau" on the selection metric, or "constant".
        warmup: share of all steps in which the "cosine" schedule rises.
        factor: by which "plateau" lowers the rate.
        plateau_patience: epochs without improvement before "plateau" lowers the rate.
        clip: largest norm of the gradient; 0 does not clip.
        patience: epochs without improvement on the validation split before training stops.
        average: decay, per step, of the moving average of the weights that is validated and kept; 0 keeps the weights
            themselves.
        selection: validation metric that picks the epoch, "" for MAE or weighted F1.
        selection_window: epochs over which that metric is averaged before it is compared, the epoch itself and those
            before it: one epoch's value on a small validation split is mostly chance.
        device: "auto", "cpu", "cuda", ...; no part of the configuration's identity.
        precision: "auto" takes bf16 autocast on a GPU that has it; statistics stay in float32.
        compile: translate the model by ``torch.compile``, which takes a minute or more, before the first step; on an
            accelerator the objective too, where ``objective.sinkhorn_tolerance`` is None.
        threads: CPU threads of a run, whatever runs beside it.
    """

    seed: int = 1111
    epochs: int = 16
    batch_size: int = 32
    bucketed: bool = False
    learning_rate: float = 2e-3
    encoder_learning_rate: float = 5e-5
    weight_decay: float = 0.1
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: float = 0.1
    factor: float = 0.1
    plateau_patience: int = 5
    clip: float = 1.0
    patience: int = 8
    average: float = 0.98
    selection: str = ""
    selection_window: int = 3
    device: str = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        above = ("epochs", "batch_size", "learning_rate", "encoder_learning_rate", "patience", "threads")
        numbers("training", self, "a positive number", positive, *above, "selection_window")
        numbers("training", self, f"at most {_MOST_THREADS}", lambda threads: threads <= _MOST_THREADS, "threads")
        choices("training", self)
        numbers("training", self, "a number in [0, 1)", rate, "warmup", "average", "factor")
        others = ("weight_decay", "clip", "plateau_patience", "seed")
        numbers("training", self, "no negative number", not_negative, *others)


_MOST_THREADS = 1024  # Danger: with many more, PyTorch ends the process
METHODS = ("decalign", *PEERS, *CONTROLS)
FROM_DATA = ("modalities", "outputs")  # settings of a model that training takes from the data


@dataclass(frozen=True)
class ExperimentConfig:
    """Data, model, objective and training of one run.

    Attributes:
        method: "decalign", a peer of ``decalign_core.peers.PEERS``, or a control: "ridge", "svr".
        variant: the name of the ablation row, for the record; :func:`with_variant` sets what it stands for.
        peer: settings of the peer in place of ``model`` and ``objective``, filled up with its defaults; else empty.

    Raises:
        ValueError: for another method, a peer's setting that it does not have, and for more prototypes than a batch has
            samples.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: DecAlignConfig = field(default_factory=DecAlignConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    method: Literal[METHODS] = "decalign"
    variant: str = "full"
    peer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: wanted one of {', '.join(METHODS)}, got {self.method!r}")
        object.__setattr__(self, "peer", _whole_peer(self.method, self.peer))
        if self.objective.components > self.training.batch_size:
            wanted = f"at most training.batch_size = {self.training.batch_size}"
            raise ValueError(f"objective.components: wanted {wanted}, got {self.objective.components}")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as ``config.json`` holds them."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExperimentConfig:
        """The configuration that :meth:`to_dict` gave; unknown names are errors."""
        if not isinstance(values, Mapping):
            raise ValueError(f"configuration: wanted a mapping, got {type(values).__name__}")
        return configure(_flat(values))

    def hash(self) -> str:
        """Hexadecimal digest of all that a result depends on: everything but folder and device."""
        values = ExperimentConfig.from_dict(self.to_dict()).to_dict()  # 0 and 0.0 are one setting
        values["data"].pop("root")
        values["training"].pop("device")
        if not values["peer"]:
            values.pop("peer")
        for name in ("bucketed", "compile"):  # runs from before they were there are the same runs
            if not values["training"][name]:
                values["training"].pop(name)
        if not values["data"]["missing"]:
            values["data"].pop("missing")  # complete data have the hash that they had before it could be set
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(one: ExperimentConfig, other: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
    """The settings, by dotted key, in which two configurations differ, with their values; not folder and device."""
    first, second = (_flat(config.to_dict()) for config in (one, other))
    names = [name for name in first | second if name not in ("data.root", "training.device")]
    both = {name: (first.get(name), second.get(name)) for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def configure(changes: Mapping[str, Any], base: ExperimentConfig | None = None) -> ExperimentConfig:
    """``base`` (the defaults, if None) with the fields named by dotted keys changed, e.g. ``{"objective.alpha": 0.1}``.

    Values may be of the field's type or, as from a command line, its text.

    Raises:
        ValueError: in one line, for an unknown name or a value of the wrong type.
    """
    base = base or ExperimentConfig()
    own = {key: value for key, value in changes.items() if key.startswith("peer.")}
    others = {key: value for key, value in changes.items() if key not in own}
    shared = _typed(base, "experiment", _reset(changes, base) | others)
    if not own:
        return shared
    if shared.method not in PEERS:
        raise ValueError(f"{next(iter(own))}: no such setting of the method {shared.method}")
    peer = _typed(PEERS[shared.method].config(**shared.peer), "peer", own)
    return replace(shared, peer=vars(peer))


def _reset(changes: Mapping[str, Any], base: ExperimentConfig) -> dict[str, Any]:
    """Another method does not take over the settings of the peer before it."""
    return {"peer": {}} if changes.get("method", base.method) != base.method else {}


def _typed(base: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """The record ``base`` with changes that are read as its fields' types; keys of a peer begin with its ``name``."""
    prefix = "" if name == "experiment" else f"{name}."
    known = {prefix + key: value for key, value in _flat(asdict(base)).items()}
    for key in changes:
        if key not in known:
            raise ValueError(f"{key}: no such setting" + _hint(key, list(known)))
    texts = {key: _spelled(value) for key, value in changes.items()}
    texts = {key: text for key, text in texts.items() if text != _spelled(known[key])}  # parsing is the slow part
    parser = ArgumentParser(exit_on_error=False)
    for key in texts:
        parser.add_argument(f"--{key}", type=_kind(type(base), key.removeprefix(prefix)))
    try:
        read = parser.instantiate(parser.parse_args([f"--{key}={text}" for key, text in texts.items()]))
    except ArgumentError as error:
        raise ValueError(_one_line(error, changes)) from None
    return _replaced(base, {key.removeprefix(prefix): read[key] for key in texts})


@cache
def _kind(record: type, key: str) -> Any:
    """The type of a field, by dotted key."""
    first, _, rest = key.partition(".")
    kind = get_type_hints(record)[first]
    return _kind(kind, rest) if rest else kind


def _replaced(record: Any, values: Mapping[str, Any]) -> Any:
    """The record with fields changed by dotted keys, those of one section together."""
    own: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        own.setdefault(first, {})[rest] = value
    new = {first: ours[""] if "" in ours else _replaced(getattr(record, first), ours) for first, ours in own.items()}
    return replace(record, **new)


def _hint(key: str, known: Sequence[str]) -> str:
    same = [name for name in known if name.rpartition(".")[2] == key]
    near = same or difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(key, known, n=1, cutoff=0.3)
    return f", did you mean {' or '.join(near)}?" if near else ""


def _one_line(error: Exception, changes: Mapping[str, Any]) -> str:
    text = " ".join(str(error).split())
    key = next((key for key in changes if f'"{key}"' in text), "configuration")
    kinds = dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got|\.? Given| - |$)", text))
    plain = [_plainly(kind.replace("<class '", "").replace("'>", "").replace("typing.", "")) for kind in kinds]
    got = f", got {changes[key]!r}" if key in changes else ""
    return f"{key}: wanted {' or '.join(plain) or text}{got}"


def _plainly(kind: str) -> str:
    choices = re.fullmatch(r"Literal\[(.*)\]", kind)
    if choices:
        return f"one of {choices[1].replace(chr(39), '')}"
    return kind.replace("collections.abc.Mapping", "a mapping")


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) else value.item()  # a text encoder, or a NumPy scalar


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    sections = {f.name for f in fields(ExperimentConfig) if is_dataclass(f.default_factory)}
    flat = {}
    for key, value in values.items():
        if not prefix and key in sections and isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _whole_peer(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A peer's settings with its defaults filled in, without what it takes from the data."""
    if method not in PEERS:
        if given:
            raise ValueError(f"peer: wanted no settings with the method {method!r}, got {sorted(given)}")
        return {}
    kind = PEERS[method].config
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            raise ValueError(f"peer.{name}: no such setting of {method}, wanted one of {', '.join(known)}")
    return {name: value for name, value in vars(kind(**given)).items() if name not in FROM_DATA}


# --- Ablation variants: Tables 3 and 4 -------------------------------------------------------------------------------

_NO_TRANSPORT = {"objective.transport_weight": 0.0, "objective.prototype_weight": 0.0}
_NO_CROSS_MODAL = {"model.cross_modal": False}
_NO_SEMANTIC, _NO_MMD = {"objective.semantic_weight": 0.0}, {"objective.mmd_weight": 0.0}
_NO_HOMO = _NO_SEMANTIC | _NO_MMD

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    # Table 4
    "no_proto_ot": _NO_TRANSPORT,
    "no_ct_transformer": _NO_CROSS_MODAL,
    "no_ct_contrastive": {"objective.contrastive_weight": 0.0},
    "no_sem": _NO_SEMANTIC,
    "no_mmd": _NO_MMD,
    # Table 3; with the transformer kept, "no_hete" is the same setting as "no_proto_ot"
    "no_hete": _NO_TRANSPORT | _NO_CROSS_MODAL,
    "no_hete_keep_transformer": _NO_TRANSPORT,
    "no_homo": _NO_HOMO,
    "no_hete_homo": _NO_TRANSPORT | _NO_CROSS_MODAL | _NO_HOMO,
    "no_mfd": _NO_TRANSPORT
    | _NO_CROSS_MODAL
    | _NO_HOMO
    | {"model.decoupled": False, "objective.decoupling_weight": 0.0},
}


def with_variant(config: ExperimentConfig, variant: str, changes: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """``config`` as the named row of Table 3 or 4, with other settings changed as by :func:`configure`.

    Raises:
        ValueError: for another name than those of ``VARIANTS``, and for a change of what the row itself sets.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: wanted one of {', '.join(VARIANTS)}, got {variant!r}")
    row = VARIANTS[variant] | {"variant": variant}
    for key, value in (changes or {}).items():
        if key in row:
            raise ValueError(f"{key}: wanted no change of what the variant {variant} sets, {row[key]!r}, got {value!r}")
    return configure(row | dict(changes or {}), config)
