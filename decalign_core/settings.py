"""What a configuration's settings may be; what cannot be ends in one line, ``section.name: wanted …, got …``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Real
from typing import Any, Literal, get_args, get_origin, get_type_hints


def positive(value: float) -> bool:
    """Whether a number is above 0 and finite."""
    return 0 < value < math.inf


def not_negative(value: float) -> bool:
    """Whether a number is 0 or above, and finite."""
    return 0 <= value < math.inf


def rate(value: float) -> bool:
    """Whether a number is in [0, 1)."""
    return 0 <= value < 1


def numbers(section: str, record: Any, wanted: str, holds: Callable[[float], bool], *names: str) -> None:
    """Refuse a named setting, one number or one by modality, that is none or does not hold; None where its type has it.

    Raises:
        ValueError: saying what is ``wanted``; so do the others.
    """
    for name in names:
        given = getattr(record, name)
        if given is None and name in _allowed(record):
            continue
        several = given.values() if isinstance(given, Mapping) else [given]
        if not all(isinstance(value, Real) and holds(value) for value in several):
            raise ValueError(f"{section}.{name}: wanted {wanted}, got {given!r}")


def at_least(section: str, record: Any, least: int, *names: str) -> None:
    """Refuse a named setting below ``least``, as :func:`numbers` does."""
    numbers(section, record, f"at least {least}", lambda value: least <= value < math.inf, *names)


def choices(section: str, record: Any) -> None:
    """Refuse a setting that is none of its Literal's values."""
    for name, allowed in _allowed(record).items():
        given = getattr(record, name)
        if None not in allowed and given not in allowed:
            raise ValueError(f"{section}.{name}: wanted one of {', '.join(allowed)}, got {given!r}")


_ALLOWED: dict[type, dict[str, tuple[Any, ...]]] = {}


def _allowed(record: Any) -> dict[str, tuple[Any, ...]]:
    """The values of each Literal, and None of each setting that may be None, by name."""
    # looked up in a plain table: a compiled objective, in which a peer makes its task's settings, reads no annotations
    kind = type(record)
    if kind not in _ALLOWED:
        hints = get_type_hints(kind).items()
        literals = {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}
        _ALLOWED[kind] = literals | {name: (None,) for name, hint in hints if type(None) in get_args(hint)}
    return _ALLOWED[kind]


def heads_divide_width(section: str, record: Any) -> None:
    """Refuse a number of attention heads that does not divide the width."""
    if record.width % record.heads:
        raise ValueError(f"{section}.heads: wanted a divisor of width {record.width}, got {record.heads}")


def ending(record: Any, end: str) -> list[str]:
    """The settings whose names end so, in order."""
    return [field.name for field in fields(record) if field.name.endswith(end)]
