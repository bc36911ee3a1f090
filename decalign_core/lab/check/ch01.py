"""Exercises of chapter 1: data and the modality gap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.lab.check.core import CheckError, answer


def ex_01_1(given: Tensor | ArrayLike) -> None:
    """Exercise 1.1: the mean of 4 valid frames, where the mean over 10 with zeros behind is 1.2."""
    hints = {
        "That is the mean over all ten frames; the six padded ones are no data.": 1.2,
        "The other way round: the sum of the frames is ten times 1.2, not four times.": 1.2 * 4 / 10,
        "That is the sum of the frames, not yet divided by the four valid ones.": 12.0,
        "Divide by the valid frames, not by the padded ones.": 12.0 / 6,
    }
    answer("Exercise 1.1", given, 3.0, hints, tolerance=1e-3)


def ex_01_2(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1.2: the deviation of every column over the valid frames; padding holds anything."""
    x = torch.tensor([[[1.0, 2.0], [3.0, 7.0], [50.0, -9.0]], [[8.0, 1.0], [50.0, -9.0], [50.0, -9.0]]]).double()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    frames, zeroed = x[mask], x.where(mask[..., None], 0)
    by_sample = torch.stack([x[n][mask[n]].std(dim=0, correction=0) for n in range(2)])
    hints = {
        "Padded frames are in it, with whatever they hold.": x.flatten(0, 1).std(dim=0, correction=0),
        "Setting padded frames to 0 does not take them out: zeros count too.": zeroed.flatten(0, 1).std(
            dim=0, correction=0
        ),
        "Divide by the number of frames, not by one less (correction=0 in torch).": frames.std(dim=0),
        "One deviation over the frames of all samples together, not the mean of one a sample.": by_sample.mean(dim=0),
        "One deviation a column: do not mix the columns.": frames.std(correction=0).expand(2),
    }
    answer("Exercise 1.2", _returned("1.2", function(x.clone(), mask)), frames.std(dim=0, correction=0), hints)


def ex_01_3(given: Tensor | ArrayLike) -> None:
    """Exercise 1.3: the factor on the normalised gap, where both clouds shrink by half around their means."""
    hints = {
        "That is what happens to the centroid distance; the radius below it changes too.": 1.0,
        "The radius is in the denominator: halving it makes the ratio larger.": 0.5,
        "The radius is a root of mean squares: it scales by 1/2, not by 1/4.": 4.0,
        "Both variances are quartered, and so is their mean, before the root.": 2**0.5,
    }
    answer("Exercise 1.3", given, 2.0, hints)


def ex_01_4(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 1.4: centroid distances ``(R,)`` after the partners of some samples have changed places."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) + shift for shift in (0.0, 2.0))
    swaps = torch.rand(5, 6, generator=generator) < 0.5
    chosen = swaps[..., None]
    first, second = torch.where(chosen, y, x), torch.where(chosen, x, y)
    hints = {
        "Both change places: where x takes y's row, y takes x's.": (first.mean(dim=1) - y.mean(dim=0)).norm(dim=1),
        "Nothing has changed places: this is the observed gap in every row.": (x - y).mean(dim=0).norm().expand(5),
        "That is the mean length of the differences; the gap is the length of their mean.": (
            (first - second).norm(dim=2).mean(dim=1)
        ),
        "The mean runs over the samples, axis 1 of (R, N, d).": (first - second).mean(dim=2).norm(dim=1),
        "That is the squared distance.": (first - second).mean(dim=1).square().sum(dim=1),
    }
    given = _returned("1.4", function(x.clone(), y.clone(), swaps))
    answer("Exercise 1.4", given, (first - second).mean(dim=1).norm(dim=1), hints)


def ex_01_5(given: ArrayLike) -> None:
    """Exercise 1.5: which of five pickled objects are let through, in order."""
    hints = {
        "Not every harmless object passes: a name outside of the list is refused, whatever it would do.": [True] * 5,
        "Arrays, numbers, strings and plain containers pass: that is what a data file is made of.": [False] * 5,
        "A DataFrame is built by pandas' own functions, whose names are not on the list.": [1, 1, 1, 0, 1],
        "A tensor is built by torch's own functions, whose names are not on the list.": [1, 1, 0, 1, 1],
        "An OrderedDict is on the list; it comes back as a dict.": [1, 0, 0, 0, 1],
        "Sets and complex numbers are plain: they are on the list.": [1, 1, 0, 0, 0],
    }
    answer("Exercise 1.5", given, [1, 1, 0, 0, 1], hints)


def _returned(number: str, result: Tensor | None) -> Tensor:
    if not isinstance(result, Tensor):
        raise CheckError(f"Exercise {number}: not yet. Wanted a tensor back, got {type(result).__name__}.")
    return result
