"""CMU-MOSEI's size on this machine, with drawn features: what reading it takes, and what an epoch spends where."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.problems import Options
from decalign_core.data import load
from decalign_core.lab.experiment import ExperimentConfig, configure
from decalign_core.lab.feeding import bucketed as bucketed_rows
from decalign_core.lab.feeding import padding_share
from decalign_core.lab.presets import preset
from decalign_core.lab.results import peak_memory
from decalign_core.lab.training import Trainer, load_splits
from decalign_core.types import Splits

SAMPLES = {"train": 16326, "valid": 1871, "test": 4659}
FEWER = {"train": 1024, "valid": 117, "test": 1}  # of an epoch: the same share of validation
WIDTHS = {"text": 768, "audio": 74, "vision": 35}
FRAMES = 50


def loading(options: Options) -> pd.DataFrame:
    """Peak memory of reading a file of CMU-MOSEI's size as ``train`` does, in a fresh process, beside its arrays."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "MOSEI" / "mosei_aligned_50.pkl"
        path.parent.mkdir()
        with path.open("wb") as file:
            pickle.dump(_tree(SAMPLES), file, protocol=4)
        command = [sys.executable, "-m", "benchmarks.mosei", folder]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return pd.DataFrame([{"what": "read, standardised, hashed"} | json.loads(told)])


def epoch(options: Options) -> pd.DataFrame:
    """Shares of an epoch outside the model (batches, metrics, checkpoint) and of padding, without and with buckets."""
    with TemporaryDirectory() as folder:
        rows = []
        for name, (config, splits) in _cases(folder).items():
            for bucketed in (False, True):
                changed = configure({"training.bucketed": bucketed}, config)
                rows.append({"case": name, "bucketed": bucketed} | _epoch(changed, splits, Path(folder)))
    lengths = torch.from_numpy(_lengths(SAMPLES["train"])).unsqueeze(1)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))
    size = _official("").training.batch_size
    for bucketed, parts in ((False, order.split(size)), (True, bucketed_rows(order, size, lengths))):
        share = padding_share(parts, lengths)
        rows.append({"case": "MOSEI's lengths, all of them", "bucketed": bucketed, "padding_share": share})
    return pd.DataFrame(rows)


def _cases(folder: str) -> dict[str, tuple[ExperimentConfig, Splits]]:
    path = Path(folder) / "mosei.pkl"
    path.write_bytes(pickle.dumps(_tree(FEWER)))
    return {
        "MOSEI's widths, official configuration": (_official(folder), load("mosei", path)),
        "synthetic, default": (configure({"training.device": "cpu"}), load("synthetic")),
    }


def _epoch(config: ExperimentConfig, splits: Splits, folder: Path) -> dict[str, float]:
    trainer = Trainer(config, splits, torch.device("cpu"))
    inside = _timed(trainer)
    began = time.perf_counter()
    trainer.run_epoch()
    trainer.checkpoint(folder)
    seconds = time.perf_counter() - began
    share = padding_share(trainer.parts(), trainer.feed.lengths)
    return {"seconds": seconds, "outside_share": 1 - sum(inside) / seconds, "padding_share": share}


def _timed(trainer: Trainer) -> list[float]:
    """Seconds of each step on a batch (model, losses, backward, optimiser) and of each forward pass of validation."""
    seconds: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments)
            seconds.append(time.perf_counter() - began)
            return result

        return measured

    model, plain = trainer.validated, trainer.validated.forward
    watched = timed(plain)
    model.forward = lambda batch: (plain if model.training else watched)(batch)  # training is within the step
    trainer.step = timed(trainer.step)
    return seconds


def _official(root: str) -> ExperimentConfig:
    features = {"data.text_encoder": "", "data.fine_tune": False, "data.root": root}
    return configure(features | {"training.device": "cpu"}, preset("official", "mosei"))


def _tree(samples: dict[str, int]) -> dict[str, dict[str, Any]]:
    return {split: _split(split, count) for split, count in samples.items()}


def _split(split: str, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    mask = np.arange(FRAMES) < _lengths(count)[:, None]
    content: dict[str, Any] = {}
    for name, width in WIDTHS.items():
        content[name] = rng.standard_normal((count, FRAMES, width), dtype=np.float32)
        content[name][~mask] = 0
    content["text_bert"] = np.stack([mask * 1000, mask, mask * 0], axis=1)
    content["id"] = [f"{split}{row // 8}$_${row % 8}" for row in range(count)]
    return content | {"regression_labels": rng.uniform(-3, 3, count).astype(np.float32)}


def _lengths(count: int) -> np.ndarray:
    """Frames as of CMU-MOSEI's sentences, 19 words in the mean and two marks, long ones cut off."""
    return np.clip(2 + np.random.default_rng(0).negative_binomial(3, 3 / 21, count), 4, FRAMES)


def _measured(root: str) -> dict[str, float]:
    """Of this process: the arrays, the peak while they are read less what was held before, and the ratio of the two."""
    before = _memory("VmRSS")
    began = time.perf_counter()
    splits = load_splits(_official(root))
    splits.fingerprint()
    seconds, peak = time.perf_counter() - began, _memory("VmHWM")
    size = sum(values.nbytes for _, batch in splits.items() for values in batch.features.values())
    return {
        "arrays_gb": size / 1e9,
        "peak_gb": (peak - before) / 1e9,
        "ratio": (peak - before) / size,
        "seconds": seconds,
    }


def _memory(field: str) -> int:
    """Bytes resident now (VmRSS) or at most (VmHWM); getrusage would count what the parent process held, too."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory(torch.device("cpu"))
    return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(field)))


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1])))
