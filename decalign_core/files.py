"""Files that are there whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part.

    Raises:
        OSError: naming ``path``, where it cannot be written: a full disk, a folder that is read-only.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or (error.filename and Path(error.filename).parent != path.parent):
            raise  # not about this file
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_temporaries(path: str | Path) -> None:
    """Remove what killed writers of ``path`` left beside it; nobody may be writing to it meanwhile."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????{glob.escape(path.suffix)}"):
        left.unlink(missing_ok=True)


def write_string(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write ``table`` to ``path`` as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
