"""One thread a test process, and no network: what a test needs it makes."""

import os

# before transformers is imported: later it is not looked at
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import runpy
from pathlib import Path

import pytest
import torch

OFFLINE = Path(__file__).resolve().parents[1] / "book" / "tools" / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # this interpreter, and every one that a test starts
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
