"""Activations: the branch that is not taken must stay finite, or its derivative 0·inf is NaN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def _hardtanh(x: Array, low: Any = -1.0, high: Any = 1.0) -> Array:
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))  # derivative 0 at the bounds


def _softplus(x: Array, beta: Any = 1.0, threshold: Any = 20.0) -> Array:
    linear = beta * x > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, 0, beta * x))) / beta)


def _elu(x: Array, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x)))


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_log_softmax": lambda x, dim, _: jax.nn.log_softmax(x, axis=dim),
    "_softmax": lambda x, dim, _: jax.nn.softmax(x, axis=dim),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
    "elu": _elu,
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "mish": lambda x: x * jnp.tanh(_softplus(x)),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": _softplus,
}
