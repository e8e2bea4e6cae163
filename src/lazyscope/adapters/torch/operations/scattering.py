"""Writing into entries: at indices, under masks, on diagonals."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import at, vector


def _index_put(x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    masks = [index for index in indices if index is not None and index.dtype == bool]
    if not masks:
        where = tuple(slice(None) if index is None else index for index in indices)
        return x.at[where].add(values) if accumulate else x.at[where].set(values)
    values = values.reshape(()) if values.size == 1 else values
    places = [place for place, index in enumerate(indices) if index is not None]
    if len(places) > 1 or values.ndim > x.ndim - places[0] - masks[0].ndim:
        raise ValueError(
            "from_torch needs shapes that do not depend on values, got as many values as a mask has entries: "
            "use torch.where"
        )
    mask = masks[0].reshape(masks[0].shape + (1,) * (x.ndim - places[0] - masks[0].ndim))
    return jnp.where(mask, x + values if accumulate else values, x)


def _grid(x: Array, dim: int, index: Array) -> tuple[Array, ...]:
    """Where each entry of an index into one axis points to, as indices into all."""
    places = [np.arange(n).reshape([-1 if a == b else 1 for b in range(x.ndim)]) for a, n in enumerate(index.shape)]
    return tuple(index if axis == dim else jnp.asarray(place) for axis, place in enumerate(places))


def _within(values: Any, index: Array) -> Any:
    """The part of the values that an index of the same rank reads; one number as it is."""
    return values[tuple(map(slice, index.shape))] if jnp.ndim(values) == index.ndim and index.ndim else values


def _scatter(x: Array, dim: int, index: Array, values: Any, reduce: str | None = None) -> Array:
    if reduce is not None:
        kind = {"add": "sum", "multiply": "prod"}[reduce]
        return _scatter_reduce(x, dim, index, jnp.broadcast_to(_within(values, index), index.shape), kind)
    shape, (x, index, values) = x.shape, (vector(x), vector(index), values)
    return x.at[_grid(x, dim % x.ndim, index)].set(_within(values, index)).reshape(shape)


def _scatter_add(x: Array, dim: int, index: Array, values: Array) -> Array:
    shape, x, index, values = x.shape, vector(x), vector(index), vector(values)
    return x.at[_grid(x, dim % x.ndim, index)].add(_within(values, index)).reshape(shape)


def _scatter_reduce(
    x: Array, dim: int, index: Array, values: Array, reduce: str, *, include_self: bool = True
) -> Array:
    """The entries that point to a place reduced with what is there; one pass over all pairs along the axis."""
    shape, x, index, values = x.shape, vector(x), vector(index), vector(values)
    if not index.size:
        return x.reshape(shape)
    dim = dim % x.ndim
    # Axis `dim` last, other axes as long as those of x: what lies outside the index points nowhere.
    beyond = [
        (0, n - m) if axis != dim else (0, 0) for axis, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))
    ]
    pointer = jnp.moveaxis(jnp.pad(index, beyond, constant_values=-1), dim, -1)
    source = jnp.moveaxis(jnp.pad(_within(values, index), beyond), dim, -1)
    old = jnp.moveaxis(x, dim, -1)
    new = _reduced_by_place(old, pointer, source, reduce, include_self)
    return jnp.moveaxis(new, -1, dim).reshape(shape)


def _reduced_by_place(old: Array, pointer: Array, source: Array, reduce: str, include_self: bool) -> Array:
    arrives = pointer[..., None, :] == jnp.arange(old.shape[-1])[:, None]
    count = jnp.sum(arrives, -1)
    own = include_self | (count == 0)
    if reduce in ("sum", "mean"):
        total = jnp.sum(jnp.where(arrives, source[..., None, :], 0), -1) + jnp.where(own, old, 0)
        if reduce == "sum":
            return total
        number = jnp.where(count == 0, 1, count + include_self)
        return total / number if jnp.issubdtype(old.dtype, jnp.inexact) else jnp.floor_divide(total, number)
    low, high = _bounds(old.dtype)
    neutral, function = {"prod": (1, jnp.prod), "amax": (low, jnp.max), "amin": (high, jnp.min)}[reduce]
    every = jnp.concatenate(
        [jnp.where(own, old, neutral)[..., None], jnp.where(arrives, source[..., None, :], neutral)], -1
    )
    return function(every, -1)


def _bounds(dtype: Any) -> tuple[Any, Any]:
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf, jnp.inf
    return (False, True) if dtype == np.bool_ else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)


def _index_reduce(x: Array, dim: int, index: Array, source: Array, reduce: str, *, include_self: bool = True) -> Array:
    shape, x, source, dim = x.shape, vector(x), vector(source), dim % max(x.ndim, 1)
    index = vector(index).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    index = jnp.broadcast_to(index, source.shape)
    return _scatter_reduce(x, dim, index, source, reduce, include_self=include_self).reshape(shape)


def _put(x: Array, index: Array, source: Array, accumulate: bool = False) -> Array:
    flat = x.reshape(-1).at[index.reshape(-1)]
    return (flat.add if accumulate else flat.set)(source.reshape(-1)).reshape(x.shape)


def _masked_scatter(x: Array, mask: Array, source: Array) -> Array:
    """The entries of the source in turn, where the mask is true."""
    shape = jnp.broadcast_shapes(x.shape, mask.shape)
    x, mask = jnp.broadcast_to(x, shape), jnp.broadcast_to(mask, shape)
    if not x.size or not source.size:
        return x
    turn = jnp.cumsum(mask.reshape(-1)).reshape(shape) - 1
    return jnp.where(mask, source.reshape(-1)[jnp.clip(turn, 0, source.size - 1)], x)


def _on_diagonal(x: Array, offset: int, dim1: int, dim2: int) -> tuple[Any, ...]:
    rows, columns = x.shape[dim1], x.shape[dim2]
    i = np.arange(max(min(rows + min(offset, 0), columns - max(offset, 0)), 0))
    places: list[Any] = [slice(None)] * x.ndim
    places[dim1], places[dim2] = i - min(offset, 0), i + max(offset, 0)
    return tuple(places)


def _diagonal_scatter(x: Array, source: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    last = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    new = last.at[_on_diagonal(last, offset, -2, -1)].set(source)
    return jnp.moveaxis(new, (-2, -1), (dim1, dim2))


def _slice_scatter(x: Array, new: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    return x.at[at(x, dim, slice(start, end, step))].set(new)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "diagonal_scatter": _diagonal_scatter,
    "index_put": _index_put,
    "index_reduce": _index_reduce,
    "masked_scatter": _masked_scatter,
    "put": _put,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "scatter_reduce": _scatter_reduce,
    "select_scatter": lambda x, new, dim, index: x.at[at(x, dim, index)].set(new),
    "slice_scatter": _slice_scatter,
}
