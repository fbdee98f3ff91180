# Two commands for a newcomer: `make run` and `make test`. Nothing but Python 3.11+ and pip is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: run test setup lint types fuzz soak bench demo clean

run: $(VENV)/.installed ## start the relay in dev mode
	$(BIN)/ghostctl relay run --dev --state-dir state

test: $(VENV)/.installed ## the ordinary test run
	$(PYTEST) -n 2

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

types: $(VENV)/.installed
	$(BIN)/mypy
	$(BIN)/basedpyright

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
