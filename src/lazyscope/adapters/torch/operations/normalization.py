"""Normalisations over examples' own axes, and with fixed statistics."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import channels


def _affine(y: Array, weight: Array | None, bias: Array | None) -> Array:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _standardize(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centered = x - jnp.mean(x, axes, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered * centered, axes, keepdims=True) + eps)


def _batch_norm(x: Array, weight: Any, bias: Any, mean: Array, var: Array, momentum: float, eps: float) -> tuple[Array]:  # noqa: ARG001
    scaled = (x - channels(mean, x.ndim)) * channels(jax.lax.rsqrt(var + eps), x.ndim)
    return (_affine(scaled, *(None if v is None else channels(v, x.ndim) for v in (weight, bias))),)


def _instance_norm(x: Array, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> tuple[Array]:  # noqa: ARG001
    scaled = _standardize(x, (0, *range(2, x.ndim)), eps)
    return (_affine(scaled, *(None if v is None else channels(v, x.ndim) for v in (weight, bias))),)


def _layer_norm(x: Array, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Array]:
    return (_affine(_standardize(x, tuple(range(-len(shape), 0)), eps), weight, bias),)


def _group_norm(x: Array, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float) -> tuple[Array]:
    scaled = _standardize(x.reshape(n, groups, c // groups * size), (2,), eps).reshape(x.shape)
    return (_affine(scaled, *(None if v is None else channels(v, x.ndim) for v in (weight, bias))),)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_native_batch_norm_legit.no_stats": _instance_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
