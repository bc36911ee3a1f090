"""Controls: what a linear and a kernel model of averaged features reach, without any of the method.

Every table carries them. Features are averaged over valid frames, concatenated and standardised on the training split.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from torch import Tensor

from decalign_core.nn.encoders import masked_mean
from decalign_core.types import Batch, Splits


class Predictor(Protocol):
    """Whatever turns a batch into predictions ``(B, outputs)``."""

    def __call__(self, batch: Batch) -> Tensor:
        """Predictions ``(B, outputs)``."""
        ...


CONTROLS = ("ridge", "svr")
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-1, 6))


def fit_control(method: str, splits: Splits) -> Predictor:
    """Fit ``"ridge"`` (its strength chosen on the validation split) or ``"svr"`` (RBF kernel, C = 1, epsilon = 0.2).

    Classification takes their classifying twins.

    Raises:
        ValueError: for another method, and where a modality holds token ids.
    """
    if method not in CONTROLS:
        raise ValueError(f"method: wanted 'ridge' or 'svr', got {method!r}")
    if splits.encoders:
        raise ValueError(f"method: {method} wanted float features, got token ids for {sorted(splits.encoders)}")
    candidates = _candidates(method, classify=splits.task == "classification")
    fitted = [model.fit(_averages(splits.train), splits.train.target.numpy()) for model in candidates]
    best = max(fitted, key=lambda model: model.score(_averages(splits.valid), splits.valid.target.numpy()))
    return lambda batch: _prediction(best, batch, splits.outputs)


def _candidates(method: str, classify: bool) -> list[Pipeline]:
    if method == "ridge":
        models = [(RidgeClassifier if classify else Ridge)(alpha=strength) for strength in RIDGE_STRENGTHS]
    else:
        models = [SVC(C=1.0, decision_function_shape="ovr") if classify else SVR(C=1.0, epsilon=0.2)]
    return [make_pipeline(StandardScaler(), model) for model in models]


def _averages(batch: Batch) -> np.ndarray:
    return np.concatenate([_average(x, batch.masks[name]) for name, x in batch.features.items()], axis=1)


def _average(x: Tensor, mask: Tensor) -> np.ndarray:
    parts = zip(x.split(256), mask.split(256), strict=True)  # the mean makes copies of what it is given
    return torch.cat([masked_mean(*part) for part in parts]).numpy()


def _prediction(model: Pipeline, batch: Batch, outputs: int) -> Tensor:
    x = _averages(batch)
    values = model.decision_function(x) if outputs > 1 else model.predict(x)
    if outputs == 2:  # scikit-learn gives two classes one decision value
        values = np.stack([-values, values], axis=1)
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).view(len(batch), -1)
