"""A training run that is killed, as tests of resuming want it, and what must not depend on the kill."""

import json
import time
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from decalign_core.lab.training import Trainer


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def wait_until(condition, seconds=600):
    """What the condition returns once it is true; never by the clock, which only ends what would hang."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return met


@contextmanager
def killed_after(epoch):
    """What runs inside is killed once it has written the checkpoint of this epoch; the test fails if it is not."""

    def checkpoint(self, folder, original=Trainer.checkpoint):
        original(self, folder)
        if self.epoch == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "checkpoint", checkpoint)
        yield


def outcome(folder):
    """All that must not depend on interruptions: metrics, history but for the clock, weights, prediction bytes."""
    record = json.loads((folder / "record.json").read_text())
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    weights = torch.load(folder / "best.pt", weights_only=True)["weights"]
    kept = ("config_hash", "data_hash", "seed", "epochs", "best_epoch", "parameters", "valid", "test")
    return {
        "record": {name: record[name] for name in kept},
        "history": history.to_csv(),
        "weights": {name: values.numpy().tobytes() for name, values in weights.items()},
        "predictions": (folder / "predictions.csv").read_bytes(),
    }
