"""What does float32 that is right at any output scale cost on an image net, and what does plain float32 lose?

    python benchmarks/differences.py [IMAGES]

One step of SGD on VGG-11 at half width (2.3 million parameters) on CIFAR-shaped images: `centred_training`, which
propagates alpha·(h(w) − h(w0)) layer by layer as a difference, against the plain step on alpha·(h(w) − h(w0)), both
compiled, taking turns. Goal: at most twice the time. Beside it images per second, and the FLOP of a plain step (XLA's
count) over the rate of a large matrix product in the same run. Then 100 steps at alpha = 1e2, 1e4 and 1e7 in float32
against float64, for both ways, on a net of three convolutions: relative error of the outputs on the training images.
Goal: 1e-5 with softplus and mean pooling. With kinks a gate that flips one step earlier in one of the two precisions
parts them by more, whatever the scheme; that is measured beside it.
Works on a GPU as it is.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import Ratio, conclude, interleaved, ratio, seconds

from lazyscope import square_loss
from lazyscope.dynamics import centred_training
from lazyscope.models import Model
from lazyscope.papers.image_nets.training import small_net
from lazyscope.vision import layers, vgg11
from lazyscope.vision.networks import network

STEPS, RATE = 100, 5e-4
SCALES = (1e2, 1e4, 1e7)


def images(count: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Random images of CIFAR's shape and one-hot targets."""
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 32, 32, 3)).astype(dtype)
    return jnp.asarray(x), jnp.asarray(np.eye(10, dtype=dtype)[random.integers(0, 10, count)])


def plain_step(model: Model, alpha: float):
    """Heavy ball on F_alpha in the weights, as one would write it."""

    @jax.jit
    def step(w, velocity, params0, x, y):
        scale = jnp.asarray(alpha, x.dtype)

        def objective(w):
            start = jax.lax.stop_gradient(model.apply(params0, x))
            return square_loss(scale * (model.apply(w, x) - start), y) / scale**2

        slope = jax.grad(objective)(w)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope)
        return jax.tree.map(lambda leaf, v: leaf - RATE * v, w, velocity), velocity

    return step


def cost(count: int, rounds: int) -> tuple[list[Ratio], dict[str, float]]:
    """Wall time of the two kinds of step on half-width VGG-11."""
    model = vgg11(factor=1 / 2)
    params0 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0), 1.0))
    x, y = images(count, "float32")
    step = plain_step(model, 10.0)
    zero = jax.tree.map(jnp.zeros_like, params0)
    training = centred_training(model.difference, loss=square_loss, optimizer=optax.sgd(RATE, momentum=0.9))
    state = training.start(params0)

    def plain() -> float:
        return seconds(lambda: jax.block_until_ready(step(params0, zero, params0, x, y)))

    def centred() -> float:
        nonlocal state

        def advance() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(training.advance(state, params0, x, y, jnp.float32(0.1)))

        return seconds(advance)

    costs = interleaved({"plain": plain, "centred": centred}, rounds)
    size = 2000
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda u: u @ u)
    product(a).block_until_ready()
    rate = 2 * size**3 / min(seconds(lambda: product(a).block_until_ready()) for _ in range(3))
    flop = step.lower(params0, zero, params0, x, y).compile().cost_analysis()["flops"]
    numbers = {
        "images a second, plain step": count / min(costs["plain"]),
        "images a second, centred step": count / min(costs["centred"]),
        "GFLOP of a plain step": flop / 1e9,
        "share of the matrix rate, plain step": flop / min(costs["plain"]) / rate,
    }
    name = f"VGG-11, half width, {count} images"
    return [
        ratio(name, "centred step over plain step", costs["centred"], costs["plain"], goal=2, at_most=True)
    ], numbers


def smooth_net() -> Model:
    """The same net with softplus and mean pooling."""
    parts = [part for _ in range(3) for part in (layers.conv(8), layers.softplus(), layers.mean_pool())]
    return network(layers.sequence([*parts, layers.dense(10)]), (32, 32, 3))


def errors(name: str, model: Model, most: float | None) -> list[Ratio]:
    """Relative errors in float32 after STEPS steps, both ways."""
    rows = []
    for alpha in SCALES:
        ends = {}
        for dtype in ("float64", "float32"):
            x, y = images(32, dtype)
            wide = model.init(jax.random.key(0), 1.0)
            params0 = jax.tree.map(lambda leaf, x=x: leaf.astype(jnp.float32).astype(x.dtype), wide)
            training = centred_training(model.difference, loss=square_loss, optimizer=optax.sgd(RATE, momentum=0.9))
            state, e = training.start(params0), jnp.asarray(1 / alpha, x.dtype)
            step, w, velocity = plain_step(model, alpha), params0, jax.tree.map(jnp.zeros_like, params0)
            for _ in range(STEPS):
                state, _ = training.advance(state, params0, x, y, e)
                w, velocity = step(w, velocity, params0, x, y)
            moved = jnp.asarray(alpha, x.dtype) * (model.apply(w, x) - model.apply(params0, x))
            ends[dtype] = {"differences": model.difference(params0, state.u, x, e)[0], "plain": moved}
        exact = np.asarray(ends["float64"]["differences"])
        for way, goal, at_most in (("differences", most, True), ("plain", 1e-2 if alpha == 1e4 else None, False)):
            off = float(np.linalg.norm(np.asarray(ends["float32"][way], float) - exact) / np.linalg.norm(exact))
            rows.append(Ratio(f"{name}, alpha = {alpha:g}", f"float32 error, {way}", off, off, off, goal, at_most))
    return rows


def main(count: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    with jax.enable_x64(True):
        rows, numbers = cost(count, 5)
        rows += errors("softplus net", smooth_net(), 1e-5) + errors("ReLU net", small_net(), None)
        return conclude("differences", rows, numbers)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 32) > 0)
