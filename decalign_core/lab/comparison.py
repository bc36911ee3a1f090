r"""How much better one method is than another, and whether that is more than chance.

Runs are paired: the same seed, fold and test samples. Where a run of a row has no partner, the row has no difference.
A control has no seed: its run stands against each seed of the other side. The difference of a metric is averaged over
seeds (and folds); its interval is a percentile bootstrap that draws, with replacement,

- whole videos within each fold's test part, since utterances of one video are not independent of one another,
- and seeds, since another initialisation would have given other numbers.

One draw takes the same videos and the same seeds for both sides. A metric under a draw is the metric of samples with
weights :math:`w_n`, the number of times that sample's video was drawn, so all draws are one matrix product.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from decalign_core.lab.controls import CONTROLS
from decalign_core.lab.metrics import SIMS_EDGES, bins, higher_is_better, metric_names
from decalign_core.lab.results import KEYS, RunRecord, summary

_log = logging.getLogger(__name__)

Group = tuple[str, str, str]  # dataset, model, variant
Runs = Mapping[tuple[int | None, int], pd.DataFrame]  # by fold and seed: id, target and predictions on the test split


def comparison(
    folders: Iterable[str | Path],
    baseline: tuple[str, str] = ("decalign", "full"),
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """A :func:`~decalign_core.lab.results.summary` of run folders, with paired differences to a baseline.

    Args:
        folders: finished runs, ``record.json`` and ``predictions.csv`` in each.
        baseline: model and variant that every other row of the same data set is compared with.
        resamples: draws of the bootstrap.
        level: share of the draws between the bounds.
        seed: of the draws.

    Returns:
        Columns ``dataset, model, variant, metric, n, mean, sd, low, high`` and ``difference, difference_low,
        difference_high``: row less baseline, empty for the baseline itself and where a run of the row has no partner
        in it (a warning names the row).
    """
    runs = [(RunRecord.load(Path(folder) / "record.json"), Path(folder) / "predictions.csv") for folder in folders]
    if not runs:
        return pd.DataFrame(columns=[*KEYS, "metric", "n", "mean", "sd", "low", "high", *DIFFERENCE])
    scale = _scale(runs[0][0])
    groups: dict[Group, dict] = {}
    for record, path in runs:
        suffix = "" if record.fold is None else " (folds)"
        key = (record.dataset + suffix, record.model, record.variant)
        groups.setdefault(key, {})[record.fold, record.seed] = path
    read = {key: {at: _test_part(path) for at, path in paths.items()} for key, paths in groups.items()}
    rows = []
    for key, ours in read.items():
        reference = read.get((key[0], *baseline))
        if reference is None or key[1:] == baseline:
            continue
        sides = _without_seed(ours, reference, key[1]), _without_seed(reference, ours, baseline[0])
        try:
            found = paired_difference(*sides, scale, resamples=resamples, level=level, seed=seed)
        except _Unpaired as error:
            _log.warning(f"{' '.join(key)}: {error}")
        else:
            rows.append(found.assign(**dict(zip(KEYS, key, strict=True))))
    table = summary(pd.DataFrame([record.row() for record, _ in runs]))
    if not rows:
        return table.assign(**dict.fromkeys(DIFFERENCE, np.nan))
    return table.merge(pd.concat(rows), how="left", on=[*KEYS, "metric"])


DIFFERENCE = ("difference", "difference_low", "difference_high")


def _scale(record: RunRecord) -> str:
    return next(scale for scale in ("mosi", "sims", "emotion") if set(metric_names(scale)) == set(record.test))


def _test_part(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"id": str})
    return table[table["split"] == "test"].reset_index(drop=True)


def _without_seed(runs: Runs, others: Runs, method: str) -> Runs:
    """The runs of a control, of one seed, under each seed of the others; the runs of any other method as they are."""
    if method not in CONTROLS or len({seed for _, seed in runs}) > 1:
        return runs
    return {(fold, seed): table for (fold, _), table in runs.items() for seed in {seed for _, seed in others}}


class _Unpaired(ValueError):
    pass


def paired_difference(
    ours: Runs,
    baseline: Runs,
    scale: str = "mosi",
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Difference of every metric, ``ours`` less ``baseline``, with its interval: columns ``metric`` and three more.

    Raises:
        ValueError: where one of ``ours`` has no partner, a fold of ``ours`` lacks a seed of another, or the two were
            not tested on the same samples.
    """
    folds, seeds = _folds_and_seeds(ours)
    if not ours or set(ours) != set(product(folds, seeds)) or not set(ours) <= set(baseline):
        got = f"{_told(ours)} against {_told(baseline)}"
        raise _Unpaired(f"comparison: wanted the same seeds in every fold, and the baseline's of each, got {got}")
    rng = np.random.default_rng(seed)
    parts = [_aligned(ours, baseline, fold, seeds) for fold in folds]
    metrics, n = weighted_metrics(scale), len(seeds)
    drawn_seeds = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=resamples)]) / n
    per_fold = [_differences(part, metrics, resamples, rng) for part in parts]
    rows = []
    for name in per_fold[0]:
        values = (np.mean([fold[name] for fold in per_fold], axis=0) * drawn_seeds).sum(axis=1)
        low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
        rows.append(dict(zip(("metric", *DIFFERENCE), (name, values[0], low, high), strict=True)))
    return pd.DataFrame(rows)


def _folds_and_seeds(runs: Runs) -> tuple[list[int | None], list[int]]:
    folds = sorted({fold for fold, _ in runs}, key=lambda fold: (fold is not None, fold))
    return folds, sorted({seed for _, seed in runs})


def _told(runs: Runs) -> str:
    folds, seeds = _folds_and_seeds(runs)
    return f"seeds {seeds}" + ("" if folds == [None] else f" of folds {folds}")


