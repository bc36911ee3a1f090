"""Where everything comes from: no network in tests and builds, pinned actions, licences, what is said of an audit."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
# An address that is for documentation alone (RFC 5737). Connecting a datagram socket sends nothing, refused or not.
REACH = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))'


def tool(name: str):
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "book" / "tools" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- no network ---


@pytest.mark.parametrize(
    "reach",
    [
        lambda: exec(REACH),
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: socket.gethostbyname("example.invalid"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 9)),
        lambda: socket.create_connection(("example.invalid", 80), timeout=1),
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect(("2001:db8::1", 9)),
    ],
)
def test_no_other_machine_is_reached_from_a_test(reach):
    with pytest.raises(RuntimeError, match=r"^no network in tests and builds: socket\.\w+ to '.*' refused$"):
        reach()


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"here")
        other, _ = server.accept()
        with other:
            assert other.recv(4) == b"here"
    assert socket.getaddrinfo("localhost", 80)


def test_nor_from_a_process_that_a_test_starts():
    # what libraries take for a network that is down is an OSError
    code = f"try:\n    {REACH}\nexcept OSError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "NetworkRefused: no network in tests and builds" in done.stderr


def test_nor_from_a_notebook():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(REACH)])
    with pytest.raises(CellExecutionError, match="NetworkRefused"):
        NotebookClient(notebook, timeout=600, startup_timeout=600, kernel_name="python3").execute()


def test_nor_from_a_build_of_the_book():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (build,) = [line.strip() for line in lines if "jupyter-book build" in line]
    (offline,) = [line for line in lines if line.startswith("OFFLINE := ")]
    assert build.startswith("$(OFFLINE) ")
    assert '"$(CURDIR)/book/tools/offline$$' in offline
    made = offline.removeprefix("OFFLINE := ").replace("$(CURDIR)", str(ROOT)).replace("$$", "$")
    done = subprocess.run(["sh", "-c", f"{made} {sys.executable} -c '{REACH}'"], capture_output=True, text=True)
    assert "NetworkRefused" in done.stderr


# --- actions ---


def steps():
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line:
                yield line


def test_actions_are_pinned_to_commits():
    found = list(steps())
    assert len(found) >= 6
    pinned = re.compile(r"\s*(?:- )?uses: ([\w./-]+)@([0-9a-f]{40})  # (v\d+\.\d+\.\d+)")
    matches = [pinned.fullmatch(line) for line in found]
    assert all(matches), [line for line, match in zip(found, matches, strict=True) if not match]
    releases = {}
    for match in matches:
        assert releases.setdefault(match[1], match.groups()) == match.groups()


def test_only_what_deploys_may_write():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert {name for name, job in workflow["jobs"].items() if "permissions" in job} == {"deploy"}


# --- licences and vulnerabilities ---


def test_every_pin_has_a_licence_that_was_looked_at():
    licences = tool("licences.py")
    table = licences.committed()
    assert {row["package"]: row["version"] for row in table} == licences.pins()
    strange = {row["package"] for row in table if licences.strange(row["licence"])}
    assert strange == set(licences.NAMED), "copyleft or unknown: name it in book/tools/licences.py, or do without it"
    assert all(row["note"] == licences.NAMED.get(row["package"], "") for row in table)


def test_licences_are_those_of_the_metadata():
    licences = tool("licences.py")
    here = licences.builds_aside(licences.rows(licences.installed()))
    assert len(here) > 100
    known = {row["package"]: row for row in licences.committed()}
    assert [known[row["package"]] for row in here] == here


@pytest.mark.parametrize("licence", ["UNKNOWN", "GPL-3.0-only", "MIT AND LGPL-2.1", "Other/Proprietary License", ""])
def test_unknown_and_copyleft_terms_are_strange(licence):
    assert tool("licences.py").strange(licence)


@pytest.mark.parametrize("licence", ["MIT License", "ISC License (ISCL)", "Apache-2.0 OR MIT", "BSD License; MIT"])
def test_permissive_terms_are_not(licence):
    assert not tool("licences.py").strange(licence)


CLEAN = {"name": "one", "version": "1.0", "vulns": []}
KNOWN = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-0", "fix_versions": ["2.1"]}]}
UNSEEN = {"name": "three", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("report", "lines", "status"),
    [
        ([CLEAN], ["1 versions looked up, 0 with a known vulnerability"], 0),
        ([CLEAN, UNSEEN], ["not looked up: three", "1 versions looked up, 0 with a known vulnerability"], 0),
        (
            [CLEAN, KNOWN],
            ["two 2.0: CVE-0, mended in 2.1", "2 versions looked up, 1 with a known vulnerability"],
            1,
        ),
    ],
)
def test_what_an_audit_says(report, lines, status):
    assert tool("audit.py").verdict(report) == (lines, status)


@pytest.mark.parametrize("reports", [{}, {"pypi": [UNSEEN]}, {"pypi": [UNSEEN], "osv": []}])
def test_an_audit_that_reaches_no_service_says_so(monkeypatch, capsys, reports):
    audit = tool("audit.py")
    monkeypatch.setattr(audit, "asked", lambda service: reports.get(service, []))
    assert audit.main() == 0
    assert capsys.readouterr().out == "skipped: no vulnerability service\n"


def test_a_vulnerability_fails_whichever_service_knows_it(monkeypatch, capsys):
    audit = tool("audit.py")
    monkeypatch.setattr(audit, "asked", lambda service: {"pypi": [UNSEEN], "osv": [KNOWN]}[service])
    assert audit.main() == 1
    assert "CVE-0" in capsys.readouterr().out
