"""Records of runs, what they add up to over seeds, and the numbers that the paper printed.

A :class:`RunRecord` is the only source of a number in the book: it names the configuration, the data, the commit, the
seed, the machine and the cost beside the metrics. :func:`collect` reads records into one table, a row a run;
:func:`summary` adds them up over seeds and folds.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pandas as pd
import torch
from scipy import stats

from decalign_core.files import write_string
from decalign_core.lab.metrics import metric_names

KEYS = ("dataset", "model", "variant")
COLUMNS = (
    *("variant", "dataset", "seed", "model", "fold", "config_hash", "data_hash"),
    *("commit", "device", "seconds", "peak_memory"),
)


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        dataset: full name of the data, e.g. ``"mosi_public/unseen"``.
        model: the method that was trained, e.g. ``"decalign"``.
        variant: the ablation row.
        fold: cross-validation fold, None for the stated split.
        seed: of the run.
        config: the whole configuration.
        config_hash: digest of the configuration.
        data_hash: digest of the data.
        commit: of the code, ``"+dirty"`` where files differed from it, ``"unknown"`` where no repository
            tracks it.
        device: what it ran on, in words.
        guarantee: what another run of this configuration on this machine and with these versions gives.
        versions: of Python and the libraries that matter.
        seconds: training and evaluation, resumed parts included.
        peak_memory: bytes, of the process on a CPU, of the allocations on a GPU.
        epochs: that were run.
        best_epoch: that was kept.
        parameters: number of trained parameters.
        valid: metrics on the validation split.
        test: metrics on the test split.
    """

    dataset: str
    model: str
    variant: str
    fold: int | None
    seed: int
    config: Mapping[str, Any]
    config_hash: str
    data_hash: str
    commit: str
    device: str
    versions: Mapping[str, str]
    seconds: float
    peak_memory: int
    epochs: int
    best_epoch: int
    parameters: int
    valid: Mapping[str, float]
    test: Mapping[str, float]
    guarantee: str = ""

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, atomically."""
        write_string(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """The record in a JSON file.

        Raises:
            ValueError: where the file is missing or is not a record.
        """
        try:
            values = {"guarantee": ""} | json.loads(Path(path).read_text(encoding="utf-8"))
            for name, hint in get_type_hints(cls).items():
                _check_type(name, values[name], hint)
            return cls(**{f.name: values[f.name] for f in fields(cls)})
        except FileNotFoundError:
            raise ValueError(f"{path}: no such record") from None
        except (ValueError, KeyError, TypeError) as error:  # no JSON, no UTF-8 or other fields
            raise ValueError(f"{path}: not a run record ({type(error).__name__}: {error})") from None

    def row(self) -> dict[str, Any]:
        """The record as one row: :data:`COLUMNS`, then test metrics, then validation metrics as ``valid_...``."""
        head = {name: getattr(self, name) for name in COLUMNS}
        return head | dict(self.test) | {f"valid_{name}": value for name, value in self.valid.items()}


def _check_type(name: str, value: object, hint: Any) -> None:
    kind = get_origin(hint) if get_origin(hint) is Mapping else hint
    if not isinstance(value, int | float if kind is float else kind):
        raise ValueError(f"{name}: wanted {getattr(kind, '__name__', kind)}, got {value!r}")
    if name in ("valid", "test"):
        for metric, number in value.items():
            _check_type(f"{name}.{metric}", number, float)


def collect(paths: Iterable[str | Path]) -> pd.DataFrame:
    """One table, a row a run, of every ``record.json`` below folders and every row of CSV files.

    A run that is met twice, as the record and as a row of its sweep's table, counts once.

    Raises:
        ValueError: for a path that is not there, and where nothing was found.
    """
    paths = list(paths)
    frames = [_read(Path(path)) for path in paths]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        where = ", ".join(map(str, paths)) or "no path"
        raise ValueError(f"{where}: wanted at least one record.json or row of a CSV of runs, got none")
    table = pd.concat(frames, ignore_index=True)
    repeated = table[list(COLUMNS)].assign(fold=pd.to_numeric(table["fold"])).duplicated()
    return table[~repeated].reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        rows = [RunRecord.load(found).row() for found in sorted(path.rglob("record.json"))]
        tables = [_read_runs(found) for found in sorted(path.rglob("[!.]*.csv")) if _is_table(found)]
        return pd.concat([pd.DataFrame(rows), *tables], ignore_index=True)
    if path.suffix == ".json":
        return pd.DataFrame([RunRecord.load(path).row()])
    if not path.is_file():
        raise ValueError(f"{path}: wanted a folder or a file, got none")
    if not _is_table(path):
        raise ValueError(f"{path}: wanted a CSV with the columns {', '.join(COLUMNS)}, got another file")
    return _read_runs(path)


_HASHES = dict.fromkeys(("config_hash", "data_hash", "commit"), str)  # of digits alone some would become numbers


def _read_runs(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=_HASHES)
    for name in ("fold", "seed", *_metric_columns(table)):
        strange = table[name][pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()]
        if len(strange):
            raise ValueError(f"{path}: column {name!r}: wanted numbers, got {strange.iloc[0]!r}")
    return table


def _is_table(path: Path) -> bool:
    try:
        return set(COLUMNS) <= set(pd.read_csv(path, nrows=0).columns)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        return False


def summary(runs: pd.DataFrame, metrics: Sequence[str] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Number of runs, mean, standard deviation and interval of each metric by dataset, model and variant.

    The interval is Student's, over runs; it is empty with a single run. Runs of cross-validation folds make a group of
    their own, ``"... (folds)"``, in which each fold counts once, as the mean over its seeds. Long format: a row per
    group and metric, columns ``n, mean, sd, low, high``.

    Raises:
        ValueError: for a metric that no run has, and where a row has two configurations with one seed.
    """
    _check_configurations(runs)
    names = list(metrics or [name for name in _metric_columns(runs) if runs[name].notna().any()])
    unknown = [name for name in names if name not in runs.columns]
    if unknown:
        raise ValueError(f"metrics: wanted some of {', '.join(_metric_columns(runs))}, got {', '.join(unknown)}")
    groups = pd.concat([runs[runs["fold"].isna()], _fold_means(runs[runs["fold"].notna()], names)]).groupby(
        list(KEYS), sort=False
    )
    rows = [
        dict(zip(KEYS, key, strict=True)) | {"metric": name} | _interval(group[name].dropna(), confidence)
        for key, group in groups
        for name in names
        if group[name].notna().any()
    ]
    return pd.DataFrame(rows)


