"""Launch buttons and links to the source, as soon as the repository's public address is known.

The address has one place, ``ADDRESS`` in ``book/bootstrap.py``. While it is empty no button is shown: Jupyter Book
would otherwise link them to a repository that is not this one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BOOTSTRAP = Path(__file__).resolve().parents[1] / "bootstrap.py"


def address() -> str:
    """The repository's public address, "" while it is not set."""
    found = re.search(r'^ADDRESS = "(.*?)"', BOOTSTRAP.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def theme_options(url: str) -> dict[str, Any]:
    """What the theme must know to show its buttons; nothing without an address."""
    if not url:
        return {"repository_url": "", "launch_buttons": {}, "use_repository_button": False}
    return {
        "repository_url": url.removesuffix(".git"),
        "repository_branch": "main",
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def _set_options(app: Any, config: Any) -> None:
    config.html_theme_options = {**config.html_theme_options, **theme_options(address())}


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    # before the theme reads its options
    app.connect("config-inited", _set_options, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
