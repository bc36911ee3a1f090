"""Exercises of chapter 5: the solution passes, a typical wrong answer gets the hint that names the mistake."""

import math

import pytest
import torch

from decalign_core.lab.check import CheckError, ch05


def barycentric(x, weights, means, plan):
    target = plan @ means / plan.sum(1, keepdim=True)
    return (weights * (x[:, None] - target).square().sum(-1)).sum(1).mean()


def with_target(target):
    return lambda x, w, means, plan: (w * (x[:, None] - target(means, plan)).square().sum(-1)).sum(1).mean()


SOLUTIONS = {
    ch05.ex_05_1: [4.0, 20.0],
    ch05.ex_05_2: lambda k, m, e: -e * (m * math.log(k) + 1),
    ch05.ex_05_3: barycentric,
    ch05.ex_05_4: 0.03,
}
WRONG = [
    (ch05.ex_05_1, [4.0, 4.0], "pairs equal indices"),
    (ch05.ex_05_1, [20.0, 4.0], "transport first"),
    (ch05.ex_05_1, torch.tensor([4.0, 40.0]), "not their sum"),
    (ch05.ex_05_1, [4.0], "shape"),
    (ch05.ex_05_2, lambda k, m, e: -e * m * math.log(k), "second reading"),
    (ch05.ex_05_2, lambda k, m, e: -e * (math.log(k) + 1), "diagonal"),
    (ch05.ex_05_2, lambda k, m, e: -(m * math.log(k) + 1), "epsilon"),
    (ch05.ex_05_2, lambda k, m, e: float("nan"), "not yet"),
    (ch05.ex_05_3, with_target(lambda means, plan: means), "plan is not used"),
    (ch05.ex_05_3, with_target(lambda means, plan: plan @ means), "row sums"),
    (ch05.ex_05_3, with_target(lambda means, plan: plan.mT @ means / plan.sum(0).unsqueeze(1)), "transposed"),
    (ch05.ex_05_4, 0.001, "Too sharp"),
    (ch05.ex_05_4, 1.0, "Too blurred"),
    (ch05.ex_05_4, 0.0, "positive"),
]


@pytest.mark.parametrize("exercise", list(SOLUTIONS), ids=lambda f: f.__name__)
def test_the_solution_passes(exercise, capsys):
    exercise(SOLUTIONS[exercise])
    number = exercise.__name__.split("_")
    assert capsys.readouterr().out.startswith(f"PASS Exercise {int(number[1])}.{number[2]}")


@pytest.mark.parametrize(("exercise", "wrong", "hint"), WRONG)
def test_a_wrong_answer_is_told_why(exercise, wrong, hint):
    with pytest.raises(CheckError, match=hint) as caught:
        exercise(wrong)
    assert "not yet" in str(caught.value)


def test_every_exercise_has_a_solution_and_two_wrong_answers():
    exercises = {value for name, value in vars(ch05).items() if name.startswith("ex_")}
    assert exercises == set(SOLUTIONS)
    assert all(sum(each is exercise for each, *_ in WRONG) >= 2 for exercise in exercises)
