# bondstone: every target sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS ?= 60
ROUNDS ?= 100

.PHONY: help run test check fix simulate fuzz fuzz-http2 chaos rolling mutate test-long test-image bench clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.installed ## Start a three-node attested cluster with embedded mock TDs (Ctrl-C stops it)
	@$(BIN)/bondstone dev $(ARGS)

test: $(VENV)/.installed-dev ## Run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not image and not long" $(ARGS)

check: $(VENV)/.installed-dev ## Format, lint, types, import layers, dead code, the rules of texts and sources
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vulture || { echo "hint: remove what nothing uses, or name its user in [tool.vulture] of pyproject.toml" >&2; exit 1; }
	@$(BIN)/python -m tests.docs.layout
	@$(BIN)/python -m pytest -q -n 2 tests/test_rules.py tests/test_shape.py tests/test_design.py tests/test_face.py tests/test_threat_model.py tests/docs/test_where.py

fix: $(VENV)/.installed-dev ## Apply formatting and safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

simulate: $(VENV)/.installed-dev ## Simulate random schedules for SECONDS on all cores
	@$(BIN)/python -m node.simulation --seconds $(SECONDS) $(ARGS)

fuzz: $(VENV)/.installed-dev ## Fuzz the parsers of foreign bytes for SECONDS
	@$(BIN)/python tests/fuzz/run.py $(SECONDS)

fuzz-http2: $(VENV)/.installed-dev ## Hold HTTP/2 against another implementation for SECONDS
	@$(BIN)/python -m tests.fuzz.http2 $(SECONDS) $(ARGS)

chaos: $(VENV)/.installed-dev ## Break real processes for SECONDS, and check what clients saw
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(ARGS)

rolling: $(VENV)/.installed-dev ## Restart three real nodes one after another, ROUNDS times, while a client writes
	@$(BIN)/python -m tests.chaos.rolling --rounds $(ROUNDS) $(ARGS)

mutate: $(VENV)/.installed-dev ## Mutate the verifier for SECONDS: which changes does no test notice?
	@$(BIN)/python -m tests.mutation --seconds $(SECONDS)

test-long: $(VENV)/.installed-dev ## Run the tests that take long
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not image" -o faulthandler_timeout=880 $(ARGS)

test-image: $(VENV)/.installed-dev ## Build, measure, boot and break the TD image
	@$(BIN)/python -m pytest -m image tests/images -o faulthandler_timeout=880 $(ARGS)

bench: $(VENV)/.installed-dev ## Measure this machine: JSON on stdout (docs/benchmarks.md)
	@$(BIN)/python -m bench.attestation
	@$(BIN)/python -m bench.cluster
	@$(BIN)/python -m bench.cluster --trust-disk
	@$(BIN)/python -m bench.failover
	@$(BIN)/python -m bench.bond
	@$(BIN)/python -m bench.strangers
	@$(BIN)/python -m bench.catchup
	@$(BIN)/python -m bench.collections
	@$(BIN)/python -m bench.client
	@$(BIN)/python -m bench.simulator --json
	@$(BIN)/python -m bench.pysyncobj

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bondstone needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). hint: make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment. hint: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }

$(VENV)/.installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "installing bondstone into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

clean: ## Remove the environment and what runs have left
	rm -rf $(VENV) .bondstone .pytest_cache .mypy_cache .ruff_cache
