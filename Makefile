# Everything works on a machine with Python 3.11+ and make: the first run makes .venv, later runs reuse it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-

.PHONY: help demo test lint types docs docs-serve bench faults course ci clean

help:
	@echo "make demo   set up and run the tour: name server and broker start, messages flow, files are shown"
	@echo "make test   set up and run all labs"
	@echo "make lint   ruff, mypy --strict, import contracts, course checks"
	@echo "make docs   build the site into site/"
	@echo "make bench  measure the broker's hot path against the machine's own limit"
	@echo "make faults faults of processes and links under load, many times, and how long fail-over takes"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Run: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# One stamp for each set of extras, so that `make demo` need not wait for what only the labs use.
$(STAMP)demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMP)labs: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fast,labs]'
	@touch $@ $(STAMP)demo

$(STAMP)dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fast,labs,docs,dev,load]'
	@touch $@ $(STAMP)labs $(STAMP)demo

demo: $(STAMP)demo
	$(BIN)/rmq-py tour

# First the labs that share the machine, in parallel; then those that need it for themselves.
test: $(STAMP)labs
	$(BIN)/python -m pytest labs -n auto -m "not serial"
	$(BIN)/python -m pytest labs -m serial

lint: $(STAMP)dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict rocketmq_py
	$(BIN)/lint-imports
	$(BIN)/python -m rocketmq_py.course.checks

docs: $(STAMP)dev
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)dev
	$(BIN)/mkdocs serve

bench: $(STAMP)labs
	$(BIN)/python -m loadtests.bench

# Kills, cuts and pauses: every row of the fault matrix five times, and the time of fail-over over 50 faults of each kind. Takes long.
faults: $(STAMP)labs
	RMQ_FAULT_ROUNDS=5 RMQ_FAULT_PAUSE=30 RMQ_FAILOVER_RUNS=50 $(BIN)/python -m pytest labs/faults -s

ci:
	bash .ci/run

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
