# Every verb sets up what it needs: python3 with venv and pip is all that has to be there first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# compiled tests are kept, whatever the environment says: each worker and each tier reads all of them;
# a thread for each process, those that tests start too: threads of torch that wait for one another on a busy machine make it ten times slower
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install explain test test-quick test-full check docs bench
.DEFAULT_GOAL := help

help:          ## list the verbs
	@awk -F ":.*## *" '/^[a-z-]+:.*##/ { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY)  ## make .venv with the package and pinned dependencies (PYTHON=python3.12 to choose one)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

explain: $(READY)  ## the main job: explain one answer of a real language model in report/index.html
	$(BIN)/cutaway explain "The Eiffel Tower is in the city of" --subject "The Eiffel Tower" --model smollm2-135m --out report

test: test-quick test-full  ## all tests: the quick tier, then the full tier

test-quick: $(READY)  ## tests that need no downloaded weights
	$(PYTEST) -m "not slow" -n 2 --dist worksteal

test-full: $(READY)  ## tests on a real language model, and anything that takes more than a few seconds
	$(PYTEST) -m slow -n 2 --dist worksteal

check: $(READY) docs  ## ruff, formatting, types, import contracts, the docs' code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(READY)  ## run every code block of the docs
	$(PYTEST) docs README.md ARCHITECTURE.md CONTRIBUTING.md

.venv-bench/.ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --editable . --requirement benchmarks/requirements.txt --constraint constraints.txt
	touch $@

bench: .venv-bench/.ready  ## measure speed against peers, side by side (25 minutes)
	.venv-bench/bin/python benchmarks/run.py
