"""A sweep: every row once, whatever is killed, lost or broken on the way, on processes and on a Dask cluster."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from killing import outcome, wait_until

from decalign_core.__main__ import main
from decalign_core.lab.experiment import METHODS, VARIANTS
from decalign_core.lab.results import COLUMNS, RunRecord, collect, published
from decalign_core.lab.sweep import SEEDS, TABLES, Row, cells, is_finished, sweep
from decalign_core.peers import PEERS

SMALL = {
    "model.width": 8,
    "model.heads": 2,
    "model.layers": 1,
    "objective.em_steps": 1,
    "objective.sinkhorn_iterations": 3,
    "training.epochs": 1,
    "training.batch_size": 150,
    "training.device": "cpu",
}
ARGUMENTS = [f"{key}={value}" for key, value in SMALL.items()]
TWO = [Row(), Row(variant="no_homo")]


def small(rows, out, seeds=(1, 2), **options):
    return cells(rows, out, seeds=seeds, changes=SMALL | options.pop("changes", {}), **options)


def same_results(one, two):
    """The tables and runs of two folders to the bit, the clock, the memory and the commit aside."""
    tables = [
        pd.read_csv(folder / "runs.csv").drop(columns=["seconds", "peak_memory", "commit"]) for folder in (one, two)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for path in sorted((one / "runs").rglob("best.pt")):
        assert outcome(path.parent) == outcome(two / "runs" / path.parent.name)


# --- which runs ---


def test_tables_have_the_rows_of_the_paper():
    variants = {name: {row.variant for row in rows if row.method == "decalign"} for name, rows in TABLES.items()}
    assert variants["table3"] | variants["table4"] == set(VARIANTS)
    methods = {row.method for row in TABLES["table1"]}
    assert methods == set(METHODS) and set(PEERS) < methods
    for name in ("table1", "table2", "table3", "table4"):
        controls = {(row.method, row.variant) for row in TABLES[name] if row.method in ("ridge", "svr")}
        assert controls == {("ridge", "full"), ("ridge", "text"), ("svr", "full"), ("svr", "text")}
    points = published("figure7")[["alpha", "beta"]].drop_duplicates().to_numpy().tolist()
    grid = [[row.settings["objective.alpha"], row.settings["objective.beta"]] for row in TABLES["figure7"]]
    assert sorted(grid) == sorted(points) and len(grid) == 25


def test_one_cell_a_configuration(tmp_path):
    both = small([*TABLES["table3"], *TABLES["table4"]], tmp_path)
    hashes = [cell.config.hash() for cell in both]
    assert len(hashes) == len(set(hashes))
    names = {(cell.config.method, cell.config.variant) for cell in both}
    assert {name for method, name in names if method == "decalign"} == set(VARIANTS)
    assert sum(cell.config.method == "ridge" for cell in both) == 2, "a control has no seed"
    assert len(small(TWO, tmp_path, folds=(None, 0, 1), dataset="mosi_public")) == 2 * 2 * 3
    assert len(SEEDS) == 5


def test_a_grid_point_is_a_column(tmp_path):
    cell = small(TABLES["figure7"][:1], tmp_path, seeds=(1,))[0]
    assert cell.config.objective.alpha == cell.settings["objective.alpha"]
    assert cell.config.variant == f"alpha={cell.config.objective.alpha:g},beta={cell.config.objective.beta:g}"


def test_incomplete_data_are_data_of_their_own(tmp_path):
    rows = [row for row in TABLES["missing"] if row.settings["data.missing"] == 0.5]
    assert {(row.method, row.variant) for row in rows} >= {("decalign", "full"), ("decalign", "no_hete_homo")}
    wanted = small(rows[:2], tmp_path, seeds=(1,))
    assert all(cell.config.data.missing == cell.settings["data.missing"] == 0.5 for cell in wanted)
    assert {outcome.error for outcome in sweep(wanted, tmp_path, progress=False)} == {""}
    runs, gaps = pd.read_csv(tmp_path / "runs.csv"), pd.read_csv(tmp_path / "gap.csv")
    assert set(runs["dataset"]) == set(gaps["dataset"]) == {"synthetic-missing-0.5"}
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary[summary["variant"] == "no_hete_homo"]["difference"].notna().all(), "paired at the same chance"


def test_a_change_undoes_no_row(tmp_path):
    """A change is of all rows, the ablation of each stays: the row is what its name says."""
    wanted = small([Row(), Row(variant="no_mmd")], tmp_path, seeds=(1,), changes={"objective.mmd_weight": 3})
    assert {cell.config.variant: cell.config.objective.mmd_weight for cell in wanted} == {"full": 3, "no_mmd": 0}
    for changes, rows in (({"objective.mmd_weight": 3}, ["no_mmd", "no_homo"]), ({"variant": "mine"}, ["full"])):
        with pytest.raises(ValueError, match=rf"^{next(iter(changes))}: wanted .* got one that every row sets$"):
            small([Row(variant=row) for row in rows], tmp_path, changes=changes)


def test_a_run_that_was_killed_before_it_was_inspected_is_inspected(tmp_path):
    wanted = small(TWO[:1], tmp_path, seeds=(1,))
    sweep(wanted, tmp_path, progress=False)
    counts, record = tmp_path / "confusion.csv", wanted[0].folder / "record.json"
    table, written = counts.read_text(), record.stat().st_mtime_ns
    (wanted[0].folder / "confusion.csv").unlink()
    assert not is_finished(wanted[0])
    sweep(wanted, tmp_path, progress=False)
    assert counts.read_text() == table and record.stat().st_mtime_ns == written and is_finished(wanted[0])


def test_wrong_settings_are_told_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="objective.alhpa: no such setting"):
        small(TWO, tmp_path, changes={"objective.alhpa": 1})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="jobs: wanted at least 1, got 0"):
        sweep([], tmp_path, jobs=0)


# --- running them ---


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two rows and two seeds, one after the other in this process."""
    out = tmp_path_factory.mktemp("alone")
    wanted = small(TWO, out)
    return out, wanted, sweep(wanted, out, progress=False)


