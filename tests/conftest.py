"""One thread a test process, and no network: what a test needs it makes.

Properties (hypothesis) take the same few examples each time; ``pytest tests/stress --hypothesis-profile=thorough``
looks for new ones.
"""

import os

# before transformers is imported: later it is not looked at
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import settings

OFFLINE = Path(__file__).resolve().parents[1] / "book" / "tools" / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # this interpreter, and every one that a test starts
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
torch.set_num_threads(1)

settings.register_profile("steady", max_examples=25, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=1000, deadline=None, database=None, print_blob=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
