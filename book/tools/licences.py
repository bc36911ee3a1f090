"""The licence of every pinned package, from the metadata that it is installed with: book/ledger/licences.csv.

    python book/tools/licences.py [--write]

Without ``--write`` the committed list is compared. Each licence must be permissive, or the package be named here with
what its terms mean for a book that uses it as it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "book" / "ledger" / "licences.csv"
COLUMNS = ("package", "version", "licence", "note")
PERMISSIVE = {
    *("0BSD", "Apache 2.0", "Apache Software", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
    *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "ISC (ISCL)", "MIT", "MIT-CMU", "PSF-2.0"),
    *("Public Domain", "Python Software Foundation", "Zlib"),
}
UNCHANGED = "copyleft by file: its own files keep their licence; nothing of it is changed or shipped here"
NAMED = {
    "certifi": UNCHANGED,
    "hypothesis": UNCHANGED,
    "tqdm": UNCHANGED,
    "docutils": "GPL for the Emacs support alone, which is not installed",
}


def pins() -> dict[str, str]:
    """Package and version, as constraints.txt pins them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def installed() -> dict[str, str]:
    """The licence of each package of this environment."""
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--with-system"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {canonicalize_name(one["Name"]): one["License"] for one in json.loads(done.stdout)}


def strange(licence: str) -> list[str]:
    """The parts of a licence expression that are not known as permissive."""
    parts = re.split(r" AND | OR |; ", licence)
    return [part for part in parts if part.replace(" License", "") not in PERMISSIVE]


def rows(licences: dict[str, str]) -> list[dict[str, str]]:
    """The list, of the pins whose licence is given."""
    return [
        dict(zip(COLUMNS, (name, version, licences[name], NAMED.get(name, "")), strict=True))
        for name, version in sorted(pins().items())
        if name in licences
    ]


def builds_aside(table: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without torch: its builds for CPU and CUDA hold different parts."""
    return [one for one in table if one["package"] != "torch"]


def committed() -> list[dict[str, str]]:
    """The list in the repository."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def text(table: list[dict[str, str]]) -> str:
    """The list as it is committed."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def main() -> int:
    """Compare or write; 1 where something is missing, differs or has terms that nobody has looked at."""
    found = installed()
    lacking = sorted(set(pins()) - set(found))
    table = rows(found)
    unread = [one["package"] for one in table if strange(one["licence"]) and not one["note"]]
    if lacking:
        print(f"not installed: {', '.join(lacking)}")
    if unread:
        print(f"neither permissive nor named in {Path(__file__).name}: {', '.join(unread)}")
    if "--write" in sys.argv and not lacking:
        TABLE.write_text(text(table), encoding="utf-8")
    differs = not lacking and builds_aside(committed()) != builds_aside(table)
    if differs:
        print(f"{TABLE.relative_to(ROOT)} differs from the metadata: python book/tools/licences.py --write")
    print(f"{len(table)} licences, {len(NAMED)} of packages with copyleft")
    return int(bool(lacking or unread or differs))


if __name__ == "__main__":
    sys.exit(main())
