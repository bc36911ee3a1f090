r"""The modality gap in numbers: how far apart the point clouds of two modalities lie, and what their pairs still share.

Points are pooled features, one row a sample: ``points[m]`` is ``(N, d)``, and row n is the same sample in every
modality. For two modalities with rows :math:`x_n` and :math:`y_n`, means :math:`\bar x` and :math:`\bar y`:

================  ======================================================  ==========================================
measure           definition                                              reads
================  ======================================================  ==========================================
``centroid``      :math:`|\bar x - \bar y|`                               how far apart the clouds lie, in the units
                                                                          of the features
``paired``        mean over n of :math:`|x_n - y_n|`                      the length of the lines that join the two
                                                                          points of a sample; at least ``centroid``
``normalised``    :math:`|\bar x - \bar y| / \sqrt{(s_x^2 + s_y^2) / 2}`  the same in units of the clouds' radius;
                                                                          blind to a change of units
``consistency``   ``centroid / paired``                                   0 ... 1; 1 where all those lines have one
                                                                          direction, whatever their lengths
``matching``      ``paired`` / mean over n ≠ k of :math:`|x_n - y_k|`     1 where a sample's own partner is no nearer
                                                                          than a stranger's, below 1 where it is
================  ======================================================  ==========================================

with :math:`s_x^2` the mean over n of :math:`|x_n - \bar x|^2`. The centroid distance is that of Liang et al. (2022),
without their scaling of every point to length 1. A tighter cloud has a smaller s and so a *larger* normalised gap:
compactness closes nothing. No measure is 0 by chance: a norm is positive even between two halves of one cloud.

**The space.** Distances between modalities need points of one width in one space. After a model has projected them,
that space is the model's. Before any learning there is none, and any choice of one is a choice of the gap:

- :func:`random_maps`: a random matrix for each modality, of the kind that the model's projection starts with. Lengths
  are kept on average and directions of different modalities are unrelated, so about
  :math:`|\bar x - \bar y|^2 = |\bar x|^2 + |\bar y|^2`. Nothing is fitted.
- :func:`principal_maps`: each modality's own leading directions, fitted on the points given (the training split's),
  not centred, signs such that the means point the same way, which makes the gap as small as signs can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decalign_core.types import ByModality

Pair = tuple[str, str]


@dataclass(frozen=True)
class Gap:
    """The five measures of the module's table, a value a pair of modalities: ``(pairs,)``, or ``(R, pairs)``."""

    pairs: tuple[Pair, ...]
    centroid: Tensor
    paired: Tensor
    normalised: Tensor
    consistency: Tensor
    matching: Tensor

    def table(self) -> pd.DataFrame:
        """A row a pair, a column a measure."""
        names = [" – ".join(pair) for pair in self.pairs]
        return pd.DataFrame({"pair": names} | {name: getattr(self, name).tolist() for name in MEASURES})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Gap:
        return Gap(self.pairs, **{name: change(getattr(self, name)) for name in MEASURES})


MEASURES = tuple(field.name for field in fields(Gap) if field.name != "pairs")


def modality_gap(points: ByModality, *, present: ByModality | None = None) -> Gap:
    """The gap between every two of any number of modalities, in float64.

    Args:
        points: ``(N, d)`` by modality, in one space; row n is the same sample everywhere.
        present: ``(N,)`` bool by modality, False where a sample lacks it; a pair uses the samples that have both.

    Raises:
        ValueError: for fewer than two modalities, unequal shapes, or a pair with fewer than two samples.
    """
    count = _checked(points, present)
    return _gap(points, present, torch.ones(1, count, dtype=torch.float64))._each(lambda values: values[0])


def bootstrap_gap(
    points: ByModality,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    present: ByModality | None = None,
) -> tuple[Gap, Gap]:
    """Percentile bootstrap: the lower and the upper bound of every measure.

    A sample is drawn with all its modalities, so pairs stay pairs. A norm is larger where its vector is noisier, so
    the bounds of a small gap from few samples lie high.

    Args:
        points: as in :func:`modality_gap`.
        resamples: draws of N samples with replacement.
        level: share of the resamples between the bounds.
        seed: of the draws.
        groups: N names, where whole groups are drawn in place of samples (the utterances of one video are not
            independent of one another).
        present: as in :func:`modality_gap`.

    Raises:
        ValueError: as :func:`modality_gap`, or where ``groups`` has another length.
    """
    count = _checked(points, present)
    names = list(range(count)) if groups is None else list(groups)
    if len(names) != count:
        raise ValueError(f"groups: wanted {count} names, one a sample, got {len(names)}")
    kinds, member = np.unique(np.array(names), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=resamples)
    gap = _gap(points, present, torch.from_numpy(drawn[:, member]).double())
    low, high = (1 - level) / 2, (1 + level) / 2
    return gap._each(lambda v: v.nanquantile(low, dim=0)), gap._each(lambda v: v.nanquantile(high, dim=0))


