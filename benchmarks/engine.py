"""How close is a step of descent on the two-layer net to the machine's matrix rate, and how far from plain loops?

    python benchmarks/engine.py

One full-batch step (n = 1000, d = 100, no test loss, 4ndm FLOP) on one core, one thread: `gradient_descent` against a
plain PyTorch loop and a plain NumPy loop that do the same, and against the two matrix products of the step alone, at
the same shapes and in the same run. Cost is processor time of STEPS steps; set-up and compilation are not in it.
Goals: 90 % of the matrix rate from m = 50 on, 80 % at m = 8; at m = 50 in float32 3.8 times the PyTorch loop.
"""

import sys
import time
from collections.abc import Callable

from measure import Ratio, conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import lazyscope as ls  # noqa: E402

N, D = 1000, 100
STEPS = {8: 4000, 50: 1500, 512: 150, 4096: 16}
SHARE = {8: 0.8, 50: 0.9, 512: 0.9, 4096: 0.9}
TORCH_GOAL = {(50, "float32"): 3.8}
STEP_SIZE = 1e-3


def ours(params: dict, x: np.ndarray, y: np.ndarray, steps: int) -> Callable[[], object]:
    """`gradient_descent` as users call it, less what a run costs beside its steps."""
    problem = ls.Problem(jnp.asarray(x), jnp.asarray(y))
    model = ls.two_layer(*params["b"].shape)
    start = jax.tree.map(jnp.asarray, params)

    def run(num_steps: int) -> object:
        options = {"step_size": STEP_SIZE, "num_steps": num_steps, "record": (0, num_steps)}
        return jax.block_until_ready(ls.gradient_descent(model.apply, start, problem, **options))

    return lambda: run(steps)


def products(params: dict, x: np.ndarray, steps: int) -> Callable[[], object]:
    """The matrix products of a step, chained so that none can be left out: b Xᵀ and its cotangent times X."""
    xs = jnp.asarray(x)

    @jax.jit
    def run(b: jax.Array, x: jax.Array) -> jax.Array:
        tiny = jnp.asarray(1e-20, b.dtype)
        return jax.lax.fori_loop(0, steps, lambda _, b: b + tiny * ((b @ x.T) @ x), b)

    start = jnp.asarray(params["b"])
    return lambda: jax.block_until_ready(run(start, xs))


def numpy_loop(params: dict, x: np.ndarray, y: np.ndarray, steps: int) -> Callable[[], object]:
    """The same steps with NumPy and gradients by hand."""

    def run() -> object:
        a, b = params["a"].copy(), params["b"].copy()
        for _ in range(steps):
            before = x @ b.T
            after = np.maximum(before, 0)
            residual = (after @ a - y) / np.asarray(N, x.dtype)
            slope_b = (np.outer(residual, a) * (before > 0)).T @ x
            slope_a = residual @ after
            a -= STEP_SIZE * slope_a
            b -= STEP_SIZE * slope_b
        return a, b

    return run


def torch_loop(params: dict, x: np.ndarray, y: np.ndarray, steps: int) -> Callable[[], object]:
    """The same steps with PyTorch's autograd, as most would write them."""
    import torch

    torch.set_num_threads(1)
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)

    def run() -> object:
        a, b = (torch.from_numpy(params[name].copy()).requires_grad_() for name in "ab")
        for _ in range(steps):
            loss = 0.5 * ((torch.relu(xs @ b.T) @ a - ys) ** 2).mean()
            slopes = torch.autograd.grad(loss, (a, b))
            with torch.no_grad():
                a -= STEP_SIZE * slopes[0]
                b -= STEP_SIZE * slopes[1]
        return a.detach().numpy(), b.detach().numpy()

    return run


def case(width: int, dtype: str, rounds: int) -> tuple[list[Ratio], dict[str, float]]:
    """All contenders on one net."""
    random = np.random.default_rng(0)
    x = random.standard_normal((N, D)).astype(dtype)
    y = random.standard_normal(N).astype(dtype)
    params = {"a": random.standard_normal(width) / width, "b": random.standard_normal((width, D)) / D**0.5}
    params = {name: leaf.astype(dtype) for name, leaf in params.items()}
    steps = STEPS[width]
    long, short = (ours(params, x, y, count) for count in (steps + 1, 1))
    by_hand, with_torch = (make(params, x, y, steps) for make in (numpy_loop, torch_loop))
    check(params, x, y, steps=3)
    alone = products(params, x, steps)
    costs = interleaved(
        {
            "ours": lambda: seconds(long, time.process_time) - seconds(short, time.process_time),
            "products": lambda: seconds(alone, time.process_time),
            "numpy": lambda: seconds(by_hand, time.process_time),
            "torch": lambda: seconds(with_torch, time.process_time),
        },
        rounds,
    )
    name = f"m = {width}, {dtype}"
    rows = [
        ratio(name, "share of the rate of the step's products", costs["products"], costs["ours"], goal=SHARE[width]),
        ratio(
            name,
            "PyTorch loop over ours",
            costs["torch"],
            costs["ours"],
            goal=TORCH_GOAL.get((width, dtype)),
        ),
        ratio(name, "NumPy loop over ours", costs["numpy"], costs["ours"]),
    ]
    microseconds = {f"{name}: {who}, µs a step": 1e6 * min(cost) / steps for who, cost in costs.items()}
    flop = 4 * N * D * width
    return rows, microseconds | {f"{name}: products, GFLOP/s": flop * steps / min(costs["products"]) / 1e9}


def check(params: dict, x: np.ndarray, y: np.ndarray, steps: int) -> None:
    """All three do the same work: they end at the same weights."""
    end = ours(params, x, y, steps)().params
    for other in (numpy_loop, torch_loop):
        for mine, theirs in zip((end["a"], end["b"]), other(params, x, y, steps)(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def square_product(dtype: str, size: int = 2000) -> float:
    """GFLOP/s of a large square matrix product, the best this core does."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda u: u @ u)
    product(a).block_until_ready()
    return 2 * size**3 / min(seconds(lambda: product(a).block_until_ready(), time.process_time) for _ in range(3)) / 1e9


def main(rounds: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    rows, numbers = [], {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            numbers[f"2000³ product, {dtype}, GFLOP/s"] = square_product(dtype)
            for width in STEPS:
                found, more = case(width, dtype, rounds)
                rows += found
                numbers |= more
    return conclude("engine", rows, numbers)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) > 0)
