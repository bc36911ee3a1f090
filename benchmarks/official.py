"""The official code, unchanged, from a checkout that the reader gives: ``git clone`` of taco-group/DecAlign.

Its model takes features here in place of BERT's tokens, as its own switch ``use_bert`` allows.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decalign_core.types import Batch


class _Enough(Exception):
    pass


class _Once:
    """A loader that yields one batch and then ends the loop around it."""

    def __init__(self, batch: Batch) -> None:
        self.item = {**batch.features, "labels": {"M": batch.target.unsqueeze(1)}}

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        yield self.item
        raise _Enough


class Official:
    """Its model and trainer with its configuration for MOSI.

    Raises:
        ValueError: if the checkout's code cannot be imported or does not make them.
    """

    def __init__(self, checkout: Path, widths: dict[str, int], frames: int, device: str = "cpu") -> None:
        sys.path.insert(0, str(checkout))
        try:
            self._make(checkout, widths, frames, device)
        except (Exception, SystemExit) as error:  # another's code may end in anything
            told = f"wanted a checkout of the official code that runs, got {checkout}"
            raise ValueError(f"--official: {told} ({type(error).__name__}: {error})") from None

    def _make(self, checkout: Path, widths: dict[str, int], frames: int, device: str) -> None:
        from config import get_config_regression
        from models.model import DecAlign
        from trains.ATIO import DecAlignTrainer

        logging.getLogger("DecAlign").setLevel(logging.CRITICAL)
        args: Namespace = get_config_regression("decalign", "mosi", str(checkout / "config/dec_mosi_config.json"))
        args.use_bert, args.device = False, device
        args.feature_dims, args.seq_lens = list(widths.values()), [frames] * len(widths)
        args.model_save_path = str(Path("_build") / "benchmarks" / "official.pth")
        self.model: nn.Module = DecAlign(args).to(device)
        self.trainer = DecAlignTrainer(args)

    def step(self, batch: Batch) -> None:
        """One training step in its own loop, its optimiser made anew."""
        try:
            self.trainer.do_train(self.model, {"train": _Once(batch)})
        except _Enough:
            return
        raise RuntimeError("the official loop ended before its batches did")

    def alignment(self, unique: dict[str, torch.Tensor], common: dict[str, torch.Tensor]) -> torch.Tensor:
        """Its two alignment losses of pooled parts ``(B, d)``, added."""
        blocks = [[x.unsqueeze(2) for x in parts.values()] for parts in (unique, common)]
        return self.model.compute_hetero_loss(*blocks[0]) + self.model.compute_homo_loss(*blocks[1])[0]
