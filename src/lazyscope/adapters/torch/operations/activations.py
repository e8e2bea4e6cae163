"""Activations, smooth ones right at every order.

At kinks the derivatives are PyTorch's. The branch that is not taken must stay finite, or its derivative 0·inf is NaN.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import vector


def _hardtanh(x: Array, low: Any = -1.0, high: Any = 1.0) -> Array:
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))  # derivative 0 at the bounds


def _softplus(x: Array, beta: Any = 1.0, threshold: Any = 20.0) -> Array:
    linear = beta * x > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, 0, beta * x))) / beta)


def _elu(x: Array, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Array:
    left = x < 0  # at 0 a line of the slope from the left
    line = jnp.where(x > 0, x, alpha * input_scale * x)
    return scale * jnp.where(left, alpha * jnp.expm1(input_scale * jnp.where(left, x, 0)), line)


def _hardsigmoid(x: Array) -> Array:
    return _hardtanh(x + 3, 0.0, 6.0) / 6


def _hardswish(x: Array) -> Array:
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, x, x * (x + 3) / 6))


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _safe_softmax(x: Array, dim: int, dtype: Any = None) -> Array:  # noqa: ARG001
    """Softmax whose rows of −inf alone, which attention makes of a query without a key, are 0."""
    none = jnp.all(x == -jnp.inf, axis=dim, keepdims=True)
    return jnp.where(none, 0, jax.nn.softmax(jnp.where(none, 0, x), axis=dim))


def _along(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function along an axis, of one number too."""
    return lambda x, dim, *_: function(vector(x), axis=dim).reshape(x.shape)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_log_softmax": _along(jax.nn.log_softmax),
    "_safe_softmax": _safe_softmax,
    "_softmax": _along(jax.nn.softmax),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
    "elu": _elu,
    "gelu": _gelu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "hardtanh": _hardtanh,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "log_sigmoid": lambda x: -jnp.logaddexp(-x, jnp.zeros_like(x)),
    "mish": lambda x: x * jnp.tanh(_softplus(x)),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": _softplus,
}
