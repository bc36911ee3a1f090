"""Command line: ``python -m decalign_core {train,evaluate,sweep,tables,data} ...``.

A wrong name, value or path ends with one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decalign_core import __doc__ as summary_of_the_package
from decalign_core.arguments import Parser, positive

if TYPE_CHECKING:
    import pandas as pd

    from decalign_core.lab.experiment import ExperimentConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, head or less, has closed; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        print(f"decalign: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"decalign: interrupted{_going_on(arguments)}", file=sys.stderr)
        return 130
    return 0


def _told(error: Exception) -> str:
    """The error in one line; what the system says of a path follows the path."""
    known = isinstance(error, OSError) and error.strerror and error.filename
    return f"{error.filename}: {error.strerror}" if known else " ".join(str(error).split())


def _going_on(arguments: argparse.Namespace) -> str:
    if arguments.command not in ("train", "sweep"):
        return ""
    less = " without --no-resume" if getattr(arguments, "no_resume", False) else ""
    return f"; the same command{less} goes on from the last whole epoch"


def _parser() -> Parser:
    parser = Parser(prog="decalign", description=summary_of_the_package.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,evaluate,sweep,tables,data}")
    _add_train(_command(commands, "train", _train, "train a model, or go on with a run"))
    _add_evaluate(_command(commands, "evaluate", _evaluate, "score a finished run again"))
    _add_sweep(_command(commands, "sweep", _sweep, "run every row of a table, over seeds, in parallel"))
    _add_tables(_command(commands, "tables", _tables, "tables from run records, and the published ones"))
    data = commands.add_parser("data", help="convert, check and describe data sets", description="Work on data sets.")
    _add_data(data.add_subparsers(dest="action", required=True, metavar="{mosi-public,iemocap,check,describe}"))
    return parser


def _command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


# --- train ---


def _add_data_choice(parser: argparse.ArgumentParser) -> None:
    """What to run on, in which setting: shared by train and sweep."""
    from decalign_core.data import NAMES
    from decalign_core.lab.presets import PRESETS

    given = {"default": argparse.SUPPRESS}  # what is not given stays as the preset has it
    parser.add_argument("--dataset", choices=NAMES, default="synthetic", help="the data set (default: synthetic)")
    parser.add_argument("--data-dir", help="the folder that holds the data sets (default: data)", **given)
    parser.add_argument("--protocol", help="the data set's splits or task (default: its first)", **given)
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where the settings come from")
    parser.add_argument("--text-encoder", metavar="NAME", help="a Hugging Face encoder, by name or path", **given)
    parser.add_argument("--fine-tune", action="store_true", help="train the text encoder along", **given)
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)", **given)
    parser.add_argument("--compile", action="store_true", help="translate the model by torch.compile first", **given)
    parser.add_argument(
        "--set",
        dest="changes",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, as train --print-config names it, e.g. objective.alpha=0.1",
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    from decalign_core.lab.experiment import METHODS, VARIANTS

    given = {"default": argparse.SUPPRESS}
    _add_data_choice(parser)
    parser.add_argument("--fold", type=int, help="a cross-validation fold in place of the stated split", **given)
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        default="full",
        metavar="NAME",
        help=f"a row of Table 3 or 4: {', '.join(VARIANTS)}",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="decalign",
        metavar="NAME",
        help=f"what is fitted: {', '.join(METHODS)} (default: decalign)",
    )
    parser.add_argument("--seed", type=int, help="of initialisation, data order and dropout (default: 1111)", **given)
    parser.add_argument("--run-dir", metavar="DIR", help="the run's folder (default: runs/DATASET/METHOD-VARIANT-SEED)")
    parser.add_argument("--no-resume", action="store_true", help="start over, whatever the folder holds")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _train(arguments: argparse.Namespace) -> None:
    from decalign_core.lab.distributed import processes
    from decalign_core.lab.experiment import with_variant
    from decalign_core.lab.presets import preset
    from decalign_core.lab.training import train

    given = {name: getattr(arguments, name, "") for name in ("protocol", "text_encoder")}
    given["fine_tune"] = getattr(arguments, "fine_tune", False)
    base = preset(arguments.preset, arguments.dataset, **given, method=arguments.method)
    config = with_variant(base, arguments.variant, _changes(arguments, _NAMED))
    if arguments.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return
    folder = Path(arguments.run_dir or _run_dir(config))
    with processes() as group:
        record = train(config, run_dir=folder, resume=not arguments.no_resume, progress=not arguments.quiet)
    if group.leads:
        print(f"{record.dataset} · {record.model} · {record.variant} · seed {record.seed} · {record.device}")
        kept = f"epoch {record.best_epoch} of {record.epochs} kept" if record.epochs else "fitted without epochs"
        print(f"{kept}, {record.seconds:.1f} s, {folder / 'record.json'}")
        _print_metrics({"valid": record.valid, "test": record.test})


# by --set a run would bear another's name, or take the preset of other data
_NAMED = {
    "method": "--method",
    "variant": "--variant",
    "data.dataset": "--dataset",
    "data.protocol": "--protocol",
    "data.text_encoder": "--text-encoder",
}
_SWEPT = _NAMED | {"method": "tables", "variant": "tables", "training.seed": "--seeds", "data.fold": "--folds"}


def _changes(arguments: argparse.Namespace, elsewhere: Mapping[str, str]) -> dict[str, object]:
    """What --set and the options of their own change; ``elsewhere`` says what is not for --set, and what it is for."""
    pairs = [pair.partition("=") for pair in arguments.changes]
    for key, equals, value in pairs:
        if not (key and equals):
            raise ValueError(f"--set: wanted KEY=VALUE, got {key + equals + value!r}")
    named = {
        "data_dir": "data.root",
        "protocol": "data.protocol",
        "fold": "data.fold",
        "text_encoder": "data.text_encoder",
        "fine_tune": "data.fine_tune",
        "seed": "training.seed",
        "device": "training.device",
        "compile": "training.compile",
    }
    options = {key: getattr(arguments, name) for name, key in named.items() if hasattr(arguments, name)}
    _check_changes([key for key, _, _ in pairs], options, elsewhere)
    return {key: value for key, _, value in pairs} | options


def _check_changes(keys: Sequence[str], options: Mapping[str, object], elsewhere: Mapping[str, str]) -> None:
    """What ``--set`` may not name: what is set elsewhere, has a value already, or is decided by the data."""
    from decalign_core.lab.experiment import FROM_DATA

    decided = [f"{section}.{name}" for section in ("model", "peer") for name in FROM_DATA]
    for place, key in enumerate(keys):
        if key in elsewhere:
            raise ValueError(f"--set: wanted {elsewhere[key]} in its place, got {key}")
        if key in keys[:place] or key in options:
            other = "an option of its own" if key in options else "--set again"
            raise ValueError(f"--set: wanted one value of {key}, got another by {other}")
        if key in decided:
            raise ValueError(f"--set: wanted settings that the data leave open, got {key}")


def _run_dir(config: ExperimentConfig) -> Path:
    parts = [config.data.dataset, config.data.protocol, "" if config.data.fold is None else f"fold{config.data.fold}"]
    dataset = "-".join(part for part in parts if part)
    return Path("runs") / dataset / f"{config.method}-{config.variant}-{config.training.seed}"


def _print_metrics(by_split: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(by_split.values())))
    print("".join([f"{'':8}", *(f"{name:>11}" for name in names)]))
    for split, metrics in by_split.items():
        print("".join([f"{split:8}", *(f"{metrics[name]:11.4f}" for name in names)]))


# --- sweep ---


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    from decalign_core.lab.sweep import SEEDS, TABLES

    parser.add_argument("tables", choices=TABLES, nargs="+", metavar="TABLE", help=f"whose rows: {', '.join(TABLES)}")
    _add_data_choice(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(SEEDS), metavar="SEED", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--folds",
        type=_fold,
        nargs="+",
        default=[None],
        metavar="FOLD",
        help="cross-validation folds, and 'stated' for the stated split (default: stated)",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes on this machine (default: 1)")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler, e.g. tcp://host:8786")
    parser.add_argument("--notebook", default="", metavar="FILE", help="make each run that it can by this notebook")
    parser.add_argument("--out", metavar="DIR", help="the folder of runs and tables (default: runs/sweep/DATASET)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and whether they are done, and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _fold(text: str) -> int | None:
    if text != "stated" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a number from 0 on or 'stated', got {text!r}")
    return None if text == "stated" else int(text)


def _sweep(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from decalign_core.lab.results import wide
    from decalign_core.lab.sweep import TABLES, cells, is_finished, sweep

    parts = [arguments.dataset, getattr(arguments, "protocol", "")]
    out = Path(arguments.out or Path("runs") / "sweep" / "-".join(part for part in parts if part))
    wanted = cells(
        [row for table in dict.fromkeys(arguments.tables) for row in TABLES[table]],
        out,
        seeds=arguments.seeds,
        folds=arguments.folds,
        dataset=arguments.dataset,
        protocol=getattr(arguments, "protocol", ""),
        text_encoder=getattr(arguments, "text_encoder", ""),
        fine_tune=getattr(arguments, "fine_tune", False),
        preset_name=arguments.preset,
        changes=_changes(arguments, _SWEPT),
        notebook=arguments.notebook,
    )
    if plain := [cell for cell in wanted if arguments.notebook and not cell.notebook]:
        print(f"{len(plain)} of {len(wanted)} runs are plain ones: {arguments.notebook} has no parameters for them")
    if arguments.dry_run:
        for cell in wanted:
            print(f"{'done' if is_finished(cell) else 'open'}  {cell.name:50} {cell.folder.name}")
        return
    progress = not arguments.quiet
    outcomes = sweep(wanted, out, jobs=arguments.jobs, scheduler=arguments.scheduler, progress=progress)
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(failed) < len(outcomes):
        print(_as_plain(wide(pd.read_csv(out / "summary.csv"))), end="")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} runs finished, {out / 'runs.csv'}")
    if failed:
        first = failed[0]
        raise ValueError(
            f"{len(failed)} runs ended in an error ({out / 'failures.csv'}); {first.cell.name}: {first.error}"
        )


# --- evaluate ---


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="which split")
    parser.add_argument("--data-dir", help="the folder that holds the data sets, if it has moved")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def _evaluate(arguments: argparse.Namespace) -> None:
    from decalign_core.lab.experiment import configure
    from decalign_core.lab.training import load_run, load_splits, score

    run = load_run(arguments.run_dir, arguments.device)
    moved = {} if arguments.data_dir is None else {"data.root": arguments.data_dir}
    splits = load_splits(configure(moved, run.config))
    batch = dict(splits.items())[arguments.split]
    _print_metrics({arguments.split: score(splits, run.predict(batch), batch.target)})


# --- tables ---


def _add_tables(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="run folders, folders of runs, or CSV files of runs")
    parser.add_argument("--published", metavar="NAME", help="a table of the paper: table1 ... table4, figure4, figure7")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="which metrics (default: all that there are)")
    parser.add_argument("--runs", action="store_true", help="a row a run, not means over them")
    parser.add_argument("--format", choices=("text", "csv", "markdown"), default="text", help="(default: text)")


def _tables(arguments: argparse.Namespace) -> None:
    from decalign_core.lab.results import collect, published, summary, wide

    if bool(arguments.published) == bool(arguments.paths):
        got = "both" if arguments.paths else "neither"
        raise ValueError(f"tables: wanted either paths of records or --published NAME, got {got}")
    ignored = {"--metrics": arguments.metrics and (arguments.published or arguments.runs)}
    ignored |= {"--runs": arguments.runs and arguments.published}
    if names := [name for name, given in ignored.items() if given]:
        beside = "--published" if arguments.published else "--runs"
        raise ValueError(f"tables: wanted no {' and no '.join(names)} beside {beside}, which prints whole rows")
    if arguments.published:
        table = published(arguments.published)
    elif arguments.runs:
        table = collect(arguments.paths)
    else:
        table = summary(collect(arguments.paths), arguments.metrics)
        table = table if arguments.format == "csv" else wide(table)
    print(_FORMATS[arguments.format](table), end="")


def _as_plain(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format="{:.4f}".format) + "\n"


def _as_markdown(table: pd.DataFrame) -> str:
    cells = table.map(lambda value: f"{value:.4f}" if isinstance(value, float) else str(value))
    rows = [list(table.columns), ["---"] * len(table.columns), *cells.values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


_FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    "text": _as_plain,
    "markdown": _as_markdown,
    "csv": lambda table: table.to_csv(index=False),
}


# --- data ---


def _add_data(actions: argparse._SubParsersAction) -> None:
    public = _command(actions, "mosi-public", _convert_mosi_public, "convert the public CMU-MOSI files")
    public.add_argument("--source", required=True, help="the folder that holds bc-lstm/ and cm-bert/")
    public.add_argument("--out", default="data", help="the data folder to write MOSI-public/ to")
    emotions = _command(actions, "iemocap", _convert_iemocap, "convert GCNet's IEMOCAP features")
    emotions.add_argument("--features", required=True, help="the folder with one folder of .npy files a modality")
    emotions.add_argument("--labels", required=True, help="the label pickle of six emotions")
    emotions.add_argument("--out", default="data/IEMOCAP/iemocap_data.pkl", help="the file to write")
    check = _command(actions, "check", _check, "list every defect of an MMSA pickle")
    check.add_argument("file", metavar="FILE", help="the pickle")
    describe = _command(actions, "describe", _describe, "what is in a data set")
    describe.add_argument("name", metavar="NAME", help="the data set")
    describe.add_argument("--data-dir", default="data", help="the folder that holds the data sets (default: data)")
    describe.add_argument("--protocol", default="", help="the data set's splits or task")


def _convert_mosi_public(arguments: argparse.Namespace) -> None:
    from decalign_core.data.mosi_public import convert

    _print_counts(convert(arguments.source, arguments.out))
    print(f"written to {Path(arguments.out) / 'MOSI-public'}")


def _convert_iemocap(arguments: argparse.Namespace) -> None:
    from decalign_core.data.gcnet import iemocap_from_gcnet

    _print_counts(iemocap_from_gcnet(arguments.features, arguments.labels, arguments.out))
    print(f"written to {arguments.out}")


def _print_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        print(f"{name.replace('_', ' '):20}{count:7,}")


def _check(arguments: argparse.Namespace) -> None:
    from decalign_core.data.mmsa import examine

    defects, repairs = examine(arguments.file)
    if len(defects) == 1 and not repairs:
        raise ValueError(defects[0])
    for line in (*defects, *(f"repaired when read: {repair}" for repair in repairs)):
        print(line)
    if defects:
        raise ValueError(f"{arguments.file}: {len(defects)} defects")
    print(f"{arguments.file}: no defects" + (f", {len(repairs)} repairs" if repairs else ""))


def _describe(arguments: argparse.Namespace) -> None:
    from decalign_core.data import describe, load

    splits = load(arguments.name, arguments.data_dir, arguments.protocol)
    print(splits.name)
    print(describe(splits).to_string(index=False, float_format="{:.1f}".format))
    for note in splits.notes:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
