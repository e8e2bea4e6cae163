"""Losses of one entry, smooth where PyTorch's are: no absolute value inside the smooth part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _reduced(values: Array, reduction: int) -> Array:
    """PyTorch's codes: 0 for all values, 1 for their mean, 2 for their sum."""
    return values if reduction == 0 else jnp.mean(values) if reduction == 1 else jnp.sum(values)


def _huber(x: Array, target: Array, reduction: int = 1, delta: float = 1.0) -> Array:
    error = x - target
    size = error * jnp.sign(error)
    return _reduced(jnp.where(size < delta, 0.5 * error * error, delta * (size - 0.5 * delta)), reduction)


def _smooth_l1(x: Array, target: Array, reduction: int = 1, beta: float = 1.0) -> Array:
    if beta == 0:
        return _reduced((x - target) * jnp.sign(x - target), reduction)
    return _huber(x, target, reduction, beta) / beta


@jax.custom_jvp
def _entropy(x: Array, target: Array) -> Array:
    return (target - 1) * _cut_log(1 - x) - target * _cut_log(x)


@_entropy.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, target), (dx, dtarget) = primals, tangents
    slope = (x - target) / jnp.maximum(x * (1 - x), 1e-12)  # PyTorch's at probabilities that have saturated
    return _entropy(x, target), dx * slope + dtarget * (_cut_log(1 - x) - _cut_log(x))


def _cut_log(x: Array) -> Array:
    tiny = x <= np.exp(-100)
    return jnp.where(tiny, -100, jnp.log(jnp.where(tiny, 1, x)))


def _binary_cross_entropy(x: Array, target: Array, weight: Array | None = None, reduction: int = 1) -> Array:
    values = _entropy(x, jnp.asarray(target, x.dtype))
    return _reduced(values if weight is None else weight * values, reduction)


def _binary_cross_entropy_with_logits(
    x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None, reduction: int = 1
) -> Array:
    positive = target if pos_weight is None else pos_weight * target
    values = (1 - target) * jax.nn.softplus(x) + positive * jax.nn.softplus(-x)
    return _reduced(values if weight is None else weight * values, reduction)


def _soft_margin(x: Array, target: Array, reduction: int = 1) -> Array:
    return _reduced(jax.nn.softplus(-target * x), reduction)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
    "huber_loss": _huber,
    "smooth_l1_loss": _smooth_l1,
    "soft_margin_loss": _soft_margin,
}
