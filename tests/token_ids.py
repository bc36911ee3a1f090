"""A stand-in for a text encoder, one vector a token, and a batch that needs one."""

import torch
from torch import nn

from decalign_core.nn.text import TextEncoder
from decalign_core.types import Batch


class Words(nn.Embedding):
    width = 6

    def forward(self, ids, mask):
        return super().forward(ids)


class Encoder(TextEncoder):
    def build(self):
        return Words(9, Words.width)


MODALITIES = {"words": Encoder("none"), "tone": 5}


def make_batch():
    ids, mask = torch.randint(9, (4, 3)), torch.tensor([[True, True, False]] * 4)
    return Batch({"words": ids, "tone": torch.randn(4, 3, 5)}, {"words": mask, "tone": mask}, torch.zeros(4), "abcd")
