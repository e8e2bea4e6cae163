"""How do time and memory of descent and of a sweep grow with examples, inputs, width, steps and cells?

    python benchmarks/growth.py

One core, one thread, float64. Around n = 1000, d = 100, m = 50 one size is doubled four times and the exponent of the
processor time of `gradient_descent` is fitted over the last three; of a `sweep` it is that of the wall time in the
number of cells, less the time of two cells, which is compilation. Nothing should grow faster than linearly: exponents
up to 1.1 (the goal; small sizes have a fixed cost, so they may lie below 1). The step's matrix products alone stand
beside the row in n, where the data outgrow the caches. Memory: XLA's temporaries of the compiled descent, same rule.
"""

import sys
import time

from measure import Ratio, conclude, one_thread, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import lazyscope as ls  # noqa: E402

BASE = {"n": 1000, "d": 100, "m": 50, "steps": 200}
DOUBLINGS = 4
CELLS = (20_000, 40_000, 80_000, 160_000)
GOAL = 1.1


def descent(n: int, d: int, m: int, steps: int) -> tuple:
    """A compiled run and its arguments."""
    random = np.random.default_rng(0)
    x, y = jnp.asarray(random.standard_normal((n, d))), jnp.asarray(random.standard_normal(n))
    model = ls.two_layer(m, d)
    params = model.init(jax.random.key(0), tau=0.1)

    def run(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        options = {"step_size": 1e-3, "num_steps": steps, "record": (0, steps)}
        return ls.gradient_descent(model.apply, params, ls.Problem(x, y), **options).train_loss

    return jax.jit(run).lower(params, x, y).compile(), (params, x, y)


def exponents(rounds: int) -> list[Ratio]:
    """Exponents of time in each size, and of memory in n and m."""
    rows = []
    for name in BASE:
        sizes = [BASE[name] * 2**i for i in range(DOUBLINGS)]
        programs = [descent(**(BASE | {name: size})) for size in sizes]
        fits = []
        for _ in range(rounds):
            times = [
                seconds(lambda p=program, a=arguments: jax.block_until_ready(p(*a)), time.process_time)
                for program, arguments in programs
            ]
            fits.append(_exponent(sizes, times))
        rows.append(_row(f"descent, time in {name}", fits))
        if name == "n":
            rows.append(_row("the step's products alone, time in n", [_products(sizes) for _ in range(rounds)], None))
        if name in "nm":
            held = [program.memory_analysis().temp_size_in_bytes for program, _ in programs]
            rows.append(_row(f"descent, memory in {name}", [_exponent(sizes, held)]))
    return rows


def _products(sizes: list[int]) -> float:
    @jax.jit
    def run(b: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, BASE["steps"], lambda _, b: b + 1e-20 * ((b @ x.T) @ x), b)

    def once(n: int) -> float:
        b, x = jnp.ones((BASE["m"], BASE["d"])), jnp.ones((n, BASE["d"]))
        run(b, x).block_until_ready()
        return seconds(lambda: run(b, x).block_until_ready(), time.process_time)

    return _exponent(sizes, [once(n) for n in sizes])


def cell(key: jax.Array, *, t: jax.Array) -> dict[str, jax.Array]:
    """A cell that costs some 10 µs, so that what surrounds it shows."""
    return {"value": jnp.sum(jnp.sin(t * jax.random.normal(key, (64,))))}


def sweep(rounds: int) -> tuple[Ratio, float]:
    """Exponent of the wall time in the number of cells, and microseconds a cell at the largest."""
    fits, last = [], []
    for _ in range(rounds):
        compiling = min(_swept(2) for _ in range(3))
        times = [_swept(count) - compiling for count in CELLS]
        fits.append(_exponent(CELLS, times))
        last.append(times[-1] / CELLS[-1])
    return _row("sweep in memory, time in cells", fits), 1e6 * min(last)


def _swept(count: int) -> float:
    axis = np.linspace(1, 2, count // 2)
    return seconds(lambda: ls.sweep(cell, {"t": axis}, key=jax.random.key(0), seeds=2))


def _exponent(sizes: tuple | list, costs: list[float]) -> float:
    return float(np.polyfit(np.log(sizes[-3:]), np.log(costs[-3:]), 1)[0])


def _row(case: str, fits: list[float], goal: float | None = GOAL) -> Ratio:
    return Ratio(case, "exponent", min(fits), float(np.median(fits)), max(fits), goal, at_most=True)


def main(rounds: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    with jax.enable_x64(True):
        row, microseconds = sweep(rounds)
        return conclude("growth", [*exponents(rounds), row], {"sweep: µs a cell, machinery included": microseconds})


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) > 0)
