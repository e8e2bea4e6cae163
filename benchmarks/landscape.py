"""Is a plane evaluated in batches faster than a jitted loop over its points, and how long does one take?

    python benchmarks/landscape.py [RESOLUTION]

The train loss of the two-layer net (n = 1000, d = 100, float64) on a plane of 51 x 51 points, against a Python loop
over the same points that calls one jitted function of the two coordinates. Compilation is timed apart; both ways take
turns, and the fastest of three rounds counts. Asked for: a plane at m = 256 under 5 s, and 1.2 times the loop's speed
at m = 256, 5 times at m = 8. Wall time on an otherwise idle machine; CPU time (all threads) beside it for a busy one.
The plane uses every core (one device each), the loop one device with one XLA thread: the CPU ratio is what one core
gains, the wall ratio what a user of both does.

Measured on two idle cores, m = 8, 50, 256: plane 0.05, 0.30, 1.40 s, loop 0.34, 0.84, 2.54 s, so 6.8, 2.9 and 1.8
times; CPU ratios 4.4, 1.8, 1.3.
"""

import sys
import time
from collections.abc import Callable

from lazyscope.cli.process import prepare_jax

WIDTHS = {8: 5.0, 50: None, 256: 1.2}
ROUNDS = 3


def timed(function: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(resolution: int) -> int:
    """Print the table; returns 1 when a plane at m = 256 takes 5 s or more or a ratio is below what is asked for."""
    prepare_jax()
    import jax
    import numpy as np

    import lazyscope as ls

    failed = 0
    with jax.enable_x64(True):
        key_data, key_init, key_plane = jax.random.split(jax.random.key(0), 3)
        problem = ls.teacher_student(key_data, n=1000, d=100, n_test=1)
        print(f"{resolution} x {resolution} points, seconds: wall (CPU)")
        print(f"{'m':>4} {'compile':>8} {'plane':>14} {'loop':>14} {'ratio':>6} {'CPU ratio':>9}")
        for width, wanted in WIDTHS.items():
            model = ls.two_layer(width, 100)
            center = model.init(key_init)
            directions = ls.landscape.filter_normalised(key_plane, center, axes={"a": 0})

            def loss(params, apply=model.apply):
                return problem.loss(apply(params, problem.x), problem.y)

            @jax.jit
            def at(s, t, center, first, second, loss=loss):
                return loss(jax.tree.map(lambda c, u, v: c + s * u + t * v, center, first, second))

            def plane(loss=loss, center=center, directions=directions):
                return ls.landscape.plane(loss, center, directions, resolution=resolution)

            axis = np.linspace(-1, 1, resolution)

            def loop(at=at, center=center, directions=directions, axis=axis):
                return np.array([[float(at(s, t, center, *directions)) for t in axis] for s in axis])

            compiling, _ = timed(plane)
            np.testing.assert_allclose(np.asarray(plane().values), loop(), rtol=1e-10)
            rounds = [(timed(plane), timed(loop)) for _ in range(ROUNDS)]
            (fast, fast_cpu), (slow, slow_cpu) = (min(times[i] for times in rounds) for i in (0, 1))
            compiling -= fast
            print(
                f"{width:4} {compiling:8.2f} {fast:6.2f} ({fast_cpu:5.2f}) {slow:6.2f} ({slow_cpu:5.2f}) "
                f"{slow / fast:6.2f} {slow_cpu / fast_cpu:9.2f}"
            )
            failed += wanted is not None and slow / fast < wanted
            failed += width == 256 and fast >= 5
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 51))
