"""What does the door cost a caller whose model is a plain function of a dict of arrays?

    python benchmarks/door.py

Every public call traces the model once, to know whether it is still the program that was compiled, and looks at what
comes in. The same calls are made with a model that has come through the door already, which skips all of it. An MLP
64-256-256-10 on 50 inputs, processor time, one thread. Goal: at most 1.05 times; the quickest calls, of few
milliseconds, miss it by the trace itself, whose time is among the numbers.
"""

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial

from measure import conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import lazyscope as ls  # noqa: E402
from lazyscope.door.program import program  # noqa: E402

WIDTHS, INPUTS, STEPS = (64, 256, 256, 10), 50, 1000


def mlp(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """An MLP as one writes it."""
    for layer in range(len(WIDTHS) - 1):
        x = x @ params[f"w{layer}"] + params[f"b{layer}"]
        x = jax.nn.relu(x) if layer < len(WIDTHS) - 2 else x
    return x


def weights(key: jax.Array) -> dict[str, jax.Array]:
    """He initialisation."""
    found = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS)):
        key, own = jax.random.split(key)
        found[f"w{layer}"] = jax.random.normal(own, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
        found[f"b{layer}"] = jnp.zeros(fan_out)
    return found


def main() -> int:
    """Each call, its cost through the door over its cost behind it."""
    at_data, at_first, at_second, at_search = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(at_data, (INPUTS, WIDTHS[0]))
    params0, params = weights(at_first), weights(at_second)
    problem = ls.Problem(x, jnp.zeros((INPUTS, WIDTHS[-1])))
    inside = program(mlp, params0, x)
    calls = {
        "gap at the same weights": (50, lambda apply: ls.linearization_gap(apply, params0, params, x)),
        "tangent kernel, all pairs of outputs": (20, lambda apply: ls.tangent_kernel(apply, params0, x)),
        "change of the kernels of groups": (5, lambda apply: ls.kernel_change(apply, params0, params, x).all),
        "change of the differential": (2, lambda apply: ls.differential_change(apply, params0, params, x).value),
        f"descent, {STEPS} steps": (
            1,
            lambda apply: ls.gradient_descent(apply, params0, problem, step_size=1e-3, num_steps=STEPS),
        ),
        "kappa": (1, lambda apply: ls.criterion(apply, params0, problem, key=at_search).kappa),
    }
    rows, numbers = [], {"ms of one trace of the model": 1e3 * _each(50, lambda: program(mlp, params0, x))}
    for case, (repeats, call) in calls.items():
        costs = interleaved(
            {name: partial(_each, repeats, partial(call, apply)) for name, apply in (("door", mlp), ("inside", inside))}
        )
        numbers[f"ms of {case}"] = 1e3 * min(costs["inside"])
        rows.append(ratio(case, "with the door over without", costs["door"], costs["inside"], goal=1.05, at_most=True))
    return conclude("door", rows, numbers)


def _each(repeats: int, call: Callable[[], object]) -> float:
    """Processor seconds of one call, of several in a row."""

    def several() -> None:
        for _ in range(repeats):
            jax.block_until_ready(call())

    return seconds(several, time.process_time) / repeats


if __name__ == "__main__":
    sys.exit(main())
