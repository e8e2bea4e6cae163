"""Convolutions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import channels, spread

_LARGEST = 2**20  # entries of a matrix that says where the windows are


class _Window(NamedTuple):
    """How a kernel goes along an axis.

    In steps of `stride`, its entries `dilation` apart, over an input with `inside` places from one entry to the next
    and so many zeros before and after it; `after` may be negative.
    """

    stride: int
    dilation: int
    inside: int
    before: int
    after: int


def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Array:
    n = x.ndim - 2
    stride, padding, dilation, extra = (spread(v, n) for v in (stride, padding, dilation, output_padding))
    if not transposed:
        windows = [_Window(s, d, 1, p, p) for s, d, p in zip(stride, dilation, padding, strict=True)]
    else:  # the transpose of a strided convolution: the input spread out, the kernel reversed
        inputs, outputs, *kernel = weight.shape
        weight = jnp.flip(weight, range(2, 2 + n)).reshape(groups, inputs // groups, outputs, *kernel)
        weight = jnp.swapaxes(weight, 1, 2).reshape(groups * outputs, inputs // groups, *kernel)
        reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        each = zip(dilation, stride, reach, extra, strict=True)
        windows = [_Window(1, d, s, r, r + e) for d, s, r, e in each]
    # In float64 and on a CPU XLA makes loops of convolutions, up to a thousand times slower than products.
    by_products = x.dtype == jnp.float64 and jax.default_backend() == "cpu"
    y = (_by_products if by_products else _convolved)(x, weight, windows, groups)
    return y if bias is None else y + channels(bias, x.ndim)


def _convolved(x: Array, weight: Array, windows: Sequence[_Window], groups: int) -> Array:
    spatial = "DHW"[-len(windows) :]
    return jax.lax.conv_general_dilated(
        x,
        weight,
        [window.stride for window in windows],
        [(window.before, window.after) for window in windows],
        lhs_dilation=[window.inside for window in windows],
        rhs_dilation=[window.dilation for window in windows],
        feature_group_count=groups,
        dimension_numbers=("NC" + spatial, "OI" + spatial, "NC" + spatial),
    )


def _by_products(x: Array, weight: Array, windows: Sequence[_Window], groups: int) -> Array:
    """The entries under each window by products with constant matrices, axis by axis, then those with the weights."""
    n, (outputs, inputs, *kernel) = x.shape[0], weight.shape
    for size, window in zip(kernel, windows, strict=True):
        x = _under(x, size, window)  # the axis goes, and two come at the end
    places = x.shape[3::2]
    x = x.reshape(n, groups, inputs, *x.shape[2:])
    weight = weight.reshape(groups, outputs // groups, inputs, *kernel)
    i, p = "ijk"[: len(kernel)], "pqr"[: len(kernel)]
    under = "".join(map("".join, zip(i, p, strict=True)))
    return jnp.einsum(f"ngc{under},goc{i}->ngo{p}", x, weight).reshape(n, outputs, *places)


def _under(x: Array, kernel: int, window: _Window) -> Array:
    """The entries along axis 2 that lie under each place of a kernel: (…, kernel, places) at the end."""
    length = x.shape[2]
    room = window.before + (length - 1) * window.inside + 1 + window.after - window.dilation * (kernel - 1)
    places = max(-(-room // window.stride), 0)
    at = window.stride * np.arange(places) + window.dilation * np.arange(kernel)[:, None] - window.before
    if length * at.size <= _LARGEST:
        matrix = at == window.inside * np.arange(length)[:, None, None]
        return jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((2,), (0,)))
    known = (at >= 0) & (at % window.inside == 0) & (at < length * window.inside)
    taken = jnp.take(x, np.where(known, at // window.inside, 0), axis=2)
    return jnp.moveaxis(jnp.where(known.reshape(*known.shape, *(1,) * (x.ndim - 3)), taken, 0), (2, 3), (-2, -1))


OPERATIONS: dict[str, Callable[..., Any]] = {"convolution": _convolution}
