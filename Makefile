# The chores of this repository; `make help` lists them. Everything is set up by the first target that needs it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMP := $(VENV)/.nightmarket-$(shell cksum < requirements.txt | cut -d' ' -f1)

# Given on the command line (`make nightly SHOP=completejourney DAY=2026-11-22`) or in the environment.
SHOP ?=
DAY ?=
export DAY
ifneq ($(strip $(SHOP)),)
export NIGHTMARKET_SHOP := $(SHOP)
endif

.PHONY: help setup nightly test test-slow test-services up down check bench format docs clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## The virtual environment with the packages of requirements.txt
$(STAMP): requirements.txt
	@bash scripts/setup.sh "$(BASE_PYTHON)" "$(VENV)" "$(STAMP)"

nightly: $(STAMP) ## One whole night under a real Airflow; SHOP=demo, completejourney or a folder, DAY=2026-11-22
	@$(VENV)/bin/nightmarket nightly

# By file: a night that a module's tests share is run once. (--dist loadgroup does nothing under pytest 9.2.)
# The long files begin (tests/conftest.py): at the end of the queue one of them would run alone.
PYTEST := $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

test: $(STAMP) ## Every test that needs no server and less than a minute
	@$(PYTEST) -m "not slow"

test-slow: $(STAMP) ## The others: a night under a real Airflow, trainings of the packaged weights
	@$(PYTEST) -m slow

test-services: ## The same promises on PostgreSQL, Redis and Ray: not yet
	@echo "test-services: not yet. PostgreSQL, Redis and Ray have no tests of their own so far; make test covers the rest."

up: $(STAMP) ## Airflow UI, MLflow UI and Data Docs on loopback until stopped
	@$(VENV)/bin/nightmarket up

down: $(STAMP) ## Stop what `make up` started
	@$(VENV)/bin/nightmarket down

check: $(STAMP) ## Format, lint, types, layers, generated docs
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy src
	@$(PYTHON) -m pytest -q tests/test_layers.py tests/test_docs.py

docs: $(STAMP) ## Make the generated pages of docs/ anew
	@$(PYTHON) docs/generate.py

format: $(STAMP) ## Format and mend what can be mended
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

bench: $(STAMP) ## Rankers, scoring speed and a quiet night of SHOP, beside their peers (demo: minutes; larger shops longer)
	@bash scripts/bench.sh "$(PYTHON)" "$(or $(strip $(SHOP)),demo)"

clean: ## Remove caches; keeps .venv and var
	@rm -rf build .pytest_cache .ruff_cache .mypy_cache dbt/target dbt/logs
	@find src dags plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
