r"""MFM, the multimodal factorization model (Tsai, Liang, Zadeh, Morency and Salakhutdinov, ICLR 2019).

One discriminative factor :math:`z_y` is inferred from all modalities, and one generative factor :math:`z_m` from each
alone. Networks :math:`G` map them to :math:`f_y, f_m`; the label comes from :math:`f_y` alone, a modality from the
label's and its own:

.. math:: \hat y = D(f_y), \qquad \hat X_m = F_m(f_y, f_m) .

The loss is the task's, plus the squared error of every reconstruction, plus the squared maximum mean discrepancy
(Eq 11, 12 of DecAlign) of the factors :math:`(z_y, z_1, \dots, z_M)` to their prior, the standard normal law: a
Wasserstein autoencoder.

Simplified: :math:`z_y` is read from one LSTM a modality, side by side (the paper: a memory fusion network); the
discrepancy is taken factor by factor and averaged; the decoder is an LSTM that sees :math:`f_y, f_m` at every frame
(the paper: at the first, then its own state); no surrogate network for modalities missing at test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decalign_core.alignment.matching import mmd
from decalign_core.nn.dropout import Dropout
from decalign_core.peers.common import PeerConfig, PeerModel, RecurrentEncoder, losses, pooled_representation
from decalign_core.settings import numbers, positive
from decalign_core.types import Batch, Losses, Representation


@dataclass(frozen=True)
class MFMConfig(PeerConfig):
    """Settings of :class:`MFM`: ``width`` is that of the LSTMs and of every factor.

    Attributes:
        factor_dropout: within the networks from z to f.
        reconstruction_weight: of a modality's mean squared error; a number or one by modality, 0 for one not named.
        prior_weight: of the factors' mean discrepancy to the prior.
        bandwidth: of its kernel, in units of the root of the width.

    Raises:
        ValueError: also for a bandwidth that is not positive.
    """

    factor_dropout: float = 0.3
    reconstruction_weight: float | dict[str, float] = 0.1
    prior_weight: float = 0.1
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers("peer", self, "a positive number", positive, "bandwidth")

    def reconstruction_weights(self, names: list[str]) -> dict[str, float]:
        """The weight of each modality's reconstruction."""
        given = self.reconstruction_weight
        return {name: given.get(name, 0.0) if isinstance(given, Mapping) else given for name in names}


class Decoder(nn.Module):
    """Frames ``(B, T, D)`` from factors ``(B, F)``: an LSTM that sees them at every frame, and a linear map."""

    def __init__(self, factors: int, width: int, features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(factors, width, batch_first=True)
        self.out = nn.Linear(width, features)

    def forward(self, factors: Tensor, frames: int) -> Tensor:
        """The first ``frames`` frames."""
        return self.out(self.lstm(factors.unsqueeze(1).expand(-1, frames, -1))[0])


class MFM(PeerModel):
    """One factor for the label, one for what is a modality's own; both together give the modality back."""

    def __init__(self, config: MFMConfig) -> None:
        super().__init__(config)
        width, sizes = config.width, self.widths
        self.shared_encoders = nn.ModuleDict({m: RecurrentEncoder(size, width) for m, size in sizes.items()})
        self.own_encoders = nn.ModuleDict({m: RecurrentEncoder(size, width) for m, size in sizes.items()})
        self.shared_factor = nn.Linear(width * len(sizes), width)
        self.own_factors = nn.ModuleDict({m: nn.Linear(width, width) for m in sizes})
        self.shared_map = _map(config)
        self.own_maps = nn.ModuleDict({m: _map(config) for m in sizes})
        self.decoders = nn.ModuleDict({m: Decoder(2 * width, width, size) for m, size in sizes.items()})
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), Dropout(config.output_dropout), nn.Linear(width, config.outputs)
        )

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch.

        ``extras``: ``"z"`` and by modality ``"z NAME"``, the factors ``(B, width)``; ``"frames NAME"`` and
        ``"decoded NAME"`` ``(B, T_m, D_m)``, without gradient the first.
        """
        batch = batch.trimmed()
        frames = self.whole_frames(batch)  # what is to be reconstructed; the encoders see them dropped out
        shared, own = self.factors(self.dropped(frames), batch)
        fused = self.shared_map(shared)
        maps = {name: self.own_maps[name](z) for name, z in own.items()}
        extras = {"z": shared} | {f"z {name}": z for name, z in own.items()}
        extras |= {f"frames {name}": x.detach() for name, x in frames.items()}
        extras |= {f"decoded {name}": self.decode(name, fused, f, len(frames[name][0])) for name, f in maps.items()}
        return replace(pooled_representation(maps, batch, fused, self.head(fused)), extras=extras)

    def factors(self, frames: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """z_y ``(B, width)`` and, by modality, z_m ``(B, width)``."""
        read = {name: self.shared_encoders[name](x, batch.masks[name]) for name, x in frames.items()}
        own = {name: self.own_encoders[name](x, batch.masks[name]) for name, x in frames.items()}
        shared = self.shared_factor(torch.cat(list(read.values()), dim=1))
        return shared, {name: self.own_factors[name](state) for name, state in own.items()}

    def decode(self, name: str, shared: Tensor, own: Tensor, frames: int) -> Tensor:
        """The first frames ``(B, T, D_m)`` of a modality, from f_y and f_m ``(B, width)``."""
        return self.decoders[name](torch.cat([shared, own], dim=1), frames)


def _map(config: MFMConfig) -> nn.Sequential:
    layers = nn.Linear(config.width, config.width), nn.ReLU(), Dropout(config.factor_dropout)
    return nn.Sequential(*layers, nn.Linear(config.width, config.width), nn.ReLU())


def objective(representation: Representation, batch: Batch, config: MFMConfig) -> Losses:
    """The task's loss, ``reconstruction_NAME`` of each modality, and ``prior``."""
    masks, extras = representation.masks, representation.extras
    errors = {
        f"reconstruction_{name}": reconstruction(extras[f"decoded {name}"], extras[f"frames {name}"], mask)
        for name, mask in masks.items()
    }
    factors = [extras["z"]] + [extras[f"z {name}"][mask.any(dim=1)] for name, mask in masks.items()]
    prior = torch.stack([prior_distance(z, config.bandwidth) for z in factors]).mean()
    weights = {f"reconstruction_{name}": w for name, w in config.reconstruction_weights(list(masks)).items()}
    return losses(representation, batch, config, errors | {"prior": prior}, weights | {"prior": config.prior_weight})


def reconstruction(decoded: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Squared error of ``(B, T, D)``, mean over columns and the valid frames of ``mask``; 0 where none is valid."""
    error = (decoded.float() - frames.float()).square().mean(dim=-1)
    return error.where(mask, 0).sum() / mask.sum().clamp_min(1)


def prior_distance(z: Tensor, bandwidth: float) -> Tensor:
    """Squared discrepancy of factors ``(n, p)`` to as many draws of the standard normal law; 0 of fewer than two."""
    if len(z) < 2:
        return z.new_zeros((), dtype=torch.float32)
    z = z.float()
    return mmd(z, torch.randn_like(z), bandwidth * math.sqrt(z.shape[1]), unbiased=True)
