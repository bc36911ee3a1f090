"""The kill table is that of the definitions, no mutant survived, and the run that wrote it can tell the difference."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import mutate
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = mutate.read()
# what this project holds to be its core
CORE = re.compile(r"(alignment/\w+|nn/\w+|data/\w+|lab/(feeding|metrics|results|training)|objective|model|types)\.py")


def table():
    with open(mutate.TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_still_applies(mutant):
    source = (mutate.PACKAGE / mutant.file).read_text(encoding="utf-8")
    mutated = mutant.mutated(source)
    compile(mutated, mutant.file, "exec")
    assert mutated != source and CORE.fullmatch(mutant.file)
    assert mutant.tests or mutant.chapter
    for file, _, test in (one.partition("::") for one in mutant.tests):
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_a_mutant_that_no_longer_applies_is_an_error():
    mutant = mutate.Mutant("gone", "model.py", "nothing", old="x = y", new="")
    for source in ("", "x = y\nx = y\n"):
        with pytest.raises(ValueError, match="gone: wanted its piece of model.py once, found it [02] times"):
            mutant.mutated(source)


def test_the_table_is_that_of_the_definitions():
    assert len(MUTANTS) >= 40 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    told = [(row["name"], row["file"], row["breaks"]) for row in table()]
    assert told == [(mutant.name, mutant.path, mutant.breaks) for mutant in MUTANTS], "run: make mutants"
    assert list(table()[0]) == list(mutate.COLUMNS)


def test_every_mutant_was_killed_by_what_should_see_it():
    for mutant, row in zip(MUTANTS, table(), strict=True):
        assert row["status"] == "killed", mutant.name
        assert row["killed_by"] in {*mutant.tests, row["chapter"]}, mutant.name
        assert bool(row["chapter"]) == bool(mutant.chapter), mutant.name


def test_chapters_kill_by_their_check_cells():
    killing = {row["chapter"] for row in table()} - {""}
    assert sum(bool(row["chapter"]) for row in table()) >= 8
    for name, cell in (place.split("#") for place in killing):
        cells = {one.id: one for one in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells}
        assert "check" in cells[cell].metadata.tags


def test_a_fault_is_killed_and_what_is_none_survives(tmp_path):
    known = next(mutant for mutant in MUTANTS if mutant.name == "correlation-sign")
    same = "return float(np.corrcoef(y, p)[0, 1])"  # the correlation is symmetric
    entries = [vars(known) | {"tests": list(known.tests)}]
    entries += [entries[0] | {"name": "no-fault", "new": same}]
    definitions, out = tmp_path / "mutants.yml", tmp_path / "mutants.csv"
    definitions.write_text(yaml.safe_dump(entries), encoding="utf-8")
    command = [sys.executable, mutate.__file__, "--definitions", str(definitions), "--out", str(out), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["status"], row["killed_by"]) for row in rows] == [("killed", known.tests[0]), ("survived", "")]
    assert "2 mutants, 1 survived\n  no-fault\n" in done.stdout
