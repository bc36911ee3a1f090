"""What a notebook can be given is known before anything runs: nothing is dropped, what cannot be given is named."""

from pathlib import Path

import pytest
from refusals import refusal

from decalign_core.lab.experiment import configure, with_variant
from decalign_core.lab.notebook import Notebook, placed
from decalign_core.lab.presets import preset
from decalign_core.lab.sweep import TABLES, Row, cells

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def plain_and_not(table, chapter, **options):
    found = cells(TABLES[table][:8], "out", seeds=[7], notebook=str(NOTEBOOKS[chapter]), **options)
    return [[cell for cell in found if bool(cell.notebook) == through] for through in (False, True)]


@pytest.mark.parametrize(("table", "chapter"), [("table3", "09"), ("table4", "08")])
def test_controls_are_plain_runs_and_ablation_rows_are_not(table, chapter):
    plain, through = plain_and_not(table, chapter)
    assert {cell.config.method for cell in plain} == {"ridge"} and len(through) == 6
    assert [cell.parameters["variant"] for cell in through] == [cell.config.variant for cell in through]
    assert all(cell.config.method == "decalign" and cell.parameters["seed"] == 7 for cell in through)


@pytest.mark.parametrize("table", ["figure7", "prototypes"])
def test_chapter_10_makes_every_row_of_its_tables(table):
    plain, through = plain_and_not(table, "10", dataset="mosi_public", folds=[3])
    assert not plain and through
    for cell in through:
        told = {key: cell.parameters[key.rpartition(".")[2]] for key in cell.settings}
        assert told == cell.settings and cell.parameters["fold"] == 3


def test_chapter_8_takes_a_preset_and_a_text_encoder():
    options = {"text_encoder": "some/encoder", "fine_tune": True, "dataset": "mosi_public"}
    plain, (cell, *_) = plain_and_not("headline", "08", **options)
    assert [cell.config.method for cell in plain] == ["early"]
    assert cell.parameters["text_encoder"] == "some/encoder" and cell.parameters["fine_tune"] is True
    book = Notebook.read(NOTEBOOKS["08"])
    assert not book.missing(preset("official", "mosi"), "official")
    assert book.missing(preset("official", "mosi"), "default")


@pytest.mark.parametrize(
    ("chapter", "changes", "named"),
    [
        ("09", {"training.epochs": 1}, "training.epochs"),
        ("09", {"model.width": 8, "training.epochs": 1}, "model.width, training.epochs"),
        ("09", dict.fromkeys(["model.width", "model.heads", "model.layers", "model.latent_width"], 2), "and 1 more"),
        ("10", {"objective.alpha": 0.5}, "objective.alpha"),  # it would name the row by it
        ("08", {"data.missing": 0.5}, "data.missing"),
    ],
)
def test_what_a_notebook_cannot_be_given_is_refused(tmp_path, chapter, changes, named):
    notebook = str(NOTEBOOKS[chapter])

    def wanted():
        return cells([Row()], tmp_path / "out", changes=changes, notebook=notebook)

    refusal(wanted, "notebook: wanted settings that", notebook, "can be given, got", named)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "chapter", "options", "said"),
    [
        (Row(), "09", {"preset_name": "official"}, "preset: wanted 'default' with"),
        (Row(), "09", {"dataset": "mosi", "text_encoder": "x", "fine_tune": True}, "data.fine_tune"),
        (Row("ridge"), "09", {}, "notebook: wanted rows that"),
        (Row(), "00", {}, "notebook: wanted one with the parameters seed and run_dir"),
        (Row(), "04", {}, "notebook: wanted one with the parameters seed and run_dir"),
    ],
)
def test_a_notebook_that_does_not_fit_is_refused(tmp_path, row, chapter, options, said):
    refusal(lambda: cells([row], tmp_path, notebook=str(NOTEBOOKS[chapter]), **options), said)


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    for name, content in (("a.ipynb", "mine"), ("b.ipynb", "{}"), ("c.ipynb", "[1]"), ("d.txt", "{}")):
        (tmp_path / name).write_text(content)
        refusal(lambda name=name: Notebook.read(tmp_path / name), "notebook: wanted", f"got {tmp_path / name}")


def test_a_row_by_another_name_is_not_the_notebooks(tmp_path):
    book = Notebook.read(NOTEBOOKS["09"])
    assert not book.missing(with_variant(preset(), "no_sem"))
    assert book.missing(configure({"variant": "mine"})) == ["variant"]
    assert book.missing(configure({"method": "tfn"}))


def test_a_text_encoder_in_a_folder_is_found_from_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    arguments = {"dataset": "mosi_public", "text_encoder": "bert", "notebook": str(NOTEBOOKS["08"])}
    (cell,) = cells([Row()], "out", seeds=[1], **arguments)
    assert cell.config.data.text_encoder == cell.parameters["text_encoder"] == str(tmp_path / "bert")
    (tmp_path / "bert").rmdir()
    assert not placed("bert"), "the name of one that is fetched"
