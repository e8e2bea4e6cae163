"""Run one pure function over a grid of settings and seeds; get back a labelled Dataset.

The seed alone decides a cell's key, so cells that differ in a setting share their data and their initial draw
(common random numbers): differences along an axis are paired by seed.

On CPU the cells are spread over the local devices and each device works through its share inside one compiled program,
one cell after the other, so that a cell's numbers do not depend on how many ran beside it. On a GPU they are mapped.

>>> import jax
>>> ds = sweep(lambda key, t: {"value": t * jax.random.normal(key)}, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=3)
>>> dict(ds.sizes)
{'t': 2, 'seed': 3}
"""

import itertools
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, UInt32

from lazyscope.progress import Progress, heard
from lazyscope.sweep import by_hand, remote
from lazyscope.sweep.axes import check_call, root_key
from lazyscope.sweep.axes import points as axes_of
from lazyscope.sweep.axes import seed_list as seeds_of
from lazyscope.sweep.cells import Cell, Function, Memory, Store, View
from lazyscope.sweep.program import Program
from lazyscope.sweep.remote import FailedCellsError
from lazyscope.sweep.results import CellError, Expected, Traced, shapes_of, traced
from lazyscope.sweep.sending import sendable

__all__ = ["Cell", "FailedCellsError", "Function", "Memory", "Progress", "Store", "View", "sweep"]

Groups = list[tuple[tuple[tuple[str, Hashable], ...], list[Cell]]]  # static coordinates, and the cells that share them

CHUNK_SECONDS = 10.0  # Python sees Ctrl-C only between two calls of the compiled program


def sweep(
    function: Function,
    axes: Mapping[str, Sequence[Any] | np.ndarray | Array],
    *,
    key: Key[Array, ""] | UInt32[Array, "words"],
    seeds: int | Sequence[int],
    static: Sequence[str] = (),
    dims: Mapping[str, Sequence[str]] | None = None,
    version: int = 1,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    compiled: bool = True,
    local: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """`function(key, **coords) -> dict of arrays` on every combination of `axes` and seeds.

    `axes` maps a name to its values; names in `static` reach the function as Python values and recompile it, the others
    as traced scalars. `seeds` is a number of seeds or a list of them. `dims` names the extra axes of results. Cells
    already in `store` are not computed again, so that more seeds or a longer axis cost only what is new; `version`
    must be raised when the function's numbers change. Results have the dimensions (*axes, "seed", *dims).

    With an `executor` (`lazyscope.executors`, or any of `concurrent.futures` whose workers are spawned), cells are
    computed by its workers, with the numbers of one XLA thread (`lazyscope.executors` says what that means).
    A chunk whose worker dies is tried again; cells that fail three times are left out and told at the end, in a
    FailedCellsError.

    With `compiled=False` the function drives compiled steps from a Python loop of its own: it is called once a cell,
    with every coordinate as a Python value, one cell a local device at a time. `local` then names folders and the like
    that it also gets and that change no number: they are no part of what a store knows a cell by, and workers on other
    machines must have them under the same names.

    Raises ValueError before anything is computed: for an empty axis, values that cannot label a coordinate, an axis
    that the function needs as a Python value and that is not `static`, a `static` name that is no axis, fewer than one
    seed, anything but one key, a function that does not take the axes or returns no dict of arrays, results called like
    an axis or whose extra axes `dims` does not name, a function that workers cannot get, several CPU devices that share
    XLA threads (NPROC=1 gives each its own), or with a store for a function or settings that it cannot name. What a
    function with `compiled=False` returns is checked with its first cell.
    """
    points = axes_of(axes, static, compiled=compiled)
    seed_list = seeds_of(seeds)
    root, names = root_key(key), list(points)
    call = function if compiled else partial(function, **local or {})
    check_call(call, names)
    cells = [
        Cell(tuple(zip(names, values, strict=True)), seed)
        for values in itertools.product(*points.values())
        for seed in seed_list
    ]
    kept = Memory({}) if store is None else store.view(function, version=version, key=root, static=static)
    done = kept.done(cells) if executor is None else kept.done(cells, origin={"xla_threads": "1"})
    pending = [cell for cell, is_done in zip(cells, done, strict=True) if not is_done]
    expected = Expected(points, seed_list, dims or {})
    if pending:
        groups = _by_static(pending, static) if compiled else [((), pending)]
        report = heard(progress, "the sweep")
        sent = call
        if executor is not None:
            sent = sendable(call, [value for fixed, _ in groups for _, value in fixed], executor)
        programs = [
            _traced(call, dict(fixed), cells[0], root, expected, executor) for fixed, cells in groups if compiled
        ]
        if any(done):
            stored = kept.read([cells[list(done).index(True)]])
            expected.check(shapes_of(stored), f"cells of version {version} in the store")
        if executor is not None:
            remote.compute(sent, groups, root, kept, expected, report, len(cells), executor, CHUNK_SECONDS, compiled)
        elif compiled:
            _compute(groups, programs, root, kept, report, len(cells))
        else:
            by_hand.compute(call, pending, root, kept, expected, report, len(cells))
    results = kept.read(cells)
    expected.check({name: rows.shape[1:] for name, rows in results.items()})
    return _label(results, points, seed_list, dims or {})


def _traced(
    function: Function, fixed: dict[str, Any], example: Cell, key: Key[Array, ""], expected: Expected, workers: Any
) -> Traced | None:
    try:
        found = traced(function, fixed, example, key)
    except CellError:
        raise
    except Exception:
        if workers is None:
            raise
        return None  # the others are computed, and these tell of it at the end
    expected.check({name: shape.shape for name, shape in found.shapes.items()})
    return found


def _compute(
    groups: Groups, programs: Sequence[Any], key: Key[Array, ""], kept: View, report: Progress, total: int
) -> None:
    done = total - sum(len(cells) for _, cells in groups)
    for (fixed, cells), cell in zip(groups, programs, strict=True):
        label = ", ".join(f"{name}={value}" for name, value in fixed)
        report(done, total, f"{label} compiling" if label else "compiling")
        program = Program(cell, cells[0], dict(fixed), key, jax.local_devices())
        # One cell a device first, to learn how long a cell takes; cells that run at once take no longer for being many.
        at, size = 0, program.devices * (1 if program.in_turn else program.capacity)
        while at < len(cells):
            chunk = cells[at : at + size]
            began = time.perf_counter()
            kept.write(chunk, program.run(chunk))
            elapsed = time.perf_counter() - began
            rounds = -(-len(chunk) // program.devices)
            fitting = CHUNK_SECONDS * rounds / max(elapsed, 1e-9) if program.in_turn else np.inf
            size = program.devices * int(np.clip(fitting, 1, program.capacity))
            at += len(chunk)
            done += len(chunk)
            report(done, total, label)


def _by_static(cells: list[Cell], static: Sequence[str]) -> Groups:
    groups: dict[tuple[tuple[str, Hashable], ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(pair for pair in cell.coords if pair[0] in static), []).append(cell)
    return list(groups.items())


def _label(
    results: Mapping[str, np.ndarray],
    axes: dict[str, list[Any]],
    seeds: list[int],
    dims: Mapping[str, Sequence[str]],
) -> xr.Dataset:
    outer = (*axes, "seed")
    shape = (*(len(v) for v in axes.values()), len(seeds))
    variables = {
        name: ((*outer, *dims.get(name, ())), rows.reshape(*shape, *rows.shape[1:])) for name, rows in results.items()
    }
    return xr.Dataset(variables, coords={**axes, "seed": seeds})
