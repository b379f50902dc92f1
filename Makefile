# Three commands: `make demo`, `make check` (before a commit) and `make test` (everything); and `make docs`, the documents as a site. Each sets up what it needs in .venv,
# pinned by constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/demo
# The mathematics, what a config means and which way imports go: what a change breaks first.
FAST := tests/config tests/core tests/flows tests/pyramids tests/solvers tests/test_imports.py
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo check test test-versions docs lint check-types clean

demo: $(VENV)/.installed-demo
	$(BIN)/lapflow train lapflow-digits --out $(RUN)
	$(BIN)/lapflow sample $(RUN) --num 100 --out $(RUN)/samples
	$(BIN)/lapflow evaluate $(RUN)

check: $(VENV)/.installed-dev lint check-types
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(FAST)

test: $(VENV)/.installed-dev lint check-types
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-versions: $(VENV)/.installed-dev
	$(BIN)/python -m tests.stress.versions

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html; for the search: $(BIN)/python -m http.server --directory site"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.installed-dev
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lapflow needs Python 3.11 or newer; set PYTHON=... to choose one")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[docs]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

clean:
	rm -rf $(VENV) runs site .pytest_cache .hypothesis .mypy_cache .ruff_cache build *.egg-info
