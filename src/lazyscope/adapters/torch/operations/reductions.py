"""Reductions over axes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import along, norm_of_square


def _axes(dim: Any) -> Any:
    return None if dim is None or dim == [] else tuple(dim) if isinstance(dim, Sequence) else dim


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, dim=None, keepdim=False: function(x, axis=_axes(dim), keepdims=keepdim)


def _var(x: Array, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def _extremum(reduce: Callable[..., Array], choose: Callable[..., Array]) -> Callable[..., Array | tuple[Array, Array]]:
    def function(x: Array, dim: int | None = None, keepdim: bool = False) -> Array | tuple[Array, Array]:
        if dim is None:
            return reduce(x)
        index = choose(x, axis=dim, keepdims=True)  # one index takes the whole derivative, also on a tie
        value = jnp.take_along_axis(x, index, axis=dim)
        return (value, index) if keepdim else (jnp.squeeze(value, dim), jnp.squeeze(index, dim))

    return function


def _cumsum(x: Array, dim: int) -> Array:
    # As a product: on CPU, XLA compiles the derivative of one entry of jnp.cumsum wrongly (jax 0.10).
    x = x.astype(int) if x.dtype == bool else x
    return along(x, dim % x.ndim, np.triu(np.ones((x.shape[dim], x.shape[dim]))))


def _vector_norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> Array:  # noqa: A002
    if ord == 2:
        return norm_of_square(_square_norm(x, dim, keepdim))
    if ord == 1:
        return jnp.sum(x * jnp.sign(x), axis=_axes(dim), keepdims=keepdim)  # derivative 0 at 0
    raise ValueError(f"from_torch knows vector norms of order 1 and 2, got {ord}: write it out")


def _square_norm(x: Array, dim: Any, keepdim: bool) -> Array:
    return jnp.sum(x * x, axis=_axes(dim), keepdims=keepdim)


def _std(x: Array, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    return norm_of_square(_var(x, dim, correction, keepdim))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "all": _reduction(jnp.all),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "any": _reduction(jnp.any),
    "argmax": _reduction(jnp.argmax),
    "argmin": _reduction(jnp.argmin),
    "cumsum": _cumsum,
    "linalg_vector_norm": _vector_norm,
    "linalg_vector_norm.squared": lambda x, _=2, dim=None, keepdim=False: _square_norm(x, dim, keepdim),
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
