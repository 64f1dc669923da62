# Each target sets up what it needs, inside the checkout and the user's cache folder.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heliograph
UV := $(or $(shell command -v uv),.local/uv/bin/uv)
RUN := $(UV) run --no-sync
# A Python that uv has to fetch goes into the cache folder too.
export UV_PYTHON_INSTALL_DIR ?= $(CACHE)/python

# Test processes side by side, and more arguments for pytest: make test WORKERS=4 ARGS='tests/core -k position'
WORKERS ?= 2
ARGS ?=
# Most of what tests on a cluster do is wait, so more of them than cores go side by side.
CLUSTER_WORKERS ?= 3
# How long it takes: make soak MINUTES=60
MINUTES ?= 30

.PHONY: help
help: ## Say what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: lint
lint: sync ## Check style, format, types and which package may import which
	@$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports --no-cache

.PHONY: format
format: sync ## Put style and format right where a program can
	@$(RUN) ruff check --fix-only .
	$(RUN) ruff format .

.PHONY: test
test: prepare ## Run all tests, on real Kafka and Redis (WORKERS=2 ARGS=tests/core)
	@$(RUN) pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# How long `make chaos` goes on; another round begins as long as there is time.
MINUTES ?= 2

.PHONY: chaos
chaos: prepare ## Faults in a random order under load (MINUTES=10, HELIOGRAPH_CHAOS_SEED=… repeats a round)
	@HELIOGRAPH_CHAOS_MINUTES=$(MINUTES) $(RUN) pytest -m chaos -s tests/faults $(ARGS)

.PHONY: test-kubernetes
test-kubernetes: prepare ## Run the tests that need a cluster: of KUBECONFIG, or started here (tests/kubernetes)
	@$(RUN) pytest -m kubernetes -n $(CLUSTER_WORKERS) --dist loadgroup --no-loadscope-reorder $(or $(ARGS),tests/kubernetes)

.PHONY: demo
demo: prepare ## Agents at work on real Kafka and Redis, an edge killed in the middle, nothing lost
	@$(RUN) python -m heliograph.local.demo $(ARGS)

.PHONY: dev
dev: sync ## Run all services in one process, in memory: no Kafka, no Redis, no Java
	@$(RUN) heliograph dev $(ARGS)

.PHONY: up
up: prepare ## Start the stack in the background and say where it is
	@$(RUN) python -m heliograph.local up $(ARGS)

.PHONY: down
down: sync ## End what `make up` started
	@$(RUN) python -m heliograph.local down

.PHONY: status
status: sync ## Say what is up, and whether it is ready
	@$(RUN) python -m heliograph.local status

.PHONY: bench
bench: prepare ## Measure throughput, latency, CPU and memory, as a table
	@$(RUN) python -m heliograph.local.bench $(ARGS)

.PHONY: soak
soak: prepare ## Half of what the stack can do for a long time: what grows? (MINUTES=30, ARGS='--json FILE')
	@$(RUN) python -m heliograph.local.bench.soak --minutes $(MINUTES) $(ARGS)

.PHONY: docs
docs: sync ## Generate schemas, tables in docs/ and CRDs from the code
	@$(RUN) python -m heliograph.local.docs

.PHONY: clean
clean: ## Remove the environment, caches and the stack's data (ends the stack first)
	@if [ -f .local/up/state.json ] && [ -d .venv ]; then $(RUN) python -m heliograph.local down; fi
	rm -rf .venv .local dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find libs services deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: sync
sync: $(UV)
	@if [ -d .venv ]; then $(UV) sync --frozen --quiet; else echo "making the environment in .venv (once)"; $(UV) sync --frozen; fi

.PHONY: prepare
prepare: sync
	@$(RUN) python -m heliograph.local prepare

.local/uv/bin/uv:
	@echo "uv is not on PATH: installing it into .local/uv (once)"
	command -v python3 >/dev/null || { echo "error: python3 is not on PATH; install Python 3.11 or newer, or uv" >&2; exit 1; }
	python3 -m venv .local/uv || { echo "error: python3 can't make a virtual environment (Debian: apt-get install python3-venv), or install uv" >&2; exit 1; }
	.local/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
