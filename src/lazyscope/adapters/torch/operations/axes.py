"""What operations of several kinds do to axes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def spread(value: Any, n: int) -> list[int]:
    """One entry per axis, from one for all axes or one each."""
    values = list(value)
    return values * n if len(values) == 1 else values


def vector(x: Array) -> Array:
    """One number as a vector of one: PyTorch takes axis 0 of it."""
    return x.reshape(1) if x.ndim == 0 else x


def at(x: Array, dim: int, index: Any) -> tuple[Any, ...]:
    """The index into all axes that is `index` at one and takes the others whole."""
    return (slice(None),) * (dim % x.ndim) + (index,)


def norm_of_square(square: Array) -> Array:
    """The square root with derivative 0 at 0, PyTorch's for norms and standard deviations."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def square(x: Array) -> Array:
    """|x|²."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


def size(x: Array) -> Array:
    """|x| with derivative 0 at 0."""
    return norm_of_square(square(x)) if jnp.iscomplexobj(x) else x * jnp.sign(x)


def norm(x: Array, order: float, axis: Any, keepdims: bool = False) -> Array:
    """The norm of vectors along axes, with derivative 0 where it is 0."""
    if order == 2:
        return norm_of_square(jnp.sum(square(x), axis, keepdims=keepdims))
    if order == 1:
        return jnp.sum(size(x), axis, keepdims=keepdims)
    if order == 0:
        return jnp.sum(x != 0, axis, keepdims=keepdims).astype(x.real.dtype)
    if np.isinf(order):
        return (jnp.max if order > 0 else jnp.min)(size(x), axis, keepdims=keepdims)
    zero = x == 0
    powers = jnp.where(zero, 0 if order > 0 else jnp.inf, jnp.where(zero, 1, size(x)) ** order)
    total = jnp.sum(powers, axis, keepdims=keepdims)
    none = (total == 0) | jnp.isinf(total)
    return jnp.where(none, 0, jnp.where(none, 1, total) ** (1 / order))


def along(x: Array, axis: int, matrix: np.ndarray) -> Array:
    """The product of `x` with a constant matrix along one axis."""
    return jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ jnp.asarray(matrix, x.dtype), -1, axis)


def channels(v: Array, ndim: int) -> Array:
    """One value per channel, in the shape that meets the second of `ndim` axes."""
    return v.reshape((1, -1) + (1,) * (ndim - 2))
