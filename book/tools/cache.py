"""Drop the executed notebooks where something has changed that the cache does not look at.

Jupyter Book runs a notebook again when its cells change, but not when the package that they import, the data that they
read or the versions that they run on do.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE, STAMP = ROOT / "_build" / ".jupyter_cache", ROOT / "_build" / ".inputs"
WATCHED = ("decalign_core/**/*.py", "data/**/*", "book/ledger/*", "constraints.txt", "requirements.txt")
LARGE = 2**24  # a licensed pickle of gigabytes is known by its size and time


def digest() -> str:
    """Hexadecimal digest of all that the notebooks read."""
    whole = hashlib.sha256()
    for path in sorted(path for pattern in WATCHED for path in ROOT.glob(pattern) if path.is_file()):
        about = path.stat()
        known = path.read_bytes() if about.st_size < LARGE else f"{about.st_size} {about.st_mtime_ns}".encode()
        whole.update(f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(known).hexdigest()}\n".encode())
    return whole.hexdigest()


def main() -> None:
    """Compare, drop, remember."""
    now = digest()
    if CACHE.exists() and (not STAMP.is_file() or STAMP.read_text() != now):
        print("The package, the data or the versions have changed: every notebook runs again")
        shutil.rmtree(CACHE)
    STAMP.parent.mkdir(exist_ok=True)
    STAMP.write_text(now)


if __name__ == "__main__":
    main()
