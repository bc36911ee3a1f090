"""Checkers for the exercises of chapter 7, fusion (section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.lab.check.core import CheckError, answer
from decalign_core.model import DecAlign, DecAlignConfig
from decalign_core.nn.encoders import masked_mean
from decalign_core.types import Batch, ByModality


def ex_07_1(given: ArrayLike) -> None:
    """Exercise 7.1: width of the fused vector, transformers here, ordered pairs, for M = 4 and d = 32."""
    answer(
        "Exercise 7.1",
        given,
        [256, 4, 12],
        {
            "Two parts of each modality are concatenated: the refined unique and the common one.": [128, 4, 12],
            "The paper says one transformer per modality: its contexts are joined, not taken one by one.": [
                256,
                12,
                12,
            ],
            "A pair has a direction: who asks and who answers.": [256, 4, 6],
            "A modality is not paired with itself.": [256, 4, 16],
        },
    )


def ex_07_2(given: ArrayLike) -> None:
    """Exercise 7.2: the three attention weights of inner products 0, 2 ln 3 and 2 ln 4 at head width 4, last masked."""
    root = math.sqrt(3)
    answer(
        "Exercise 7.2",
        given,
        [0.25, 0.75, 0],
        {
            "Divide the inner products by the square root of the head's width first.": [0.1, 0.9, 0],
            "Divide by the square root of the head's width, not by the width.": [1 / (1 + root), root / (1 + root), 0],
            "The third key is padding: it gets no weight.": [1 / 8, 3 / 8, 1 / 2],
            "Weights of one query sum to 1: mask before the softmax, not after it.": [1 / 8, 3 / 8, 0],
        },
    )


def ex_07_3(given: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 7.3: weights ``(B, T, S)`` from scores ``(B, T, S)`` and a mask ``(B, S)``, 0 where no key is valid."""
    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    weights = torch.as_tensor(given(scores.clone(), mask.clone()))
    if torch.isnan(weights).any():
        hint = "A row without a valid key is 0/0, which is not a number: it has to become 0."
        raise CheckError(f"Exercise 7.3: not yet. {hint}")
    wide = mask[:, None]
    plain = scores.softmax(-1)
    answer(
        "Exercise 7.3",
        weights,
        _weights(scores, wide),
        {
            "The mask plays no part yet.": plain,
            "Weights of one query sum to 1: mask before the softmax, not after it.": plain * wide,
            "True means valid: these keys were to keep their weights, not to lose them.": _weights(scores, ~wide),
            "A query without any valid key gets weight 0 everywhere, not equal weights.": torch.where(
                wide.any(-1, keepdim=True), _weights(scores, wide), 0.2
            ),
            "The softmax runs over the keys, the last axis, not over the queries.": _weights(scores, wide, axis=1),
        },
    )


def ex_07_4(given: Callable[[ByModality, ByModality, ByModality], Tensor]) -> None:
    """Exercise 7.4: the fused vectors ``(B, 2 M d)`` from refined parts, common parts and masks by modality."""
    refined, common, masks = _parts()

    def joined(*blocks: ByModality, mean: Callable[[Tensor, Tensor], Tensor] = masked_mean) -> Tensor:
        return torch.cat([mean(x, masks[name]) for parts in blocks for name, x in parts.items()], dim=1)

    by_modality = [block for name in masks for block in ({name: refined[name]}, {name: common[name]})]
    copies = [dict(mapping) for mapping in (refined, common, masks)]
    answer(
        "Exercise 7.4",
        given(*copies),
        joined(refined, common),
        {
            "The mean is over valid frames: divide by their number, not by the padded length.": joined(
                refined, common, mean=lambda x, mask: x.mean(1)
            ),
            "That is the sum over the frames, not their mean.": joined(
                refined, common, mean=lambda x, mask: x.where(mask.unsqueeze(-1), 0).sum(1)
            ),
            "The refined unique parts of all modalities come first, then the common parts.": joined(common, refined),
            "All refined unique parts come first, not modality by modality.": joined(*by_modality),
        },
        tolerance=1e-8,
    )


def ex_07_5(given: Mapping[str, Any]) -> None:
    """Exercise 7.5: options of ``DecAlignConfig`` under which the order of frames plays no part, attention kept."""
    options = {"width": 8, "heads": 2, "layers": 1, "kernel_size": 3, "positions": True} | dict(given)
    if options["layers"] < 1 or not options.get("cross_modal", True):
        raise CheckError("Exercise 7.5: not yet. Keep the cross-modal attention, with at least one layer.")
    sizes = {"first": 3, "second": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DecAlign(DecAlignConfig(**{"modalities": sizes} | options)).double().eval()
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.ones(4, 6, dtype=torch.bool) for name in sizes}
    features = {n: torch.randn(4, 6, d, generator=generator, dtype=torch.float64) for n, d in sizes.items()}
    turned = {name: x.flip(1) for name, x in features.items()}
    with torch.no_grad():
        before, after = (
            model(Batch(x, masks, torch.zeros(4), ["a", "b", "c", "d"])).prediction for x in (features, turned)
        )
    change = float((before - after).abs().max())
    if change > 1e-8:
        left = []
        if options["positions"]:
            left.append("the positions tell every frame its place")
        if options["kernel_size"] > 1:
            left.append("the projection sees a frame's neighbours")
        raise CheckError(
            f"Exercise 7.5: not yet. Reversing the frames moves the prediction by {change:.1e}: {' and '.join(left)}."
        )
    print("PASS Exercise 7.5")


def _weights(scores: Tensor, wide: Tensor, axis: int = -1) -> Tensor:
    weights = scores.masked_fill(~wide, -math.inf).softmax(axis).nan_to_num(0)
    return weights * wide


def _parts() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    lengths = {"first": [4, 2], "second": [3, 5], "third": [1, 2]}
    masks = {name: torch.arange(max(n)) < torch.tensor(n).unsqueeze(1) for name, n in lengths.items()}

    def frames(mask: Tensor) -> Tensor:
        x = torch.randn(*mask.shape, 2, generator=generator, dtype=torch.float64)
        return x.where(mask.unsqueeze(-1), 0)

    return {n: frames(mask) for n, mask in masks.items()}, {n: frames(mask) for n, mask in masks.items()}, masks
