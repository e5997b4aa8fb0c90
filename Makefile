# Everything a person or the CI runs. Each target sets up .venv by itself on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks docs
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check docs bench clean

demo: .venv/.installed-demo  ## the main job on real photographs, about two minutes
	$(BIN)/lictor demo --force

test: .venv/.installed-dev  ## all tests
	$(BIN)/python -m pytest

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
