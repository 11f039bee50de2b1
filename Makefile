# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGS ?=

.PHONY: venv test test-slow lint types demo check clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e ".[train,dev]"
	touch $(STAMP)

venv: $(STAMP)

test: venv
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: venv
	$(BIN)/pytest -m "slow and not gpu"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

demo: venv
	$(BIN)/cpt-nas demo $(DEMO_ARGS)

check: lint types test

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
