"""The form that every committed notebook has: no outputs, kernel python3, the common bootstrap cell.

``python book/tools/notebooks.py`` lists what differs, ``--write`` puts it right.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
KEPT = ("accelerator", "colab")  # what preselects a GPU on Colab


def normal(notebook: NotebookNode) -> NotebookNode:
    """The notebook in that form; a new bootstrap cell goes after the parameters."""
    notebook = copy.deepcopy(notebook)
    kept = {key: value for key, value in notebook.metadata.items() if key in KEPT}
    notebook.metadata = NotebookNode(METADATA | kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for key in ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
    source = (ROOT / "book" / "bootstrap.py").read_text(encoding="utf-8").rstrip("\n")
    held = [cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", [])]
    if held:
        held[0].source = source
        return notebook
    cell = nbformat.v4.new_code_cell(source, id="bootstrap", metadata={"tags": ["bootstrap", "hide-input"]})
    after = [index for index, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])] or [0]
    notebook.cells.insert(after[0] + 1, cell)
    return notebook


def text(notebook: NotebookNode) -> str:
    """The notebook as its file holds it."""
    return nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Every notebook of the book; 1 where one differs and is not written."""
    differing = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        wanted = text(normal(nbformat.read(path, as_version=4)))
        if path.read_text(encoding="utf-8") == wanted:
            continue
        differing.append(path)
        if "--write" in sys.argv:
            path.write_text(wanted, encoding="utf-8")
        print(f"{'written' if '--write' in sys.argv else 'differs'}: {path.relative_to(ROOT)}")
    return int(bool(differing) and "--write" not in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
