"""Training: the only place where model meets objective.

:func:`train` runs one experiment and returns its record; with a run folder it writes there

``config.json``, ``history.csv`` (a row an epoch), ``last.pt`` (all that resuming needs, each epoch), ``best.pt`` (the
epoch that validation chose), ``predictions.csv`` and, last, ``record.json``.

A run that was killed goes on from its last whole epoch. On a CPU it ends bit for bit as if it had not been killed:
initialisation, data order and dropout have random streams of their own, whose states are in the checkpoint.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from decalign_core.data import load
from decalign_core.files import write_table
from decalign_core.lab.controls import CONTROLS, Predictor, fit_control
from decalign_core.lab.distributed import Group, processes
from decalign_core.lab.experiment import ExperimentConfig, TrainingConfig
from decalign_core.lab.feeding import Feed, bucketed
from decalign_core.lab.folders import (
    alone,
    belonging,
    check_data,
    claim,
    finished_record,
    load_state,
    read_config,
    save_state,
)
from decalign_core.lab.metrics import emotion_metrics, higher_is_better, metric_names, sentiment_metrics
from decalign_core.lab.results import RunRecord, environment, guarantee, peak_memory
from decalign_core.model import DecAlign
from decalign_core.nn.text import TextEncoder
from decalign_core.objective import objective
from decalign_core.peers import PEERS
from decalign_core.types import Batch, Losses, Representation, Splits

EVALUATION_BATCH = 256


def train(
    config: ExperimentConfig | None = None,
    splits: Splits | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> RunRecord:
    """Train, choose the epoch on the validation split, score once on the test split.

    Args:
        config: the experiment; the default one on synthetic data if None.
        splits: its data, if they are already in memory; read as ``config.data`` says if None.
        run_dir: the folder of this run; None writes nothing.
        resume: go on with what the folder holds (a finished run is returned as it is); else start over.
        progress: show a progress bar.

    Raises:
        ValueError: where the configuration does not fit the data, these hold NaN or infinity, the folder holds another
            configuration or a damaged file, or another process trains in it.
        OSError: where the folder cannot be written to.
    """
    config, folder = config or ExperimentConfig(), Path(run_dir) if run_dir is not None else None
    with processes() as group:
        if folder is None:
            return _train(config, splits, None, resume, progress, group)
        if (finished := finished_record(folder, config, resume)) is None:
            with alone(folder, group):
                group.wait()
                finished = finished_record(folder, config, resume)
                if finished is None:
                    return _train(config, splits, folder, resume, progress, group)
        check_data(folder, finished.data_hash, splits)
        return finished


def _train(
    config: ExperimentConfig,
    splits: Splits | None,
    folder: Path | None,
    resume: bool,
    progress: bool,
    group: Group,
) -> RunRecord:
    splits = splits or load_splits(config)
    device = chosen_device(config.training.device)
    surroundings = environment(device)  # now: what is committed while it trains was not run
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of the runs before it in this process
    with _reproducible(config.training):
        fitted = _fit(config, splits, device, folder, resume, progress and group.leads, group)
        predictions = {
            split: fitted.predict(batch) for split, batch in (("valid", splits.valid), ("test", splits.test))
        }
    record = RunRecord(
        dataset=splits.name,
        model=config.method,
        variant=config.variant,
        fold=config.data.fold,
        seed=config.training.seed,
        config=config.to_dict(),
        config_hash=config.hash(),
        data_hash=splits.fingerprint(),
        **surroundings,
        guarantee=guarantee(device, group.size),
        seconds=round(fitted.seconds(), 3),
        peak_memory=peak_memory(device),
        epochs=len(fitted.history),
        best_epoch=fitted.best_epoch,
        parameters=fitted.parameters,
        valid=score(splits, predictions["valid"], splits.valid.target),
        test=score(splits, predictions["test"], splits.test.target),
    )
    if folder is not None and group.leads:
        write_table(folder / "predictions.csv", _prediction_table(splits, predictions))
        record.save(folder / "record.json")
    group.wait()
    return record


def load_splits(config: ExperimentConfig) -> Splits:
    """The data of an experiment."""
    return load(**{("name" if key == "dataset" else key): value for key, value in vars(config.data).items()})


def score(splits: Splits, prediction: Tensor, target: Tensor) -> dict[str, float]:
    """The metrics of the data set's scale, of predictions ``(B, outputs)``."""
    if splits.scale == "emotion":
        return emotion_metrics(prediction, target)
    return sentiment_metrics(prediction, target, splits.scale)


