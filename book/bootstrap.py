"""Find this book's repository; on Colab and Kaggle, fetch and install it. Then look at the parameters above."""

import site
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ADDRESS = ""  # the repository's public address; set in book/bootstrap.py, `make bootstrap` writes it here
folders = (Path.cwd(), *Path.cwd().parents, Path.cwd() / "decalign-book")
root = next((folder for folder in folders if (folder / "decalign_core").is_dir()), None)
hosted = "google.colab" in sys.modules or Path("/kaggle").is_dir()
if root is None and not ADDRESS:
    raise SystemExit("This notebook needs its repository around it, whose public address is not set yet.")
if root is None:
    root = folders[-1]
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ADDRESS, str(root)], check=True)
if find_spec("decalign_core") is None and not hosted:
    raise SystemExit(f"This kernel lacks decalign_core: use the one that `make book` sets up, or pip install -e {root}")
if find_spec("decalign_core") is None:
    wanted = ["-r", str(root / "requirements.txt"), "-e", str(root)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    site.main()  # makes this process see what was just installed

from decalign_core.lab.parameters import validate

validate(globals())  # a parameter that this notebook does not have, or a value that cannot be, ends here in one line
