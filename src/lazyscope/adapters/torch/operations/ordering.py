"""Sorting, choosing by rank, and finding places in sorted arrays.

Values are taken at an index that is a constant, so that each derivative goes to one entry, on ties too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import vector


def _order(x: Array, dim: int, descending: bool) -> Array:
    return jnp.argsort(jax.lax.stop_gradient(x), axis=dim, descending=descending, stable=True)


def _sort(x: Array, dim: int = -1, descending: bool = False, *, stable: Any = None) -> tuple[Array, Array]:  # noqa: ARG001
    index = _order(vector(x), dim, descending)
    return jnp.take_along_axis(vector(x), index, dim).reshape(x.shape), index.reshape(x.shape)


def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:  # noqa: A002, ARG001
    shape, x = x.shape, vector(x)
    index = jax.lax.slice_in_dim(_order(x, dim, largest), 0, k, axis=dim % x.ndim)
    value = jnp.take_along_axis(x, index, dim)
    return (value, index) if shape else (value.reshape(()), index.reshape(()))


def _ranked(x: Array, rank: Any, dim: int, keepdim: bool) -> tuple[Array, Array]:
    """The entry of a rank, counted from 0, along an axis."""
    shape, x = x.shape, vector(x)
    index = jnp.take_along_axis(_order(x, dim, False), jnp.broadcast_to(rank, _without(x, dim)), dim)
    return _kept(jnp.take_along_axis(x, index, dim), index, dim, keepdim or not shape, shape)


def _without(x: Array, dim: int) -> tuple[int, ...]:
    return tuple(1 if axis == dim % x.ndim else size for axis, size in enumerate(x.shape))


def _kept(value: Array, index: Array, dim: int, keepdim: bool, shape: tuple[int, ...]) -> tuple[Array, Array]:
    if not shape:
        return value.reshape(()), index.reshape(())
    return (value, index) if keepdim else (jnp.squeeze(value, dim), jnp.squeeze(index, dim))


def _kthvalue(x: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    return _ranked(x, k - 1, dim, keepdim)


def _median(x: Array, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of two in the middle; NaN, sorted last, wins."""
    flat = x.reshape(-1) if dim is None else vector(x)
    axis = 0 if dim is None else dim
    first = jnp.argmax(jnp.isnan(flat), axis=axis, keepdims=True)
    middle = jnp.full(_without(flat, axis), (flat.shape[axis] - 1) // 2)
    some = jnp.any(jnp.isnan(flat), axis=axis, keepdims=True)
    index = jnp.where(some, first, jnp.take_along_axis(_order(flat, axis, False), middle, axis))
    value = jnp.take_along_axis(flat, index, axis)
    return value.reshape(()) if dim is None else _kept(value, index, dim, keepdim, x.shape)


def _nanmedian(x: Array, dim: int | None = None, keepdim: bool = False) -> Any:
    flat = x.reshape(-1) if dim is None else vector(x)
    axis = 0 if dim is None else dim
    numbers = jnp.sum(~jnp.isnan(flat), axis=axis, keepdims=True)
    value, index = _ranked(flat, jnp.maximum(numbers - 1, 0) // 2, axis, True)
    return value.reshape(()) if dim is None else _kept(value, index, dim, keepdim, x.shape)


def _running(better: Callable[[Array, Array], Array]) -> Callable[[Array, int], tuple[Array, Array]]:
    """The extremum so far and its last index."""

    def function(x: Array, dim: int) -> tuple[Array, Array]:
        flat = jax.lax.stop_gradient(vector(x))
        axis = dim % flat.ndim
        own = jnp.broadcast_to(jnp.expand_dims(jnp.arange(flat.shape[axis]), range(1, flat.ndim - axis)), flat.shape)

        def later(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            takes = (
                (better(b[0], a[0]) | jnp.isnan(b[0]))
                if jnp.issubdtype(flat.dtype, jnp.inexact)
                else better(b[0], a[0])
            )
            takes = takes & ~(jnp.isnan(a[0]) & ~jnp.isnan(b[0]))
            return jnp.where(takes, b[0], a[0]), jnp.where(takes, b[1], a[1])

        index = jax.lax.associative_scan(later, (flat, own), axis=axis)[1]
        return jnp.take_along_axis(vector(x), index, axis).reshape(x.shape), index.reshape(x.shape)

    return function


def _searchsorted(
    edges: Array, x: Any, *, right: bool = False, side: str | None = None, sorter: Any = None, **_: Any
) -> Array:
    edges = edges if sorter is None else jnp.take_along_axis(edges, sorter, -1)
    before = jnp.less_equal if right or side == "right" else jnp.less
    numbers = jnp.asarray(x)
    if edges.ndim == 1 or not numbers.ndim:  # one row of edges for all
        return jnp.sum(before(edges, numbers[..., None]), -1)
    return jnp.sum(before(edges[..., None, :], numbers[..., None]), -1)


def _histogram(x: Array, bins: int = 100, low: Any = 0, high: Any = 0) -> Array:
    x = x.reshape(-1)
    low, high = (jnp.min(x), jnp.max(x)) if low == high and x.size else (low, high)
    same = low == high
    low, high = jnp.where(same, low - 1, low), jnp.where(same, high + 1, high)
    place = jnp.floor((x - low) / (high - low) * bins).astype(int)
    place = jnp.where(x == high, bins - 1, place)
    inside = (x >= low) & (x <= high)
    return jnp.sum(inside & (place == jnp.arange(bins)[:, None]), -1)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "bucketize": lambda x, edges, **how: _searchsorted(edges, x, **how),
    "cummax": _running(jnp.greater_equal),
    "cummin": _running(jnp.less_equal),
    "histc": _histogram,
    "kthvalue": _kthvalue,
    "median": _median,
    "nanmedian": _nanmedian,
    "searchsorted": _searchsorted,
    "sort": _sort,
    "topk": _topk,
}
