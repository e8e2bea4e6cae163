"""50 000 images through a conv net of 10^5 weights: is a pass in blocks as quick as its blocks, and how much memory?

    python benchmarks/many_examples.py

Goal: every pass (outputs, a forward product, a gradient) within 1.3 times the time of one block times their number, and
a peak below 4 GiB, the images (586 MiB) included. Then a diagnosis of a short training on all of them.
"""

import os

os.environ.setdefault("NPROC", "1")

import resource
import time
from functools import partial

import jax
import optax

import lazyscope as ls
from lazyscope import passes, tree
from lazyscope.dynamics.parts import loss_and_gradient

IMAGES, CLASSES, HELD_OUT = 50_000, 10, 2000


def network(params, x):
    """Three strided convolutions, a global mean, a linear head."""
    for w in params["filters"]:
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers))
    return x.mean((1, 2)) @ params["head"]


def drawn():
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128)]
    filters = [jax.random.normal(k, s) * (2 / (9 * s[2])) ** 0.5 for k, s in zip(keys[:3], shapes, strict=True)]
    params = {"filters": filters, "head": jax.random.normal(keys[3], (128, CLASSES)) / 128**0.5}
    x = jax.random.normal(keys[4], (IMAGES, 32, 32, 3))
    return params, x, jax.random.randint(keys[5], (IMAGES,), 0, CLASSES)


def seconds(function, rounds):
    jax.block_until_ready(function())
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(apply, params, x, y):
    """A short training by Adam on minibatches."""
    optimizer = optax.adam(1e-3)
    memory = optimizer.init(params)

    @jax.jit
    def step(params, memory, x, y):
        gradient = jax.grad(lambda p: ls.cross_entropy(apply(p, x), y))(params)
        updates, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(params, updates), memory

    for i in range(10):
        batch = slice(128 * i, 128 * (i + 1))
        params, memory = step(params, memory, x[batch], y[batch])
    return params


def main() -> None:
    params, x, y = drawn()
    size = passes.block_size(network, params, x)
    number = -(-IMAGES // size)
    whole = ls.Problem(x, y, x[:HELD_OUT], y[:HELD_OUT], loss=ls.cross_entropy)
    block = ls.Problem(x[:size], y[:size], loss=ls.cross_entropy)
    theta = tree.split(params)[0]
    print(f"{tree.size(theta)} weights, {number} blocks of {size} images")
    passing = {
        "outputs": lambda p: passes.outputs(network, params, p.x),
        "Dh·v": lambda p: passes.push(network, params, p.x, theta),
        "gradient": lambda p: loss_and_gradient(network, params, theta, p, 1.0),
    }
    for name, function in passing.items():
        one, every = seconds(partial(function, block), 3), seconds(partial(function, whole), 1)
        print(
            f"{name:10} {every:6.1f} s, {every / (number * one):.2f} times its blocks; peak {peak():.2f} GiB",
            flush=True,
        )
    began = time.perf_counter()
    found = ls.diagnose(network, params, whole, train=lambda f, p: train(f, p, x, y), key=jax.random.key(1))
    print(f"{found}\ndiagnosis  {time.perf_counter() - began:.0f} s; peak {peak():.2f} GiB")


if __name__ == "__main__":
    main()