def test_a_sweep_leaves_runs_and_tables(alone):
    out, wanted, outcomes = alone
    assert [outcome.cell for outcome in outcomes] == wanted and not any(outcome.error for outcome in outcomes)
    runs = pd.read_csv(out / "runs.csv")
    assert list(runs.columns[: len(COLUMNS)]) == list(COLUMNS) and len(runs) == 4
    assert runs["versions"].str.contains("torch=").all()
    assert len(collect([out])) == 4, "its record and its row are one run"
    table = pd.read_csv(out / "summary.csv").set_index(["variant", "metric"])
    of_row = runs[runs["variant"] == "no_homo"]["mae"]
    assert table.loc[("no_homo", "mae"), "mean"] == pytest.approx(of_row.mean())
    difference = of_row.mean() - runs[runs["variant"] == "full"]["mae"].mean()
    assert table.loc[("no_homo", "mae"), "difference"] == pytest.approx(difference, abs=1e-6)
    assert table.loc["full", "difference"].isna().all()
    assert pd.read_csv(out / "failures.csv").empty
    assert pd.read_csv(out / "confusion.csv")["count"].sum() == 4 * 200
    assert set(pd.read_csv(out / "gap.csv")["part"]) == {"pooled_unique", "pooled_common", "latent"}


def test_precisions_are_compared_with_float32(tmp_path):
    outcomes = sweep(small(TABLES["precision"], tmp_path, seeds=(1,)), tmp_path, progress=False)
    assert [outcome.record.config["training"]["precision"] for outcome in outcomes] == ["float32", "bf16"]
    table = pd.read_csv(tmp_path / "summary.csv").set_index(["variant", "metric"])
    means, differences = table["mean"], table["difference"].unstack()
    assert differences.loc["float32"].isna().all()
    assert differences.loc["bf16", "mae"] == pytest.approx(means["bf16", "mae"] - means["float32", "mae"], abs=1e-6)


