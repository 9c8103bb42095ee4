# Two commands set everything up: `make demo` (the main job on the demonstrations in robots/aloha_sim) and `make test`.
# uv is installed if it is missing; Python 3.12 is found also under pyenv, else uv fetches it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint dev lock snapshot

PYENV_312 := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python))
ifneq ($(PYENV_312),)
export UV_PYTHON ?= $(PYENV_312)
endif
# The oldest that vla-ops-client is tested in.
export VLA_OPS_OLDEST_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.8*/bin/python))
export PATH := $(HOME)/.local/bin:$(PATH)
export DAGSTER_HOME := $(CURDIR)
export UV_COMPILE_BYTECODE := 1
ROBOT ?= aloha_sim
PORT ?= 3000
TESTS ?=
# Extras to install as well, such as "--extra viz".
EXTRAS ?=
RUN := uv run --frozen --no-sync

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## Install uv if it is missing and everything in uv.lock into .venv
	@command -v uv >/dev/null || { echo "== uv is missing: installing it with pip"; python3 -m pip install --user --quiet uv 2>/dev/null || python3 -m pip install --user --quiet --break-system-packages uv; }
	@command -v uv >/dev/null || { echo "uv could not be installed; see https://docs.astral.sh/uv"; exit 1; }
	@echo "== installing the locked packages into .venv (Python: $${UV_PYTHON:-found by uv})"
	@uv sync --frozen --quiet $(EXTRAS)

demo: setup  ## Run the whole lineage of robots/aloha_sim (ROBOT=name for another)
	@echo "== running the job $(ROBOT)_all: recordings -> episodes -> lerobot_v3 -> norm_stats -> checkpoints -> PyTorch -> published"
	@set -o pipefail; $(RUN) dagster job execute -m vla_ops.definitions -j $(ROBOT)_all 2>&1 \
	  | sed -uE '/ - DEBUG - /d; /^step [0-9]+: /d; s/^(.{19})[^-]*- dagster - ([A-Z]+) - [^ ]+ - [0-9a-f-]{36} - /\1 \2 /'
	@$(RUN) vla-ops status $(ROBOT)
	@store=$${VLA_OPS_HOME:-data}/published; [ ! -d $$store ] || { echo "== published in $$store, read back:"; $(RUN) vla-ops policies $$store; }
	@echo "== look at it in the UI: make dev"

test: setup  ## Run the default test suite (TESTS="-m slow" and the like to choose)
	@# The workers have all cores already: PyTorch's own threads beside them only wait for one another.
	@OMP_NUM_THREADS=1 $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

lint: setup  ## ruff and pyright
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) pyright

dev: setup  ## Open the Dagster UI on http://127.0.0.1:3000 (PORT=n)
	@$(RUN) dagster dev -h 127.0.0.1 -p $(PORT)

lock:  ## Resolve the newest versions into uv.lock
	@uv lock --upgrade

snapshot: setup  ## Accept a changed asset graph
	@$(RUN) pytest vla_ops_tests/lineage --snapshot-update
