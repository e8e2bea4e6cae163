"""What do workers gain, what does the machinery of a sweep cost, and how does it grow?

    python benchmarks/workers.py [--rounds 5] [--busy 200] [--cells 10000] [--most 100000]

Three questions, on spawned workers that have been started before:
1. A CPU-bound sweep of BUSY cells of 0.1 s on two workers against one: at least 1.8 times as fast (median of ROUNDS).
2. CELLS cells of 10 ms on one worker, into a store: at most 2 % of the wall time is not computing (compilation is).
3. Cells that do nothing, up to MOST of them, into a store: wall time per cell must not grow (exponent of the fit at
   most 0.1 over four doublings, less the time of twenty cells, which is compilation); memory per cell is given.
"""

import argparse
import resource
import sys
import tempfile
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from measure import Ratio, conclude, interleaved, one_thread, ratio

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import lazyscope as ls  # noqa: E402

LOOPS_A_SECOND = 4_000_000.0  # of `spin`, before it is measured
DOUBLINGS = 4


def spin(key: jax.Array, *, loops: jax.Array) -> dict[str, jax.Array]:
    """Work that is all processor and no memory."""
    start = jax.random.normal(key)
    return {"value": jax.lax.fori_loop(0, loops, lambda _, w: w - 1e-9 * jnp.sin(w), start)}


def nothing(key: jax.Array, *, i: jax.Array) -> dict[str, jax.Array]:
    """A cell that costs nothing."""
    return {"value": jax.random.key_data(key)[0].astype(jnp.float32) + i}


class Timed(Executor):
    """Adds up what workers say their computing took."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.workers, self.seconds = pool, pool.workers, 0.0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand on, and listen."""
        future = self.pool.submit(fn, *args, **kwargs)
        future.add_done_callback(self._add)
        return future

    def _add(self, future: Future[Any]) -> None:
        self.seconds += future.result().seconds


def work(pool: Any, cells: int, loops: int, store: Any = None) -> tuple[float, float]:
    """Wall seconds of a sweep of `spin`, and the seconds its workers computed."""
    timed = Timed(pool)
    began = time.perf_counter()
    ls.sweep(spin, {"loops": [loops]}, key=jax.random.key(0), seeds=cells, executor=timed, store=store)
    return time.perf_counter() - began, timed.seconds


def empty(pool: Any, cells: int) -> float:
    """Wall seconds of a sweep of `nothing` into a store."""
    with tempfile.TemporaryDirectory() as folder, ls.Store(Path(folder) / "s") as store:
        axes = {"i": np.arange(cells // 10)}
        began = time.perf_counter()
        ls.sweep(nothing, axes, key=jax.random.key(0), seeds=10, executor=pool, store=store)
        return time.perf_counter() - began


def main() -> int:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("busy", 200), ("cells", 10_000), ("most", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    rows, numbers = [], {}
    with ls.executors.local(1) as one, ls.executors.local(2) as two:
        work(two, 8, 1000)
        _, seconds = work(one, 20, int(LOOPS_A_SECOND / 20))
        loops = LOOPS_A_SECOND / seconds  # of one second

        took = interleaved(
            {
                name: lambda pool=pool: work(pool, asked.busy, int(loops / 10))[0]
                for name, pool in (("1", one), ("2", two))
            },
            asked.rounds,
        )
        rows.append(
            ratio(f"{asked.busy} cells of 0.1 s", "speed of two workers to one", took["1"], took["2"], goal=1.8)
        )

        with tempfile.TemporaryDirectory() as folder, ls.Store(Path(folder) / "s") as store:
            wall, computed = work(one, asked.cells, int(loops / 100), store)
        share = 1 - computed / wall
        name = f"{asked.cells} cells of {1000 * computed / asked.cells:.1f} ms"
        rows.append(Ratio(name, "share of wall time not computing", share, share, share, 0.02, at_most=True))

        counts = [asked.most // 2**k for k in range(DOUBLINGS, -1, -1)]
        times, memory = [], []
        fixed = min(empty(two, 20) for _ in range(3))
        for count in counts:
            times.append(empty(two, count) - fixed)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    slope = float(np.polyfit(np.log(counts), np.log(np.array(times) / counts), 1)[0])
    rows.append(
        Ratio(f"up to {counts[-1]} empty cells", "exponent of time per cell", slope, slope, slope, 0.1, at_most=True)
    )
    grown = (memory[-1] - memory[0]) / (counts[-1] - counts[0])
    numbers |= {
        "microseconds per empty cell": dict(
            zip(map(str, counts), (1e6 * np.array(times) / counts).tolist(), strict=True)
        ),
        "bytes per cell held by the parent": grown,
        "peak bytes of the parent": memory[-1],
    }
    for name, value in numbers.items():
        print(f"{name}: {value}")
    return conclude("workers", rows, numbers)


if __name__ == "__main__":
    sys.exit(main())
