"""Reductions over axes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import along, norm, norm_of_square, square, vector


def _axes(dim: Any) -> Any:
    return None if dim is None or dim == [] else tuple(dim) if isinstance(dim, Sequence) else dim


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    # Of one number there is axis 0, too.
    return lambda x, dim=None, keepdim=False: function(x, axis=_axes(dim) if x.ndim else None, keepdims=keepdim)


def _var(x: Array, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def _extremum(reduce: Callable[..., Array], choose: Callable[..., Array]) -> Callable[..., Array | tuple[Array, Array]]:
    def function(x: Array, dim: int | None = None, keepdim: bool = False) -> Array | tuple[Array, Array]:
        if dim is None:
            return reduce(x)
        if not x.ndim:
            return x, jnp.zeros((), int)
        index = choose(x, axis=dim, keepdims=True)  # one index takes the whole derivative, also on a tie
        value = jnp.take_along_axis(x, index, axis=dim)
        return (value, index) if keepdim else (jnp.squeeze(value, dim), jnp.squeeze(index, dim))

    return function


def _cumsum(x: Array, dim: int) -> Array:
    # As a product: on CPU, XLA compiles the derivative of one entry of jnp.cumsum wrongly (jax 0.10).
    x, shape = vector(x.astype(int) if x.dtype == bool else x), x.shape
    return along(x, dim % x.ndim, np.triu(np.ones((x.shape[dim], x.shape[dim])))).reshape(shape)


def _cumprod(x: Array, dim: int) -> Array:
    return jax.lax.associative_scan(jnp.multiply, vector(x), axis=dim % max(x.ndim, 1)).reshape(x.shape)


def _logcumsumexp(x: Array, dim: int) -> Array:
    return jax.lax.associative_scan(jnp.logaddexp, vector(x), axis=dim % max(x.ndim, 1)).reshape(x.shape)


def _vector_norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> Array:  # noqa: A002
    return norm(x, ord, _axes(dim) if x.ndim else None, keepdim)


def _square_norm(x: Array, dim: Any, keepdim: bool) -> Array:
    return jnp.sum(square(x), axis=_axes(dim) if x.ndim else None, keepdims=keepdim)


def _std(x: Array, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    return norm_of_square(_var(x, dim, correction, keepdim))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "any": _reduction(jnp.any),
    "argmax": _reduction(jnp.argmax),
    "argmin": _reduction(jnp.argmin),
    "cumprod": _cumprod,
    "cumsum": _cumsum,
    "linalg_vector_norm": _vector_norm,
    "linalg_vector_norm.squared": lambda x, _=2, dim=None, keepdim=False: _square_norm(x, dim, keepdim),
    "logcumsumexp": _logcumsumexp,
    "logsumexp": _reduction(jax.nn.logsumexp),
    "max": _extremum(jnp.max, jnp.argmax),
    "mean": _reduction(jnp.mean),
    "min": _extremum(jnp.min, jnp.argmin),
    "prod": _reduction(jnp.prod),
    "std": _std,
    "std.squared": _var,
    "std_mean": lambda x, dim=None, correction=None, keepdim=False: (
        _std(x, dim, correction, keepdim),
        jnp.mean(x, _axes(dim), keepdims=keepdim),
    ),
    "sum": _reduction(jnp.sum),
    "var": _var,
    "var_mean": lambda x, dim=None, correction=None, keepdim=False: (
        _var(x, dim, correction, keepdim),
        jnp.mean(x, _axes(dim), keepdims=keepdim),
    ),
}
