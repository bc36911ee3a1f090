"""Parameters that a notebook cannot run with: told in one line by its second cell, before anything is computed."""

from pathlib import Path

import nbformat
import papermill
import pytest
from refusals import assert_line, untouched

from decalign_core.lab.parameters import ParameterError, validate

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def as_injected(chapter, given):
    """The namespace behind the cell of parameters and the one that papermill puts behind it."""
    cells = nbformat.read(NOTEBOOKS[chapter], as_version=4).cells
    declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in given.items())
    namespace = {"In": ["", declared, injected], "root": ROOT}
    for source in (declared, injected):
        exec(source, namespace)
    return namespace


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_the_parameters_of_every_notebook_are_good_as_they_are(chapter):
    validate(as_injected(chapter, {}))


def test_good_values_pass(tmp_path):
    for name in ("utterances.csv", "features.npz"):  # only looked for
        (tmp_path / "MOSI-public").mkdir(exist_ok=True)
        (tmp_path / "MOSI-public" / name).touch()
    of_data = {"dataset": "mosi_public", "fold": 4, "data_dir": str(tmp_path)}
    validate(as_injected("08", of_data | {"profile": "full", "seed": 3, "device": "cpu"}))
    validate(as_injected("10", {"alpha": 1, "components": 3, "protocol": "classification"}))
    validate(as_injected("12", {"results_dir": str(ROOT / "data")}))


def test_names_of_a_reader_who_goes_on_working_are_no_parameters():
    validate(as_injected("09", {}) | {"sed": 3, "In": ["", "sed = 3", "profile = 'full'"]})


