"""Shapes, indices and new arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _at(x: Array, dim: int, index: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % x.ndim) + (index,)


def _cat(parts: Sequence[Array], dim: int = 0) -> Array:
    # PyTorch passes over an empty vector among arrays of any rank: a cache that is not filled yet.
    return jnp.concatenate([part for part in parts if part.shape != (0,)] or parts, axis=dim)


def _expand(x: Array, sizes: Sequence[int], implicit: bool = False) -> Array:  # noqa: ARG001
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [old if new == -1 else new for old, new in zip(own, sizes, strict=True)])


def _squeeze(x: Array, dim: Any = None) -> Array:
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, Sequence) else [dim]
    return jnp.squeeze(x, tuple(d % x.ndim for d in dims if x.ndim and x.shape[d] == 1))


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    return x[_at(x, dim, slice(start, end, step))]


def _split(x: Array, sizes: Any, dim: int = 0) -> list[Array]:
    if isinstance(sizes, int):
        return jnp.split(x, range(sizes, x.shape[dim], sizes), axis=dim)
    return jnp.split(x, np.cumsum(sizes)[:-1], axis=dim)


def _pad(x: Array, widths: Sequence[int], value: Any = 0) -> Array:
    pairs = [(low, high, 0) for low, high in zip(widths[::2], widths[1::2], strict=True)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])


def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:  # noqa: ARG001
    dim = dim % x.ndim
    within = tuple(slice(None) if axis == dim else slice(size) for axis, size in enumerate(index.shape))
    return jnp.take_along_axis(x[within], index, axis=dim)


def _embedding(weight: Array, index: Array, padding_idx: int = -1, *_: Any) -> Array:
    rows = jnp.take(weight, index, axis=0)  # an index outside the table gives NaN
    return jnp.where((index == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_unsafe_index": _index,
    "_unsafe_view": jnp.reshape,
    "alias": _same,
    "cat": _cat,
    "clone": _same,
    "constant_pad_nd": _pad,
    "copy": lambda old, new: jnp.broadcast_to(new, old.shape),
    "detach": jax.lax.stop_gradient,
    "embedding": _embedding,
    "expand": _expand,
    "flip": jnp.flip,
    "gather": _gather,
    "index": _index,
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "lift_fresh_copy": _same,
    "permute": jnp.transpose,
    "repeat": jnp.tile,
    "select": lambda x, dim, index: x[_at(x, dim, index)],
    "select_scatter": lambda x, new, dim, index: x.at[_at(x, dim, index)].set(new),
    "slice": _slice,
    "slice_scatter": lambda x, new, dim=0, start=None, end=None, step=1: x.at[_at(x, dim, slice(start, end, step))].set(
        new
    ),
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "tril": jnp.tril,
    "triu": jnp.triu,
    "unsqueeze": jnp.expand_dims,
    "view": jnp.reshape,
    "_to_copy": _same,
    "arange": jnp.arange,
    "empty": jnp.zeros,
    "full": jnp.full,
    "full_like": jnp.full_like,
    "ones": jnp.ones,
    "ones_like": jnp.ones_like,
    "scalar_tensor": jnp.asarray,
    "zeros": jnp.zeros,
    "zeros_like": jnp.zeros_like,
}
