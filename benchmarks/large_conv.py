"""What does `diagnose` of a convolutional net with 9.2 million parameters cost, in gradients, memory and time?

    python benchmarks/large_conv.py

VGG-11 without batch norm (9 225 610 parameters, float32) on 64 images of CIFAR's shape and 64 held-out ones. Ten steps
of descent give the weights that "were trained elsewhere". Gradient-equivalents are the processor time of `criterion`,
compiled, over that of one gradient of the loss on the same batch. Exit status 1 when a limit is passed: 100
gradient-equivalents, 3 GiB, 5 minutes.

Measured on two cores: 84 gradient-equivalents (40 products, one gradient 0.69 processor seconds), peak 2.1 GiB, 67 s
for the diagnosis, compilation included; the kernel on 39 of 64 inputs, by the structure of its layers.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import lazyscope as ls
from lazyscope import tree
from lazyscope.vision import vgg11

EXAMPLES = 64
MOST_GRADIENTS, MOST_GIB, MOST_SECONDS = 100, 3.0, 300


def images(seed: int) -> tuple[jax.Array, jax.Array]:
    """Smooth random images, one pattern a class plus noise, with one-hot targets."""
    patterns = np.random.default_rng(0).standard_normal((10, 4, 4, 3))
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, EXAMPLES)
    noisy = patterns[labels] + random.standard_normal((EXAMPLES, 4, 4, 3))
    x = np.kron(noisy, np.ones((1, 8, 8, 1))).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.eye(10, dtype=np.float32)[labels])


def main() -> int:
    """Print the diagnosis, then what it cost; returns 1 when a limit is passed."""
    began = time.perf_counter()
    model = vgg11()
    problem = ls.Problem(*images(1), *images(2))
    params0 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0), 2**0.5))

    @jax.jit
    def gradient(params, x, y):
        return jax.grad(lambda p: ls.square_loss(model.apply(p, x), y))(params)

    params = params0
    for _ in range(10):
        slope = gradient(params, problem.x, problem.y)
        params = jax.tree.map(lambda leaf, change: leaf - 0.01 * change, params, slope)
    jax.block_until_ready(params)

    at = time.perf_counter()
    found = ls.diagnose(model.apply, params0, problem, params=params, key=jax.random.key(1))
    diagnosis = time.perf_counter() - at
    print(found)

    one = min(_processor_time(lambda: gradient(params0, problem.x, problem.y)) for _ in range(5))
    norms = _processor_time(lambda: ls.criterion(model.apply, params0, problem, key=jax.random.key(2)).kappa)
    measured = {
        "gradient-equivalents of kappa": (norms / one, MOST_GRADIENTS),
        "peak memory, GiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, MOST_GIB),
        "diagnose, wall seconds": (diagnosis, MOST_SECONDS),
        "all, wall seconds": (time.perf_counter() - began, float("inf")),
    }
    print(f"\n{tree.size(params0)} parameters, {EXAMPLES} examples; one gradient takes {one:.2f} processor seconds")
    for name, (value, most) in measured.items():
        print(f"{name:30} {value:8.2f}   {f'at most {most:g}' if np.isfinite(most) else ''}")
    return int(any(value > most for value, most in measured.values()))


def _processor_time(call) -> float:
    at = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - at


if __name__ == "__main__":
    sys.exit(main())
