"""Fourier transforms and complex numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_NORMS = ("backward", "ortho", "forward")  # PyTorch's codes: the sum as it is, over √n, over n


def _scale(x: Array, axes: Sequence[int], code: int) -> float:
    n = np.prod([x.shape[axis] for axis in axes], dtype=float)
    return (1.0, n**-0.5, 1 / n)[code]


def _real_to_complex(x: Array, axes: Sequence[int], code: int, onesided: bool) -> Array:
    transform = jnp.fft.rfftn if onesided else jnp.fft.fftn
    return transform(x, axes=axes, norm=_NORMS[0]) * _scale(x, axes, code)


def _complex_to_real(x: Array, axes: Sequence[int], code: int, size: int) -> Array:
    sizes = [*(x.shape[axis] for axis in axes[:-1]), size]
    y = jnp.fft.irfftn(x, s=sizes, axes=axes, norm="forward")  # the sum as it is
    return y * _scale(y, axes, code)


def _complex_to_complex(x: Array, axes: Sequence[int], code: int, forward: bool) -> Array:
    if not axes:
        return x
    y = jnp.fft.fftn(x, axes=axes) if forward else jnp.fft.ifftn(x, axes=axes, norm="forward")
    return y * _scale(x, axes, code)


def _as_real(x: Array) -> Array:
    return jnp.stack([x.real, x.imag], -1)


def _as_complex(x: Array) -> Array:
    return x[..., 0] + 1j * x[..., 1]


def _angle(x: Array) -> Array:
    if not jnp.iscomplexobj(x):
        return jnp.where(x < 0, jnp.pi, jnp.where(jnp.isnan(x), x, 0))
    none = x == 0
    return jnp.where(none, 0, jnp.arctan2(x.imag, jnp.where(none, 1, x.real)))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_conj": jnp.conj,
    "_conj_physical": jnp.conj,
    "_fft_c2c": _complex_to_complex,
    "_fft_c2r": _complex_to_real,
    "_fft_r2c": _real_to_complex,
    "_neg_view": jnp.negative,
    "angle": _angle,
    "complex": lambda real, imag: real + 1j * imag,
    "polar": lambda size, angle: size * jnp.cos(angle) + 1j * (size * jnp.sin(angle)),
    "view_as_complex": _as_complex,
    "view_as_real": _as_real,
}
