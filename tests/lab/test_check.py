"""The book's inline checks: the line that is printed, and that a wrong value never passes."""

import doctest
import re

import numpy as np
import pytest
import torch

from decalign_core.lab.check import CheckError, answer, core, detected, equal, gradient, holds


def test_the_pass_line_to_the_letter(capsys):
    equal("Eq 7", torch.tensor([1.0, 2.0 + 2**-51], dtype=torch.float64), [1.0, 2.0])
    assert capsys.readouterr().out == "PASS Eq 7: max |Δ| 4.4e-16 (tol 1e-10)\n"
    equal("Eq 7", 3.1e-16, 0.0)
    assert capsys.readouterr().out == "PASS Eq 7: max |Δ| 3.1e-16 (tol 1e-10)\n"
    equal("Eq 6 against the oracle", np.float32(0.5), 0.25, tolerance=0.5)
    assert capsys.readouterr().out == "PASS Eq 6 against the oracle: max |Δ| 2.5e-01 (tol 5e-01)\n"
    equal("Eq 2", torch.zeros(0, 3), np.zeros((0, 3)))
    assert capsys.readouterr().out == "PASS Eq 2: max |Δ| 0.0e+00 (tol 1e-10)\n"


def test_docstring_examples():
    result = doctest.testmod(core, extraglobs={"torch": torch})
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("got", "wanted", "message"),
    [
        ([1.0, 2.0], [1.0, 2.1], "Eq 3: max |Δ| 1.0e-01 is over the tolerance 1e-10"),
        ([1.0, 2.0], [1.0], "Eq 3: wanted shape (1,), got (2,)"),
        ([[1.0]], [1.0], "Eq 3: wanted shape (1,), got (1, 1)"),
        ([float("nan")], [float("nan")], "Eq 3: wanted finite values, got NaN or infinity"),
        ([float("inf")], [float("inf")], "Eq 3: wanted finite values, got NaN or infinity"),
    ],
)
def test_what_is_not_equal_fails(got, wanted, message, capsys):
    for pair in ((got, wanted), (torch.tensor(got), torch.tensor(wanted))):
        with pytest.raises(CheckError, match=re.escape(message)):
            equal("Eq 3", *pair, tolerance=1e-10)
    assert capsys.readouterr().out == ""
    assert issubclass(CheckError, AssertionError)


def test_tensors_with_gradient_are_compared(capsys):
    equal("Eq 1", torch.ones(2, requires_grad=True), np.ones(2))
    assert capsys.readouterr().out.startswith("PASS Eq 1: ")


def test_statements(capsys):
    holds("Eq 3: rows sum to 1", torch.tensor(True), "largest 1.0")
    holds("likelihood rises", True)
    assert capsys.readouterr().out == "PASS Eq 3: rows sum to 1: largest 1.0\nPASS likelihood rises\n"
    with pytest.raises(CheckError, match=r"^Eq 8: marginals does not hold: 0\.2$"):
        holds("Eq 8: marginals", torch.tensor(False), "0.2")
    assert capsys.readouterr().out == ""


def test_gradients_against_differences(capsys):
    at = torch.tensor([[0.5, -1.0], [2.0, 0.1]])
    gradient("Eq 9", lambda x: (x**3).sum(), at)
    gradient("Eq 9", lambda x: (x**3).sum(), at, 3 * at.double() ** 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"PASS Eq 9: max \|Δ\| \d\.\de-\d\d \(tol 1e-06\)", line) for line in lines)
    with pytest.raises(CheckError, match="Eq 9: max"):
        gradient("Eq 9", lambda x: (x**3).sum(), at, 2 * at.double() ** 2)
    with pytest.raises(CheckError, match="Eq 9: max"):
        gradient("Eq 9", lambda x: (x * x.detach()).sum(), at)  # half of the slope is cut off


def test_detectors(capsys):
    detected("mass lost", torch.tensor(True), "0.06")
    assert capsys.readouterr().out == "DETECTED mass lost: 0.06\n"
    with pytest.raises(CheckError, match="^mass lost went unnoticed$"):
        detected("mass lost", False)


HINTS = {"You left out the factor 2.": 0.5, "That is the unbiased form.": torch.tensor([1.0, 2.0])}


def test_a_right_answer(capsys):
    answer("Exercise 4.2", 1.0 + 1e-7, 1.0, HINTS)
    assert capsys.readouterr().out == "PASS Exercise 4.2\n"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (0.5, "You left out the factor 2."),
        ([1.0, 2.0], "That is the unbiased form."),
        (0.7, "The shape is right, the values are not."),
        (float("nan"), "The shape is right, the values are not."),
        ([0.7], "Wanted shape (), got (1,)."),
    ],
)
def test_a_wrong_answer_gets_the_hint_that_fits(given, hint, capsys):
    with pytest.raises(CheckError) as caught:
        answer("Exercise 4.2", given, 1.0, HINTS)
    assert str(caught.value) == f"Exercise 4.2: not yet. {hint}"
    assert capsys.readouterr().out == ""