@dataclass
class Fitted:
    """A fitted method: how to predict, and what fitting took."""

    predict: Predictor
    started: float
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    parameters: int = 0

    def seconds(self) -> float:
        """Wall-clock seconds from the start of fitting until now."""
        return time.perf_counter() - self.started


def _fit(
    config: ExperimentConfig,
    splits: Splits,
    device: torch.device,
    folder: Path | None,
    resume: bool,
    progress: bool,
    group: Group,
) -> Fitted:
    started = time.perf_counter()
    splits.check_finite()
    if config.method in CONTROLS:
        fitting = Fitted(fit_control(config.method, splits), started)
    else:
        fitting = Trainer(config, splits, device, group)
    # only now: a setting that does not fit the data leaves the folder as it was
    if folder is not None and group.leads:
        claim(folder, config, resume)
    group.wait()
    return fitting if isinstance(fitting, Fitted) else _trained(fitting, folder, progress)


def _trained(trainer: Trainer, folder: Path | None, progress: bool) -> Fitted:
    if folder is not None:
        trainer.resume(folder)
    total = trainer.settings.epochs
    with tqdm(total=total, initial=trainer.epoch, disable=not progress, unit="epoch", leave=False) as bar:
        while not trainer.is_done:
            trainer.run_epoch()
            bar.update()
            bar.set_postfix({trainer.selection: f"{trainer.history[-1]['valid_' + trainer.selection]:.3f}"})
            if folder is not None and trainer.group.leads:
                trainer.checkpoint(folder)
    return trainer.fitted()


