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


def _standardize(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """The standardised array, its mean and the inverse of its standard deviation, with axes of length 1."""
    mean = jnp.mean(x, axes, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean((x - mean) * (x - mean), axes, keepdims=True) + eps)
    return (x - mean) * inverse, mean, inverse


def _batch_norm(x: Array, weight: Any, bias: Any, mean: Array, var: Array, momentum: float, eps: float) -> tuple[Array]:  # noqa: ARG001
    scaled = (x - channels(mean, x.ndim)) * channels(jax.lax.rsqrt(var + eps), x.ndim)
    return (_affine(scaled, *(None if v is None else channels(v, x.ndim) for v in (weight, bias))),)


def _instance_norm(
    x: Array,
    weight: Any,
    bias: Any,
    training: bool,  # noqa: ARG001
    momentum: float,  # noqa: ARG001
    eps: float,
) -> tuple[Array, Array, Array]:
    scaled, mean, inverse = _standardize(x, (0, *range(2, x.ndim)), eps)
    y = _affine(scaled, *(None if v is None else channels(v, x.ndim) for v in (weight, bias)))
    return y, *_constants(mean.reshape(-1), inverse.reshape(-1))


def _layer_norm(x: Array, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Array, Array, Array]:
    scaled, mean, inverse = _standardize(x, tuple(range(-len(shape), 0)), eps)
    return _affine(scaled, weight, bias), *_constants(mean, inverse)


def _constants(mean: Array, inverse: Array) -> tuple[Array, Array]:
    """What PyTorch gives beside the result, and takes for constants; of groups it does not."""
    return jax.lax.stop_gradient(mean), jax.lax.stop_gradient(inverse)


def _group_norm(
    x: Array, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    scaled, mean, inverse = _standardize(x.reshape(n, groups, c // groups * size), (2,), eps)
    y = _affine(scaled.reshape(x.shape), *(None if v is None else channels(v, x.ndim) for v in (weight, bias)))
    return y, mean[..., 0], inverse[..., 0]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_native_batch_norm_legit.no_stats": _instance_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
