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
from jaxtyping import Array, Key

from lazyscope.sweep import by_hand, remote
from lazyscope.sweep.cells import Cell, Function, Memory, Progress, Store, View
from lazyscope.sweep.program import Program
from lazyscope.sweep.remote import FailedCellsError

__all__ = ["Cell", "FailedCellsError", "Function", "Memory", "Progress", "Store", "View", "sweep"]

Groups = list[tuple[tuple[tuple[str, Hashable], ...], list[Cell]]]  # static coordinates, and the cells that share them

CHUNK_SECONDS = 10.0  # Python sees Ctrl-C only between two calls of the compiled program


def sweep(
    function: Function,
    axes: Mapping[str, Sequence[Any] | np.ndarray | Array],
    *,
    key: Key[Array, ""],
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
    computed by its workers, one XLA thread each, and the numbers are those of this process with NPROC=1, bit for bit.
    Without one, a store may bring it: `executors.OnWorkers(store, executor)`. A chunk whose worker dies is tried again;
    cells that fail three times are left out and told at the end, in a FailedCellsError.

    With `compiled=False` the function drives compiled steps from a Python loop of its own: it is called once a cell,
    with every coordinate as a Python value, one cell a local device at a time. `local` then names folders and the like
    that it also gets and that change no number: they are no part of what a store knows a cell by, and workers on other
    machines must have them under the same names.

    Raises ValueError for an empty axis, a `static` name that is no axis, fewer than one seed, results whose extra
    axes `dims` does not name, a function that workers cannot import, several CPU devices that share XLA threads
    (NPROC=1 gives each its own), or with a store for a function or settings that it cannot name.
    """
    points = {name: _plain(values, name in static) for name, values in axes.items()}
    seed_list = _check(points, seeds, static)
    names = list(points)
    cells = [
        Cell(tuple(zip(names, values, strict=True)), seed)
        for values in itertools.product(*points.values())
        for seed in seed_list
    ]
    kept = Memory({}) if store is None else store.view(function, version=version, key=key, static=static)
    pending = [cell for cell, done in zip(cells, kept.done(cells), strict=True) if not done]
    workers = executor if executor is not None else getattr(store, "executor", None)
    if not compiled:
        function = partial(function, **local or {})
    groups = _by_static(pending, static) if compiled else [((), pending)]
    if workers is not None and pending:
        report = progress or _silent
        remote.compute(function, groups, key, kept, report, len(cells), workers, CHUNK_SECONDS, compiled)
    elif compiled:
        _compute(function, groups, key, kept, progress or _silent, len(cells))
    else:
        by_hand.compute(function, pending, key, kept, progress or _silent, len(cells))
    return _label(kept.read(cells), points, seed_list, dims or {})


def _plain(axis: Sequence[Any] | np.ndarray | Array, static: bool) -> list[Any]:
    # Python numbers of one type: the type of a cell's inputs must not depend on which other cells run beside it.
    values = np.asarray(axis).tolist() if isinstance(axis, np.ndarray | jax.Array) else list(axis)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if not static and any(isinstance(value, float) for value in values):
        return [float(value) for value in values]
    return values


def _check(axes: Mapping[str, Sequence[Any]], seeds: int | Sequence[int], static: Sequence[str]) -> list[int]:
    seed_list = list(range(seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not seed_list:
        raise ValueError(f"a sweep needs at least one seed, got seeds={seeds}")
    if len(set(seed_list)) < len(seed_list) or min(seed_list) < 0 or max(seed_list) >= 2**32:
        raise ValueError(f"seeds must differ and lie in [0, 2^32), got {seed_list}: drop the others")
    for name, values in axes.items():
        if len(values) == 0:
            raise ValueError(f"axis {name!r} is empty: give it at least one value")
        if len(set(values)) < len(values):
            raise ValueError(f"axis {name!r} repeats a value: {list(values)}")
    unknown = [name for name in static if name not in axes]
    if unknown:
        raise ValueError(f"static names must be axes, got {unknown}: the axes are {list(axes)}")
    return seed_list


def _compute(function: Function, groups: Groups, key: Key[Array, ""], kept: View, report: Progress, total: int) -> None:
    done = total - sum(len(cells) for _, cells in groups)
    for fixed, cells in groups:
        label = ", ".join(f"{name}={value}" for name, value in fixed)
        report(done, total, f"{label} compiling" if label else "compiling")
        program = Program(function, dict(fixed), cells[0], key, jax.local_devices())
        at, size = 0, program.devices  # one cell a device first, to learn how long a cell takes
        while at < len(cells):
            chunk = cells[at : at + size]
            began = time.perf_counter()
            kept.write(chunk, program.run(chunk))
            elapsed = time.perf_counter() - began
            rounds = -(-len(chunk) // program.devices)
            size = program.devices * int(np.clip(CHUNK_SECONDS * rounds / max(elapsed, 1e-9), 1, program.capacity))
            at += len(chunk)
            done += len(chunk)
            report(done, total, label)


def _silent(_done: int, _total: int, _label: str) -> None:
    return


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
    variables = {}
    for name, rows in results.items():
        extra = tuple(dims.get(name, ()))
        if len(extra) != rows.ndim - 1:
            raise ValueError(
                f"result {name!r} has {rows.ndim - 1} axes of its own, but dims names {list(extra)}: "
                f"pass dims={{{name!r}: (...)}} with one name per axis"
            )
        variables[name] = ((*outer, *extra), rows.reshape(*shape, *rows.shape[1:]))
    return xr.Dataset(variables, coords={**axes, "seed": seeds})
