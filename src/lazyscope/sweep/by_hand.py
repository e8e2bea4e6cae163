"""Cells whose function drives compiled steps from a Python loop of its own: one call a cell, one cell a device."""

from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from lazyscope.progress import Progress
from lazyscope.sweep.cells import Cell, Function, View
from lazyscope.sweep.results import CellError, Expected, arrays, shapes_of


class Calls:
    """What `Program` is to compiled cells, for a worker: one call a cell."""

    capacity = 1

    def __init__(self, function: Function, key: Key[Array, ""]) -> None:
        self._function, self._key = function, key
        self.cell_bytes = 1

    def run(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """The results of one cell, as one row."""
        (cell,) = cells
        rows = rows_of(self._function, self._key, cell)
        self.cell_bytes = max(sum(value.nbytes for value in rows.values()), 1)
        return rows


def rows_of(function: Function, key: Key[Array, ""], cell: Cell) -> dict[str, np.ndarray]:
    """The results of one cell, as one row."""
    results = function(jax.random.fold_in(key, cell.seed), **dict(cell.coords))
    return {name: value[None] for name, value in arrays(function, results, np.asarray).items()}


def compute(
    function: Function,
    pending: list[Cell],
    key: Key[Array, ""],
    kept: View,
    expected: Expected,
    report: Progress,
    total: int,
) -> None:
    """One thread a local device, each with the next cell; this thread keeps what they finish and hears of interrupts.

    What a cell raises is raised here, and CellError for results that do not fit; cells finished before are kept.
    """
    todo: SimpleQueue[Cell] = SimpleQueue()
    ended: SimpleQueue[tuple[Cell, dict[str, np.ndarray] | BaseException]] = SimpleQueue()
    wide = jnp.result_type(float) == np.float64  # both contexts below belong to a thread

    def work(device: jax.Device) -> None:
        with jax.enable_x64(wide), jax.default_device(device), suppress(Empty):
            while True:
                cell = todo.get_nowait()
                try:
                    ended.put((cell, rows_of(function, key, cell)))
                except BaseException as error:
                    ended.put((cell, error))

    for cell in pending:
        todo.put(cell)
    done = total - len(pending)
    report(done, total, "compiling")
    for device in jax.local_devices()[: len(pending)]:
        Thread(target=work, args=(device,), daemon=True).start()
    for _ in pending:
        cell, results = ended.get()
        if not isinstance(results, BaseException):
            try:
                expected.check(shapes_of(results))
            except CellError as error:
                results = error
        if isinstance(results, BaseException):
            _emptied(todo)
            for other, rows in _emptied(ended):
                if not isinstance(rows, BaseException) and shapes_of(rows) == expected.shapes:
                    kept.write([other], rows)
            raise results
        kept.write([cell], results)
        done += 1
        report(done, total, "")


def _emptied(queue: SimpleQueue[Any]) -> list[Any]:
    found = []
    with suppress(Empty):
        while True:
            found.append(queue.get_nowait())
    return found
