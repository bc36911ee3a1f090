"""The benchmarks run, pair their candidates and say what is wrong; no test looks at a time."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CASES, WIDTHS
from benchmarks.timing import paired


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


def test_every_case_says_what_it_measures():
    assert all(case.__doc__ for case in CASES.values()) and set(WIDTHS) == {"text", "audio", "vision"}
