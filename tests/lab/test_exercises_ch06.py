"""Chapter 6's exercises: the solution passes, typical wrong answers are told what is wrong with them."""

import math

import pytest
import torch

from decalign_core.lab.check import CheckError, ch06


def p_value(observed, null):
    return (1 + (null >= observed).sum()) / (1 + len(null))


SOLUTIONS = {
    "ex_06_1": 28 / 3,
    "ex_06_2": lambda n, kappa: 2 / n * (1 - kappa),
    "ex_06_3": 25,
    "ex_06_4": p_value,
    "ex_06_5": 32,
}
WRONG = [
    ("ex_06_1", 14 / 3, "no factor"),
    ("ex_06_1", 4.0, "opposite signs"),
    ("ex_06_1", 16 / 3, "means differ"),
    ("ex_06_1", 2 + 4 / math.sqrt(3), "squared norm"),
    ("ex_06_1", 4 + (2 * 6 / 4**1.5) ** 2, "population"),
    ("ex_06_2", lambda n, kappa: 2 / n, "saturated"),
    ("ex_06_2", lambda n, kappa: (1 - kappa) / n, "Both samples"),
    ("ex_06_2", lambda n, kappa: 0, "unbiased"),
    ("ex_06_2", lambda n, kappa: 2 * kappa / n, "with itself"),
    ("ex_06_2", lambda n, kappa: ..., "should return a number"),
    ("ex_06_3", 50, "halves it again"),
    ("ex_06_3", 12.5, "before the division"),
    ("ex_06_3", 5, "not the distance"),
    ("ex_06_3", 0, "goes to 0"),
    ("ex_06_4", lambda observed, null: (null >= observed).double().mean(), "p can be 0"),
    ("ex_06_4", lambda observed, null: (null >= observed).sum() / (1 + len(null)), "Add 1 to the count"),
    ("ex_06_4", lambda observed, null: (1 + (null > observed).sum()) / (1 + len(null)), ">="),
    ("ex_06_4", lambda observed, null: (1 + (null <= observed).sum()) / (1 + len(null)), "smaller values"),
    ("ex_06_4", lambda observed, null: None, "should return a number"),
    ("ex_06_5", 16, "one step further"),
    ("ex_06_5", 64, "first one"),
    ("ex_06_5", 256, "first one"),
    ("ex_06_5", 1, "not yet"),
]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solution_passes(name, capsys):
    getattr(ch06, name)(SOLUTIONS[name])
    assert capsys.readouterr().out == f"PASS Exercise {name[4]}.{name[-1]}\n"


@pytest.mark.parametrize(("name", "given", "hint"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, given, hint):
    with pytest.raises(CheckError, match=hint):
        getattr(ch06, name)(given)


def test_the_pair_of_exercise_5_is_the_same_each_time():
    first, again = ch06.wide_pair(8), ch06.wide_pair(8)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert first[0].shape == first[1].shape == (32, 8)
