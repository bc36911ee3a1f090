"""A pretrained text encoder as the backbone of a modality.

Any Hugging Face encoder, by name or by local folder. It is used in one of two ways:

- frozen: a data set stores the last hidden states once (:func:`encode`), as float features ``(B, T, width)``;
- fine-tuned: a data set stores token ids ``(B, T)`` int64 and names the :class:`TextEncoder`; the model builds the
  :class:`TextBackbone` and trains it along with the rest.

A mask ``(B, T)`` goes with both: True for a token of the text (special tokens included), False for padding, which is
always on the right. The library ``transformers`` is an optional extra and is imported only on use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decalign_core.nn.encoders import last_valid


@dataclass(frozen=True)
class TextEncoder:
    """Which encoder a modality uses, and how; small enough for a configuration file.

    Attributes:
        name: Hugging Face name, or the path of a folder that ``save_pretrained`` wrote (model and tokenizer).
        fine_tune: whether its weights are trained.
        max_length: longest text in tokens, special tokens included; the rest is cut off.
    """

    name: str
    fine_tune: bool = False
    max_length: int = 50

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length: wanted at least 1 token, got {self.max_length}")

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, T)`` int64 and their mask ``(B, T)`` bool, padded on the right to the longest text.

        Raises:
            ValueError: where the tokenizer cannot be loaded.
            ImportError: where ``transformers`` is not installed.
        """
        tokenizer = _load("AutoTokenizer", self.name)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        length = min(self.max_length, tokenizer.model_max_length)
        table = tokenizer(list(texts), padding="longest", truncation=True, max_length=length, return_tensors="pt")
        return table["input_ids"].long(), table["attention_mask"].bool()

    def build(self) -> TextBackbone:
        """The encoder with its pretrained weights; raises as :meth:`tokens` does."""
        return TextBackbone(self)


LIKE_LENGTH = 16  # texts that a CPU encodes together


class TextBackbone(nn.Module):
    """The pretrained encoder: token ids in, last hidden states out.

    Frozen, it has no gradients and stays in evaluation mode whatever mode its parent is put in; its weights are part
    of ``state_dict`` all the same. Segment ids are not asked for: every text here is a single sentence.

    Attributes:
        width: columns of the hidden states.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.fine_tune = encoder.fine_tune
        self.encoder = _load("AutoModel", encoder.name).float()
        if self.encoder.config.is_encoder_decoder:
            self.encoder = self.encoder.get_encoder()
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None  # reads the states, is not read here: it would never get a gradient
        self.width: int = self.encoder.config.hidden_size
        self.encoder.requires_grad_(self.fine_tune)
        self.train()

    def train(self, mode: bool = True) -> TextBackbone:
        """Training mode, of which a frozen encoder takes no part."""
        super().train(mode)
        self.encoder.train(mode and self.fine_tune)
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states ``(B, T, width)`` of token ids ``(B, T)``; frames outside ``mask`` (B, T) are 0.

        On a CPU texts of like length go together, cut to their longest: the same states from a fraction of the work.
        """
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            if ids.device.type != "cpu" or len(ids) <= LIKE_LENGTH:
                return self._states(ids, mask)
            order = last_valid(mask).argsort(stable=True)
            parts = [self._states(*_cut(ids[rows], mask[rows]), ids.shape[1]) for rows in order.split(LIKE_LENGTH)]
            return torch.cat(parts)[order.argsort()]

    def _states(self, ids: Tensor, mask: Tensor, length: int = 0) -> Tensor:
        # A text that is absent altogether attends to its first frame: a softmax over nothing would give NaN.
        attended = mask | (~mask.any(dim=1, keepdim=True) & (torch.arange(mask.shape[1], device=mask.device) == 0))
        states = self.encoder(input_ids=ids, attention_mask=attended.long()).last_hidden_state
        return F.pad(states.masked_fill(~mask.unsqueeze(-1), 0.0), (0, 0, 0, max(0, length - ids.shape[1])))

    def fingerprint(self) -> str:
        """Hexadecimal digest of the configuration and every weight."""
        digest = hashlib.blake2b(self.encoder.config.to_json_string().encode(), digest_size=16)
        for name, values in self.encoder.state_dict().items():
            digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
            digest.update(np.ascontiguousarray(values.cpu().numpy()).data)
        return digest.hexdigest()


def _cut(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    length = int(last_valid(mask).max()) + 1
    return ids[:, :length], mask[:, :length]


@torch.no_grad()
def encode(encoder: TextEncoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Frozen states of raw texts: ``(B, T, width)`` float32 and their mask ``(B, T)``, on the CPU.

    T is the longest of the texts in tokens, at most ``encoder.max_length``; frames of padding are 0.
    Raises as :meth:`TextEncoder.tokens` does.
    """
    backbone = replace(encoder, fine_tune=False).build()
    ids, mask = encoder.tokens(texts)
    states = torch.zeros(*ids.shape, backbone.width)
    for rows in last_valid(mask).argsort(stable=True).split(LIKE_LENGTH):
        part = backbone(*_cut(ids[rows], mask[rows]))
        states[rows, : part.shape[1]] = part
    return states, mask


def _load(factory: str, name: str) -> Any:
    transformers = _transformers()
    try:
        with _silent(transformers):
            return getattr(transformers, factory).from_pretrained(name)
    except Exception as error:  # the library raises a dozen types for "not there", with pages of text
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"text encoder: wanted a Hugging Face name or a folder, got {name!r}: {reason}") from None


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise ImportError("a text encoder needs transformers: pip install decalign-core[text]") from None
    return transformers


@contextmanager
def _silent(transformers: ModuleType) -> Iterator[None]:
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
