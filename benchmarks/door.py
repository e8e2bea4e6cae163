"""What does the door cost a caller whose model is a plain function of a dict of arrays?

    python benchmarks/door.py

Every public call traces the model anew, to know whether it is still the program that was compiled, and looks at what
comes in. The same calls are made with a model that has come through the door already, which skips all of it. An MLP
64-256-256-10 on 50 inputs, processor time, one thread. Goal: at most 1.05 times, for the quickest of these calls, too.
"""

import sys
import time

from measure import conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import lazyscope as ls  # noqa: E402
from lazyscope.door.program import program  # noqa: E402

WIDTHS, INPUTS, CALLS, STEPS = (64, 256, 256, 10), 50, 20, 1000


def mlp(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """An MLP as one writes it."""
    for layer in range(len(WIDTHS) - 1):
        x = x @ params[f"w{layer}"] + params[f"b{layer}"]
        x = jax.nn.relu(x) if layer < len(WIDTHS) - 2 else x
    return x


def weights(key: jax.Array) -> dict[str, jax.Array]:
    """He initialisation."""
    found = {}
    for layer, (fan_in, fan_out) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
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
        "tangent kernel, all pairs of outputs": lambda apply: ls.tangent_kernel(apply, params0, x),
        "gap at the same weights": lambda apply: ls.linearization_gap(apply, params0, params, x),
        "j": lambda apply: ls.differential_change(apply, params0, params, x).value,
        f"descent, {STEPS} steps": lambda apply: ls.gradient_descent(
            apply, params0, problem, step_size=1e-3, num_steps=STEPS
        ),
        "kappa": lambda apply: ls.criterion(apply, params0, problem, key=at_search).kappa,
    }
    rows = []
    for case, call in calls.items():
        repeats = CALLS if case in list(calls)[:3] else 1

        def cost(apply, call=call, repeats=repeats) -> float:
            def several() -> None:
                for _ in range(repeats):
                    jax.block_until_ready(call(apply))

            return seconds(several, time.process_time) / repeats

        costs = interleaved({"door": lambda cost=cost: cost(mlp), "inside": lambda cost=cost: cost(inside)})
        rows.append(ratio(case, "with the door over without", costs["door"], costs["inside"], goal=1.05, at_most=True))
        print(case, costs, flush=True)
    return conclude("door", rows)


if __name__ == "__main__":
    sys.exit(main())
