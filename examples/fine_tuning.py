"""Is fine-tuning lazy? LoRA against full fine-tuning, with AdamW.

    python examples/fine_tuning.py

A small network learns five of the ten digits of scikit-learn's `load_digits`, then is adapted to the other five: once
with LoRA (Hu et al. 2022), which trains a low-rank correction b·a of each hidden matrix, b starting at zero, and once
with all weights. Both start from a head that was fitted to the new digits first (Kumar et al. 2022). `ls.diagnose` is
given the fine-tuning itself as a function: it calls it with the model and with the model's linearisation, and compares
where the two end.

Expected: neither is lazy, LoRA (g = 0.74, j = 2.4) less so than all weights (g = 0.32, j = 0.76). In its linearisation
only b and the head can act, since the derivative by a is proportional to b = 0; what LoRA learns is in the product.
About 10 seconds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lazyscope as ls

WIDTH, RANK, CLASSES = 64, 4, 5
PRETRAINING, PROBING, FINE_TUNING = 300, 200, 100  # full-batch steps


def digits(first: int) -> ls.Problem:
    """The five digits from `first` on, with labels 0 to 4; every fourth image is held out."""
    data = load_digits()
    chosen = (data.target >= first) & (data.target < first + CLASSES)
    x = jnp.asarray(data.data[chosen] / 16, jnp.float32)
    y = jnp.asarray(data.target[chosen] - first, jnp.int32)
    held_out = np.arange(len(y)) % 4 == 0
    return ls.Problem(x[~held_out], y[~held_out], x[held_out], y[held_out], loss=ls.cross_entropy)


def network(params, x):
    """Two hidden layers and a head."""
    for layer in params["hidden"]:
        x = jnp.tanh(x @ layer)
    return x @ params["head"]


def trainer(problem, optimizer, num_steps):
    """`train(apply, params0) -> params`: the loop that would be written anyway, for whichever `apply` it is given."""

    def train(apply, params0):
        def step(state, _):
            params, memory = state
            gradient = jax.grad(lambda p: problem.loss(apply(p, problem.x), problem.y))(params)
            updates, memory = optimizer.update(gradient, memory, params)
            return (optax.apply_updates(params, updates), memory), None

        @jax.jit
        def run(params):
            return jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)[0][0]

        return run(params0)

    return train


def pretrained():
    """Hidden matrices after learning the digits 0 to 4."""
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (64, WIDTH, WIDTH, CLASSES)
    drawn = [
        jax.random.normal(key, (before, after), jnp.float32) / np.float32(np.sqrt(before))
        for key, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    train = trainer(digits(0), optax.adam(1e-2), PRETRAINING)
    return train(network, {"hidden": drawn[:2], "head": drawn[2]})["hidden"]


def probed(hidden, problem):
    """A head for the new digits, on features that stay as they are."""

    def apply(head, x):
        return network({"hidden": hidden, "head": head}, x)

    start = jnp.zeros((WIDTH, CLASSES), jnp.float32)
    return trainer(problem, optax.adam(1e-2), PROBING)(apply, start)


def with_lora(hidden, head):
    """The model whose parameters are the corrections and the head; the pretrained matrices are no parameters of it."""

    def apply(params, x):
        corrected = [w + pair["b"] @ pair["a"] for w, pair in zip(hidden, params["lora"], strict=True)]
        return network({"hidden": corrected, "head": params["head"]}, x)

    keys = jax.random.split(jax.random.key(1), len(hidden))
    pairs = [
        {
            "a": jax.random.normal(key, (RANK, w.shape[1]), jnp.float32) / np.float32(np.sqrt(w.shape[1])),
            "b": jnp.zeros((w.shape[0], RANK), jnp.float32),
        }
        for key, w in zip(keys, hidden, strict=True)
    ]
    return apply, {"lora": pairs, "head": head}


def main() -> dict[str, tuple[ls.Diagnosis, ls.Movement]]:
    """Print one diagnosis of each way to fine-tune, and what moved from where."""
    problem = digits(CLASSES)
    hidden = pretrained()
    head = probed(hidden, problem)
    train = trainer(problem, optax.adamw(1e-3, weight_decay=1e-4), FINE_TUNING)
    ways = {"LoRA": with_lora(hidden, head), "all weights": (network, {"hidden": hidden, "head": head})}
    found = {}
    for name, (apply, params0) in ways.items():
        diagnosis = ls.diagnose(apply, params0, problem, train=train, key=jax.random.key(2), with_kappa=False)
        # A group that starts at zero has no scale of its own: its movement is ‖w − w0‖, and marked as absolute.
        movement = ls.relative_change(params0, train(apply, params0))
        found[name] = diagnosis, movement
        print(f"--- {name}\n{diagnosis}")
        for group, size in movement.groups.items():
            print(f"{group:12} moved {float(size):6.3f}{' (absolute)' if movement.absolute[group] else ''}")
        print()
    return found


if __name__ == "__main__":
    main()