class Trainer:
    """The state of one training run; everything that changes in it is in the checkpoint.

    Raises:
        ValueError: where the configuration does not fit the data.
    """

    def __init__(
        self, config: ExperimentConfig, splits: Splits, device: torch.device, group: Group | None = None
    ) -> None:
        self.config, self.settings, self.splits, self.device = config, config.training, splits, device
        self.group, self.config_hash = group or Group(), config.hash()
        self.started = time.perf_counter()
        self.history: list[dict[str, float]] = []
        self.selection = _selection(self.settings, splits.scale)
        seeds = np.random.SeedSequence(self.settings.seed).generate_state(3)
        torch.manual_seed(int(seeds[0]))
        self.model = build_model(config, splits).to(device)
        self.feed = Feed(splits.train, device)
        self.labels = _labels(self.model, config, splits)
        self.order = torch.Generator().manual_seed(int(seeds[1]))
        torch.manual_seed(int(seeds[2]))  # from here on the global stream is dropout's
        self.optimiser = _optimiser(self.model, self.settings)
        self.steps = math.ceil(len(splits.train) / self.settings.batch_size)
        self._check_shares()
        self.schedule = _schedule(self.optimiser, self.settings, self.steps, self.selection)
        self.average = _average(self.model, self.settings)
        self._represent, self._losses = self._functions()
        self.best_epoch, self.best_weights = 0, self.validated.state_dict()

    def _functions(self) -> tuple[Callable[[Batch], Representation], Callable[[Representation, Batch], Losses]]:
        """A batch's representation, and the losses of both."""
        represent, losses = self.model, partial(objective, config=self.config.objective)
        if self.config.method in PEERS:
            losses = partial(PEERS[self.config.method].objective, config=self.model.config)
        if not self.settings.compile:
            return represent, losses
        _check_compiler(self.device)
        # on a CPU the statistics run in NumPy; a tolerance looks at values, each look would cut the program in two
        whole = self.device.type != "cpu" and self.config.objective.sinkhorn_tolerance is None
        return torch.compile(represent), torch.compile(losses) if whole else losses

    def _check_shares(self) -> None:
        last = len(self.splits.train) - (self.steps - 1) * self.settings.batch_size
        wanted = f"wanted a sample a process in every batch, of {self.group.size} processes"
        for what, least in (("training.batch_size", last), ("splits.valid", len(self.splits.valid))):
            if least < self.group.size:
                raise ValueError(f"{what}: {wanted}, got a batch of {least}")

    def _apart(self) -> None:
        """Processes other than the first drop out other features: a stream for each, anew in each epoch."""
        if not self.group.leads:
            key = [self.settings.seed, self.group.rank, self.epoch]
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    @property
    def validated(self) -> nn.Module:
        """The model that is validated and kept: the trained one, or its moving average."""
        return self.average.module if self.average else self.model

    @property
    def epoch(self) -> int:
        """Whole epochs that were run."""
        return len(self.history)

    @property
    def is_done(self) -> bool:
        """Whether the last epoch was run, or validation has not improved for long enough."""
        return self.epoch >= self.settings.epochs or self.epoch - self.best_epoch >= self.settings.patience

    def run_epoch(self) -> None:
        """Train on every row once, validate, and keep the weights where that is the best so far."""
        began = time.perf_counter()
        terms = self._train_epoch()
        valid_split = self.splits.valid
        prediction = predict(self.validated, self.group.share(valid_split), self.device).to(self.device)
        prediction = self.group.gathered(prediction, len(valid_split)).cpu()  # the same bits in every process
        valid = score(self.splits, prediction, self.splits.valid.target)
        rate = self.optimiser.param_groups[-1]["lr"]
        row = {"epoch": self.epoch + 1, **terms, **{f"valid_{name}": value for name, value in valid.items()}}
        self.history.append(row | {"learning_rate": rate, "seconds": time.perf_counter() - began})
        self._judge(valid[self.selection])

    def _judge(self, value: float) -> None:
        if math.isnan(value):  # no epoch would ever be the best
            name = self.selection
            raise ValueError(f"training.selection: wanted a metric that the validation split defines, got {name!r}")
        sign, window = 1 if higher_is_better(self.selection) else -1, self.settings.selection_window
        values = [sign * row[f"valid_{self.selection}"] for row in self.history]
        recent = [float(np.mean(values[max(0, end - window) : end])) for end in range(1, len(values) + 1)]
        if self.settings.schedule == "plateau":
            self.schedule.step(value)
        if recent[-1] > max(recent[:-1], default=-math.inf):
            self.best_epoch = self.epoch
            self._keep_weights()

    def _keep_weights(self) -> None:
        self.best_weights = {name: weight.clone() for name, weight in self.validated.state_dict().items()}

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        self._apart()
        sums: dict[str, Tensor] = {}
        for rows, batch in self.feed.batches(self.parts()):
            losses = self.step(rows, batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value * len(rows)
        if self.labels:
            self.labels.end_epoch()
        return {name: float(total) / len(self.splits.train) for name, total in sums.items()}

    def parts(self) -> Sequence[Tensor]:
        """The rows of each batch of one more epoch, drawn anew."""
        order, size = torch.randperm(len(self.splits.train), generator=self.order), self.settings.batch_size
        if not self.settings.bucketed:
            return order.split(size)
        parts = bucketed(order, size, self.feed.lengths)
        return [parts[part] for part in torch.randperm(len(parts), generator=self.order)]

    def _labelled(self, rows: Tensor, batch: Batch) -> Batch:
        if not self.labels:
            return batch
        generated = {name: values.to(self.device) for name, values in self.labels.targets(rows).items()}
        return replace(batch, extra_targets={**batch.extra_targets, **generated})

    def step(self, rows: Tensor, batch: Batch | None = None) -> dict[str, Tensor]:
        """One step on these rows of the training split, of all processes; every loss by name, detached.

        Args:
            rows: of all processes.
            batch: those rows as a batch, cut and on the device; put together here if None.
        """
        batch = self._labelled(rows, self.feed[rows] if batch is None else batch)
        with _autocast(self.device, self.settings.precision):
            own = self._represent(self.group.share(batch))
        representation = self.group.gathered_representation(own, len(rows))
        losses = self._losses(representation, batch)
        self.optimiser.zero_grad()
        losses.total.backward()
        self.group.add_gradients(self.model.parameters())
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        if self.settings.schedule != "plateau":
            self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        if self.labels:
            self.labels.observe(rows, representation)
        terms = {name: value for name, value in vars(losses).items() if isinstance(value, Tensor)}
        return {name: value.detach() for name, value in (terms | dict(losses.auxiliary)).items()}

    def fitted(self) -> Fitted:
        """The epoch that validation chose."""
        model = self.validated
        model.load_state_dict(self.best_weights)
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return Fitted(
            lambda batch: predict(model, batch, self.device), self.started, self.history, self.best_epoch, trained
        )

    # --- checkpoints ---

    def _stateful(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule}
        return parts | {name: part for name in ("average", "labels") if (part := getattr(self, name))}

    def checkpoint(self, folder: Path) -> None:
        """Write everything that :meth:`resume` needs."""
        state = {name: part.state_dict() for name, part in self._stateful().items()}
        random = {"order": self.order.get_state(), "dropout": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["dropout_cuda"] = torch.cuda.get_rng_state(self.device)
        seconds = time.perf_counter() - self.started
        progress = {"history": self.history, "best_epoch": self.best_epoch, "seconds": seconds}
        write_table(folder / "history.csv", pd.DataFrame(self.history))
        hashes = {"config_hash": self.config_hash, "data_hash": self.splits.fingerprint()}
        # best.pt last: killed before it, it is made of last.pt; the other way round it would be of an epoch that is run
        # again and, on a GPU, may turn out not to be the best
        save_state(folder / "last.pt", hashes | state | random | progress)
        if self.best_epoch == self.epoch:
            self._write_best(folder)

    def _write_best(self, folder: Path) -> None:
        best = {"config_hash": self.config_hash, "weights": self.best_weights}
        save_state(folder / "best.pt", best | _shape(self.model))

    def resume(self, folder: Path) -> None:
        """Go on where the folder's checkpoint was, if it has one.

        Raises:
            ValueError: where it is damaged, or of another configuration or other data.
        """
        if not (folder / "last.pt").is_file():
            return
        saved = load_state(folder / "last.pt", self.device, self.config)
        with belonging(folder / "last.pt"):
            data_hash, is_best = saved["data_hash"], saved["best_epoch"] == len(saved["history"])
        check_data(folder, data_hash, self.splits)
        if not is_best or (folder / "best.pt").is_file():
            best = load_state(folder / "best.pt", self.device, self.config)
            with belonging(folder / "best.pt"):
                self.validated.load_state_dict(best["weights"])
                self.best_weights = best["weights"]
        with belonging(folder / "last.pt"):
            self._restore(saved)
        if is_best:
            self._keep_weights()
            if self.group.leads:
                self._write_best(folder)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        for name, part in self._stateful().items():
            part.load_state_dict(saved[name])
        self.order.set_state(saved["order"].cpu())
        torch.set_rng_state(saved["dropout"].cpu())
        if self.device.type == "cuda" and "dropout_cuda" in saved:
            torch.cuda.set_rng_state(saved["dropout_cuda"].cpu(), self.device)
        self.history, self.best_epoch = saved["history"], saved["best_epoch"]
        self.started -= saved["seconds"]


def build_model(config: ExperimentConfig, splits: Splits) -> nn.Module:
    """The network of an experiment, its modalities and outputs taken from the data where the configuration has none.

    Raises:
        ValueError: where the configuration has others than the data.
    """
    given, there = config.model.modalities or splits.modalities, splits.modalities
    widths = [{name: what for name, what in all_.items() if isinstance(what, int)} for all_ in (given, there)]
    if given.keys() != there.keys() or widths[0] != widths[1]:
        raise ValueError(f"model.modalities: wanted those of the data, {there}, got {dict(given)}")
    return _build(config, given, splits.outputs)


def _build(config: ExperimentConfig, modalities: Mapping[str, int | TextEncoder], outputs: int) -> nn.Module:
    if config.method in PEERS:
        peer = PEERS[config.method]
        return peer.model(peer.config(**config.peer, modalities=modalities, outputs=outputs))
    return DecAlign(replace(config.model, modalities=modalities, outputs=outputs))


def _labels(model: nn.Module, config: ExperimentConfig, splits: Splits) -> nn.Module | None:
    make = PEERS[config.method].labels if config.method in PEERS else None
    return make(model.config, splits.train) if make else None


@torch.no_grad()
def predict(model: nn.Module, batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """Predictions ``(B, outputs)`` of a batch or a whole split, on the CPU, in evaluation mode."""
    model.eval()
    rows = torch.arange(len(batch)).split(EVALUATION_BATCH)
    return torch.cat([model(batch[part].trimmed().to(device)).prediction.float().cpu() for part in rows])


def _optimiser(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    backbone = [p for p in model.backbones.parameters() if p.requires_grad]
    ids = {id(p) for p in model.backbones.parameters()}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": backbone, "lr": settings.encoder_learning_rate}] if backbone else []
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimiser]
    # fused: one kernel for all parameters, where a loop over hundreds of small ones would cost as much as a backward
    return kind([*groups, {"params": rest}], lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _selection(settings: TrainingConfig, scale: str) -> str:
    chosen, known = settings.selection or ("waf1" if scale == "emotion" else "mae"), metric_names(scale)
    if chosen not in known:
        raise ValueError(f"training.selection: wanted one of {', '.join(known)}, got {chosen!r}")
    return chosen


def _schedule(optimiser: torch.optim.Optimizer, settings: TrainingConfig, steps: int, selection: str) -> Any:
    if settings.schedule == "plateau":
        # a negated metric would count as better where it rests: PyTorch's threshold is a share of the best value
        mode = "max" if higher_is_better(selection) else "min"
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode, settings.factor, settings.plateau_patience)
    total = settings.epochs * steps
    rise = settings.warmup * total

    def cosine(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(total - rise, 1))))

    shape: Callable[[int], float] = cosine if settings.schedule == "cosine" else lambda step: 1.0
    return torch.optim.lr_scheduler.LambdaLR(optimiser, shape)


def _average(model: nn.Module, settings: TrainingConfig) -> AveragedModel | None:
    if not settings.average:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)


