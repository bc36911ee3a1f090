"""How bad input must end: one line that says what was wanted and what came, code 2, and every file as it was."""

import importlib.util
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("mmsa_fixtures", Path(__file__).parent / "data" / "mmsa_fixtures.py")
mmsa_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mmsa_fixtures)


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@contextmanager
def untouched(folder):
    """No file below the folder is made, changed or removed."""
    before = files_in(folder)
    yield
    after = files_in(folder)
    assert after.keys() == before.keys()
    assert after == before


def assert_line(line, *said):
    """One line with every part in its order: what, where, wanted, got."""
    assert "\n" not in line and "Traceback" not in line
    place = 0
    for part in said:
        found = line.find(part, place)
        assert found >= 0, f"{part!r} not behind {line[:place]!r} in {line!r}"
        place = found + len(part)


def refusal(call, *said):
    """The message of the ValueError that the call must end in."""
    with pytest.raises(ValueError) as caught:
        call()
    assert_line(str(caught.value), *said)
    return str(caught.value)


def outcome(capsys, main, arguments):
    """Exit code, standard output and standard error of a command; argparse exits by itself."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def command_refusal(capsys, main, folder, arguments, *said):
    """A command that must end with code 2, one line on standard error, nothing on standard output or on the disk."""
    with untouched(folder):
        code, out, err = outcome(capsys, main, arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"(decalign|python -m benchmarks)[^\n]*: [^\n]+\n", err), err
    assert_line(err.removesuffix("\n"), *said)
