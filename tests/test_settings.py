"""What no configuration can have is refused by its name: every numeric setting there is, read from the records."""

import math
from dataclasses import fields

import pytest
from refusals import refusal

from decalign_core.lab.experiment import TrainingConfig, configure
from decalign_core.model import DecAlignConfig
from decalign_core.objective import ObjectiveConfig
from decalign_core.peers import PEERS

PEER_RECORDS = {peer.config: "peer" for peer in PEERS.values()}
RECORDS = {DecAlignConfig: "model", ObjectiveConfig: "objective", TrainingConfig: "training", **PEER_RECORDS}
NUMBERS = [(kind, f.name, f.default) for kind in RECORDS for f in fields(kind) if type(f.default) in (int, float)]
SEVERAL = [(kind, f.name) for kind in RECORDS for f in fields(kind) if "dict" in f.type or f.type == "PerModality"]


def named(kind):
    return kind.__name__ if isinstance(kind, type) else None


def refused(kind, name, value):
    refusal(lambda: kind(**{name: value}), f"{RECORDS[kind]}.{name}: wanted ", f", got {value!r}")


@pytest.mark.parametrize(("kind", "name", "default"), NUMBERS, ids=named)
def test_every_number_has_bounds(kind, name, default):
    for value in (-1, math.nan, math.inf, "much"):
        refused(kind, name, value)
    if name != "sinkhorn_tolerance":
        refused(kind, name, None)
    for value in (1.0, 1.5) if name.endswith("dropout") else ():
        refused(kind, name, value)
    assert getattr(kind(**{name: default}), name) == default


@pytest.mark.parametrize(("kind", "name"), [case[:2] for case in NUMBERS if type(case[2]) is int], ids=named)
def test_a_count_begins_at_1(kind, name):
    if name in ("layers", "plateau_patience", "seed") and RECORDS[kind] != "peer":
        assert getattr(kind(**{name: 0}), name) == 0
    else:
        refused(kind, name, 0)


@pytest.mark.parametrize(("kind", "name"), SEVERAL, ids=named)
def test_a_number_by_modality_is_checked_for_each(kind, name):
    refused(kind, name, {"a": 0.5, "b": -1})
    assert getattr(kind(**{name: {"a": 0.5}}), name) == {"a": 0.5}


@pytest.mark.parametrize("kind", PEER_RECORDS, ids=named)
def test_a_peer_s_loss_is_one_of_those_there_are(kind):
    assert (kind, "input_dropout") in SEVERAL and (kind, "width") in [case[:2] for case in NUMBERS]
    refused(kind, "task", "huber")


@pytest.mark.parametrize("kind", [kind for kind, name, _ in NUMBERS if name == "heads"], ids=named)
def test_heads_divide_the_width(kind):
    refusal(lambda: kind(width=8, heads=3), f"{RECORDS[kind]}.heads: wanted a divisor of width 8", "got 3")


@pytest.mark.parametrize(("peer", "name", "value"), [("dmd", "margin_weight", -3.0), ("mult", "dropout", 1.5)])
def test_an_experiment_refuses_what_its_peer_cannot_have(peer, name, value):
    refusal(lambda: configure({"method": peer, f"peer.{name}": value}), f"peer.{name}: wanted ", f"got {value}")
