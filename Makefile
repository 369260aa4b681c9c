# Two commands: `make demo` and `make test`. Each makes what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto
PYTEST_ARGS ?=
# MIST isochrones and bolometric corrections, as data: what these packages import is not needed.
STELLAR_TABLES := astrolachesis==1.0.9 lachesis-grids==0.0.9

.PHONY: help demo test lint pytest test-slow bench docs clean

help:
	@echo "make demo       simulate a small survey, calibrate it, write demo/results/report.html"
	@echo "make test       lint, types, import rules and the quick tests"
	@echo "make test-slow  the long statistical campaigns"
	@echo "make bench      our figures beside the peers', in one run"
	@echo "make docs       the documentation in docs/_build/html"
	@echo "make clean      remove .venv and everything made"

$(VENV)/made:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pogson needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(STELLAR_TABLES)
	touch $@

$(VENV)/installed-bench: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(STELLAR_TABLES)
	touch $@

$(VENV)/installed-docs: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/pogson demo --output demo

test: lint pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow -s tests $(PYTEST_ARGS)

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

clean:
	rm -rf $(VENV) demo docs/_build docs/api/generated benchmarks/results .pytest_cache .mypy_cache .ruff_cache .hypothesis