def _checked(points: ByModality, present: ByModality | None) -> int:
    shapes = {name: tuple(values.shape) for name, values in points.items()}
    shape = next(iter(shapes.values()), ())
    if len(shapes) < 2 or len(shape) != 2 or len(set(shapes.values())) > 1:
        raise ValueError(f"points: wanted (N, d) of one shape for at least two modalities, got {shapes}")
    for one, other in combinations(points, 2):
        shared = shape[0] if present is None else int((present[one] & present[other]).sum())
        if shared < 2:
            raise ValueError(f"points: wanted at least two samples with both {one!r} and {other!r}, got {shared}")
    return shape[0]


def _gap(points: ByModality, present: ByModality | None, weights: Tensor) -> Gap:
    """``weights`` (R, N): how often each sample is drawn."""
    pairs = tuple(combinations(points, 2))
    columns = []
    for one, other in pairs:
        rows = slice(None) if present is None else (present[one] & present[other]).cpu()
        x, y = (points[name].detach().cpu().double()[rows] for name in (one, other))
        kept = weights[:, rows]
        columns.append(_measures(x, y, kept / kept.sum(dim=1, keepdim=True)))
    return Gap(pairs, *(torch.stack(values, dim=1) for values in zip(*columns, strict=True)))


def _measures(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The five measures of one pair of clouds, each (R,), as means under ``weights`` (R, N) that sum to 1."""
    centroid = (weights @ (x - y)).norm(dim=1)
    paired = weights @ (x - y).norm(dim=1)
    radius = ((_variance(x, weights) + _variance(y, weights)) / 2).sqrt()
    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0)
    strangers = ((weights @ distances) * weights).sum(dim=1) / (1 - weights.square().sum(dim=1))
    return centroid, paired, _ratio(centroid, radius), _ratio(centroid, paired), _ratio(paired, strangers)


def _variance(x: Tensor, weights: Tensor) -> Tensor:
    x = x - x.mean(dim=0)  # the variance stays, its two terms get small
    return (weights @ x.square().sum(dim=1) - (weights @ x).square().sum(dim=1)).clamp_min(0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(above == 0, above, above / below)  # 0 of 0 counts as 0


# ---------------------------------------------------------------- a common space, before any learning


def random_maps(widths: Mapping[str, int], width: int, *, seed: int = 0) -> dict[str, Tensor]:
    """A matrix ``(D_m, width)`` for each modality, entries N(0, 1 / width): lengths are kept on average."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(columns, width, generator=generator, dtype=torch.float64) / width**0.5
        for name, columns in widths.items()
    }


def principal_maps(points: ByModality, width: int) -> dict[str, Tensor]:
    """The ``width`` leading directions ``(D_m, width)`` of each modality's points ``(N, D_m)``, not centred.

    Signs are such that no coordinate's mean is negative.

    Raises:
        ValueError: where a modality has fewer samples or columns than ``width``.
    """
    least = min(min(values.shape) for values in points.values())
    if width > least:
        raise ValueError(f"width: wanted at most {least}, the fewest samples or columns of a modality, got {width}")
    maps = {}
    for name, values in points.items():
        values = values.detach().double()
        directions = torch.linalg.svd(values, full_matrices=False).Vh[:width].T
        maps[name] = directions * torch.where((values @ directions).mean(dim=0) < 0, -1.0, 1.0)
    return maps


def mapped(points: ByModality, maps: ByModality) -> dict[str, Tensor]:
    """``points[m] @ maps[m]`` for every modality: ``(N, D_m)`` and ``(D_m, d)`` to ``(N, d)``, float64."""
    return {name: values.detach().double() @ maps[name] for name, values in points.items()}


# ---------------------------------------------------------------- a picture to go with the numbers


def umap_plane(points: ByModality, *, neighbours: int = 15, seed: int = 0) -> dict[str, Tensor]:
    """All clouds in one plane, by UMAP: ``(N, 2)`` by modality; the same on every call.

    Neighbours are exact, for a few thousand points at most. UMAP keeps who is near whom. It does not keep distances
    between groups, nor their sizes, so a gap cannot be read off. Needs the package ``umap-learn``; the first call
    compiles for several seconds.
    """
    import warnings

    threads = torch.get_num_threads()
    from sklearn.neighbors import NearestNeighbors
    from umap import UMAP

    rows = torch.cat([values.detach().cpu() for values in points.values()]).float().numpy()
    distances, nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(rows).kneighbors(rows)
    known = (nearest, distances.astype(np.float32), None)  # saves compiling UMAP's own search
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that new points cannot be added to the plane later
        plane = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, precomputed_knn=known).fit_transform(rows)
    torch.set_num_threads(threads)  # numba, under UMAP, gives the whole process every core
    parts = torch.from_numpy(plane).split([len(values) for values in points.values()])
    return dict(zip(points, parts, strict=True))
