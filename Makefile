# `make run` and `make test` work on a fresh machine with Python 3.11 or newer, make, and access to a package index.
PYTHON ?= python3
VENV ?= .venv
PIPELINE ?= pipelines/dcgan.yaml
PROOF ?= small
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test proofs lint format install dev clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: $(VENV)/.installed  ## Install when needed, then run the pipeline: make run PIPELINE=pipelines/ring8.yaml
	$(BIN)/orchestrate run $(PIPELINE)

test: $(VENV)/.installed-dev  ## Install when needed, then run the tests: make test ARGS="tests/unit -x"
	$(BIN)/python -m pytest $(ARGS)

proofs: $(VENV)/.installed-dev  ## Run the long proofs: make proofs PROOF=full
	ORCHESTRATOR_PROOF=$(PROOF) $(BIN)/python -m pytest -m long $(ARGS)

lint: $(VENV)/.installed-dev  ## Check style, types, import rules and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.installed-dev  ## Rewrite the code in its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed  ## Install what running needs
dev: $(VENV)/.installed-dev  ## Install what development needs, too

clean:  ## Remove the environment and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# A stamp is older than these files when they change, so the environment is brought up to date.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV); exit 1)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[cluster,dev,fid,k8s,services]'
	touch $@ $(VENV)/.installed
