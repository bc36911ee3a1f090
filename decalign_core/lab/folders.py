"""The folder of a run: whose it is, and checkpoints, which are written whole and read without being run.

A folder belongs to one configuration, ``config.json``, and one process at a time trains in it. What it holds of another
configuration or other data is never gone on with, and never overwritten unless one says so.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from decalign_core.files import atomic_path, remove_temporaries, write_string
from decalign_core.lab.distributed import Group
from decalign_core.lab.experiment import ExperimentConfig, differences
from decalign_core.lab.results import RunRecord
from decalign_core.types import Splits

_HINT = "take another folder, or start over (--no-resume)"
_WRITTEN = ("record.json", "last.pt", "best.pt", "history.csv", "predictions.csv", "confusion.csv", "gap.csv")


@contextmanager
def alone(folder: Path, group: Group) -> Iterator[None]:
    """No other process, but those of the group, trains in the folder meanwhile.

    What of the path was made for this, and is still empty in the end, is removed again.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run_dir: wanted a folder, got the file {folder}")
    if not group.leads:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _locked(folder)
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):  # a folder that holds anything, also the lock of one who waits, stays
            for path in made:
                path.rmdir()
        lock.release()


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock", timeout=1)  # a process that was just killed may still be ending
    attempts = 100
    while not lock.is_locked:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ValueError(f"run_dir: wanted a folder that no other process trains in, got {folder}") from None
        except (FileNotFoundError, FileExistsError):  # whoever held it has just removed the folder
            attempts -= 1
            if not attempts:
                raise
    return lock


def finished_record(folder: Path, config: ExperimentConfig, resume: bool) -> RunRecord | None:
    """The finished record that the folder holds, None where it is free for this configuration; nothing is written."""
    if not resume:
        return None
    if not (folder / "config.json").is_file():
        if strange := [name for name in _WRITTEN if (folder / name).exists()]:
            raise ValueError(f"run_dir: wanted a new folder or a run's, got {folder} with {strange[0]} in it; {_HINT}")
        return None
    held = read_config(folder / "config.json")
    found = held.hash()
    if found != config.hash():
        (name, (got, wanted)), *more = differences(held, config).items()
        told = f"{name} {got!r}, wanted {wanted!r}" + (f" (and {len(more)} more)" if more else "")
        raise ValueError(f"run_dir: {folder} holds another configuration: {told}; {_HINT}")
    path = folder / "record.json"
    record = RunRecord.load(path) if path.is_file() else None
    if record is not None and record.config_hash != found:
        raise ValueError(f"{path}: wanted the record of configuration {found}, got that of {record.config_hash}")
    return record


def claim(folder: Path, config: ExperimentConfig, resume: bool) -> None:
    """Make the folder this configuration's."""
    held = folder / "config.json"
    for name in _WRITTEN:
        remove_temporaries(folder / name)
        if not (resume and held.is_file()):
            (folder / name).unlink(missing_ok=True)
    remove_temporaries(held)
    write_string(held, json.dumps(config.to_dict(), indent=2) + "\n")


def check_data(folder: Path, data_hash: str, splits: Splits | None) -> None:
    """Refuse to go on with other data than the folder's; None is whatever the configuration names."""
    if splits is not None and splits.fingerprint() != data_hash:
        raise ValueError(f"run_dir: {folder} was run on data {data_hash}, wanted {splits.fingerprint()}")


def read_config(path: Path) -> ExperimentConfig:
    """The configuration in ``config.json``."""
    try:
        return ExperimentConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: not a configuration ({error})") from None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # what it says of a full disk; why is in the error that came before it
            raise next((cause for cause in _before(error) if isinstance(cause, OSError)), error) from None


def _before(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def load_state(path: Path, device: torch.device, config: ExperimentConfig) -> dict[str, Any]:
    """A checkpoint of this configuration: tensors and plain values, nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load does not look at the checksums
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        saved = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint; start over (--no-resume)") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: not a readable checkpoint (wanted tensors and plain values, got code)") from None
    except Exception as error:  # a damaged archive raises anything from EOFError to NotImplementedError
        raise ValueError(f"{path}: not a readable checkpoint ({_reason(error)}); start over (--no-resume)") from None
    wanted = config.hash()
    found = saved.get("config_hash", wanted) if isinstance(saved, dict) else type(saved).__name__
    if found != wanted:
        raise ValueError(f"{path}: wanted a checkpoint of configuration {wanted}, got {found}")
    return saved


@contextmanager
def belonging(path: Path) -> Iterator[None]:
    """What does not fit inside is told as a checkpoint that is not this run's."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: not a checkpoint of this run ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
