"""A training run that is killed, as tests of resuming want it."""

from contextlib import contextmanager

import pytest

from decalign_core.lab.training import Trainer


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


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
