"""A cell function's numbers are known to a store by its version: no change of its code passes unnoticed.

When this fails: raise the version of its cell if its numbers change at all, then (in either case) run

    python tests/test_versions.py

which writes tests/versions.json anew. Whether numbers change, whatever code they come from, is seen at tiny size, where
`cell_numbers` holds them to what their version promised (`tests/test_papers.py`).
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cell_numbers import Cells, broken, measured, numbers, promise, recorded, widened
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
    known = json.loads(RECORD.read_text())
    assert set(now) == set(known), f"a cell came or went: run {__file__}"
    for name in now:
        assert now[name]["version"] >= known[name]["version"], f"the version of {name} went down"
        assert now[name] == known[name], (
            f"{name} or what it calls changed: raise its version if its numbers do, then run {__file__}"
        )


def test_helpers_count():
    names = {name.rpartition(".")[2] for name in reached(training.train, watched)}
    assert names >= {"train", "setup", "Protocol", "chizat_step_size"}


FOUND = {"f": Cells(1, {"loss": numbers(np.array([1e-8, -1.0, 0.0, np.nan])), "steps": numbers(np.array([3.0, 5.0]))})}


def test_numbers_of_cells_are_few():
    assert FOUND["f"].results["loss"] == pytest.approx((3, -0.33333333, 0.33333334, 1e-4, 1e-9, 1e-9), rel=1e-7)


@pytest.mark.parametrize("entries", [[1e-8, -1.0, 0.0, 1.0], [1.00001e-8, -1.0, 0.0, np.nan], [1e-8, 1.0, 0.0, np.nan]])
def test_numbers_that_move_are_told_and_refused_while_the_version_stays(entries):
    moved = {"f": Cells(1, {**FOUND["f"].results, "loss": numbers(np.array(entries))})}
    (line,) = broken(moved, FOUND)
    assert line.startswith("loss of f v1 moved by")
    with pytest.raises(ValueError, match="numbers must not move while versions stay, got loss of f v1 moved by"):
        promise(moved, moved, FOUND)
    raised = {"f": moved["f"]._replace(version=2)}
    assert broken(raised, FOUND) != [], "the record is of another version"
    assert promise(raised, raised, FOUND) == raised


def test_a_promise_is_as_close_as_another_machine_comes():
    def of(value):
        return {"f": Cells(1, {"loss": numbers(np.array([value, 1.0]))})}

    assert promise(of(1.0), of(1.0 + 1e-11), {})["f"].results["loss"].within == 1e-9
    loose = promise(of(1.0), of(1.0 + 1e-6), {})
    assert loose["f"].results["loss"].within == pytest.approx(1e-5)
    assert broken(of(1.0 + 1e-6), loose) == []
    assert broken(of(1.0 + 1e-4), loose) != []


def test_another_machine_widens_a_promise_and_moves_no_number():
    def of(value):
        return {"f": Cells(1, {"loss": numbers(np.array([value, 1.0]))})}

    first = promise(of(1.0), of(1.0), {})
    wide = widened(of(1.0 + 1e-7), first)
    assert wide["f"].results["loss"][:4] == first["f"].results["loss"][:4]
    assert broken(of(1.0 + 1e-7), first) != []
    assert broken(of(1.0 + 1e-7), wide) == []
    assert broken(of(1.0 + 1e-5), wide) != []
    assert widened(of(1.0), wide) == wide


def test_cells_that_come_or_go_are_told():
    other = {"g": FOUND["f"]}
    assert broken(other, FOUND) == ["cells of ['g'], promised are ['f']"]
    assert "gives ['loss']" in broken({"f": Cells(1, {"loss": FOUND["f"].results["loss"]})}, FOUND)[0]


@pytest.mark.slow
def test_the_command_that_writes_numbers_measures_what_was_promised_without_what_tests_set(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert broken(measured("note-s3.4"), recorded()["note-s3.4"]) == []


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    RECORD.write_text(json.dumps({name: entry(*cell) for name, cell in cells().items()}, indent=1) + "\n")
