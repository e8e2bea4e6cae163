"""Resizing of images."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import along


def _nearest(x: Array, sizes: Any, scales: Any) -> Array:
    for axis, (new, ratio) in _resized(x, sizes, scales):
        source = np.minimum(np.floor(np.arange(new) * ratio), x.shape[axis] - 1)
        x = jnp.take(x, source.astype(int), axis=axis)
    return x


def _bilinear(x: Array, sizes: Any, align_corners: bool, scales: Any) -> Array:
    for axis, (new, ratio) in _resized(x, sizes, scales):
        old = x.shape[axis]
        if align_corners:
            place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0)
        else:
            place = np.maximum((np.arange(new) + 0.5) * ratio - 0.5, 0)
        low = np.minimum(np.floor(place).astype(int), old - 1)
        weights = np.zeros((old, new))
        np.add.at(weights, (low, np.arange(new)), 1 - (place - low))
        np.add.at(weights, (np.minimum(low + 1, old - 1), np.arange(new)), place - low)
        x = along(x, axis, weights)
    return x


def _resized(x: Array, sizes: Any, scales: Any) -> list[tuple[int, tuple[int, float]]]:
    """Per spatial axis its new size and the step in the old one, from sizes or from scale factors."""
    olds = x.shape[2:]
    if scales is None:
        pairs = [(new, old / new) for old, new in zip(olds, sizes, strict=True)]
    else:
        pairs = [(int(old * scale), 1 / scale) for old, scale in zip(olds, scales, strict=True)]
    return list(enumerate(pairs, start=2))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "upsample_bilinear2d": _bilinear,
    "upsample_nearest1d": _nearest,
    "upsample_nearest2d": _nearest,
    "upsample_nearest3d": _nearest,
}
