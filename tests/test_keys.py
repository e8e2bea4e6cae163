"""Finished cells are found again: the keys of every figure at every size, and what keeps them through a move.

Keys that move cost whoever has a store all its hours. Where they must, run

    python tests/test_keys.py

which writes tests/keys.json and papers/programs.json anew, and say so in CHANGELOG.md.
"""

import importlib
import json
import pkgutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import pytest
from listening import heard, pinned

from lazyscope import papers
from lazyscope.papers import programs
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.store import stored_as
from lazyscope.store.keys import program

RECORD = Path(__file__).with_name("keys.json")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_asks_for_the_cells_that_stores_have(name):
    stores = {size: heard(name, size) for size in SIZES}
    assert {size: pinned(store) for size, store in stores.items()} == json.loads(RECORD.read_text())[name]
    for function, digests in digests_of(stores.values()).items():
        assert set(digests) <= set(programs.recorded()[function]), "`store prune` would drop its cells"


def digests_of(stores):
    """By function: the programs that figures run, as `papers/programs.json` has them."""
    found = defaultdict(set)
    for store in stores:
        for function, digests in store.programs.items():
            found[function] |= {digest[: programs.DIGITS] for digest in digests}
    return {function: sorted(digests) for function, digests in sorted(found.items())}


@dataclass(frozen=True)
class Settings:
    n: int = 3


def cell(key, *, settings):
    return {}


def digest(function, settings):
    return program(partial(function, settings=settings), version=1, key=jax.random.key(0)).digest


def test_what_is_stored_under_its_old_name_has_the_old_key():
    @stored_as(f"{__name__}.cell")
    def moved(key, *, settings):
        return {}

    @stored_as(f"{__name__}.Settings")
    @dataclass(frozen=True)
    class Renamed:
        n: int = 3

    assert digest(moved, Renamed()) == digest(cell, Settings())
    assert digest(moved, Renamed(4)) != digest(cell, Settings())


def test_a_subclass_is_another_class():
    @stored_as(f"{__name__}.Settings")
    @dataclass(frozen=True)
    class Renamed:
        n: int = 3

    class Sub(Renamed):
        pass

    Sub.__qualname__ = "Sub"
    assert digest(cell, Sub()) != digest(cell, Renamed())


def test_no_two_things_are_stored_under_one_name():
    names = {}
    for found in pkgutil.walk_packages(papers.__path__, f"{papers.__name__}."):
        for thing in vars(importlib.import_module(found.name)).values():
            name = getattr(thing, "__dict__", {}).get("stored_as")
            if isinstance(name, str):
                assert names.setdefault(name, thing) is thing, name
    assert names
    for name in names:
        module, _, own = name.rpartition(".")
        assert not hasattr(sys.modules.get(module), own), f"{name} is there still, beside what is stored under it"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    stores = {name: {size: heard(name, size) for size in SIZES} for name in FIGURES}
    found = {name: {size: pinned(store) for size, store in sizes.items()} for name, sizes in stores.items()}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    every = digests_of(store for sizes in stores.values() for store in sizes.values())
    programs.RECORD.write_text(json.dumps(every, indent=1) + "\n")
