"""Pooling."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import along, spread


def _windows(
    x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, spatial: int
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Window sizes, strides, paddings and dilations over all axes of x; a rounded-up last window overhangs."""
    kernel = spread(kernel, spatial)
    stride = spread(stride, spatial) if stride else kernel
    padding, dilation = spread(padding, spatial), spread(dilation, spatial)
    widths = []
    for size, k, s, p, d in zip(x.shape[-spatial:], kernel, stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        steps = -(-room // s) if ceil_mode else room // s
        steps -= steps * s >= size + p  # a window must start inside the input or its left padding
        widths.append((p, max(p, steps * s + d * (k - 1) + 1 - size - p)))
    free = x.ndim - spatial
    return [1] * free + kernel, [1] * free + stride, [(0, 0)] * free + widths, [1] * free + dilation


def _max_pool(spatial: int) -> Callable[..., tuple[Array, Array]]:
    def pool(
        x: Array, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
    ) -> tuple[Array, Array]:
        shape = _windows(x, kernel, stride, padding, dilation, ceil_mode, spatial)
        places = _places(x, *shape, spatial)
        window, strides, widths, spread = shape
        if max(spread) > 1:  # JAX has no transposed derivative of the dilated window
            flat = x.reshape(*x.shape[:-spatial], -1)
            return jnp.take_along_axis(flat, places.reshape(*flat.shape[:-1], -1), -1).reshape(places.shape), places
        low = np.asarray(-np.inf, x.dtype)  # NumPy: JAX must see a constant to know that this is a maximum
        return jax.lax.reduce_window(x, low, jax.lax.max, window, strides, widths), places

    return pool


def _places(x: Array, window: Any, strides: Any, widths: Any, dilation: Any, spatial: int) -> Array:
    """Where in its image the largest entry of each window is, the first on a tie: rows after each other."""
    image = np.arange(np.prod(x.shape[-spatial:])).reshape((1,) * (x.ndim - spatial) + x.shape[-spatial:])
    padded = jnp.pad(jax.lax.stop_gradient(x), widths, constant_values=-np.inf)
    numbers = np.pad(image, widths)
    reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    cuts = [
        tuple(slice(o * d, n - r + o * d, s) for o, d, n, r, s in zip(*axes, strict=True))
        for offset in np.ndindex(*window)
        for axes in [(offset, dilation, padded.shape, reach, strides)]
    ]
    at = [tuple(slice(None) if n == 1 else c for n, c in zip(numbers.shape, cut, strict=True)) for cut in cuts]
    values = jnp.stack([padded[cut] for cut in cuts])
    named = jnp.stack([jnp.broadcast_to(numbers[cut], values.shape[1:]) for cut in at])
    return jnp.take_along_axis(named, jnp.argmax(values, axis=0, keepdims=True), axis=0)[0]


def _adaptive_max_pool(spatial: int) -> Callable[..., tuple[Array, Array]]:
    def pool(x: Array, sizes: Sequence[int]) -> tuple[Array, Array]:
        olds = x.shape[-spatial:]
        flat = x.reshape(*x.shape[:-spatial], -1)
        member = np.ones((1, 1), bool)
        for old, new in zip(olds, sizes, strict=True):
            i, places = np.arange(new)[:, None], np.arange(old)
            one = (places >= i * old // new) & (places < -(-(i + 1) * old // new))
            member = np.einsum("ab,cd->acbd", member, one).reshape(member.shape[0] * new, -1)
        inside = jnp.where(member, jax.lax.stop_gradient(flat)[..., None, :], -jnp.inf)
        index = jnp.argmax(inside, -1)
        shape = (*x.shape[:-spatial], *sizes)
        return jnp.take_along_axis(flat, index, -1).reshape(shape), index.reshape(shape)

    return pool


def _avg_pool(spatial: int) -> Callable[..., Array]:
    def pool(
        x: Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Array:
        window, strides, widths, _ = _windows(x, kernel, stride, padding, (1,), ceil_mode, spatial)

        def total(v: Array, around: list[tuple[int, int]]) -> Array:
            return jax.lax.reduce_window(v, np.zeros((), v.dtype), jax.lax.add, window, strides, around)

        if divisor_override is not None:
            return total(x, widths) / divisor_override
        ones, overhang = jnp.ones(x.shape, x.dtype), widths
        if count_include_pad:  # padding counts as members of a window, the overhang of a rounded-up window does not
            member = [(low, low) for low, _ in widths]
            ones = jnp.pad(ones, member, constant_values=1)
            overhang = [(0, high - low) for low, high in widths]
        return total(x, widths) / total(ones, overhang)

    return pool


def _adaptive_avg_pool(x: Array, sizes: Sequence[int]) -> Array:
    for axis, new in enumerate(sizes, start=x.ndim - len(sizes)):
        old = x.shape[axis]
        mean = np.zeros((old, new))
        for i in range(new):
            mean[i * old // new : -(-(i + 1) * old // new), i] = 1
        x = along(x, axis, mean / mean.sum(0))
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "_adaptive_avg_pool3d": _adaptive_avg_pool,
    "adaptive_avg_pool1d": _adaptive_avg_pool,
    "adaptive_max_pool2d": _adaptive_max_pool(2),
    "adaptive_max_pool3d": _adaptive_max_pool(3),
    "avg_pool1d": _avg_pool(1),
    "avg_pool2d": _avg_pool(2),
    "avg_pool3d": _avg_pool(3),
    "max_pool2d_with_indices": _max_pool(2),
    "max_pool3d_with_indices": _max_pool(3),
}
