# Everything runs in .venv, made from the pinned requirements.lock. `make reproduce` and `make test` need nothing else.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= lazyscope-out
SIZE ?= quick

.PHONY: setup reproduce test test-slow check bench docs lock clean

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# CHECK=1 lists every outcome other than expected and fails on one.
reproduce: setup
	$(BIN)/lazyscope reproduce --size $(SIZE) --out $(OUT) $(if $(CHECK),--check)

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/.slow
	$(BIN)/python -m pytest -m "slow and not optimised"
	$(BIN)/python -m pytest -m optimised

# No dependencies and not in the lock: only slow tests and the docs need PyTorch, its trainers, a cluster, a browser's driver, Sphinx.
.venv/.slow: .venv/.ready Makefile
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 distributed==2026.8.0 submitit==1.5.4 \
		transformers==5.24.0 peft==0.21.2 accelerate==1.15.0 lightning==2.6.6 \
		expecttest==0.3.0 playwright==1.65.2 axe-playwright-python==0.1.8 sphinx==9.0.4 furo==2025.12.19 myst-parser==5.2.0
	touch $@

# On an idle machine: the table of docs/benchmarks.md; PEERS=--peers measures peers in environments of their own, too.
bench: .venv/.slow
	$(BIN)/python benchmarks/all.py $(PEERS)

# The site, warnings as errors; runs every tutorial once.
docs: .venv/.slow
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 0 tests/test_layers.py

# No index address in the lock: names, versions and hashes only.
lock: setup
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --extra dev \
		--python-version 3.11 pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
