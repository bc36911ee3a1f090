"""The field's metrics, with the definitions of MMSA (``utils/metricsTop.py``), as unrounded fractions.

With predictions p and truths y, n samples, [.] the indicator and round(.) half to even:

- ``mosi``, scores in [-3, 3] (CMU-MOSI, CMU-MOSEI)

  - ``mae`` = mean |p - y|, p not clipped; ``corr``: Pearson's correlation.
  - ``acc7``, ``acc5`` = mean [round(clip(p)) = round(clip(y))], both clipped to [-3, 3] and to [-2, 2].
  - ``acc2_has0``, ``f1_has0``: all samples; positive means >= 0 on both sides, so a prediction of 0.0 is positive.
  - ``acc2_non0``, ``f1_non0``: the samples with y != 0; positive means > 0 on both sides. Undefined, hence nan,
    where every truth is 0.

- ``sims``, scores in [-1, 1] (CH-SIMS): p and y are first clipped to [-1, 1], for ``mae`` and ``corr`` too.
  Bins are open on the left and closed on the right, so 0 is negative here:

  - ``acc2``, ``f1``: [-1, 0] (0, 1]
  - ``acc3``: [-1, -0.1] (-0.1, 0.1] (0.1, 1]
  - ``acc5``: [-1, -0.7] (-0.7, -0.1] (-0.1, 0.1] (0.1, 0.7] (0.7, 1]

- ``emotion``, classes: ``wacc``, the recalls of the classes weighted by their true frequencies, which is the accuracy,
  and ``waf1``.

Every F1 is weighted: the mean of the classes' F1 with their true frequencies as weights. The correlation with a
constant (also after clipping) is 0.0, the value to which upstream maps its nan. Values are compared in the
floating type in which they come, float32 as a rule: 0.1 in float32 lies on the bin edge 0.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import f1_score
from torch import Tensor

_NAMES = {
    "mosi": ("mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"),
    "sims": ("acc2", "acc3", "acc5", "f1", "mae", "corr"),
    "emotion": ("wacc", "waf1"),
}
SIMS_EDGES = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}


def metric_names(scale: str) -> tuple[str, ...]:
    """The names of the metrics of ``scale`` (``"mosi"``, ``"sims"`` or ``"emotion"``), in order.

    Raises:
        ValueError: for an unknown scale.
    """
    if scale not in _NAMES:
        raise ValueError(f"scale: wanted one of {', '.join(_NAMES)}, got {scale!r}")
    return _NAMES[scale]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric ``name`` is the better one: False for ``mae`` alone.

    Raises:
        ValueError: for a name that no scale has.
    """
    known = sorted({metric for names in _NAMES.values() for metric in names})
    if name not in known:
        raise ValueError(f"name: wanted one of {', '.join(known)}, got {name!r}")
    return name != "mae"


def sentiment_metrics(
    prediction: Tensor | ArrayLike, target: Tensor | ArrayLike, scale: str = "mosi"
) -> dict[str, float]:
    """The metrics of ``metric_names(scale)`` for scores.

    Args:
        prediction: ``(N,)`` or ``(N, 1)``, on any device.
        target: ``(N,)`` or ``(N, 1)``.
        scale: ``"mosi"`` for scores in [-3, 3], ``"sims"`` for scores in [-1, 1].

    Raises:
        ValueError: for an unknown scale, no samples, shapes that disagree, values that are not finite.
    """
    if scale not in ("mosi", "sims"):
        raise ValueError(f"scale: wanted mosi or sims, got {scale!r}")
    p, y = _scores("prediction", prediction), _scores("target", target)
    if len(p) != len(y):
        raise ValueError(f"prediction: wanted {len(y)} scores, one a target, got {len(p)}")
    values = _mosi(p, y) if scale == "mosi" else _sims(p.clip(-1, 1), y.clip(-1, 1))
    return {name: float(values[name]) for name in _NAMES[scale]}