def chosen_device(name: str) -> torch.device:
    """The device of that name, "auto" being a GPU where there is one; a ValueError where it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: wanted 'auto', 'cpu' or one that is here, got {name!r} ({_first(error)})") from None
    return device


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    enabled = precision == "bf16" or (precision == "auto" and supported)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _check_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except RuntimeError as error:
        raise ValueError(f"training.compile: wanted a machine with a compiler, got {_first(error)}") from None


def _first(error: Exception) -> str:
    """The first line of what PyTorch says, which may be a page."""
    return str(error).strip().splitlines()[0][:120]


_ONE_AT_A_TIME = threading.RLock()  # random state and number of threads are the process's, not a thread's


@contextmanager
def _reproducible(settings: TrainingConfig) -> Iterator[None]:
    """A random state and a number of threads of the run's own; the caller's come back afterwards."""
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            with torch.random.fork_rng():
                yield
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run, read back from its folder.

    Attributes:
        folder: where it lies.
        config: its configuration.
        model: the epoch that validation chose, in evaluation mode.
    """

    folder: Path
    config: ExperimentConfig
    model: nn.Module

    @property
    def record(self) -> RunRecord:
        """Its record; a run that has not finished has none."""
        return RunRecord.load(self.folder / "record.json")

    @property
    def history(self) -> pd.DataFrame:
        """Losses and validation metrics, a row an epoch."""
        return pd.read_csv(self.folder / "history.csv")

    def predict(self, batch: Batch) -> Tensor:
        """Predictions ``(B, outputs)`` of a batch or a whole split."""
        return predict(self.model, batch, next(self.model.parameters()).device)


