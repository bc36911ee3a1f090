r"""MISA: modality-invariant and -specific representations (Hazarika et al. 2020).

Each modality's utterance vector :math:`u_m` has a shared part :math:`h^c_m`, by one encoder for all modalities, and a
private part :math:`h^p_m`, by an encoder of its own; both end in a sigmoid. The 2 M parts attend to each other in one
transformer layer and are mapped to the prediction. Over the rows of a batch, three losses shape the parts:

- similarity: mean over pairs of modalities of the central moment discrepancy of their shared parts,
  :math:`\|E x - E y\| + \sum_{k=2}^{K} \|C_k(x) - C_k(y)\|` with central moments :math:`C_k` (on [0, 1], so that the
  factors :math:`|b - a|^{-k}` are 1);
- difference: :math:`\|H_1^T H_2\|_F^2` of shared and private part of each modality and of the private parts of each
  pair, columns centred, rows of unit length;
- reconstruction: squared error of a decoder from :math:`h^c_m + h^p_m` back to :math:`u_m`.

Simplified: an utterance vector is the mean over frames (the paper's way with BERT) or, with ``recurrent``, the last
state of one LSTM layer (the paper: two bidirectional ones); as in the authors' code the Frobenius norm is a mean over
entries, the length of a row has no gradient and the adversarial variant of the similarity is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decalign_core.nn.dropout import Dropout
from decalign_core.nn.encoders import masked_mean
from decalign_core.peers.common import PeerConfig, PeerModel, RecurrentEncoder, losses
from decalign_core.settings import heads_divide_width
from decalign_core.types import Batch, ByModality, Losses, Representation


@dataclass(frozen=True)
class MISAConfig(PeerConfig):
    """Settings of :class:`MISA`: ``width`` is that of each part.

    Attributes:
        heads: of the fusing transformer, dividing ``width``.
        recurrent: read a modality's frames with an LSTM rather than average them.
        dropout: within the fusing transformer.
        moments: highest order that the similarity compares.
        similarity_weight, difference_weight, reconstruction_weight: of the three losses beside the task's.

    Raises:
        ValueError: also for heads that do not divide the width.
    """

    heads: int = 2
    recurrent: bool = False
    dropout: float = 0.1
    moments: int = 5
    similarity_weight: float = 0.3
    difference_weight: float = 0.1
    reconstruction_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        heads_divide_width("peer", self)


class MISA(PeerModel):
    """Shared and private parts of every modality, fused by self-attention; parts of an absent modality are 0."""

    def __init__(self, config: MISAConfig) -> None:
        super().__init__(config)
        width, names = config.width, self.names
        readers = {name: RecurrentEncoder(features, width) for name, features in self.widths.items()}
        self.readers = nn.ModuleDict(readers if config.recurrent else {})
        seen = dict.fromkeys(names, width) if config.recurrent else self.widths
        self.projections = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(seen[name], width), nn.ReLU(), nn.LayerNorm(width)) for name in names}
        )
        self.private = nn.ModuleDict({name: _part_encoder(width) for name in names})
        self.shared = _part_encoder(width)
        self.decoders = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.fusion = nn.TransformerEncoderLayer(width, config.heads, 4 * width, config.dropout, batch_first=True)
        parts = 2 * len(names) * width
        self.hidden = nn.Sequential(nn.Linear(parts, parts // 2), Dropout(config.output_dropout), nn.ReLU())
        self.head = nn.Linear(parts // 2, config.outputs)

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; its parts have one frame, the utterance."""
        batch = batch.trimmed()
        present = {name: mask.any(dim=1, keepdim=True) for name, mask in batch.masks.items()}
        utterances = {name: self._utterance(name, x, batch.masks[name]) for name, x in self.frames(batch).items()}
        private = {name: self.private[name](u).where(present[name], 0) for name, u in utterances.items()}
        shared = {name: self.shared(u).where(present[name], 0) for name, u in utterances.items()}
        rebuilt = {name: self.decoders[name](private[name] + shared[name]) for name in utterances}
        fused = self.hidden(self.fusion(torch.stack([*private.values(), *shared.values()], dim=1)).flatten(1))
        extras = {f"utterance {name}": x for name, x in utterances.items()}
        extras |= {f"rebuilt {name}": x for name, x in rebuilt.items()}
        return Representation(
            unique={name: part.unsqueeze(1) for name, part in private.items()},
            common={name: part.unsqueeze(1) for name, part in shared.items()},
            pooled_unique=private,
            pooled_common=shared,
            latent=shared,
            masks=present,
            fused=fused,
            prediction=self.head(fused),
            extras=extras,
        )

    def _utterance(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        return self.projections[name](self.readers[name](x, mask) if self.readers else masked_mean(x, mask))


def _part_encoder(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.Sigmoid())


def objective(representation: Representation, batch: Batch, config: MISAConfig) -> Losses:
    """The task's loss and the three of MISA; absent modalities are left out of each."""
    extras, present = representation.extras, {name: mask[:, 0] for name, mask in representation.masks.items()}
    private, shared = (
        {name: part.float() for name, part in parts.items()}
        for parts in (representation.pooled_unique, representation.pooled_common)
    )
    errors = [
        F.mse_loss(extras[f"rebuilt {name}"][rows].float(), extras[f"utterance {name}"][rows].float())
        for name, rows in present.items()
        if rows.any()
    ]
    terms = {
        "similarity": similarity([shared[name][rows] for name, rows in present.items()], config.moments),
        "difference": difference(private, shared, present),
        "reconstruction": _mean(errors),
    }
    return losses(representation, batch, config, terms, {name: getattr(config, f"{name}_weight") for name in terms})


def similarity(samples: Sequence[Tensor], orders: int) -> Tensor:
    """Mean central moment discrepancy, up to order ``orders``, over pairs of samples ``(n_m, d)``."""
    found = [central_moments(x, orders) for x in samples if len(x)]
    return _mean([(one - other).norm(dim=1).sum() for one, other in itertools.combinations(found, 2)])


def central_moments(x: Tensor, orders: int) -> Tensor:
    """Mean of samples ``(n, d)`` and their central moments of orders 2, 3, ...: ``(orders, d)``."""
    mean = x.mean(dim=0)
    return torch.stack([mean, *((x - mean).pow(order).mean(dim=0) for order in range(2, orders + 1))])


def difference(private: ByModality, shared: ByModality, present: ByModality) -> Tensor:
    """Overlap of the parts ``(B, d)`` that ought to differ, summed; of a pair only rows where both are present."""
    pairs = [(private[name], shared[name], present[name]) for name in private]
    pairs += [(private[i], private[j], present[i] & present[j]) for i, j in itertools.combinations(private, 2)]
    return sum(_overlap(x[rows], y[rows]) for x, y, rows in pairs)


def _overlap(x: Tensor, y: Tensor) -> Tensor:
    return (_rows(x).mT @ _rows(y)).square().mean()


def _rows(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    length = centred.norm(dim=1, keepdim=True).detach()
    return centred / length.where(length > 0, 1)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean() if terms else torch.zeros(())