def emotion_metrics(logits: Tensor | ArrayLike, target: Tensor | ArrayLike) -> dict[str, float]:
    """The metrics of ``metric_names("emotion")``; the predicted class is the first of the largest logits.

    Args:
        logits: ``(N, C)``, or any scores of which the largest wins.
        target: ``(N,)`` or ``(N, 1)`` class indices in 0 ... C - 1; classes may be missing.

    Raises:
        ValueError: for no samples, shapes that disagree, logits that are nan, classes outside 0 ... C - 1.
    """
    scores, y = _array(logits), _column("target", _array(target))
    if scores.ndim != 2 or len(scores) != len(y) or scores.size == 0:
        raise ValueError(f"logits: wanted shape (N, C) with N = {len(y)} targets and C > 0, got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(
            f"logits: wanted numbers, got nan in {int(np.isnan(scores).any(axis=1).sum())} of {len(y)} rows"
        )
    classes = scores.shape[1]
    if not np.isin(y, np.arange(classes)).all():
        raise ValueError(f"target: wanted class indices in 0 ... {classes - 1}, got values from {y.min()} to {y.max()}")
    p, y = scores.argmax(axis=1), y.astype(np.int64)
    return {"wacc": _accuracy(p, y), "waf1": _weighted_f1(p, y)}


def _mosi(p: NDArray, y: NDArray) -> dict[str, float]:
    nonzero = y != 0
    with_zeros = (p >= 0, y >= 0)
    without_zeros = (p[nonzero] > 0, y[nonzero] > 0)
    return {
        "mae": np.abs(p - y).mean(),
        "corr": _correlation(p, y),
        "acc2_has0": _accuracy(*with_zeros),
        "f1_has0": _weighted_f1(*with_zeros),
        "acc2_non0": _accuracy(*without_zeros),
        "f1_non0": _weighted_f1(*without_zeros),
        "acc5": _accuracy(p.clip(-2, 2).round(), y.clip(-2, 2).round()),
        "acc7": _accuracy(p.clip(-3, 3).round(), y.clip(-3, 3).round()),
    }


def _sims(p: NDArray, y: NDArray) -> dict[str, float]:
    pairs = {name: (bins(p, edges), bins(y, edges)) for name, edges in SIMS_EDGES.items()}
    accuracies = {name: _accuracy(*pair) for name, pair in pairs.items()}
    return accuracies | {
        "f1": _weighted_f1(*pairs["acc2"]),
        "mae": np.abs(p - y).mean(),
        "corr": _correlation(p, y),
    }


def bins(values: NDArray, edges: tuple[float, ...]) -> NDArray:
    """Index of the left-open, right-closed bin of each value; the edges are taken in the values' own type."""
    return np.searchsorted(np.asarray(edges, dtype=values.dtype), values, side="left")


def _accuracy(p: NDArray, y: NDArray) -> float:
    return float((p == y).mean()) if len(y) else float("nan")


def _weighted_f1(p: NDArray, y: NDArray) -> float:
    return float(f1_score(y, p, average="weighted", zero_division=0)) if len(y) else float("nan")


def _correlation(p: NDArray, y: NDArray) -> float:
    # Not by the standard deviation: the rounded mean of equal numbers can differ from them.
    if np.ptp(p) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(p, y)[0, 1])


def _scores(name: str, values: Tensor | ArrayLike) -> NDArray:
    column = _column(name, _array(values))
    if not np.isfinite(column).all():
        raise ValueError(
            f"{name}: wanted finite scores, got {int((~np.isfinite(column)).sum())} of {len(column)} not finite"
        )
    return column if np.issubdtype(column.dtype, np.floating) else column.astype(np.float64)


def _column(name: str, array: NDArray) -> NDArray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: wanted shape (N,) or (N, 1), got {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name}: wanted at least one sample, got none")
    return array


def _array(values: Tensor | ArrayLike) -> NDArray:
    """The values on the host; half precisions become float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() and values.itemsize < 4 else values.numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array
