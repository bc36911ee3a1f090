"""``python -m benchmarks``: tables of paired times on this machine, a JSON with what it is, and CSVs for the book."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from benchmarks import cases, mosei, scaling, tables
from benchmarks.official import Official
from benchmarks.problems import FRAMES, WIDTHS, Options
from decalign_core.arguments import Parser, positive
from decalign_core.files import write_string, write_table
from decalign_core.lab.results import environment
from decalign_core.lab.training import chosen_device

CASES = {
    case.__name__: case
    for case in (
        *(cases.training_step, cases.alignment_terms, cases.transport, cases.many_modalities, cases.sampled_plans),
        *(scaling.profile, scaling.growth, scaling.optimisations, tables.sweep, mosei.loading, mosei.epoch),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that are named, print their tables, write the JSON."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"what to measure (default: all): {', '.join(CASES)}")
    parser.add_argument("--official", type=Path, help="a checkout of the official code, to be measured beside ours")
    parser.add_argument("--rounds", type=positive, default=15, help="how often each candidate is called (default: 15)")
    parser.add_argument("--device", default="cpu", help="of the case training_step, e.g. cuda (default: cpu)")
    parser.add_argument("--compile", action="store_true", help="measure training_step by torch.compile beside")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("_build/benchmarks.json"), help="the JSON (default: %(default)s)"
    )
    parser.add_argument("--records", type=Path, help="a folder for a CSV a case, as chapter 13 reads them")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.cases) - set(CASES))
    if unknown:
        parser.error(f"CASE: wanted some of {', '.join(CASES)}, got {', '.join(unknown)}")
    if given.official and not (given.official / "models" / "model.py").is_file():
        parser.error(f"--official: wanted a checkout of the official code with models/model.py, got {given.official}")
    if given.out.is_dir() or any(parent.is_file() for parent in given.out.parents):
        parser.error(f"--out: wanted a file in a folder, got {given.out}")
    if given.records and given.records.is_file():
        parser.error(f"--records: wanted a folder, got the file {given.records}")
    try:
        device = chosen_device(given.device)
        _try_to_write("records", given.records)
        _try_to_write("out", given.out.parent)
    except ValueError as error:
        parser.error(f"--{error}")
    try:
        if given.official:  # what cannot run is told now, not between two cases
            Official(given.official, WIDTHS, FRAMES, given.device)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(given.threads)
    about = environment(device) | {"threads": given.threads, "rounds": given.rounds}
    found: dict[str, pd.DataFrame] = {}
    for name in given.cases or CASES:
        print(f"\n{name}: {CASES[name].__doc__}", flush=True)
        found[name] = CASES[name](Options(given.official, given.rounds, given.device, given.compile))
        print(found[name].to_string(index=False, float_format=lambda number: f"{number:.4g}"), flush=True)
        try:
            _write(found, name, about, given.out, given.records)
        except OSError as error:  # a disk that has become full
            parser.error(f"{error.filename}: {error.strerror}")
    print(f"\n{given.out}")
    return 0


def _try_to_write(option: str, folder: Path | None) -> None:
    """Make the folder and write into it: a measurement that cannot be kept is not begun."""
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{option}: wanted a folder to write to, got {folder} ({error.strerror})") from None


def _write(found: dict[str, pd.DataFrame], name: str, about: dict, out: Path, records: Path | None) -> None:
    """What has been measured so far, so that an interruption loses the case that it interrupts alone."""
    if records:
        _write_record(records / f"benchmarks_{name}.csv", found[name], about)
    content = about | {"cases": {name: json.loads(table.to_json(orient="records")) for name, table in found.items()}}
    write_string(out, json.dumps(content, indent=1) + "\n")


def _write_record(path: Path, table: pd.DataFrame, about: dict) -> None:
    """The table, four digits a number, with where it comes from in every row."""
    versions = " ".join(f"{name}={version}" for name, version in about["versions"].items())
    rounded = table.apply(lambda x: x.map(lambda v: float(f"{v:.4g}")) if x.dtype.kind == "f" else x)
    write_table(path, rounded.assign(**about | {"versions": versions}))


if __name__ == "__main__":
    sys.exit(main())
