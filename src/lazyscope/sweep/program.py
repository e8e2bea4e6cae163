"""The compiled program that works through cells."""

import os
from collections.abc import Collection, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Key

from lazyscope.sweep.cells import Cell
from lazyscope.sweep.results import Traced

BUFFER_CELLS = 128
BUFFER_BYTES = 2**28


def one_by_one(device: jax.Device) -> bool:
    """Does this device compute its cells one after the other? A card has room for all of them at once."""
    return device.platform == "cpu"


def room(device: jax.Device) -> float:
    """Bytes that programs may take on a device, infinite where it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit", np.inf)


class Program:
    """The cells that share their static coordinates, as one compiled program; any number of them up to a capacity.

    Where cells are mapped, all that are given run at once, padded to a power of two so that few programs are compiled;
    the capacity shrinks until what they need fits the card.
    """

    def __init__(
        self, cell: Traced, example: Cell, fixed: Collection[str], key: Key[Array, ""], local: Sequence[jax.Device]
    ) -> None:
        self._keys = jax.jit(jax.vmap(partial(jax.random.fold_in, key)))
        self._traced = [name for name, _ in example.coords if name not in fixed]
        self.devices = len(local)
        one, shapes = cell
        cell_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
        self.cell_bytes = max(cell_bytes, 1)
        self.capacity = int(np.clip(BUFFER_BYTES // self.cell_bytes, 1, BUFFER_CELLS))
        self.in_turn = one_by_one(local[0])
        if self.in_turn and len(local) > 1 and os.environ.get("NPROC") != "1":
            # Seen with JAX 0.10: two devices whose programs share one pool of threads wait for each other for ever.
            found = os.environ.get("NPROC", "unset")
            raise ValueError(
                f"several CPU devices need one XLA thread each, got {len(local)} devices and NPROC={found}: "
                "set NPROC=1 in the environment before JAX starts, or use one device"
            )

        def share(keys: Array, values: dict[str, Array], count: Array) -> dict[str, Array]:
            if not self.in_turn:
                return jax.vmap(one)(keys, values)
            buffer = {name: jnp.zeros((keys.shape[0], *s.shape), s.dtype) for name, s in shapes.items()}

            def body(i: Array, out: dict[str, Array]) -> dict[str, Array]:
                result = one(keys[i], {name: value[i] for name, value in values.items()})
                return {name: out[name].at[i].set(result[name]) for name in out}

            return jax.lax.fori_loop(0, count[0], body, buffer)

        across = PartitionSpec("cells")
        mesh = Mesh(np.array(local), ("cells",))
        self._call = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=across, out_specs=across, check_vma=False))
        self._room = room(local[0])
        self._compiled: dict[int, jax.stages.Compiled] = {}
        if self.in_turn:
            self._program([example], self.capacity)

    def run(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """The results of at most `devices * capacity` cells, one row each."""
        share = self.capacity if self.in_turn else self._fitting(cells)
        step = self.devices * share
        parts = [self._results(cells[i : i + step], share) for i in range(0, len(cells), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _fitting(self, cells: Sequence[Cell]) -> int:
        share = min(self.capacity, 2 ** (-(-len(cells) // self.devices) - 1).bit_length())
        while share > 1 and _bytes(self._program(cells, share)) > self._room:
            del self._compiled[share]
            self.capacity = share = share // 2
        return share

    def _results(self, cells: Sequence[Cell], share: int) -> dict[str, np.ndarray]:
        results = jax.device_get(self._program(cells, share)(*self._padded(cells, share)))
        rows = self._rows(len(cells), share)
        return {name: np.asarray(value)[rows] for name, value in results.items()}

    def _program(self, cells: Sequence[Cell], share: int) -> jax.stages.Compiled:
        if share not in self._compiled:
            step = self.devices * share
            self._compiled[share] = self._call.lower(*self._padded(cells[:step], share)).compile()
        return self._compiled[share]

    def _rows(self, count: int, share: int) -> np.ndarray:
        # Cell i sits on device i % devices: equal shares, whatever the number of cells.
        index = np.arange(count)
        return (index % self.devices) * share + index // self.devices

    def _padded(self, cells: Sequence[Cell], share: int) -> tuple[Array, dict[str, Array], Array]:
        rows = np.zeros(self.devices * share, int)
        rows[self._rows(len(cells), share)] = np.arange(len(cells))
        keys, values = self._inputs(cells, rows)
        counts = np.array([len(range(d, len(cells), self.devices)) for d in range(self.devices)])
        return keys, values, jnp.asarray(counts)

    def _inputs(self, cells: Sequence[Cell], rows: np.ndarray) -> tuple[Array, dict[str, Array]]:
        # One dispatch for all keys and one per axis, at the full length: some 10 µs a cell, compiled once.
        seeds = np.array([cell.seed for cell in cells], np.uint32)
        coords = [dict(cell.coords) for cell in cells]
        values = {name: np.array([c[name] for c in coords])[rows] for name in self._traced}
        return self._keys(seeds[rows]), {name: jnp.asarray(value) for name, value in values.items()}


def _bytes(program: jax.stages.Compiled) -> int:
    analysis = program.memory_analysis()
    return 0 if analysis is None else analysis.temp_size_in_bytes + analysis.output_size_in_bytes
