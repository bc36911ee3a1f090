"""The benchmarks run, pair their candidates and say what is wrong; no test looks at a time."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import mosei, scaling, tables
from benchmarks.__main__ import CASES, main
from benchmarks.problems import WIDTHS, Options
from benchmarks.timing import paired
from decalign_core.data import load
from decalign_core.lab.experiment import configure
from decalign_core.lab.results import RESULTS
from decalign_core.nn.transformer import CrossModalTransformer


def test_candidates_take_turns():
    calls = []
    table = paired({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" * 4
    assert table["what"].tolist() == ["a", "b"] and table["ratio"][0] == 1 and (table["against"] == "a").all()


@pytest.mark.parametrize("case", ["training_step", "alignment_terms"])
def test_a_case_makes_a_table_and_a_json(case, tmp_path, capsys):
    out = tmp_path / "new" / "times.json"
    assert main([case, "--rounds", "1", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["device"] and told["versions"]["torch"] and list(told["cases"]) == [case]
    assert {row["what"] for row in told["cases"][case]} == {"ours"}
    assert all(row["median_ms"] > 0 for row in told["cases"][case])
    assert "ours" in capsys.readouterr().out


def test_memory_of_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(mosei, "SAMPLES", {"train": 40, "valid": 9, "test": 3})
    out = tmp_path / "memory.json"
    assert main(["loading", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["cases"]["loading"]
    assert row["arrays_gb"] == pytest.approx(52 * 50 * 877 * 4 / 1e9)
    assert row["ratio"] == pytest.approx(row["peak_gb"] / row["arrays_gb"]) and row["ratio"] > 1


def test_shares_of_an_epoch(tmp_path, monkeypatch):
    small = {"model.width": 8, "model.heads": 2, "model.layers": 1, "training.batch_size": 100}
    config = configure(small | {"training.device": "cpu"})
    monkeypatch.setattr(mosei, "_cases", lambda folder: {"small": (config, load("synthetic"))})
    *epochs, plain, with_buckets = mosei.epoch(Options()).to_dict("records")
    assert [row["bucketed"] for row in epochs] == [False, True]
    assert all(0 < row["outside_share"] < 1 for row in epochs)
    for one, other in (epochs, (plain, with_buckets)):
        assert 0 < other["padding_share"] < one["padding_share"] < 1


def test_a_record_says_where_it_comes_from(tmp_path):
    assert (
        main(["alignment_terms", "--rounds", "1", "--out", str(tmp_path / "x.json"), "--records", str(tmp_path)]) == 0
    )
    (row,) = pd.read_csv(tmp_path / "benchmarks_alignment_terms.csv").to_dict("records")
    assert row["commit"] and row["device"].startswith("cpu") and "torch=" in row["versions"] and row["threads"] == 1


def test_an_interruption_loses_the_case_that_it_interrupts_alone(tmp_path, monkeypatch):
    def interrupted(options):
        """Measure nothing."""
        raise KeyboardInterrupt

    monkeypatch.setitem(CASES, "transport", interrupted)
    out = tmp_path / "x.json"
    with pytest.raises(KeyboardInterrupt):
        main(["alignment_terms", "transport", "--rounds", "1", "--out", str(out)])
    assert list(json.loads(out.read_text())["cases"]) == ["alignment_terms"]


def test_the_parts_of_a_step_are_timed_in_every_case():
    table = scaling.profile(Options(rounds=1))
    parts = [set(rows["part"]) for _, rows in table.groupby("case")]
    assert "everything" in parts[0] and len(parts[0]) > 3 and all(each == parts[0] for each in parts)
    assert (table["median_ms"] > 0).all()


def test_growth_counts_operations_by_its_law(monkeypatch):
    kept = [law for law in scaling.LAWS if law.what in ("MMD", "chain")]
    monkeypatch.setattr(scaling, "LAWS", [replace(law, values=law.values[:2]) for law in kept])
    table = scaling.growth(Options(rounds=1))
    assert table.groupby(["what", "variable"]).size().tolist() == [2, 2, 2]
    assert table.query("what == 'MMD'")["work"].tolist() == [32**2, 64**2] and (table["median_ms"] > 0).all()


@pytest.mark.parametrize("others", [1, 2])
def test_the_operations_of_a_layer_are_those_that_torch_counts(others):
    layer = CrossModalTransformer(16, 2, 1).eval()
    x, mask = torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        layer(x, others * [x], mask, others * [mask])
    assert counted.get_total_flops() == 2 * 3 * scaling._of_layer(5, 5 * others, 16)


def test_the_recorded_operations_are_those_of_the_laws():
    """They are computed, so a law that is mended mends them; the commit of a row is that of its times."""
    table = pd.read_csv(RESULTS / "benchmarks_growth.csv")
    rows = [
        (*(law.what, law.variable, law.law), n, float(f"{law.work(n):.4g}")) for law in scaling.LAWS for n in law.values
    ]
    assert list(table[["what", "variable", "law", "value", "work"]].itertuples(index=False, name=None)) == rows


SAME = ("attention", "only valid frames", "EM's backward pass", "EM of all modalities at once", "gradient of transport")


@pytest.fixture(scope="module")
def pairs():
    return scaling.pairs()


@pytest.mark.parametrize("name", SAME)
def test_plain_path_and_ours_are_timed_on_the_same_numbers(name, pairs, monkeypatch):
    found, kept = [], torch.Tensor.backward

    def backward(self, *arguments, **options):
        found.append(float(self.detach()))
        return kept(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    for call in pairs[name]:
        call()
    plain, ours = found
    assert plain == pytest.approx(ours, rel=1e-4)


def test_a_table_is_timed_by_processes_and_by_a_cluster(monkeypatch):
    cluster = nullcontext(SimpleNamespace(scheduler_address="tcp://nowhere"))
    monkeypatch.setattr("distributed.LocalCluster", lambda **options: cluster)
    seconds = iter([4.0, 2.0, 3.0])
    monkeypatch.setattr(tables, "_seconds", lambda out, **how: next(seconds))
    table = tables.sweep(Options(rounds=1))
    assert table["what"].tolist() == ["one process", "two processes", "Dask, two workers"]
    assert table["ratio"].tolist() == [1, 0.5, 0.75]


def test_every_case_says_what_it_measures():
    assert all(case.__doc__ for case in CASES.values()) and set(WIDTHS) == {"text", "audio", "vision"}
