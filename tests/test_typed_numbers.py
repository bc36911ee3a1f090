"""Results reach the pages from cells, records and published tables: prose has no decimals that somebody typed."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d{2,}(?![\w.])")
NOT_PROSE = (r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`]*`", r"\]\([^)]*\)")
# what is no result: the offered answers of a question, a setting of the official code, versions of Python
CONSTANTS = {
    "03_prototypes/eq-3-text": {"0.55", "0.75", "0.97"},
    "06_homogeneity/break-2-text": {"0.005"},
    "running": {"3.11", "3.12", "3.13"},
}


def typed(text):
    for pattern in NOT_PROSE:
        text = re.sub(pattern, "", text)
    return set(DECIMAL.findall(text))


def passages():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                yield f"{path.stem}/{cell.id}", cell.source
    for path in sorted((ROOT / "book").glob("*.md")):
        yield path.stem, path.read_text(encoding="utf-8")


def test_no_result_is_typed_into_prose():
    found = {where: typed(text) - CONSTANTS.get(where, set()) for where, text in passages()}
    assert not {where: numbers for where, numbers in found.items() if numbers}


@pytest.mark.parametrize("text", ["reaches an MAE of 0.865 here", "| ours | 0.82 |", "from 1.195 to 1.2"])
def test_a_typed_result_is_found(text):
    assert typed(text)


@pytest.mark.parametrize(
    "text", ["Eq 1.2 of `x = 0.865`", "$0.865$ and $$1.195$$", "half, 0.5, of it", "version 1.26.4"]
)
def test_code_formulas_and_versions_are_no_results(text):
    assert not typed(text)
