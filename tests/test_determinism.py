"""One seed, one result: three random streams that do not know of each other, and a record that says what holds."""

import json
import threading

import numpy as np
import pytest
import torch
from killing import outcome
from stress_kills import SMALL, SPECS

from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.lab import train, training
from decalign_core.lab.experiment import configure
from decalign_core.lab.results import guarantee

RATES = [f"model.{name}_dropout" for name in ("attention", "feedforward", "residual", "embedding", "output")]
NO_DROPOUT = dict.fromkeys(RATES, 0.0)
LARGER, SMALLER = (60, 16, 16), (24, 8, 8)


def make_splits(samples=SMALLER, **options):
    return generate(SyntheticConfig(samples=samples, modalities=SPECS, **options))


def trainer(samples=SMALLER, **changes):
    config = configure(SMALL | {"training.epochs": 2} | {key.replace("__", "."): v for key, v in changes.items()})
    return training.Trainer(config, make_splits(samples), torch.device("cpu"))


def weights(of):
    return {name: values.clone() for name, values in of.model.state_dict().items()}


def order(of, epochs=2):
    """The rows of every step, without the steps."""
    rows = []
    of.step = lambda chosen, _: rows.append(chosen.tolist()) or {}
    for _ in range(epochs):
        of._train_epoch()
    return rows


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(values, two[name]) for name, values in one.items())


# --- streams ---


def test_initial_weights_depend_on_nothing_but_seed_and_model():
    first = weights(trainer())
    for changes in (
        {"samples": LARGER},
        {"training__batch_size": 5, "training__epochs": 9},
        {name.replace(".", "__"): 0.4 for name in RATES},
        {"objective__alpha": 0.7, "training__average": 0.0},
    ):
        assert equal(weights(trainer(**changes)), first), changes
    assert not equal(weights(trainer(training__seed=2)), first)


def test_the_order_depends_on_nothing_but_seed_and_number_of_samples():
    first = order(trainer())
    assert sorted(row for rows in first[:2] for row in rows) == list(range(24)) and first[:2] != first[2:]
    for changes in (
        {name.replace(".", "__"): 0.0 for name in RATES},
        {"model__width": 16, "model__layers": 0},
        {"method": "early"},
    ):
        assert order(trainer(**changes)) == first, changes
    assert order(trainer(training__seed=2)) != first


def test_the_order_is_that_of_runs_with_other_draws_between(monkeypatch):
    disturbed = trainer()
    rows = []
    disturbed.step = lambda chosen, _: rows.append(chosen.tolist()) or torch.rand(7) is None or {}
    for _ in range(2):
        disturbed._train_epoch()
    assert rows == order(trainer())


def test_dropout_begins_the_same_whatever_was_initialised_and_shuffled():
    def stream(**changes):
        order(trainer(**changes))
        return torch.rand(5).tolist()

    first = stream()
    for changes in ({"model__width": 16}, {"samples": LARGER}, {"training__batch_size": 5}, {"method": "early"}):
        assert stream(**changes) == first, changes
    assert stream(training__seed=2) != first


def test_nothing_but_dropout_draws_from_its_stream():
    still = trainer(**{name.replace(".", "__"): rate for name, rate in NO_DROPOUT.items()})
    before = torch.get_rng_state()
    still.run_epoch()
    assert torch.equal(torch.get_rng_state(), before)
    dropping = trainer()
    before = torch.get_rng_state()
    dropping.run_epoch()
    assert not torch.equal(torch.get_rng_state(), before)


def test_no_two_streams_of_two_hundred_seeds_are_one():
    seeds = [np.random.SeedSequence(seed).generate_state(3).tolist() for seed in [*range(195), *range(1111, 1116)]]
    assert len({number for three in seeds for number in three}) == 600


# --- results ---


def test_runs_in_threads_of_one_process_do_not_disturb_each_other(tmp_path):
    """As on a Dask worker of several threads: random state and threads belong to the process."""
    config, splits = configure(SMALL | {"training.epochs": 2}), make_splits()

    def work(name):
        train(config, splits, run_dir=tmp_path / name, progress=False)

    work("alone")
    threads = [threading.Thread(target=work, args=[name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "one") == outcome(tmp_path / "two")


@pytest.mark.parametrize(
    ("device", "processes", "said"),
    [
        ("cpu", 1, "the same bits, after interruptions too"),
        ("cpu", 2, "the same bits with 2 processes"),
        ("cuda", 1, "the same initial weights and order of samples; sums in any order"),
    ],
)
def test_the_guarantee_names_what_holds(device, processes, said):
    assert guarantee(torch.device(device), processes).startswith(said)


def test_the_record_says_what_is_guaranteed(tmp_path):
    config = configure(SMALL | {"training.epochs": 1})
    record = train(config, make_splits(), run_dir=tmp_path, progress=False)
    assert record.guarantee == json.loads((tmp_path / "record.json").read_text())["guarantee"]
    assert record.guarantee == guarantee(torch.device("cpu"))
