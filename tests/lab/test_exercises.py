"""The book's exercises: solutions pass, typical wrong answers are told what is wrong (``tests/exercises`` has both)."""

import pickle
import re
from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from decalign_core.data.pickles import DataError, read_pickle
from decalign_core.lab import check
from decalign_core.lab.check import CheckError, ch06

CHAPTERS = [name for name in check.__all__ if name.startswith("ch")]
ANSWERS = {name: import_module(f"exercises.{name}") for name in CHAPTERS}
RIGHT = [pair for own in ANSWERS.values() for pair in (*own.SOLUTIONS.items(), *getattr(own, "ALSO_RIGHT", ()))]
WRONG = [wrong for own in ANSWERS.values() for wrong in own.WRONG]


def checker(name):
    """The function that checks ``ex_CC_N``, and the exercise's title."""
    _, chapter, number = name.split("_")
    return getattr(getattr(check, f"ch{chapter}"), name), f"Exercise {int(chapter)}.{number}"


@pytest.mark.parametrize(("name", "given"), RIGHT)
def test_a_solution_passes(name, given, capsys):
    exercise, title = checker(name)
    exercise(given)
    assert re.fullmatch(rf"PASS {title}(: .+)?\n", capsys.readouterr().out)


@pytest.mark.parametrize(("name", "given", "hint"), WRONG)
def test_a_typical_wrong_answer_is_told_what_is_wrong(name, given, hint, capsys):
    exercise, title = checker(name)
    with pytest.raises(CheckError, match=f"^{title}: not yet.*({hint})"):
        exercise(given)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_a_solution_and_two_wrong_answers(chapter):
    exercises = {name for name in vars(getattr(check, chapter)) if name.startswith("ex_")}
    wrong = [name for name, *_ in ANSWERS[chapter].WRONG]
    assert exercises == set(ANSWERS[chapter].SOLUTIONS) == set(wrong)
    assert all(wrong.count(name) >= 2 for name in exercises)


def test_every_chapter_with_exercises_is_tested():
    assert {path.stem for path in Path(check.__file__).parent.glob("ch*.py")} == set(CHAPTERS)


def test_the_solution_of_1_5_is_what_the_reader_does(tmp_path):
    harmless = [
        {"audio": np.zeros((2, 3), dtype=np.float32)},
        OrderedDict(id=["a$_$1"]),
        pd.DataFrame({"score": [1.0]}),
        torch.zeros(2),
        [{1, 2}, 1 + 2j],
    ]
    path, through = tmp_path / "object.pkl", []
    for thing in harmless:
        path.write_bytes(pickle.dumps(thing))
        try:
            read_pickle(path)
            through.append(True)
        except DataError:
            through.append(False)
    assert through == ANSWERS["ch01"].SOLUTIONS["ex_01_5"]


def test_the_pair_of_6_5_is_the_same_each_time():
    first, again = ch06.wide_pair(8), ch06.wide_pair(8)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert first[0].shape == first[1].shape == (32, 8)