def test_what_is_done_is_not_run_again(alone):
    out, wanted, outcomes = alone
    assert all(is_finished(cell) for cell in wanted)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    again = sweep(small(TWO, out), out, jobs=2, progress=False)
    assert [outcome.record for outcome in again] == [outcome.record for outcome in outcomes]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == before


def test_processes_change_nothing_and_one_that_dies_is_made_up_for(alone, tmp_path):
    lost = []

    def kill_one_at_work():
        wait_until(lambda: list(tmp_path.rglob("config.json")))
        lost.extend([len(list(tmp_path.rglob("record.json"))), multiprocessing.active_children()[0]])
        lost[1].kill()

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    outcomes = sweep(small(TWO, tmp_path), tmp_path, jobs=2, progress=False)
    killer.join()
    assert lost[0] < 4 and lost[1].exitcode == -signal.SIGKILL, "it was lost after the work"
    assert not any(outcome.error for outcome in outcomes)
    same_results(alone[0], tmp_path)


def test_a_dask_cluster_changes_nothing_nor_does_a_worker_that_is_lost(alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the optional extra decalign-core[sweep] is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    lost = []

    def kill_one_at_work(cluster):
        wait_until(lambda: list(tmp_path.rglob("config.json")))
        lost.extend([len(list(tmp_path.rglob("record.json"))), cluster.workers[0].pid])
        os.kill(lost[1], signal.SIGKILL)

    with distributed.LocalCluster(**options) as cluster:
        killer = threading.Thread(target=kill_one_at_work, args=[cluster])
        killer.start()
        outcomes = sweep(small(TWO, tmp_path), tmp_path, scheduler=cluster.scheduler_address, progress=False)
        killer.join()
    assert lost[0] < 4, "it was lost after the work"
    assert not any(outcome.error for outcome in outcomes)
    same_results(alone[0], tmp_path)


def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path, capsys):
    missing = cells(TWO[:1], tmp_path, seeds=(1,), dataset="mosi", changes={"data.root": str(tmp_path / "nowhere")})
    outcomes = sweep([*missing, *small(TWO[:1], tmp_path, seeds=(1,))], tmp_path, progress=False)
    assert [bool(outcome.error) for outcome in outcomes] == [True, False]
    assert "\n" not in outcomes[0].error and "nowhere" in outcomes[0].error
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1
    assert "nowhere" in pd.read_csv(tmp_path / "failures.csv")["error"][0]


# --- the command line ---


def command(out, *more):
    arguments = ["sweep", "table3", "--seeds", "1", "--quiet", "--out", str(out), "--set", *ARGUMENTS]
    return [*arguments, *more]


def children(process):
    listed = Path(f"/proc/{process}/task/{process}/children")
    return listed.read_text().split() if listed.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")
def test_a_killed_sweep_goes_on(tmp_path, capsys):
    arguments = command(tmp_path / "killed", "--jobs", "2")
    killed = subprocess.Popen([sys.executable, "-m", "decalign_core", *arguments])
    wait_until(lambda: list((tmp_path / "killed").rglob("record.json")))
    workers = children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and len(workers) > 1, "it had ended by itself"
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert main(command(tmp_path / "killed")) == 0 == main(command(tmp_path / "undisturbed"))
    same_results(tmp_path / "killed", tmp_path / "undisturbed")
    assert "10 of 10 runs finished" in capsys.readouterr().out


