"""Is a Flax model of yours training lazily?

    python examples/flax_model.py

`ls.adapters.from_nnx` (or `from_linen`, `from_equinox`, `from_torch`) gives `(apply, params0)`, and everything in
lazyscope takes those two. `train=` is a trainer of your own: `diagnose` calls it once with the model and once with
its linearisation, and compares where they end on held-out inputs.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import lazyscope as ls


class Net(nnx.Module):
    """Two layers on 8 x 8 digits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden, self.head = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        return self.head(nnx.relu(self.hidden(x)))


def main() -> ls.Diagnosis:
    """Train as one would, and print the diagnosis."""
    x, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jax.nn.one_hot(jnp.asarray(labels), 10, dtype=jnp.float32)
    problem = ls.Problem(x[:400], y[:400], x[400:500], y[400:500])
    apply, params0 = ls.adapters.from_nnx(Net(nnx.Rngs(0)))

    def train(apply, params):
        optimizer = optax.adam(1e-2)

        @jax.jit
        def step(params, memory):
            gradient = jax.grad(lambda p: problem.loss(apply(p, problem.x), problem.y))(params)
            updates, memory = optimizer.update(gradient, memory)
            return optax.apply_updates(params, updates), memory

        memory = optimizer.init(params)
        for _ in range(200):
            params, memory = step(params, memory)
        return params

    found = ls.diagnose(apply, params0, problem, train=train, key=jax.random.key(0))
    print(found)
    return found


if __name__ == "__main__":
    main()