def load_run(run_dir: str | Path, device: str = "cpu") -> Run:
    """The run in a folder, ready to predict.

    Raises:
        ValueError: where the folder holds no run, or its checkpoint cannot be read.
    """
    folder = Path(run_dir)
    if not (folder / "config.json").is_file():
        raise ValueError(f"run_dir: wanted a run folder with config.json, got {folder}")
    config = read_config(folder / "config.json")
    if config.method in CONTROLS:
        raise ValueError(f"run_dir: {folder} holds the control {config.method!r}, which keeps predictions, no model")
    if not (folder / "best.pt").is_file():
        raise ValueError(f"run_dir: {folder} holds no best.pt: no epoch was finished")
    place = chosen_device(device)
    saved = load_state(folder / "best.pt", place, config)
    with belonging(folder / "best.pt"):
        modalities = {m: TextEncoder(**x) if isinstance(x, dict) else x for m, x in saved["modalities"].items()}
        outputs, weights = saved["outputs"], saved["weights"]
    model = _build(config, modalities, outputs)
    with belonging(folder / "best.pt"):
        model.load_state_dict(weights)
    return Run(folder, config, model.to(place).eval())


def _shape(model: nn.Module) -> dict[str, Any]:
    modalities = model.config.modalities.items()
    plain = {name: asdict(what) if isinstance(what, TextEncoder) else int(what) for name, what in modalities}
    return {"modalities": plain, "outputs": model.config.outputs}


def _prediction_table(splits: Splits, predictions: dict[str, Tensor]) -> pd.DataFrame:
    tables = []
    for split, batch in splits.items():
        if split not in predictions:
            continue
        columns = predictions[split].numpy().T
        names = ["prediction"] if len(columns) == 1 else [f"logit_{index}" for index in range(len(columns))]
        known = {"split": split, "id": list(batch.ids), "target": batch.target.numpy()}
        tables.append(pd.DataFrame(known | dict(zip(names, columns, strict=True))))
    return pd.concat(tables, ignore_index=True)
