"""Command lines whose faults end in one line: what was wanted, and what came."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

_PLAINER = (
    (r"^argument \{[^}]*\}: ", "command: "),
    (r"^argument ", ""),
    (r"expected one argument", "wanted a value, got none"),
    (r"expected at least one argument", "wanted one value at least, got none"),
    (r"the following arguments are required: (.*)", r"wanted \1, got none"),
    (r"unrecognized arguments: (.*)", r"wanted no such argument, got \1"),
    (r"invalid int value: (.*)", r"wanted a whole number, got \1"),
    (r"invalid float value: (.*)", r"wanted a number, got \1"),
)


class Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage text above them; no abbreviated options."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        for pattern, plainer in _PLAINER:
            message = re.sub(pattern, plainer, message)
        message = re.sub(r"invalid choice: (.*) \(choose from (.*)\)", _choices, message)
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def _choices(found: re.Match) -> str:
    return f"wanted one of {found[2].replace(chr(39), '')}, got {found[1]}"


def positive(text: str) -> int:
    """A whole number from 1 on, as the ``type`` of an argument."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, got {number}")
    return number
