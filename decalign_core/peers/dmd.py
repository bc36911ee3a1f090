r"""DMD: decoupled multimodal distilling (Li et al. 2023).

Projected frames :math:`X_m` are decoupled into a homogeneous part :math:`C_m`, by one encoder for all modalities, and a
heterogeneous part :math:`S_m`, under four losses:

- reconstruction :math:`\|X_m - D_m[C_m, S_m]\|^2`, cycle :math:`\|S_m - E_m(D_m[C_m, S_m])\|^2`, orthogonality,
- margin :math:`\max(0, \alpha - \cos(c_i, c_j) + \cos(c_i, c_k))` on averaged :math:`C_m`: j is another modality with
  i's label, k is i's modality with another label.

Heterogeneous parts refine each other in MulT's directed transformers. For each kind of part a graph over the modalities
distils: an edge :math:`w_{ij}`, learned from both ends and normalised over all edges, weighs how far j's prediction is
from i's, :math:`\sum w_{ij} |f_j - \mathrm{sg} f_i|`. All features, gated, join in the prediction.

Simplified: homogeneous frames are averaged, not sent through transformers; one gate over all; orthogonality by squared
cosines; edges are held near equal shares (the authors' code: shares set by hand for language, audio, vision) and distil
predictions only (the code, in one of the graphs, features too).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decalign_core.nn.encoders import TemporalProjection, masked_mean, part_encoder
from decalign_core.objective import ObjectiveConfig, decoupling, task_loss
from decalign_core.peers.common import PeerModel, losses
from decalign_core.peers.mult import CrossModalStreams, MulTConfig, ResidualHead
from decalign_core.settings import not_negative, numbers
from decalign_core.types import Batch, ByModality, Losses, Representation


@dataclass(frozen=True)
class DMDConfig(MulTConfig):
    """Settings of :class:`DMD`, those of MulT for its transformers among them.

    Attributes:
        margin: alpha, for classes; times the distance of the labels, for scores.
        heads_weight: of the task's loss summed over every modality's own heads and that of the common parts.
        reconstruction_weight, cycle_weight, orthogonality_weight, margin_weight: of the decoupling's losses.
        distillation_weight: of both graphs' distillation.
        balance_weight: of the squared distance of the mean edges from equal shares.
    """

    margin: float = 0.15
    heads_weight: float = 1.0
    reconstruction_weight: float = 0.1
    cycle_weight: float = 0.1
    orthogonality_weight: float = 0.01
    margin_weight: float = 0.01
    distillation_weight: float = 0.05
    balance_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers("peer", self, "a number from 0 on", not_negative, "margin")


class GraphDistillation(nn.Module):
    """A graph whose vertices are modalities: a prediction at each, and learned edges between them."""

    def __init__(self, vertices: int, width: int, config: DMDConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ResidualHead(width, config.outputs, config.output_dropout) for _ in range(vertices))
        self.of_prediction, self.of_features = nn.Linear(config.outputs, config.width), nn.Linear(width, config.width)
        # a linear map of two vertices' vectors, joined, is the sum of one map of the sender and one of the receiver
        self.sender, self.receiver = (nn.Linear(2 * config.width, 1, bias=False) for _ in range(2))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predictions ``(B, M, outputs)`` and edges ``(B, M, M)``, from row to column, of features ``(B, width)``."""
        predictions = torch.stack([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)
        vertices = torch.cat([self.of_prediction(predictions), self.of_features(torch.stack(features, dim=1))], dim=2)
        scores = self.sender(vertices) + self.receiver(vertices).mT
        itself = torch.eye(len(features), dtype=torch.bool, device=scores.device)
        edges = scores.masked_fill(itself, -torch.inf).flatten(1).softmax(dim=1)
        return predictions, edges.unflatten(1, itself.shape)


class DMD(PeerModel):
    """Homogeneous and heterogeneous parts of every modality, each kind with its distilling graph."""

    def __init__(self, config: DMDConfig) -> None:
        super().__init__(config)
        width, kernel, names = config.width, config.kernel_size, self.names
        self.projections = nn.ModuleDict({m: TemporalProjection(self.widths[m], width, kernel) for m in names})
        self.unique_encoders = nn.ModuleDict({name: part_encoder(width) for name in names})
        self.common_encoder = part_encoder(width)
        self.decoders = nn.ModuleDict({name: nn.Linear(2 * width, width, bias=False) for name in names})
        self.streams = CrossModalStreams(names, config)
        self.homogeneous = GraphDistillation(len(names), width, config)
        self.heterogeneous = GraphDistillation(len(names), self.streams.width, config)
        joined = len(names) * width
        self.common_head = ResidualHead(joined, config.outputs, config.output_dropout)
        joined += len(names) * self.streams.width
        self.gate = nn.Sequential(nn.Linear(joined, joined), nn.Sigmoid())
        self.head = ResidualHead(joined, config.outputs, config.output_dropout)

    def forward(self, batch: Batch) -> Representation:
        """The representation of a batch; heterogeneous parts are its unique, homogeneous its common ones."""
        batch = batch.trimmed()
        projected = {name: self.projections[name](x, batch.masks[name]) for name, x in self.frames(batch).items()}
        unique = {name: self.unique_encoders[name](x) for name, x in projected.items()}
        common = {name: self.common_encoder(x) for name, x in projected.items()}
        pooled = {name: masked_mean(part, batch.masks[name]) for name, part in common.items()}
        rebuilt = {name: self.decoders[name](torch.cat([common[name], unique[name]], dim=2)) for name in projected}
        extras = {f"projected {m}": x for m, x in projected.items()} | {f"rebuilt {m}": x for m, x in rebuilt.items()}
        extras |= {f"cycled {m}": self.unique_encoders[m](x) for m, x in rebuilt.items()}
        refined, alike = list(self.streams(unique, batch.masks).values()), list(pooled.values())
        extras["common"] = self.common_head(torch.cat(alike, dim=1))
        extras["homogeneous"], extras["homogeneous edges"] = self.homogeneous(alike)
        extras["heterogeneous"], extras["heterogeneous edges"] = self.heterogeneous(refined)
        joined = torch.cat([*refined, *alike], dim=1)
        fused = joined * self.gate(joined)
        return Representation(
            unique=unique,
            common=common,
            pooled_unique={name: masked_mean(part, batch.masks[name]) for name, part in unique.items()},
            pooled_common=pooled,
            latent=pooled,
            masks=batch.masks,
            fused=fused,
            prediction=self.head(fused),
            extras=extras,
        )


def objective(representation: Representation, batch: Batch, config: DMDConfig) -> Losses:
    """The task's loss, those of the decoupling and those of the two graphs."""
    extras, masks = representation.extras, representation.masks
    graphs = [(extras[kind], extras[f"{kind} edges"]) for kind in ("homogeneous", "heterogeneous")]
    present = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=1)
    made = torch.cat([extras["common"].unsqueeze(1), *(predictions for predictions, _ in graphs)], dim=1)
    targets = batch.target.repeat_interleave(made.shape[1])
    terms = {
        "heads": made.shape[1] * task_loss(made.flatten(0, 1), targets, ObjectiveConfig(task=config.task)),
        "reconstruction": sum(_error(extras[f"projected {m}"], extras[f"rebuilt {m}"], masks[m]) for m in masks),
        "cycle": sum(_error(representation.unique[m], extras[f"cycled {m}"], masks[m]) for m in masks),
        "orthogonality": decoupling(representation.unique, representation.common, masks=masks),
        "margin": margin_loss(representation.pooled_common, present, batch.target, config.margin),
        "distillation": sum(distillation(*graph, present) for graph in graphs),
        "balance": sum(_imbalance(edges) for _, edges in graphs),
    }
    return losses(representation, batch, config, terms, {name: getattr(config, f"{name}_weight") for name in terms})


