"""Known vulnerabilities of the pinned versions, as far as a service that knows them can be asked: `make audit`.

pip-audit asks PyPI or OSV. Where neither answers, nothing is known, and the last line says so; a found vulnerability
always fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("pypi", "osv")
Dependencies = Sequence[Mapping[str, Any]]


def asked(service: str) -> Dependencies:
    """What pip-audit reports of each pin; empty where the service was not reached."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "-s", service, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(f"{service}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return []


def verdict(dependencies: Dependencies) -> tuple[list[str], int] | None:
    """Lines to print and the exit status; None where not one of the dependencies was looked up."""
    known = [one for one in dependencies if "vulns" in one]
    if not known:
        return None
    lines = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no version yet'}"
        for one in known
        for vuln in one["vulns"]
    ]
    unknown = [one["name"] for one in dependencies if "vulns" not in one]
    lines += [f"not looked up: {', '.join(unknown)}"] if unknown else []
    found = sum(bool(one["vulns"]) for one in known)
    return [*lines, f"{len(known)} versions looked up, {found} with a known vulnerability"], int(found > 0)


def main() -> int:
    """Ask one service after the other until one answers."""
    for service in SERVICES:
        if told := verdict(asked(service)):
            print("\n".join(told[0]))
            return told[1]
    print("skipped: no vulnerability service")
    return 0


if __name__ == "__main__":
    sys.exit(main())
