r"""Synthetic multimodal data whose truth is known: a common factor, a unique factor per modality, a noisy target.

For each sample, with M modalities and every draw independent:

1. *Common factor, with classes.* k ~ pi, then c = mu_k + s e with e ~ N(0, I), of ``common_size``. The K centres mu_k
   are random and fixed by the seed. K = 7 for regression, pi near the levels of CMU-MOSI; for
   classification K = ``classes``, pi the frequencies of IEMOCAP's six (uniform for another number).
2. *Unique factors.* u_m ~ N(0, I), of ``unique_size``, independent of c and of one another.
3. *Regression target.* The latent score is

       f = <a, c> / g + ``unique_weight`` sum_m <b_m, u_m> / sqrt(M),     |a| = |b_m| = 1,

   where the centres satisfy <a, mu_k> = g (k - 3): the seven classes lie at the levels -3 ... 3 and apart from one
   another in the other coordinates too. Five raters j answer r_j = clip(round(f + ``rater_noise`` e_j), -3, 3) and the
   target is their mean, as in CMU-MOSI: a multiple of 0.2 that rounds to seven levels. Its expectation given the
   factors is known in closed form,

       E[y | c, u] = -3 + sum_{j = -2.5, -1.5, ..., 2.5} Phi((f - j) / ``rater_noise``).

4. *Classification target.* With the logits

       f_k = log pi_k - |c - mu_k|^2 / (2 t^2) + h ``unique_weight`` sum_m <b_mk, u_m> / sqrt(M),     |b_mk| = 1,

   the class is drawn from softmax(f), which is the known expectation of its indicator. It agrees mostly, not always,
   with the k of step 1.
5. *Frames.* Modality m has L ~ U{``length_min`` ... ``length_max``} valid frames, frame i at the relative time
   r_i = i / (L - 1), and shows

       x_mi = o_m + ``scale`` (A_m tanh(B_m [p(r_i - v) c, p(r_i - v_m) u_m] + d_m) + ``noise`` e),

   e white noise. A_m, B_m, d_m are random and fixed by the seed. p is a bump over a low floor: the factors show mostly
   around a moment, the common one around the same relative time v in every modality and each unique one around a
   time v_m of its own. The offset o_m, of root mean square ``offset``, makes the *modality gap*. Frames after L are 0.

``truth[split]`` holds ``common`` (N, c), ``unique/<modality>`` (N, u), ``class`` (N,), the k of step 1, and
``expected``, the expectation of the target given all the factors: (N,) scores, or (N, K) class probabilities. The
error of ``expected`` is what even a model that sees the factors leaves (for the absolute error, up to the difference
between conditional mean and median); a model that sees only the noisy frames leaves more.

**What such data can show.** Whether a representation called common holds the common factor and not the unique ones
(and the reverse), whether alignment closes the gap without losing the target, what each modality adds, how far a model
is from the best possible. **What it cannot show.** That a method works on speech, faces or language; the
factors here are truly independent, the gap is a mere translation, the mixing is smooth and the same for all speakers.
The process was written from the questions, not around the model: nothing in it is a Gaussian mixture in the space where
the model fits one, and no constant was chosen by looking at DecAlign's score. Noise and bump were set so that a small
recurrent network does a little better than ridge on time averages, which is a strong baseline here. A ranking of
methods on these data is a ranking on these data alone.

The fixed quantities depend on the seed, the task, the sizes and the modalities, not on the samples; each split, and
each modality in it, has its own random stream, so neither the size of one split nor ``missing_probability`` changes
another draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from decalign_core.types import Batch, Splits

_SPLITS = ("train", "valid", "test")
_LEVELS = (0.04, 0.16, 0.2, 0.2, 0.2, 0.16, 0.04)
_IEMOCAP = (648, 1084, 1708, 1103, 1041, 1849)
_RATERS = 5
_SPREAD = 0.4  # s: the deviation within a class, where the centres have deviations around 1
_LEVEL_STEP = 0.6  # g: the distance of neighbouring levels along the direction a
_SOFTNESS = 1.0  # t: above s, so that the common factor alone does not settle the label
_LOGITS = 3.0  # h: logits for one level of the regression's score
_FLOOR, _BUMP = 0.05, 0.1  # p: its least value, and its width in relative time
_HIDDEN = 3  # hidden units of the mixing for each factor


@dataclass(frozen=True)
class ModalitySpec:
    """One modality of the synthetic data.

    Attributes:
        width: feature columns.
        length_min, length_max: bounds, both included, of the valid frames; ``length_max`` is the padded length.
        offset: root mean square of the modality's constant offset, in the features' units (``scale`` apart).
        scale: factor of signal and noise.
        noise: deviation of the white noise of each frame and column, relative to the signal's.

    Raises:
        ValueError: for a size below 1, bounds in the wrong order, a negative or not finite number, a scale of 0.
    """

    width: int = 16
    length_min: int = 6
    length_max: int = 20
    offset: float = 1.0
    scale: float = 1.0
    noise: float = 0.8

    def __post_init__(self) -> None:
        _at_least("width", self.width, 1)
        _at_least("length_min", self.length_min, 1)
        _at_least("length_max", self.length_max, self.length_min)
        for name in ("offset", "scale", "noise"):
            _not_negative(name, getattr(self, name))
        if self.scale == 0:
            raise ValueError("scale: wanted a number above 0, got 0")


def modalities(count: int, spec: ModalitySpec | None = None) -> dict[str, ModalitySpec]:
    """``count`` modalities of the same ``spec``, named ``modality1``, ``modality2``, and so on."""
    return {f"modality{number}": spec or ModalitySpec() for number in range(1, count + 1)}


def _three() -> dict[str, ModalitySpec]:
    return {
        "text": ModalitySpec(width=32, length_min=6, length_max=20, offset=1.0, scale=0.5, noise=0.6),
        "audio": ModalitySpec(width=12, length_min=10, length_max=32, offset=2.0, scale=3.0, noise=1.0),
        "vision": ModalitySpec(width=20, length_min=8, length_max=24, offset=1.5, scale=1.0, noise=1.0),
    }


@dataclass(frozen=True)
class SyntheticConfig:
    """What is planted, and how much of it.

    Attributes:
        task: ``"regression"`` or ``"classification"``.
        modalities: at least two, by name.
        samples: of train, valid and test.
        common_size, unique_size: coordinates of the common factor and of each unique one.
        classes: of the classification task; regression has the seven levels.
        unique_weight: how much of the target comes from the unique factors.
        rater_noise: deviation of one rater from the latent score (regression), in levels.
        missing_probability: with which a sample lacks a modality, each by itself; one modality always stays.
        seed: of everything.

    Raises:
        ValueError: for fewer than two modalities, an unknown task, a number out of its range.
    """

    task: str = "regression"
    modalities: Mapping[str, ModalitySpec] = field(default_factory=_three)
    samples: tuple[int, int, int] = (600, 100, 200)
    common_size: int = 6
    unique_size: int = 3
    classes: int = 6
    unique_weight: float = 0.6
    rater_noise: float = 1.0
    missing_probability: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in ("regression", "classification"):
            raise ValueError(f"task: wanted regression or classification, got {self.task!r}")
        if len(self.modalities) < 2:
            raise ValueError(f"modalities: wanted at least 2, got {len(self.modalities)}")
        if len(self.samples) != 3:
            raise ValueError(f"samples: wanted 3 numbers, of train, valid and test, got {len(self.samples)}")
        for split, count in zip(_SPLITS, self.samples, strict=True):
            _at_least(f"samples ({split})", count, 1)
        for name, least in {"common_size": 2, "unique_size": 1, "classes": 2, "seed": 0}.items():
            _at_least(name, getattr(self, name), least)
        for name in ("unique_weight", "rater_noise", "missing_probability"):
            _not_negative(name, getattr(self, name))
        if self.missing_probability >= 1:
            raise ValueError(f"missing_probability: wanted a number below 1, got {self.missing_probability}")


def generate(config: SyntheticConfig | None = None) -> Splits:
    """The data set of ``config`` (the default one if None), with its truth; the same on every call.

    Features are ``(N, length_max, width)`` float32; the target is ``(N,)``, float32 scores in [-3, 3] or int64 classes.
    Named ``"synthetic"``, or ``"synthetic/classification"``.
    """
    config = config or SyntheticConfig()
    world = _world(config)
    drawn = {split: _split(config, world, stream) for stream, split in enumerate(_SPLITS)}
    regression = config.task == "regression"
    return Splits(
        **{split: batch for split, (batch, _) in drawn.items()},
        name="synthetic" if regression else "synthetic/classification",
        task=config.task,
        scale="mosi" if regression else "emotion",
        outputs=1 if regression else config.classes,
        truth={split: truth for split, (_, truth) in drawn.items()},
    )


class _Mixing(NamedTuple):
    """A, B, d and o of one modality (step 5)."""

    outer: NDArray  # (D, H)
    inner: NDArray  # (c + u, H)
    shift: NDArray  # (H,)
    offset: NDArray  # (D,)


class _World(NamedTuple):
    """What the seed fixes for all splits."""

    prior: NDArray  # (K,)
    centres: NDArray  # (K, c)
    common_direction: NDArray  # (c,)      a
    unique_directions: dict[str, NDArray]  # (u, outputs)  b_m
    mixings: dict[str, _Mixing]


class _Factors(NamedTuple):
    component: NDArray  # (N,)
    common: NDArray  # (N, c)
    unique: dict[str, NDArray]  # (N, u)


def _world(config: SyntheticConfig) -> _World:
    rng = _stream(config, 0)
    regression = config.task == "regression"
    prior = _prior(config)
    a = _unit(rng.normal(size=config.common_size))
    centres = rng.normal(size=(len(prior), config.common_size))
    if regression:
        levels = np.arange(-3, 4)
        centres += np.outer(_LEVEL_STEP * levels - centres @ a, a)
    shape = (config.unique_size, 1 if regression else config.classes)
    streams = {name: _stream(config, 0, index) for index, name in enumerate(config.modalities, 1)}
    directions = {name: _unit(own.normal(size=shape)) for name, own in streams.items()}
    mixings = {name: _mixing(config, config.modalities[name], own) for name, own in streams.items()}
    return _World(prior, centres, a, directions, mixings)


def _prior(config: SyntheticConfig) -> NDArray:
    if config.task == "regression":
        weights = np.array(_LEVELS)
    else:
        weights = np.array(_IEMOCAP if config.classes == len(_IEMOCAP) else [1] * config.classes)
    return weights / weights.sum()


def _mixing(config: SyntheticConfig, spec: ModalitySpec, rng: Generator) -> _Mixing:
    factors = config.common_size + config.unique_size
    hidden = _HIDDEN * factors
    outer = rng.normal(size=(spec.width, hidden)) / math.sqrt(hidden / 2)
    inner = rng.normal(size=(factors, hidden)) / math.sqrt(factors / 2)
    direction = rng.normal(size=spec.width)
    offset = spec.offset * direction / np.sqrt(np.mean(direction**2))
    return _Mixing(outer, inner, rng.normal(size=hidden) / 2, offset)


def _split(config: SyntheticConfig, world: _World, split: int) -> tuple[Batch, dict[str, Tensor]]:
    samples = config.samples[split]
    factors = _factors(config, world, split)
    target, expected = _target(config, world, factors, _stream(config, 1 + split, 0, 1))
    moment = _stream(config, 1 + split, 0, 2).uniform(size=samples)
    features, masks = {}, {}
    for index, (name, present) in enumerate(_present(config, split).items(), 1):
        rng = _stream(config, 1 + split, index)
        spec, planted = config.modalities[name], (factors.common, factors.unique[name])
        features[name], masks[name] = _frames(spec, world.mixings[name], planted, moment, present, rng)
    first = sum(config.samples[:split])
    ids = [f"synthetic$_${number:06d}" for number in range(first, first + samples)]
    truth = {
        "common": _floats(factors.common),
        **{f"unique/{name}": _floats(values) for name, values in factors.unique.items()},
        "class": torch.from_numpy(factors.component),
        "expected": _floats(expected),
    }
    return Batch(features, masks, torch.from_numpy(target), ids), truth


def _factors(config: SyntheticConfig, world: _World, split: int) -> _Factors:
    rng, samples = _stream(config, 1 + split, 0), config.samples[split]
    component = rng.choice(len(world.prior), size=samples, p=world.prior).astype(np.int64)
    common = world.centres[component] + _SPREAD * rng.normal(size=(samples, config.common_size))
    unique = {
        name: _stream(config, 1 + split, index, 1).normal(size=(samples, config.unique_size))
        for index, name in enumerate(config.modalities, 1)
    }
    return _Factors(component, common, unique)


def _target(config: SyntheticConfig, world: _World, factors: _Factors, rng: Generator) -> tuple[NDArray, NDArray]:
    """The targets (N,) and their expectations given the factors."""
    unique = sum(values @ world.unique_directions[name] for name, values in factors.unique.items())
    unique = config.unique_weight * unique / math.sqrt(len(factors.unique))
    if config.task == "regression":
        score = factors.common @ world.common_direction / _LEVEL_STEP + unique[:, 0]
        return _ratings(score, config.rater_noise, rng)
    squared = np.square(factors.common[:, None] - world.centres).sum(axis=-1)
    logits = np.log(world.prior) - squared / (2 * _SOFTNESS**2) + _LOGITS * unique
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    # The largest of logits with Gumbel noise is a draw from their softmax.
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int64), probabilities


def _ratings(score: NDArray, noise: float, rng: Generator) -> tuple[NDArray, NDArray]:
    """The mean of the raters' answers and its expectation, both (N,)."""
    answers = (score[:, None] + noise * rng.normal(size=(len(score), _RATERS))).round().clip(-3, 3)
    target = answers.mean(axis=1).astype(np.float32)
    if noise == 0:
        return target, target
    above = torch.from_numpy((score[:, None] - np.arange(-2.5, 3)) / noise)
    return target, torch.special.ndtr(above).numpy().sum(axis=1) - 3


