"""Shapes, indices and new arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import at, vector


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
    return x[at(x, dim, slice(start, end, step))]


def _split(x: Array, sizes: Sequence[int], dim: int = 0) -> list[Array]:
    return jnp.split(x, np.cumsum(sizes)[:-1], axis=dim)


def _pad(x: Array, widths: Sequence[int], value: Any = 0) -> Array:
    pairs = [(low, high, 0) for low, high in zip(widths[::2], widths[1::2], strict=True)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])


def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:  # noqa: ARG001
    if not index.size:  # of any number of axes
        return jnp.zeros(index.shape, x.dtype)
    shape, x, index = index.shape, vector(x), vector(index)
    dim = dim % x.ndim
    within = tuple(slice(None) if axis == dim else slice(size) for axis, size in enumerate(index.shape))
    return jnp.take_along_axis(x[within], index, axis=dim).reshape(shape)


def _index_select(x: Array, dim: int, index: Array) -> Array:
    taken = jnp.take(vector(x), index, axis=dim)
    return taken if x.ndim else taken.reshape(())


def _embedding(weight: Array, index: Array, padding_idx: int = -1, *_: Any) -> Array:
    rows = jnp.take(weight, index, axis=0)  # an index outside the table gives NaN
    return jnp.where((index == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _embedding_bag(
    weight: Array,
    index: Array,
    offsets: Array,
    scale_grad_by_freq: bool = False,  # noqa: ARG001
    mode: int = 0,
    sparse: bool = False,  # noqa: ARG001
    weights: Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Array, ...]:
    """Rows of the table summed (mode 0), averaged (1) or their largest taken (2) from each offset to the next."""
    offsets = offsets[:-1] if include_last_offset else offsets
    places = jnp.arange(index.shape[0])
    bag = jnp.sum(offsets <= places[:, None], -1) - 1
    member = (bag == jnp.arange(offsets.shape[0])[:, None]) & (index != padding_idx)
    rows = jnp.take(weight, index, axis=0)
    if mode == 2:
        chosen = jnp.where(member[..., None], rows, -jnp.inf)
        largest = jnp.argmax(jax.lax.stop_gradient(chosen), 1)
        value = jnp.where(jnp.any(member, 1)[:, None], jnp.take_along_axis(rows, largest, 0), 0)
        return value, bag, jnp.sum(member, 1), largest
    share = member.astype(weight.dtype)
    total = share @ (rows if weights is None else rows * weights[:, None])
    number = jnp.sum(member, 1)
    value = total / jnp.where(number == 0, 1, number)[:, None] if mode == 1 else total
    return value, bag, number, number


def _diagonal(x: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    return jnp.diagonal(x, offset, dim1, dim2)


def _unfold(x: Array, dim: int, size: int, step: int) -> Array:
    places = np.arange(0, vector(x).shape[dim] - size + 1, step)[:, None] + np.arange(size)
    if not x.ndim:
        return x.reshape(-1)[:size]
    return jnp.moveaxis(jnp.take(x, places, axis=dim % x.ndim), dim % x.ndim + 1, -1)


def _col2im(x: Array, sizes: Sequence[int], kernel: Any, dilation: Any, padding: Any, stride: Any) -> Array:
    """Overlapping patches (n, channels·patch, places) added up to an image: `unfold` transposed."""
    places = [
        np.arange(0, size + 2 * p - d * (k - 1), s)[:, None] + d * np.arange(k)
        for size, k, d, p, s in zip(sizes, kernel, dilation, padding, stride, strict=True)
    ]
    rows = places[0].T[:, None, :, None]  # (patch rows, 1, places, 1)
    columns = places[1].T[None, :, None, :]
    lead, channels = x.shape[:-2], x.shape[-2] // int(np.prod(kernel))
    patches = x.reshape(*lead, channels, *kernel, places[0].shape[0], places[1].shape[0])
    padded = jnp.zeros((*lead, channels, *(n + 2 * p for n, p in zip(sizes, padding, strict=True))), x.dtype)
    padded = padded.at[..., rows, columns].add(patches)
    return padded[..., padding[0] : padding[0] + sizes[0], padding[1] : padding[1] + sizes[1]]


def _taken(x: Array, places: np.ndarray) -> Array:
    """The entries at places of the flattened array, to which tracing turns strides."""
    return jnp.take(x.reshape(-1), places)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag,
    "alias": _same,
    "as_strided": _taken,
    "cat": _cat,
    "clone": _same,
    "col2im": _col2im,
    "constant_pad_nd": _pad,
    "copy": lambda old, new: jnp.broadcast_to(new, old.shape),
    "detach": jax.lax.stop_gradient,
    "diagonal": _diagonal,
    "embedding": _embedding,
    "expand": _expand,
    "flip": jnp.flip,
    "gather": _gather,
    "index": _index,
    "index_select": _index_select,
    "lift_fresh_copy": _same,
    "permute": jnp.transpose,
    "repeat": jnp.tile,
    "select": lambda x, dim, index: x[at(x, dim, index)],
    "slice": _slice,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "narrow_copy": lambda x, dim, start, length: _slice(x, dim, start, start + length),
    "permute_copy": jnp.transpose,
    "unfold": _unfold,
    "unsqueeze": jnp.expand_dims,
    "view": jnp.reshape,
    "view_copy": jnp.reshape,
    "_to_copy": _same,
    "arange": jnp.arange,
    "empty": jnp.zeros,
    "empty_permuted": lambda sizes, *_: jnp.zeros(sizes),
    "empty_strided": lambda sizes, *_: jnp.zeros(sizes),
    "fill": lambda x, value: jnp.broadcast_to(value, x.shape),
    "full": jnp.full,
    "full_like": jnp.full_like,
    "scalar_tensor": jnp.asarray,
    "tril_indices": lambda rows, columns, offset=0: jnp.asarray(np.tril_indices(rows, offset, columns)),
    "triu_indices": lambda rows, columns, offset=0: jnp.asarray(np.triu_indices(rows, offset, columns)),
    "new_empty_strided": lambda _, sizes, *__: jnp.zeros(sizes),
}
