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
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Key

CHUNK_SECONDS = 10.0  # Python sees Ctrl-C only between two calls of the compiled program
BUFFER_CELLS = 128
BUFFER_BYTES = 2**28

Progress = Callable[[int, int, str], None]
Function = Callable[..., Mapping[str, Array]]


class Cell(NamedTuple):
    """One point of the grid."""

    coords: tuple[tuple[str, Any], ...]
    seed: int


@runtime_checkable
class View(Protocol):
    """Where the finished cells of one function are kept, whatever the medium."""

    def done(self, cells: Sequence[Cell]) -> Sequence[bool]:
        """Which cells are already there, whole."""
        ...

    def write(self, cells: Sequence[Cell], results: Mapping[str, np.ndarray]) -> None:
        """Keep a chunk: each array has one row per cell."""
        ...

    def read(self, cells: Sequence[Cell]) -> Mapping[str, np.ndarray]:
        """All results, one row per cell, in the order asked for."""
        ...


@runtime_checkable
class Store(Protocol):
    """Where the finished cells of many functions are kept; what tells one from another is the store's to decide."""

    def view(self, function: Function, *, version: int, key: Key[Array, ""], static: Sequence[str] = ()) -> View:
        """The cells of `function` at this version with this root key."""
        ...


@dataclass
class Memory:
    """Where cells are kept without a store: as long as the call lasts."""

    rows: dict[Cell, dict[str, np.ndarray]]

    def done(self, cells: Sequence[Cell]) -> list[bool]:
        """Which cells are already there."""
        return [cell in self.rows for cell in cells]

    def write(self, cells: Sequence[Cell], results: Mapping[str, np.ndarray]) -> None:
        """Keep a chunk."""
        for i, cell in enumerate(cells):
            self.rows[cell] = {name: value[i] for name, value in results.items()}

    def read(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """All results, stacked in the order asked for."""
        rows = [self.rows[cell] for cell in cells]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


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
    progress: Progress | None = None,
) -> xr.Dataset:
    """`function(key, **coords) -> dict of arrays` on every combination of `axes` and seeds.

    `axes` maps a name to its values; names in `static` reach the function as Python values and recompile it, the others
    as traced scalars. `seeds` is a number of seeds or a list of them. `dims` names the extra axes of results. Cells
    already in `store` are not computed again, so that more seeds or a longer axis cost only what is new; `version`
    must be raised when the function's numbers change. Results have the dimensions (*axes, "seed", *dims).

    Raises ValueError for an empty axis, a `static` name that is no axis, fewer than one seed, results whose extra
    axes `dims` does not name, several CPU devices that share XLA threads (NPROC=1 gives each its own), or with a store
    for a function or settings that it cannot name.
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
    _compute(function, pending, key, static, kept, progress, len(cells))
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


def _compute(
    function: Function,
    pending: list[Cell],
    key: Key[Array, ""],
    static: Sequence[str],
    kept: View,
    progress: Progress | None,
    total: int,
) -> None:
    done = total - len(pending)
    report = progress or _silent
    for fixed, group in _by_static(pending, static):
        label = ", ".join(f"{name}={value}" for name, value in fixed)
        report(done, total, f"{label} compiling" if label else "compiling")
        program = _Program(function, dict(fixed), group[0], key)
        size, first = program.devices, 0  # one cell a device first, to learn how long a cell takes
        while first < len(group):
            chunk = group[first : first + size]
            first += len(chunk)
            began = time.perf_counter()
            kept.write(chunk, program.run(chunk))
            elapsed = time.perf_counter() - began
            rounds = -(-len(chunk) // program.devices)
            size = program.devices * int(np.clip(CHUNK_SECONDS * rounds / max(elapsed, 1e-9), 1, program.capacity))
            done += len(chunk)
            report(done, total, label)


def _silent(_done: int, _total: int, _label: str) -> None:
    return


def _by_static(cells: list[Cell], static: Sequence[str]) -> list[tuple[tuple[tuple[str, Hashable], ...], list[Cell]]]:
    groups: dict[tuple[tuple[str, Hashable], ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(pair for pair in cell.coords if pair[0] in static), []).append(cell)
    return list(groups.items())


class _Program:
    """One compiled program for the cells that share their static coordinates; any number of them up to a capacity."""

    def __init__(self, function: Function, fixed: dict[str, Any], example: Cell, key: Key[Array, ""]) -> None:
        self._keys = jax.jit(jax.vmap(partial(jax.random.fold_in, key)))
        self._traced = [name for name, _ in example.coords if name not in fixed]
        local = jax.local_devices()
        self.devices = len(local)

        def one(cell_key: Array, values: dict[str, Array]) -> dict[str, Array]:
            return {name: jnp.asarray(v) for name, v in function(cell_key, **fixed, **values).items()}

        inputs = self._inputs([example], np.zeros(1, int))
        shapes = jax.eval_shape(one, *jax.tree.map(lambda leaf: leaf[0], inputs))
        cell_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
        self.capacity = int(np.clip(BUFFER_BYTES // max(cell_bytes, 1), 1, BUFFER_CELLS))
        on_cpu = local[0].platform == "cpu"
        if on_cpu and len(local) > 1 and os.environ.get("NPROC") != "1":
            # Seen with JAX 0.10: two devices whose programs share one pool of threads wait for each other for ever.
            found = os.environ.get("NPROC", "unset")
            raise ValueError(
                f"several CPU devices need one XLA thread each, got {len(local)} devices and NPROC={found}: "
                "set NPROC=1 in the environment before JAX starts, or use one device"
            )

        def share(keys: Array, values: dict[str, Array], count: Array) -> dict[str, Array]:
            if not on_cpu:
                return jax.vmap(one)(keys, values)
            buffer = {name: jnp.zeros((keys.shape[0], *s.shape), s.dtype) for name, s in shapes.items()}

            def body(i: Array, out: dict[str, Array]) -> dict[str, Array]:
                result = one(keys[i], {name: value[i] for name, value in values.items()})
                return {name: out[name].at[i].set(result[name]) for name in out}

            return jax.lax.fori_loop(0, count[0], body, buffer)

        across = PartitionSpec("cells")
        mesh = Mesh(np.array(local), ("cells",))
        self._run = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=across, out_specs=across, check_vma=False))
        self._run = self._run.lower(*self._padded([example])).compile()

    def run(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        results = jax.device_get(self._run(*self._padded(cells)))
        rows = self._rows(len(cells))
        return {name: np.asarray(value)[rows] for name, value in results.items()}

    def _rows(self, count: int) -> np.ndarray:
        # Cell i sits on device i % devices: equal shares, whatever the number of cells.
        index = np.arange(count)
        return (index % self.devices) * self.capacity + index // self.devices

    def _padded(self, cells: Sequence[Cell]) -> tuple[Array, dict[str, Array], Array]:
        rows = np.zeros(self.devices * self.capacity, int)
        rows[self._rows(len(cells))] = np.arange(len(cells))
        keys, values = self._inputs(cells, rows)
        counts = np.array([len(range(d, len(cells), self.devices)) for d in range(self.devices)])
        return keys, values, jnp.asarray(counts)

    def _inputs(self, cells: Sequence[Cell], rows: np.ndarray) -> tuple[Array, dict[str, Array]]:
        # One dispatch for all keys and one per axis, at the full length: some 10 µs a cell, compiled once.
        seeds = np.array([cell.seed for cell in cells], np.uint32)
        coords = [dict(cell.coords) for cell in cells]
        values = {name: np.array([c[name] for c in coords])[rows] for name in self._traced}
        return self._keys(seeds[rows]), {name: jnp.asarray(value) for name, value in values.items()}


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