@dataclass(frozen=True)
class _Part:
    """Predictions ``(seeds, N)``, scores or classes, of both sides on one fold; targets and videos ``(N,)``."""

    ours: NDArray
    baseline: NDArray
    target: NDArray
    video: NDArray


def _aligned(ours: Runs, baseline: Runs, fold: int | None, seeds: list[int]) -> _Part:
    sides = [{seed: side[fold, seed] for seed in seeds} for side in (ours, baseline)]
    first = sides[0][seeds[0]]
    if any(list(table["id"]) != list(first["id"]) for side in sides for table in side.values()):
        raise _Unpaired(f"comparison: wanted runs of the same test samples on fold {fold}, got others")
    values = [np.stack([_predicted(side[seed]) for seed in seeds]) for side in sides]
    target = first["target"].to_numpy()
    video = first["id"].str.rpartition("$_$")[0].to_numpy()
    return _Part(*values, target.astype(values[0].dtype), video)


def _predicted(table: pd.DataFrame) -> NDArray:
    logits = [name for name in table if name.startswith("logit_")]
    return table[logits].to_numpy().argmax(axis=1) if logits else table["prediction"].to_numpy(dtype=np.float32)


def _differences(
    part: _Part, metrics: Mapping[str, Metric], resamples: int, rng: np.random.Generator
) -> dict[str, NDArray]:
    """By metric, ``(1 + resamples, seeds)``: row 0 as measured, then one row a draw of videos."""
    kinds, member = np.unique(part.video, return_inverse=True)
    drawn = rng.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=resamples)
    weights = np.vstack([np.ones(len(member)), drawn[:, member]])
    return {
        name: metric(part.ours, part.target, weights) - metric(part.baseline, part.target, weights)
        for name, metric in metrics.items()
    }


# --- the field's metrics of weighted samples: predictions (S, N), truths (N,), weights (R, N) -> (R, S) ---

Metric = Callable[[NDArray, NDArray, NDArray], NDArray]


def weighted_metrics(scale: str) -> dict[str, Metric]:
    """The metrics of :func:`~decalign_core.lab.metrics.metric_names` for samples with weights."""
    metrics: dict[str, dict[str, Metric]] = {
        "mosi": {
            "mae": _absolute_error,
            "corr": _correlation,
            "acc2_has0": partial(_signs, _accuracy, zeros=True),
            "f1_has0": partial(_signs, _f1, zeros=True),
            "acc2_non0": partial(_signs, _accuracy, zeros=False),
            "f1_non0": partial(_signs, _f1, zeros=False),
            "acc5": partial(_rounded, bound=2),
            "acc7": partial(_rounded, bound=3),
        },
        "sims": {name: partial(_cut, _accuracy, edges=edges) for name, edges in SIMS_EDGES.items()}
        | {
            "f1": partial(_cut, _f1, edges=SIMS_EDGES["acc2"]),
            "mae": partial(_cut, _absolute_error),
            "corr": partial(_cut, _correlation),
        },
        "emotion": {"wacc": _accuracy, "waf1": _f1},
    }
    return metrics[scale]


def _mean(values: NDArray, weights: NDArray) -> NDArray:
    return weights @ values.T.astype(np.float64) / weights.sum(axis=1, keepdims=True)


def _absolute_error(p: NDArray, y: NDArray, weights: NDArray) -> NDArray:
    return _mean(np.abs(p.astype(np.float64) - y), weights)


def _correlation(p: NDArray, y: NDArray, weights: NDArray) -> NDArray:
    p, y = p.astype(np.float64), y.astype(np.float64)[None]
    covariance = _mean(p * y, weights) - _mean(p, weights) * _mean(y, weights)
    spread = (_mean(p**2, weights) - _mean(p, weights) ** 2) * (_mean(y**2, weights) - _mean(y, weights) ** 2)
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0)


def _accuracy(p: NDArray, y: NDArray, weights: NDArray) -> NDArray:
    return _mean(p == y, weights)


def _f1(p: NDArray, y: NDArray, weights: NDArray) -> NDArray:
    """Per class 2 tp / (predicted + true), weighted by the true frequencies."""
    total = np.zeros((len(weights), len(p)))
    for kind in np.unique(y):
        true, said = _mean((y == kind)[None], weights), _mean(p == kind, weights)
        both = _mean((p == kind) & (y == kind), weights)
        total += true * 2 * both / np.where(true + said > 0, true + said, 1)
    return total


def _signs(measure: Metric, p: NDArray, y: NDArray, weights: NDArray, zeros: bool) -> NDArray:
    if zeros:
        return measure(p >= 0, y >= 0, weights)
    return measure(p[:, y != 0] > 0, y[y != 0] > 0, weights[:, y != 0])


def _rounded(p: NDArray, y: NDArray, weights: NDArray, bound: int) -> NDArray:
    return _accuracy(np.round(np.clip(p, -bound, bound)), np.round(np.clip(y, -bound, bound)), weights)


def _cut(measure: Metric, p: NDArray, y: NDArray, weights: NDArray, edges: tuple[float, ...] = ()) -> NDArray:
    p, y = np.clip(p, -1, 1), np.clip(y, -1, 1)
    return measure(bins(p, edges), bins(y, edges), weights) if edges else measure(p, y, weights)


def verdict(metric: str, low: float, high: float) -> str:
    """What the interval ``[low, high]`` of a difference (row less baseline) says about the row, in words."""
    if np.isnan(low) or np.isnan(high):
        return "not compared"
    if low <= 0 <= high:
        return "undecided at this n"
    return "better" if (low > 0) == higher_is_better(metric) else "worse"