def _error(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    return (x - y).float().square().mean(dim=2).sum() / mask.sum().clamp_min(1)  # padded frames are 0 in both


def distillation(predictions: Tensor, edges: Tensor, present: Tensor) -> Tensor:
    """Distances of predictions ``(B, M, C)`` along edges ``(B, M, M)`` whose two ends are ``present`` ``(B, M)``."""
    distance = (predictions.detach().unsqueeze(2) - predictions.unsqueeze(1)).float().abs().mean(dim=3)
    return (edges * distance * (present.unsqueeze(2) & present.unsqueeze(1))).sum(dim=(1, 2)).mean()


def _imbalance(edges: Tensor) -> Tensor:
    equal = 1 - torch.eye(edges.shape[1], device=edges.device)
    return (edges.float().mean(dim=0) - equal / equal.sum()).square().sum()


def margin_loss(pooled: ByModality, present: Tensor, target: Tensor, margin: float) -> Tensor:
    """Hinge of the triplets of pooled common parts ``(B, d)``, a mean within and then over ordered pairs (i, j)."""
    apart = target.unsqueeze(1) - target
    apart = apart.abs() if target.is_floating_point() else (apart != 0).float()
    units, terms = [F.normalize(z.float(), dim=1) for z in pooled.values()], []
    for i, j in itertools.permutations(range(len(units)), 2):
        anchors, positives = ((apart == 0) & present[:, i, None] & present[:, j]).nonzero(as_tuple=True)
        near = (units[i][anchors] * units[j][positives]).sum(dim=1, keepdim=True)
        hinge = (margin * apart[anchors] - near + (units[i] @ units[i].mT)[anchors]).clamp_min(0)
        negatives = (apart[anchors] > 0) & present[:, i]
        terms.append((hinge * negatives).sum() / negatives.sum().clamp_min(1))
    return torch.stack(terms).mean()
