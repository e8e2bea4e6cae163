"""The largest curvature of a loss in the outputs, n·∇²R: what a stable step rests on beside the tangent kernel.

At the start it may be far below what training meets: of k equal probabilities it is 1/k, on the way up to 1/2. Losses
of logits have a bound, whoever wrote them. The cross-entropy of row i with weight ω_i (any targets that sum to one:
labels, smoothed or soft ones) has n·∇²R = ω_i (diag p − p pᵀ) <= ω_i/2 (Böhning 1992), the logistic loss of an entry
ω σ(1 − σ) <= ω/4.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyscope.examples import Batch
from lazyscope.krylov import lanczos
from lazyscope.problems import Loss
from lazyscope.tangent import start_vector


@partial(jax.jit, static_argnums=0)
def curvature_at(loss: Loss, outputs: Float[Array, "n *out"], y: Batch, key: Key[Array, ""] | None) -> Float[Array, ""]:
    """The largest eigenvalue of n·∇²R at these outputs, by Lanczos, from below; with `key` its start is drawn."""
    gradient = jax.grad(lambda flat: outputs.shape[0] * loss(flat.reshape(outputs.shape), y))
    at = outputs.reshape(-1)
    _, product = jax.linearize(gradient, at)
    start = start_vector(at.size, at.dtype) if key is None else jax.random.normal(key, at.shape, at.dtype)
    # Block-diagonal over examples, so with a dense top of the spectrum: more products than the kernel needs.
    return jnp.max(lanczos(product, start, depth=60).values)


@partial(jax.jit, static_argnums=0)
def curvature_bound(loss: Loss, outputs: Float[Array, "n *out"], y: Batch) -> Float[Array, ""]:
    """The bound of n·∇²R over all outputs of this shape if the loss is one of logits, else inf.

    It is if weights ω that one point gives are those of the curvature at another. The softmax of tokens, outputs
    (n, t, k), is left out: with a large vocabulary such steps would lead nowhere.
    """
    gradient = jax.grad(lambda at: outputs.shape[0] * loss(at, y))
    wave = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype) ** 2)  # without an order, as `start_vector`
    points = ((wave, 2 + wave[::-1]), (2 * wave[::-1], 2 + wave))
    at, along = ([part.reshape(outputs.shape) for part in parts] for parts in zip(*points, strict=True))
    bends = [jax.jvp(gradient, (point,), (v,))[1] for point, v in zip(at, along, strict=True)]
    digits = jnp.sqrt(jnp.finfo(outputs.dtype).eps)

    def bound(curvature: Callable[[Array, Array], Array], axes: tuple[int, ...], most: float) -> Array:
        models = [curvature(point, v) for point, v in zip(at, along, strict=True)]
        total = partial(jnp.sum, axis=axes, keepdims=True)
        weights = total(along[0] * bends[0]) / total(along[0] * models[0])
        pairs = zip(bends, models, strict=True)
        same = [jnp.linalg.norm(b - weights * m) <= digits * jnp.linalg.norm(b) for b, m in pairs]
        largest = jnp.max(weights)
        positive = (largest > 0) & (jnp.min(weights) >= -digits * largest)
        return jnp.where(same[0] & same[1] & positive, most * largest, jnp.inf)

    bounds = [bound(_logistic, (), 1 / 4)]
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        bounds.append(bound(_softmax, (1,), 1 / 2))
    return jnp.min(jnp.stack(bounds))


def _logistic(at: Array, v: Array) -> Array:
    p = jax.nn.sigmoid(at)
    return p * (1 - p) * v


def _softmax(at: Array, v: Array) -> Array:
    p = jax.nn.softmax(at, axis=1)
    return p * (v - jnp.sum(p * v, axis=1, keepdims=True))
