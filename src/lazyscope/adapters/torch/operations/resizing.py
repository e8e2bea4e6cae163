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


def _interpolated(weight: Callable[[np.ndarray], np.ndarray], reach: int) -> Callable[..., Array]:
    """Weights of the old entries around each new place, by their distance; beyond the border its last entry."""

    def resize(x: Array, sizes: Any, align_corners: bool, scales: Any = None, *more: Any) -> Array:
        scales = [scales, *more] if scales is None or isinstance(scales, float) else scales
        for axis, (new, ratio) in _resized(x, sizes, None if scales is None or None in scales else scales):
            old = x.shape[axis]
            if align_corners:
                place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0)
            else:
                place = (np.arange(new) + 0.5) * ratio - 0.5
                place = np.maximum(place, 0) if reach == 1 else place
            low, weights = np.floor(place).astype(int), np.zeros((old, new))
            for near in range(1 - reach, 1 + reach):
                np.add.at(
                    weights, (np.clip(low + near, 0, old - 1), np.arange(new)), weight(np.abs(place - low - near))
                )
            x = along(x, axis, weights)
        return x

    return resize


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel with PyTorch's constant."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


_linear = _interpolated(lambda distance: 1 - distance, 1)
_bicubic = _interpolated(_cubic, 2)


def _resized(x: Array, sizes: Any, scales: Any) -> list[tuple[int, tuple[int, float]]]:
    """Per spatial axis its new size and the step in the old one, from sizes or from scale factors."""
    olds = x.shape[2:]
    if scales is None:
        pairs = [(new, old / new) for old, new in zip(olds, sizes, strict=True)]
    else:
        pairs = [(int(old * scale), 1 / scale) for old, scale in zip(olds, scales, strict=True)]
    return list(enumerate(pairs, start=2))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "upsample_bicubic2d": _bicubic,
    "upsample_bilinear2d": _linear,
    "upsample_linear1d": _linear,
    "upsample_nearest2d": _nearest,
    "upsample_trilinear3d": _linear,
}
