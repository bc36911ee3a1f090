r"""Linear probes: how much of a planted factor a ridge regression reads from features.

A probe fits :math:`\hat f = w^T h + b` on some samples and is scored on others by

.. math:: R^2 = 1 - \frac{\sum_n (f_n - \hat f_n)^2}{\sum_n (f_n - \bar f)^2},

1 where the factor can be read off exactly, 0 where guessing its mean is as good, below 0 where the probe is worse than
that. It says what a linear reader *could* find, not what a model uses; an invertible linear map of the features hardly
changes it. Features are standardised on the fitting samples, and the ridge's strength is chosen there too, by
leave-one-out, for each factor by itself: nothing of the held-out samples enters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from decalign_core.types import ByModality

STRENGTHS = tuple(10.0**power for power in range(-2, 6))


def held_out_r2(features: Tensor, factors: Tensor, held_features: Tensor, held_factors: Tensor) -> Tensor:
    """R² ``(k,)`` of each factor column on samples that the probe was not fitted on.

    Args:
        features: ``(N, p)``, to fit on.
        factors: ``(N, k)``, what to read.
        held_features: ``(H, p)``, to score on.
        held_factors: ``(H, k)``.

    Raises:
        ValueError: where shapes disagree or are not matrices.
    """
    _check(features, factors)
    _check(held_features, held_factors)
    if (held_features.shape[1], held_factors.shape[1]) != (features.shape[1], factors.shape[1]):
        wanted, got = (features.shape[1], factors.shape[1]), (held_features.shape[1], held_factors.shape[1])
        raise ValueError(f"held_features, held_factors: wanted {wanted} columns, got {got}")
    probe = _probe().fit(_numbers(features), _numbers(factors))
    return _r2(held_factors, probe.predict(_numbers(held_features)))


def cross_validated_r2(features: Tensor, factors: Tensor, *, folds: int = 5, seed: int = 0) -> Tensor:
    """R² ``(k,)`` of each factor column, every sample predicted by a probe fitted on the other folds.

    Args:
        features: ``(N, p)``.
        factors: ``(N, k)``.
        folds: at least 2, at most N.
        seed: of the assignment of samples to folds.

    Raises:
        ValueError: where shapes disagree or are not matrices, or for an impossible number of folds.
    """
    _check(features, factors)
    if not 2 <= folds <= len(features):
        raise ValueError(f"folds: wanted 2 to {len(features)}, the number of samples, got {folds}")
    splitter = KFold(folds, shuffle=True, random_state=seed)
    return _r2(factors, cross_val_predict(_probe(), _numbers(features), _numbers(factors), cv=splitter))


def variance_share(features: Tensor, factors: Tensor, held_features: Tensor, held_factors: Tensor) -> float:
    """Share of the held-out features' total variance that a linear function of the factors explains.

    The probe turned round: it asks what fills a representation, where :func:`held_out_r2` asks what can be read from
    it. Arguments and errors are the same.
    """
    per_column = held_out_r2(factors, features, held_factors, held_features)
    variance = held_features.detach().cpu().double().var(dim=0, correction=0)
    return float((per_column * variance).sum() / variance.sum())


def readout(
    parts: Mapping[str, ByModality],
    truth: ByModality,
    held_parts: Mapping[str, ByModality],
    held_truth: ByModality,
) -> pd.DataFrame:
    """What each part of each modality carries of every planted factor.

    Args:
        parts: pooled features ``(N, p)`` by part and modality, e.g. ``{"unique": representation.pooled_unique}``.
        truth: ``common`` and ``unique/<modality>``, as :class:`~decalign_core.types.Splits` holds them for a split.
        held_parts: as ``parts``, of the samples to score on.
        held_truth: as ``truth``, of the samples to score on.

    Returns:
        Columns ``part, modality, factor, r2``. ``factor`` is "common", "own" (this modality's unique factor) or "other"
        (the unique factors of the other modalities); R² is the mean over the factor's coordinates.
    """
    factors, names = _side_by_side(truth)
    held_factors, _ = _side_by_side(held_truth)
    rows = []
    for part, by_modality in parts.items():
        for modality, features in by_modality.items():
            scores = held_out_r2(features, factors, held_parts[part][modality], held_factors)
            rows += [
                {"part": part, "modality": modality, "factor": factor, "r2": float(scores[chosen].mean())}
                for factor, chosen in _groups(names, modality).items()
            ]
    return pd.DataFrame(rows)


def separation(table: pd.DataFrame) -> float:
    """How far a :func:`readout` of the parts "unique" and "common" is from a tie, averaged over modalities.

    The mean of two differences of R²: the common factor from the common part less from the unique part, and the own
    unique factor from the unique part less from the common part. 0 where both parts carry the same, negative where they
    are swapped; a perfect split reaches the mean of the two R² that the features allow.
    """
    r2 = table.groupby(["part", "factor"])["r2"].mean()
    common = r2["common", "common"] - r2["unique", "common"]
    own = r2["unique", "own"] - r2["common", "own"]
    return float(common + own) / 2


def _side_by_side(truth: ByModality) -> tuple[Tensor, np.ndarray]:
    """All planted factors as columns (N, k), and the name of each column."""
    planted = {key: values for key, values in truth.items() if key == "common" or key.startswith("unique/")}
    names = np.repeat(list(planted), [values.shape[1] for values in planted.values()])
    return torch.cat(list(planted.values()), dim=1), names


def _groups(names: np.ndarray, modality: str) -> dict[str, np.ndarray]:
    common, own = names == "common", names == f"unique/{modality}"
    return {"common": common, "own": own, "other": ~(common | own)}


def _probe() -> Pipeline:
    return make_pipeline(StandardScaler(), RidgeCV(STRENGTHS, alpha_per_target=True))


def _r2(wanted: Tensor, predicted: np.ndarray) -> Tensor:
    wanted = _numbers(wanted)
    return torch.from_numpy(r2_score(wanted, predicted.reshape(wanted.shape), multioutput="raw_values"))


def _check(features: Tensor, factors: Tensor) -> None:
    for name, values in (("features", features), ("factors", factors)):
        if values.ndim != 2:
            raise ValueError(f"{name}: wanted a matrix (samples, columns), got shape {tuple(values.shape)}")
    if len(features) != len(factors):
        raise ValueError(f"factors: wanted {len(features)} samples as the features have, got {len(factors)}")


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
