# Two commands on a fresh machine: `make demo` and `make test`. `make help` names the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv test test-slow lint types demo docs cov build check clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e ".[train,docs,dev]"
	touch $(STAMP)

venv: $(STAMP)  ## make .venv with the versions of constraints.txt

test: venv  ## run the quick suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: venv  ## run the tests that take minutes: real trainings, timing, wheel, lowest versions
	$(BIN)/pytest -m "slow and not gpu"

lint: venv  ## check with ruff, the format included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## check with mypy
	$(BIN)/mypy

demo: venv  ## measure, train, cut, export and compare on embedded digits (DEMO_ARGS)
	$(BIN)/cpt-nas demo $(DEMO_ARGS)

docs: venv  ## build docs/_build/html; a warning is a fault
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

cov: venv  ## run the quick suite with coverage, which has a floor (pyproject.toml)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov=hwprofiles --cov=cpt_nas --cov-report=term

build: venv  ## build the sdist and the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

check: lint types test docs  ## what a change must pass, short of the demo

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist demo docs/_build .coverage htmlcov *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
