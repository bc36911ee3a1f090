"""Chapter 3's exercises: the solution passes, typical wrong answers are told what is wrong."""

import math

import pytest
import torch

from decalign_core.alignment.mixture import fit
from decalign_core.lab.check import CheckError, ch03

WEIGHTS, MEANS, VARIANCES = (2 / 3, 1 / 3), (1.5, 9.0), (1.25, 1.0)


def share(weights, scale):
    joint = [
        w * math.exp(-((5 - m) ** 2) / (2 * v)) / scale(v) for w, m, v in zip(weights, MEANS, VARIANCES, strict=True)
    ]
    return joint[0] / sum(joint)


def test_1_solution(capsys):
    ch03.ex_03_1(share(WEIGHTS, math.sqrt))
    ch03.ex_03_1(round(share(WEIGHTS, math.sqrt), 3))
    assert capsys.readouterr().out == 2 * "PASS Exercise 3.1\n"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (share((0.5, 0.5), math.sqrt), "weights"),
        (share(WEIGHTS, lambda variance: 1.0), "determinant"),
        (1 - share(WEIGHTS, math.sqrt), "second prototype"),
        (0.5, "values are not"),
    ],
)
def test_1_wrong(given, hint):
    with pytest.raises(CheckError, match=hint):
        ch03.ex_03_1(given)


def test_2_solution(capsys):
    dimension = next(d for d in range(1, 1000) if 1 / (1 + math.exp(-d * 0.4**2 / 2)) >= 0.999)
    ch03.ex_03_2(dimension)
    assert capsys.readouterr().out == "PASS Exercise 3.2\n"


@pytest.mark.parametrize(("given", "hint"), [(44, "factor 1/2"), (35, "squared"), (10, "add over"), (86, "just below")])
def test_2_wrong(given, hint):
    with pytest.raises(CheckError, match=hint):
        ch03.ex_03_2(given)


def stable(log_joint):
    joint = (log_joint - log_joint.max(dim=1, keepdim=True).values).exp()
    return joint / joint.sum(dim=1, keepdim=True)


def literal(log_joint):
    return log_joint.exp() / log_joint.exp().sum(dim=1, keepdim=True)


def shifted_by_one_maximum(log_joint):
    joint = (log_joint - log_joint.max()).exp()
    return joint / joint.sum(dim=1, keepdim=True)


def test_3_solution(capsys):
    ch03.ex_03_3(stable)
    assert capsys.readouterr().out == "PASS Exercise 3.3\n"


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (literal, "largest value"),
        (shifted_by_one_maximum, "each row's"),
        (lambda log_joint: log_joint.softmax(0), "columns"),
        (lambda log_joint: log_joint.log_softmax(1), "logarithms"),
        (lambda log_joint: None, "returns nothing"),
    ],
)
def test_3_wrong(function, hint):
    with pytest.raises(CheckError, match=hint):
        ch03.ex_03_3(function)


def total(mixture):
    centred = mixture.means - mixture.weights @ mixture.means
    return torch.einsum("k,kij->ij", mixture.weights, mixture.covariances) + (mixture.weights * centred.mT) @ centred


def test_4_solution(capsys):
    ch03.ex_03_4(total)
    assert capsys.readouterr().out == "PASS Exercise 3.4\n"


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda m: torch.einsum("k,kij->ij", m.weights, m.covariances), "their means is missing"),
        (lambda m: m.covariances.mean(0) + torch.cov(m.means.mT, correction=0), "use the weights"),
        (lambda m: torch.cov(m.means.mT, aweights=m.weights, correction=0), "within the prototypes is missing"),
        (lambda m: total(m).diagonal(), "shape"),
        (lambda m: None, "returns nothing"),
    ],
)
def test_4_wrong(function, hint):
    with pytest.raises(CheckError, match=hint):
        ch03.ex_03_4(function)


def scores(judged_by):
    samples, held_out = ch03.points_of_5()
    judge = {"fitted": samples, "held out": held_out}[judged_by]
    return [fit(samples, k, steps=30).log_likelihood(judge).item() for k in range(1, 11)]


def test_5_solution(capsys):
    values = scores("held out")
    ch03.ex_03_5(values.index(max(values)) + 1)
    assert capsys.readouterr().out == "PASS Exercise 3.5\n"


def test_5_wrong():
    fitted, held_out = scores("fitted"), scores("held out")
    with pytest.raises(CheckError, match="fitted to"):
        ch03.ex_03_5(fitted.index(max(fitted)) + 1)
    with pytest.raises(CheckError, match="begins at 0"):
        ch03.ex_03_5(held_out.index(max(held_out)))
