"""The benchmarks run, pair their candidates and say what is wrong; no test looks at a time."""

import json

import pytest

from benchmarks import mosei
from benchmarks.__main__ import main
from benchmarks.cases import CASES, WIDTHS, Options
from benchmarks.timing import paired
from decalign_core.data import load
from decalign_core.lab.experiment import configure


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


def test_every_case_says_what_it_measures():
    assert all(case.__doc__ for case in CASES.values()) and set(WIDTHS) == {"text", "audio", "vision"}
