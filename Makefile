# Everything runs in .venv, made from the pinned requirements.lock. `make reproduce` and `make test` need nothing else.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= lazyscope-out

.PHONY: setup reproduce test test-slow check lock clean

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

reproduce: setup
	$(BIN)/lazyscope reproduce --size quick --out $(OUT)

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/.torch
	$(BIN)/python -m pytest -m slow

# PyTorch is no dependency and not in the lock; only tests of its adapter need it.
.venv/.torch: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

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
