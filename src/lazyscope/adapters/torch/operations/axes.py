"""What operations of several kinds do to axes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def spread(value: Any, n: int) -> list[int]:
    """One entry per axis, from one for all axes or one each."""
    values = list(value)
    return values * n if len(values) == 1 else values


def norm_of_square(square: Array) -> Array:
    """The square root with derivative 0 at 0, PyTorch's for norms and standard deviations."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def along(x: Array, axis: int, matrix: np.ndarray) -> Array:
    """The product of `x` with a constant matrix along one axis."""
    return jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ jnp.asarray(matrix, x.dtype), -1, axis)


def channels(v: Array, ndim: int) -> Array:
    """One value per channel, in the shape that meets the second of `ndim` axes."""
    return v.reshape((1, -1) + (1,) * (ndim - 2))
