"""Watch a training run leave its linearisation: `ls.monitor` in an optax loop, with `logging`.

    python examples/monitoring.py

`ls.monitor(apply, params0, x)` gives a function of the parameters that returns a dict of scalars, 0 at the start (the
kernel's change to rounding): the gap between the model and its linearisation at the same weights, the change j of the
differential in all and per group of parameters, how far the weights are, and, unless `kernel=False`, the change of the
tangent kernel. It is jitted as any function and its results go to whatever logger there is. A few dozen inputs are
enough. Two nets learn the digits with Adam: one as it is drawn, and one with a large output scale alpha, centred, so
that it starts at zero: the second stays near its linearisation.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lazyscope as ls

log = logging.getLogger("training")
WIDTH, NUM_STEPS, LOG_EVERY, BATCH = 128, 200, 25, 128
ALPHA = 30.0


def network(params, x):
    """One hidden layer."""
    return jnp.tanh(x @ params["hidden"]) @ params["head"]


def run(name, apply, params, learning_rate) -> list[dict[str, float]]:
    """Train with minibatches, logging the measures on the way; returns what was logged."""
    data = load_digits()
    x, y = jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target, jnp.int32)
    optimizer = optax.adam(learning_rate)
    measure = jax.jit(ls.monitor(apply, params, x[:32]))

    @jax.jit
    def step(params, memory, x, y):
        loss, gradient = jax.value_and_grad(lambda p: ls.cross_entropy(apply(p, x), y))(params)
        updates, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(params, updates), memory, loss

    order, memory, logged = np.random.default_rng(0), optimizer.init(params), []
    for i in range(NUM_STEPS + 1):
        batch = order.integers(0, len(y), BATCH)
        if i % LOG_EVERY == 0:
            row = {key: float(value) for key, value in measure(params).items()}
            row["loss"] = float(ls.cross_entropy(apply(params, x), y))
            logged.append({"step": i, **row})
            log.info(
                "%-8s step %4d  loss %.3f  gap %.4f  j %.4f  moved %.4f",
                *(name, i, row["loss"], row["gap"], row["differential"], row["movement"]),
            )
        params, memory, _ = step(params, memory, x[batch], y[batch])
    return logged


def main() -> dict[str, list[dict[str, float]]]:
    """Log both runs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (64, WIDTH), jnp.float32) / 8,
        "head": jax.random.normal(keys[1], (WIDTH, 10), jnp.float32) / np.float32(np.sqrt(WIDTH)),
    }
    centred = ls.center(network, params)

    def scaled(p, x):
        return ALPHA * centred(p, x)

    # Adam's step does not shrink with the gradient: at scale alpha the same change of outputs needs 1/alpha of it.
    return {"plain": run("plain", network, params, 1e-2), "scaled": run("scaled", scaled, params, 1e-2 / ALPHA)}


if __name__ == "__main__":
    main()