def test_a_dry_run_says_what_is_open(tmp_path, capsys):
    assert main(command(tmp_path / "new", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(line.startswith("open") for line in lines)
    assert not (tmp_path / "new").exists()


# --- through a chapter's notebook ---

ROOT = Path(__file__).parents[2]


def test_a_sweep_through_a_chapters_notebook_from_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [Row(variant="no_hete_homo"), Row("ridge")]
    monkeypatch.setattr("decalign_core.lab.sweep.TABLES", {"table3": rows})
    notebook = str(ROOT / "notebooks" / "09_ablations.ipynb")
    arguments = ["sweep", "table3", "--notebook", notebook, "--seeds", "3", "--out", "out", "--quiet"]
    assert not main(arguments)
    assert f"1 of 2 runs are plain ones: {notebook} has no parameters for them" in capsys.readouterr().out
    cell, plain = cells(rows, "out", seeds=[3])
    record = RunRecord.load(cell.folder / "record.json")
    assert record.config_hash == cell.config.hash() and record.epochs > 1
    executed = nbformat.read(cell.folder / "09_ablations.ipynb", as_version=4)
    given = next(cell.source for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert 'variant = "no_hete_homo"' in given and "seed = 3" in given
    assert is_finished(plain) and not list(plain.folder.glob("*.ipynb"))
    assert pd.read_csv("out/runs.csv")["mae"][0] == record.test["mae"]
    with monkeypatch.context() as patch:
        patch.setattr("papermill.execute_notebook", None)  # finished: nothing is executed again
        assert not main(arguments)


NAMES = [key.rpartition(".")[2] for key in SMALL if key != "training.device"]
DECLARED = "".join(f"{name} = -1\n" for name in [*NAMES, "seed"]) + "variant = ''\ndevice = ''\nrun_dir = ''\n"
TRAINS = f"""from decalign_core.lab.experiment import configure, with_variant
from decalign_core.lab.presets import preset
from decalign_core.lab.training import train

small = {{key: globals().get(key.rpartition(".")[2]) for key in {list(SMALL)}}}
small |= {{"training.seed": seed}} | CHANGES
train(configure(small, with_variant(preset(), variant)), run_dir=run_dir, progress=False)
"""


def notebook_of(path, changes=None):
    """A notebook with a parameter for each setting of ``SMALL``; the changes are of its own making."""
    sources = [DECLARED, f"CHANGES = {changes or {}}\n{TRAINS}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return str(path)


def test_a_notebook_is_given_the_settings_that_are_its_parameters(alone, tmp_path):
    notebook = notebook_of(tmp_path / "mine.ipynb")
    (cell,) = small([Row(variant="no_homo")], tmp_path / "out", seeds=[1], notebook=notebook)
    (outcome,) = sweep([cell], tmp_path / "out", progress=False)
    assert not outcome.error and (cell.folder / "mine.ipynb").is_file()
    (same,) = [other.record for other in alone[2] if other.cell.folder.name == cell.folder.name]
    assert outcome.record.test == same.test, "a plain run is the same run"


def test_a_notebook_that_makes_another_run_is_told_at_once_and_leaves_the_folder_free(tmp_path):
    notebook = notebook_of(tmp_path / "stubborn.ipynb", changes={"objective.alpha": 0.5})
    (cell,) = small([Row()], tmp_path, seeds=[1], notebook=notebook)
    (outcome,) = sweep([cell], tmp_path, progress=False)
    assert "holds another configuration: objective.alpha 0.05, wanted 0.5" in outcome.error
    assert "\n" not in outcome.error and not (cell.folder / "history.csv").exists()
    (plain,) = sweep(small([Row()], tmp_path, seeds=[1]), tmp_path, progress=False)
    assert not plain.error and plain.cell.folder == cell.folder


def test_a_notebook_that_makes_no_run_is_told_in_one_line(tmp_path):
    notebook = nbformat.read(notebook_of(tmp_path / "idle.ipynb"), as_version=4)
    notebook.cells[1].source = "1"
    nbformat.write(notebook, tmp_path / "idle.ipynb")
    (outcome,) = sweep(small([Row()], tmp_path, seeds=[1], notebook=str(tmp_path / "idle.ipynb")), tmp_path)
    assert "wanted the run" in outcome.error and "the notebook made none" in outcome.error
    assert "\n" not in outcome.error