def _frames(
    spec: ModalitySpec,
    mixing: _Mixing,
    planted: tuple[NDArray, NDArray],
    moment: NDArray,
    present: NDArray,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Features (N, T, D) and masks (N, T) of one modality: step 5."""
    samples, (common, unique) = len(moment), planted
    lengths = rng.integers(spec.length_min, spec.length_max, size=samples, endpoint=True)
    frame = np.arange(spec.length_max)
    mask = (frame < lengths[:, None]) & present[:, None]
    relative = frame / np.maximum(lengths - 1, 1)[:, None]
    shown = np.concatenate(
        [
            _profile(relative, moment)[..., None] * common[:, None],
            _profile(relative, rng.uniform(size=samples))[..., None] * unique[:, None],
        ],
        axis=-1,
    )
    signal = np.tanh(shown @ mixing.inner + mixing.shift) @ mixing.outer.T
    values = mixing.offset + spec.scale * (signal + spec.noise * rng.normal(size=signal.shape))
    return _floats(values * mask[..., None]), torch.from_numpy(mask)


def _profile(relative: NDArray, moment: NDArray) -> NDArray:
    bump = np.exp(-np.square((relative - moment[:, None]) / _BUMP) / 2)
    return _FLOOR + (1 - _FLOOR) * bump


def _present(config: SyntheticConfig, split: int) -> dict[str, NDArray]:
    """By modality, which samples have it (N,); where all would be missing, the least likely to be so stays."""
    rng = _stream(config, 1 + split, 0, 3)
    luck = rng.uniform(size=(config.samples[split], len(config.modalities)))
    present = (luck >= config.missing_probability) | (luck == luck.max(axis=1, keepdims=True))
    return dict(zip(config.modalities, present.T, strict=True))


def _stream(config: SyntheticConfig, *key: int) -> Generator:
    # SeedSequence reads trailing zeros as absent, so every key is as long as the longest and ends in a 1.
    return np.random.default_rng([config.seed, *key, *[0] * (3 - len(key)), 1])


def _unit(directions: NDArray) -> NDArray:
    return directions / np.linalg.norm(directions, axis=0)


def _floats(values: NDArray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: wanted at least {least}, got {value}")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: wanted a number of at least 0, got {value}")
