"""Cells whose function drives compiled steps from a Python loop of its own: one call a cell, one cell a device."""

from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from lazyscope.sweep.cells import Cell, Function, Progress, View


def compute(
    function: Function, pending: list[Cell], key: Key[Array, ""], kept: View, report: Progress, total: int
) -> None:
    """One thread a local device, each with the next cell; this thread keeps what they finish and hears of interrupts.

    What a cell raises is raised here; cells finished before are kept.
    """
    todo: SimpleQueue[Cell] = SimpleQueue()
    ended: SimpleQueue[tuple[Cell, dict[str, np.ndarray] | BaseException]] = SimpleQueue()
    wide = jnp.result_type(float) == np.float64  # both contexts below belong to a thread

    def work(device: jax.Device) -> None:
        with jax.enable_x64(wide), jax.default_device(device), suppress(Empty):
            while True:
                cell = todo.get_nowait()
                try:
                    results = function(jax.random.fold_in(key, cell.seed), **dict(cell.coords))
                    ended.put((cell, {name: np.asarray(value)[None] for name, value in results.items()}))
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
        if isinstance(results, BaseException):
            with suppress(Empty):
                while True:
                    todo.get_nowait()
            raise results
        kept.write([cell], results)
        done += 1
        report(done, total, "")
