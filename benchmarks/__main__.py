"""``python -m benchmarks``: tables of paired times on this machine, and a JSON with what it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import torch

from benchmarks.cases import CASES, Options
from decalign_core.arguments import Parser, positive
from decalign_core.files import write_string
from decalign_core.lab.results import environment


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that are named, print their tables, write the JSON."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"what to measure (default: all): {', '.join(CASES)}")
    parser.add_argument("--official", type=Path, help="a checkout of the official code, to be measured beside ours")
    parser.add_argument("--rounds", type=positive, default=15, help="how often each candidate is called (default: 15)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("_build/benchmarks.json"), help="the JSON (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.cases) - set(CASES))
    if unknown:
        parser.error(f"CASE: wanted some of {', '.join(CASES)}, got {', '.join(unknown)}")
    if given.official and not (given.official / "models" / "model.py").is_file():
        parser.error(f"--official: wanted a checkout of the official code with models/model.py, got {given.official}")
    if given.out.is_dir() or any(parent.is_file() for parent in given.out.parents):
        parser.error(f"--out: wanted a file in a folder, got {given.out}")
    torch.set_num_threads(given.threads)
    options = Options(given.official, given.rounds)
    tables: dict[str, pd.DataFrame] = {}
    for name in given.cases or CASES:
        print(f"\n{name}: {CASES[name].__doc__}", flush=True)
        tables[name] = CASES[name](options)
        print(tables[name].to_string(index=False, float_format=lambda number: f"{number:.4g}"), flush=True)
    about = environment(torch.device("cpu")) | {"threads": given.threads, "rounds": given.rounds}
    content = about | {"cases": {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_string(given.out, json.dumps(content, indent=1) + "\n")
    print(f"\n{given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
