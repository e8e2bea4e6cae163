"""A cell function's numbers are known to a store by its version: no change of its code passes unnoticed.

When this fails: raise the VERSION beside the function if its numbers change at all, then (in either case) run

    python tests/test_versions.py

which writes tests/versions.json anew.
"""

import hashlib
import json
from pathlib import Path

import jax
import pytest
from listening import heard

from lazyscope.papers.initialisation import training
from lazyscope.papers.registry import FIGURES
from lazyscope.store.code import reached

RECORD = Path(__file__).with_name("versions.json")


def cells():
    """Every function whose cells a figure asks for, with its version, by the name that stores know it by."""
    return dict(sorted(cell for name in FIGURES for cell in heard(name, "tiny").functions.items()))


def watched(module):
    return module.startswith("lazyscope.papers")


def entry(function, version):
    text = "\n".join(f"{name}\n{code}" for name, code in sorted(reached(function, watched).items()))
    return {"version": version, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.fixture(scope="module")
def now():
    return {name: entry(*cell) for name, cell in cells().items()}


def test_code_changes_come_with_a_version(now):
    recorded = json.loads(RECORD.read_text())
    assert set(now) == set(recorded), f"a cell came or went: run {__file__}"
    for name in now:
        assert now[name]["version"] >= recorded[name]["version"], f"the version of {name} went down"
        assert now[name] == recorded[name], (
            f"{name} or what it calls changed: raise its version if its numbers do, then run {__file__}"
        )


def test_helpers_count():
    names = {name.rpartition(".")[2] for name in reached(training.train, watched)}
    assert names >= {"train", "setup", "Protocol", "chizat_step_size"}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    RECORD.write_text(json.dumps({name: entry(*cell) for name, cell in cells().items()}, indent=1) + "\n")