def _check_configurations(runs: pd.DataFrame) -> None:
    runs = runs.assign(fold=pd.to_numeric(runs["fold"]))
    for key, found in runs.groupby([*KEYS, "fold", "seed"], sort=False, dropna=False)["config_hash"].unique().items():
        if len(found) > 1:
            *row, fold, seed = key
            where = " ".join(row) + ("" if pd.isna(fold) else f" fold {fold:g}")
            got = f"{found[0]} and {found[1]}; tabulate them apart"
            raise ValueError(f"{where}, seed {seed}: wanted one configuration a row, got {got}")


def _fold_means(runs: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    means = runs.groupby([*KEYS, "fold"], sort=False, as_index=False)[metrics].mean()
    return means.assign(dataset=means["dataset"] + " (folds)")


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A :func:`summary` for reading: a row a group, a column a metric, ``mean ± half the interval``."""
    half = (table["high"] - table["low"]) / 2
    shown = [
        f"{mean:.3f}" + ("" if pd.isna(h) else f"\u00a0±\u00a0{h:.3f}")
        for mean, h in zip(table["mean"], half, strict=True)
    ]
    columns = list(dict.fromkeys(table["metric"]))
    pivoted = table.assign(shown=shown).pivot(index=list(KEYS), columns="metric", values="shown")[columns].fillna("")
    pivoted.insert(0, "n", table.groupby(list(KEYS))["n"].max())
    return pivoted.reset_index().rename_axis(columns=None)


def _metric_columns(runs: pd.DataFrame) -> list[str]:
    known = dict.fromkeys(name for scale in ("mosi", "sims", "emotion") for name in metric_names(scale))
    return [name for name in known if name in runs.columns]


def _interval(values: pd.Series, confidence: float) -> dict[str, float]:
    n, mean, deviation = len(values), values.mean(), values.std(ddof=1)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * deviation / n**0.5 if n > 1 else float("nan")
    return {"n": n, "mean": mean, "sd": deviation, "low": mean - half, "high": mean + half}


RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
_KINDS = ("summary", "confusion", "gap")


def committed(kind: str = "runs", folder: str | Path | None = None) -> pd.DataFrame:
    """The committed records, all data sets together; empty where there are none.

    Args:
        kind: "runs" (a row a run), "summary" (means, intervals, paired differences), "confusion" or "gap".
        folder: where they lie, ``data/results`` if None.

    Raises:
        ValueError: for another kind.
    """
    if kind not in ("runs", *_KINDS):
        raise ValueError(f"kind: wanted one of runs, {', '.join(_KINDS)}, got {kind!r}")
    files = sorted(Path(folder or RESULTS).glob("*.csv"))
    wanted = [path for path in files if (_is_table(path) if kind == "runs" else f"_{path.stem}".endswith(f"_{kind}"))]
    tables = [pd.read_csv(path, dtype=_HASHES) for path in wanted]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*KEYS])


def inventory(runs: pd.DataFrame) -> pd.DataFrame:
    """What a table of runs holds: by data set and model, the numbers of variants, seeds, folds and runs."""
    return (
        runs.groupby(["dataset", "model"], sort=True)
        .agg(
            variants=("variant", "nunique"), seeds=("seed", "nunique"), folds=("fold", "nunique"), runs=("seed", "size")
        )
        .reset_index()
    )


PUBLISHED = Path(__file__).resolve().parents[2] / "data" / "published"


def published(name: str, folder: str | Path | None = None) -> pd.DataFrame:
    """A table or figure of the paper as data, e.g. ``"table1"`` or ``"figure7"``.

    Raises:
        ValueError: for a name that no published file begins with.
    """
    files = sorted(Path(folder or PUBLISHED).glob("*.csv"))
    first = [path.stem.split("_")[0] for path in files]
    known = {path.stem if first.count(short) > 1 else short: path for path, short in zip(files, first, strict=True)}
    found = known | {path.stem: path for path in files}
    if name not in found:
        raise ValueError(f"published table: wanted one of {', '.join(known) or 'none here'}, got {name!r}")
    return pd.read_csv(found[name])


def environment(device: torch.device) -> dict[str, Any]:
    """Commit, device and versions of this process, as a record wants them."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "transformers")
    return {
        "commit": _commit(Path(__file__).resolve()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def guarantee(device: torch.device, processes: int = 1) -> str:
    """What repeating a run gives, on the same machine and with the same versions."""
    if device.type != "cpu":
        equal = "the same initial weights and order of samples"
        return f"{equal}; sums in any order, so that results differ in their last digits, more so with every epoch"
    if processes > 1:
        return f"the same bits with {processes} processes; other draws of dropout with another number"
    return "the same bits, after interruptions too and whatever else runs"


def peak_memory(device: torch.device) -> int:
    """Bytes that the process has held at most, or that were allocated at most on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({names[0] if names else platform.machine()})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _commit(file: Path) -> str:
    """The commit that this process met first, since the code it loaded is that one's, however long it runs."""
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)  # a copy that a repository ignores is not its code
        commit = _head(file.parent)
        return commit + ("+dirty" if _git(file.parent, "diff", "--name-only", commit, "--", "../..") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def _head(folder: Path) -> str:
    return _git(folder, "rev-parse", "--short=12", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
