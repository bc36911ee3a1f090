"""Compile every formula of the built book: an unknown macro fails no build, it shows red in the reader's browser.

``python book/tools/mathlint.py _build/html``; needs node, says so where it is absent. MathJax is the copy that the
built book itself carries.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

FORMULA = re.compile(r"\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
CONFIGURATION = re.compile(r"window\.MathJax = (\{.*?\})</script>", re.DOTALL)
VOID = {"img", "br", "hr", "input", "meta", "link", "source", "wbr", "col"}


class _Formulas(HTMLParser):
    """Collects the text of elements of class ``math``."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.found = 0, [""]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        if self.depth or "math" in (dict(attributes).get("class") or "").split():
            self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self.depth and tag not in VOID:
            self.depth -= 1
            if not self.depth:
                self.found.append("")

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.found[-1] += data


def formulas(page: str) -> Iterator[tuple[str, bool]]:
    """TeX of each formula of a page, and whether it is displayed."""
    parser = _Formulas()
    parser.feed(page)
    for element in parser.found:
        for inline, displayed in FORMULA.findall(element):
            yield inline or displayed, bool(displayed)


def bad_formulas(html: Path) -> tuple[int, list[str]]:
    """How many formulas the book in ``html`` has, and a line for each that does not compile.

    Raises:
        FileNotFoundError: where node is absent.
    """
    node = shutil.which("node")
    if node is None:
        raise FileNotFoundError("node")
    pages = [path for path in sorted(html.rglob("*.html")) if not path.relative_to(html).parts[0].startswith("_")]
    items, macros = [], {}
    for path in pages:
        page = path.read_text(encoding="utf-8")
        configured = CONFIGURATION.search(page)
        macros |= json.loads(configured[1]).get("tex", {}).get("macros", {}) if configured else {}
        name = path.relative_to(html).as_posix()
        items += [{"page": name, "tex": tex, "display": display} for tex, display in formulas(page)]
    script, mathjax = Path(__file__).with_suffix(".cjs"), html / "_static" / "mathjax" / "node-main.js"
    request = json.dumps({"mathjax": str(mathjax.resolve()), "macros": macros, "formulas": items})
    answer = subprocess.run([node, str(script)], input=request, capture_output=True, text=True, check=True)
    return len(items), json.loads(answer.stdout)


def main() -> int:
    """Print what does not compile; 1 if anything does not."""
    try:
        count, bad = bad_formulas(Path(sys.argv[1]))
    except FileNotFoundError:
        print("Formulas not checked: node is not installed")
        return 0
    print(*bad, f"{count} formulas, {len(bad)} of them faulty", sep="\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
