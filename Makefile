# Everything a person or the CI runs. Each target sets up .venv by itself on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks docs
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# Tests run beside each other, one process a core; each loads torch, so no more than 8. They compute
# with one thread: models here are tiny, and threads of several processes only get in each other's
# way. Work is stolen: a process begins with a share of neighbours, whose fixtures are then mostly
# made once, and takes from the others when it is done.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-slow check docs bench clean

demo: .venv/.installed-demo  ## the main job on real photographs, about two minutes
	$(BIN)/lictor demo --force

test: .venv/.installed-dev  ## the quick tests, some of every part: minutes
	$(PYTEST) -m "not slow"

test-slow: .venv/.installed-dev  ## the others: process deaths, sweeps, whole tables of cases
	$(PYTEST) -m slow

check: .venv/.installed-dev  ## format, lint, types, import contract, documentation build
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

docs: .venv/.installed-dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.installed-bench  ## the benchmarks that need no data of yours
	$(BIN)/python benchmarks/coder.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/optimizer_step.py

clean:  ## remove what the targets above made
	rm -rf .venv site lictor-demo

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# One stamp for each set of extras: an unchanged project installs nothing.
.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[$*]'
	@touch $@