PROFILE, NAME = "profile: wanted one of smoke, full … got ", "wanted one of the parameters profile, seed, … "
CASES = [
    pytest.param("08", {"sed": 3}, f"sed: {NAME}got another name, did you mean seed?", id="name misspelt"),
    pytest.param(
        "09", {"Variant": "full"}, f"Variant: {NAME}got another name, did you mean variant?", id="name with a capital"
    ),
    pytest.param("10", {"variant": "no_sem"}, f"variant: {NAME}got another name", id="another chapter's name"),
    pytest.param("11", {"epochs": 3}, f"epochs: {NAME}got another name", id="name of nothing"),
    pytest.param("12", {"dataset": "mosi"}, f"dataset: {NAME}got another name", id="data set of a chapter without"),
    pytest.param("08", {"profile": "fast"}, f"{PROFILE}'fast'", id="profile"),
    pytest.param("12", {"profile": ""}, f"{PROFILE}''", id="profile empty"),
    pytest.param("09", {"profile": 1}, "profile: wanted a string, got 1", id="profile a number"),
    pytest.param("08", {"seed": "abc"}, "seed: wanted a whole number, got 'abc'", id="seed in letters"),
    pytest.param("09", {"seed": 1.5}, "seed: wanted a whole number, got 1.5", id="half a seed"),
    pytest.param("10", {"seed": True}, "seed: wanted a whole number, got True", id="seed a truth"),
    pytest.param("11", {"seed": -1}, "seed: wanted a number from 0 on, got -1", id="seed negative"),
    pytest.param("12", {"seed": None}, "seed: wanted a whole number, got None", id="seed nothing"),
    pytest.param("08", {"variant": "no_ot"}, "variant: wanted one of full, … got 'no_ot'", id="variant of chapter 8"),
    pytest.param("09", {"variant": "full "}, "variant: wanted one of full, … got 'full '", id="variant of chapter 9"),
    pytest.param("11", {"variant": ""}, "variant: wanted one of full, … got ''", id="variant of chapter 11"),
    pytest.param("08", {"settings": "best"}, "settings: wanted one of default, … got 'best'", id="preset"),
    pytest.param(
        "08", {"dataset": "mosy"}, "dataset: wanted one of synthetic, … got 'mosy'", id="dataset of chapter 8"
    ),
    pytest.param("10", {"dataset": "MOSI"}, "dataset: wanted one of synthetic, … got 'MOSI'", id="dataset in capitals"),
    pytest.param("11", {"dataset": 7}, "dataset: wanted a string, got 7", id="dataset a number"),
    pytest.param("09", {"protocol": "unseen"}, "protocol: wanted one of regression, … got 'unseen'", id="protocol"),
    pytest.param("08", {"fold": 0}, "fold: wanted none for synthetic, got 0", id="fold"),
    pytest.param("10", {"dataset": "mosi_public", "fold": 5}, "fold: wanted None or … got 5", id="fold 5"),
    pytest.param("09", {"fold": -2}, "fold: wanted a number from -1 on, got -2", id="fold -2"),
    pytest.param("08", {"device": "abacus"}, "device: wanted 'auto', … got 'abacus'", id="device"),
    pytest.param("11", {"device": "cuda:99"}, "device: wanted 'auto', … got 'cuda:99'", id="GPU that is not here"),
    pytest.param("08", {"fine_tune": "yes"}, "fine_tune: wanted True or False, got 'yes'", id="truth in words"),
    pytest.param("08", {"fine_tune": True}, "fine_tune: wanted a text_encoder … got none", id="nothing to fine-tune"),
    pytest.param("10", {"alpha": "big"}, "alpha: wanted a number, got 'big'", id="alpha in words"),
    pytest.param("10", {"beta": float("inf")}, "beta: wanted a number, got inf", id="beta without end"),
    pytest.param("10", {"components": 0}, "components: wanted a number from 1 on, … got 0", id="no components"),
    pytest.param("10", {"components": 2.5}, "components: wanted a whole number, got 2.5", id="half a component"),
    pytest.param("08", {"data_dir": "/nowhere"}, "data_dir: wanted a folder … got '/nowhere'", id="data_dir"),
    pytest.param("09", {"results_dir": "/nowhere"}, "results_dir: wanted a folder … got '/nowhere'", id="results_dir"),
    pytest.param("10", {"dataset": "mosi", "data_dir": "book"}, "mosi: wanted a file at one of … got none", id="file"),
    pytest.param("11", {"dataset": "sims", "data_dir": "book"}, "wanted a file at … book/CH-SIMS … got", id="no SIMS"),
    pytest.param(
        "08", {"dataset": "mosi_public", "data_dir": "book"}, "MOSI-public: wanted the converted … got no", id="no MOSI"
    ),
    pytest.param("21", {"strength": -5.0}, "strength: wanted a number from 0 on, got -5.0", id="strength negative"),
    pytest.param("12", {"results_dir": 3}, "results_dir: wanted a string, got 3", id="results_dir a number"),
]


def namespace_of(given):
    """``inf`` has no literal."""
    return {name: value for name, value in given.items() if value != float("inf")}


@pytest.mark.parametrize(("chapter", "given", "said"), CASES)
def test_a_parameter(chapter, given, said):
    namespace = as_injected(chapter, namespace_of(given)) | given
    with pytest.raises(ParameterError) as caught:
        validate(namespace)
    assert_line(str(caught.value), *said.split(" … "))
    assert caught.value._render_traceback_() == [f"ParameterError: {caught.value}"]


def test_papermill_stops_at_once_without_a_traceback(tmp_path):
    chapter, out, run = NOTEBOOKS["08"], tmp_path / "out.ipynb", tmp_path / "run"
    with untouched(ROOT / "data"), pytest.raises(papermill.PapermillExecutionError) as caught:
        given = {"sed": 3, "run_dir": str(run)}
        options = {"cwd": str(chapter.parent), "kernel_name": "python3", "progress_bar": False}
        papermill.execute_notebook(str(chapter), str(out), parameters=given, **options)
    assert caught.value.ename == "ParameterError"
    assert_line(caught.value.evalue, *f"sed: {NAME}".split(" … "), "did you mean seed?")
    cells = nbformat.read(out, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    shown = ["".join(output.traceback) for output in outputs if output.output_type == "error"]
    assert shown == [f"ParameterError: {caught.value.evalue}"]
    assert not run.exists()
