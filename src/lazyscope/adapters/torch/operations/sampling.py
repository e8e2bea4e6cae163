"""Images read at places between their pixels."""

from collections.abc import Callable
from itertools import product
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

_ZEROS, _BORDER = 0, 1  # PyTorch's codes of what lies outside; 2 is the reflection
_LINEAR, _NEAREST = 0, 1  # and of how to interpolate; 2 is cubic


def _grid_sample(x: Array, grid: Array, mode: int, outside: int, align_corners: bool) -> Array:
    """Values (n, c, …) of x at the places (n, …, axes) of the grid, which is in −1 … 1 along the last axis first."""
    sizes = x.shape[2:]
    places = [_pixels(grid[..., -1 - axis], size, align_corners) for axis, size in enumerate(sizes)]
    if mode == 2:
        return _cubic(x, places, outside, align_corners)
    places = [_inside(place, n, outside, align_corners) for place, n in zip(places, sizes, strict=True)]
    if mode == _NEAREST:
        return _read(x, [jnp.round(place) for place in places])
    lows = [jnp.floor(place) for place in places]
    total = jnp.zeros(())
    for corner in product((0, 1), repeat=len(sizes)):
        weight = jnp.ones(lows[0].shape)
        for place, low, step in zip(places, lows, corner, strict=True):
            weight = weight * (place - low if step else low + 1 - place)
        total = total + _read(x, [low + step for low, step in zip(lows, corner, strict=True)]) * weight[:, None]
    return total


def _pixels(place: Array, size: int, align_corners: bool) -> Array:
    return (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2


def _inside(place: Array, size: int, outside: int, align_corners: bool) -> Array:
    if outside == _ZEROS:
        return place
    if outside != _BORDER:
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if span == 0:
            return jnp.zeros_like(place)
        away = jnp.abs(place - low)
        turns = jnp.floor(away / span)
        rest = away - turns * span
        place = jnp.where(turns % 2 == 0, rest + low, span - rest + low)
    return jnp.where(place <= 0, 0, jnp.where(place >= size - 1, size - 1, place))  # derivative 0 at the border


def _read(x: Array, places: list[Array]) -> Array:
    """X at whole places, 0 outside: (n, c, …)."""
    known = jnp.ones(places[0].shape, bool)
    index = []
    for place, size in zip(places, x.shape[2:], strict=True):
        known &= (place >= 0) & (place <= size - 1)
        index.append(jnp.clip(jnp.nan_to_num(place), 0, size - 1).astype(int))
    batch = jnp.arange(x.shape[0]).reshape((-1,) + (1,) * (known.ndim - 1))
    values = x[(batch, slice(None), *index)]  # the channel comes last
    return jnp.moveaxis(values * known[..., None], -1, 1)


def _cubic(x: Array, places: list[Array], outside: int, align_corners: bool) -> Array:
    lows = [jnp.floor(place) for place in places]
    total = jnp.zeros(())
    for corner in product(range(-1, 3), repeat=len(places)):
        weight, near = jnp.ones(lows[0].shape), []
        for place, low, step, size in zip(places, lows, corner, x.shape[2:], strict=True):
            weight = weight * _keys(place - low, step)
            near.append(_inside(low + step, size, outside, align_corners))
        total = total + _read(x, [jnp.round(place) for place in near]) * weight[:, None]
    return total


def _keys(t: Array, step: int, a: float = -0.75) -> Array:
    """Keys' cubic kernel at the distance of the pixel `step` from a place t after pixel 0."""
    if step in (0, 1):
        d = t if step == 0 else 1 - t
        return ((a + 2) * d - (a + 3)) * d * d + 1
    d = t + 1 if step == -1 else 2 - t
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


OPERATIONS: dict[str, Callable[..., Any]] = {"grid_sampler_2d": _grid_sample, "grid_sampler_3d": _grid_sample}
