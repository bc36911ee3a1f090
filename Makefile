# Two commands on a fresh machine with Python 3.11 to 3.13, pip and make:
#   make book    environment, every notebook in its smoke profile, HTML in _build/html
#   make test    environment, the whole test suite
# PYTHON, VENV and PIP_ARGS may be given, e.g. make test PYTHON=python3.12 PIP_ARGS="--no-cache-dir".

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
WORKERS ?= 2
EXTRAS := text,sweep,dev,book
# The environment variables keep two notebooks or test workers from fighting for the same cores.
export OMP_NUM_THREADS ?= 1
export JUPYTER_PREFER_ENV_PATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
HTML := _build/html

# No interpreter that is started with this folder first reaches another machine.
OFFLINE := PYTHONPATH="$(CURDIR)/book/tools/offline$${PYTHONPATH:+:$$PYTHONPATH}"
MUTANTS ?=

.PHONY: help env book test stress mutants audit licences lint format bootstrap clean
.DEFAULT_GOAL := help

help:
	@echo "make book       run every notebook and build the book into $(HTML)"
	@echo "make test       run the test suite"
	@echo "make stress     kill runs and sweeps at 50 random moments and compare what comes out"
	@echo "make mutants    run the mutants of tests/mutants.yml and write tests/mutants.csv; MUTANTS=NAME runs one"
	@echo "make audit      known vulnerabilities and licences of the pinned versions"
	@echo "make licences   write book/ledger/licences.csv"
	@echo "make lint       check the style of code and notebooks"
	@echo "make format     format code and notebooks, and strip the notebooks"
	@echo "make bootstrap  write book/bootstrap.py into every notebook"
	@echo "make clean      remove what was built, keep the environment"

# The name of the stamp does not change, its age does: anything newer than it is installed again.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(not ok and "Python 3.11 to 3.13 is needed, " + sys.executable + " is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -r requirements.txt -e ".[$(EXTRAS)]"
	@touch $@

env: $(INSTALLED)

book: $(INSTALLED)
	@$(PY) book/tools/cache.py
	$(OFFLINE) $(VENV)/bin/jupyter-book build -n -W --keep-going --all .
	@$(PY) book/tools/mathlint.py $(HTML)
	@echo "The book lies in $(CURDIR)/$(HTML)/index.html"

test: $(INSTALLED)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --durations=15

stress: $(INSTALLED)
	$(PY) tests/stress_kills.py --kills 50 --out tests/stress.csv

mutants: $(INSTALLED)
	$(PY) tests/mutate.py --jobs $(WORKERS) $(MUTANTS)

audit: $(INSTALLED)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[audit]"
	$(PY) book/tools/licences.py
	$(PY) book/tools/audit.py

licences: $(INSTALLED)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[audit]"
	$(PY) book/tools/licences.py --write

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) book/tools/notebooks.py --write

bootstrap: $(INSTALLED)
	$(PY) book/tools/notebooks.py --write

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
