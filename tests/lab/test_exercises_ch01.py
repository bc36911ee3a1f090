"""Chapter 1's exercises: the solution passes, typical wrong answers are told what is wrong."""

import pickle
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch

from decalign_core.data.mmsa import DataError, read_pickle
from decalign_core.lab.check import CheckError, ch01


def passes(capsys, number):
    assert capsys.readouterr().out == f"PASS Exercise {number}\n"


def test_1_solution(capsys):
    ch01.ex_01_1(1.2 * 10 / 4)
    passes(capsys, "1.1")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (1.2, "all ten"),
        (0.48, "other way round"),
        (12, "not yet divided"),
        (2.0, "padded ones"),
        (7.0, "values are not"),
    ],
)
def test_1_wrong(given, hint):
    with pytest.raises(CheckError, match=hint):
        ch01.ex_01_1(given)


def test_2_solution(capsys):
    ch01.ex_01_2(lambda x, mask: x[mask].std(dim=0, correction=0))
    passes(capsys, "1.2")


def test_2_another_solution(capsys):
    def by_weights(x, mask):
        weights = mask[..., None] / mask.sum()
        mean = (weights * x).sum(dim=(0, 1))
        return (weights * (x - mean).square()).sum(dim=(0, 1)).sqrt()

    ch01.ex_01_2(by_weights)
    passes(capsys, "1.2")


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x, mask: x.flatten(0, 1).std(dim=0, correction=0), "whatever they hold"),
        (lambda x, mask: (x * mask[..., None]).flatten(0, 1).std(dim=0, correction=0), "zeros count too"),
        (lambda x, mask: x[mask].std(dim=0), "one less"),
        (lambda x, mask: x[mask].std(correction=0), r"Wanted shape \(2,\)"),
        (lambda x, mask: None, "got NoneType"),
    ],
)
def test_2_wrong(function, hint):
    with pytest.raises(CheckError, match=hint):
        ch01.ex_01_2(function)


def test_3_solution(capsys):
    ch01.ex_01_3(2)
    passes(capsys, "1.3")


@pytest.mark.parametrize(("given", "hint"), [(1, "radius below"), (0.5, "denominator"), (4, "not by 1/4")])
def test_3_wrong(given, hint):
    with pytest.raises(CheckError, match=hint):
        ch01.ex_01_3(given)


def test_4_solution(capsys):
    def after_swaps(x, y, swaps):
        signs = 1 - 2 * swaps.double()
        return torch.einsum("rn,nd->rd", signs, x - y).norm(dim=1) / len(x)

    ch01.ex_01_4(after_swaps)
    passes(capsys, "1.4")


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x, y, s: (torch.where(s[..., None], y, x) - y).mean(dim=1).norm(dim=1), "Both change places"),
        (lambda x, y, s: (x - y).mean(dim=0).norm().expand(len(s)), "Nothing has changed places"),
        (lambda x, y, s: (x - y).norm(dim=1).mean().expand(len(s)), "length of their mean"),
        (lambda x, y, s: (x - y).mean(dim=0).norm(), "Wanted shape"),
    ],
)
def test_4_wrong(function, hint):
    with pytest.raises(CheckError, match=hint):
        ch01.ex_01_4(function)


def test_5_solution_is_what_the_reader_does(capsys, tmp_path):
    objects = [
        {"audio": np.zeros((2, 3), dtype=np.float32)},
        OrderedDict(id=["a$_$1"]),
        pd.DataFrame({"score": [1.0]}),
        torch.zeros(2),
        [{1, 2}, 1 + 2j],
    ]
    path, through = tmp_path / "object.pkl", []
    for thing in objects:
        path.write_bytes(pickle.dumps(thing))
        try:
            read_pickle(path)
            through.append(True)
        except DataError:
            through.append(False)
    ch01.ex_01_5(through)
    passes(capsys, "1.5")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ([True] * 5, "Not every harmless"),
        ([False] * 5, "plain containers pass"),
        ([True, True, True, False, True], "DataFrame"),
        ([True, True, False, True, True], "tensor is built"),
        ([True, False, False, False, True], "OrderedDict"),
    ],
)
def test_5_wrong(given, hint):
    with pytest.raises(CheckError, match=hint):
        ch01.ex_01_5(given)
