"""What figures ask a store for, found without computing anything."""

import hashlib
import sys
from collections import defaultdict
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

import pytest
import xarray as xr

from lazyscope import papers
from lazyscope.papers.figure import Trials
from lazyscope.papers.reproduce import load, root_key
from lazyscope.store import keys
from lazyscope.sweep import sweep


class HeardError(Exception):
    """A sweep has said which cells it wants."""


class Results(MagicMock):
    """Every Dataset, and whatever is made of one."""

    __class__ = xr.Dataset  # type: ignore[assignment]


class Listening:
    """A store that notes keys and ends the sweep."""

    def __init__(self):
        self.functions, self.keys, self.programs = {}, defaultdict(list), defaultdict(set)

    def view(self, function, *, version, key, static=()):
        program = keys.program(function, version=version, key=key, static=static)
        name = program.description["function"]
        self.programs[name].add(program.digest)
        self.functions[name] = keys.unwrap(function)[0], version
        return View(program.digest, self.keys[name])


class View:
    """The cells of one function."""

    def __init__(self, digest, found):
        self.digest, self.found = digest, found

    def done(self, cells, *, origin=None):
        self.found += [keys.cell_key(self.digest, keys.coordinates(cell.coords), cell.seed) for cell in cells]
        raise HeardError


def heard(name, size):
    """The store that has listened to a figure: every sweep asks, none computes, and what follows gets no numbers."""
    figure = load(name)
    store: Any = Listening()

    def asked(*args, **options):
        try:
            return sweep(*args, **options)
        except HeardError:
            return Results()

    with pytest.MonkeyPatch.context() as patch:
        for module in [module for path, module in sys.modules.items() if path.startswith(papers.__name__)]:
            if hasattr(module, "sweep"):
                patch.setattr(module, "sweep", asked)
        for function in ("merge", "concat", "apply_ufunc"):
            patch.setattr(xr, function, Results())
        of_size = figure.sizes[size]
        with suppress(TypeError, ValueError):  # of what is computed from results, after the sweeps
            figure.compute(of_size.settings, Trials(root_key(), of_size.seeds, store))
    return store


def pinned(store):
    """By function: how many cells, and a hash of their keys."""
    return {
        name: f"{len(found)} cells {hashlib.sha256(''.join(sorted(found)).encode()).hexdigest()[:16]}"
        for name, found in sorted(store.keys.items())
    }
