"""Eigenvalues of a kernel, and its conditioning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lazyscope import tree
from lazyscope.door import entrance


class Spectrum(NamedTuple):
    """Eigenvalues of a kernel in descending order and what they say about its conditioning.

    `rank` counts eigenvalues above `rcond`·λ_1, `condition` is λ_1/λ_rank, the largest over the smallest of those (of
    a kernel with rank < size the condition number of the whole is infinite), `effective_rank` is (tr K)²/tr K². The
    zero kernel has rank 0, effective rank 0 and condition inf; one that is not finite, inside a transformation, rank −1
    and NaN for the rest.
    """

    eigenvalues: Float[Array, " size"]
    rank: Int[Array, ""]
    rcond: Float[Array, ""]
    condition: Float[Array, ""]
    effective_rank: Float[Array, ""]


@entrance
def spectrum(kernel: Array, *, rcond: float | None = None) -> Spectrum:
    """Spectrum of a symmetric kernel `(n, n)` or `(n, n, k, k)`, the latter as an (n·k, n·k) matrix.

    `rcond` defaults to size·eps, the level of rounding. Raises ValueError for other shapes, for NaN or infinite entries
    and for a kernel that is not symmetric to half its digits (one between two batches). Inside a transformation there
    are no values to see: NaN or infinity then gives NaN, rank −1, and of a kernel that is not symmetric one gets the
    spectrum of (K + Kᵀ)/2.
    """
    matrix = as_matrix(kernel)
    _check(matrix)
    one = tree.unit(matrix)
    finite = jnp.all(jnp.isfinite(matrix))
    values = jnp.where(finite, jnp.linalg.eigvalsh(matrix / one)[::-1], jnp.nan)
    level = jnp.asarray(matrix.shape[0] * jnp.finfo(matrix.dtype).eps if rcond is None else rcond, matrix.dtype)
    counted = values > level * values[0]
    smallest = jnp.min(jnp.where(counted, values, jnp.inf))
    squares = jnp.sum(values**2)
    condition = jnp.where(counted.any(), values[0] / smallest, jnp.inf)
    effective_rank = jnp.where(squares > 0, jnp.sum(values) ** 2 / jnp.where(squares > 0, squares, 1), 0)
    return Spectrum(
        eigenvalues=one * values,
        rank=jnp.where(finite, jnp.sum(counted), -1),
        rcond=level,
        condition=jnp.where(finite, condition, jnp.nan),
        effective_rank=jnp.where(finite, effective_rank, jnp.nan),
    )


def _check(matrix: Array) -> None:
    try:
        values = np.asarray(matrix, float)
    except jax.errors.TracerArrayConversionError:
        return
    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise ValueError(
            f"a kernel must be finite to have a spectrum, got {bad} NaN or infinite entries of {values.size}: lower "
            "the scale of the outputs, or drop the inputs that give them"
        )
    # Rounding leaves a kernel far more symmetric than this, also where matrix products drop digits.
    largest, asymmetry = (float(np.max(np.abs(v), initial=0.0)) for v in (values, values / 2 - values.T / 2))
    if asymmetry > np.sqrt(float(jnp.finfo(matrix.dtype).eps)) * largest:
        raise ValueError(
            f"a kernel must be symmetric to have a spectrum, got max|K − Kᵀ|/2 = {asymmetry / largest:.2g} max|K|: "
            "compute it on one batch, or take jnp.linalg.svd of one between two"
        )


def as_matrix(kernel: Array) -> Float[Array, "nk nk"]:
    """A kernel `(n, n)` or `(n, n, k, k)` as one symmetric matrix, outputs varying fastest."""
    shape = kernel.shape
    if kernel.ndim not in (2, 4) or shape[0] != shape[1] or shape[2:3] != shape[3:4]:
        raise ValueError(
            f"a kernel must have shape (n, n) or (n, n, k, k), got {tuple(shape)}: compute it on one batch"
        )
    if kernel.ndim == 2:
        return kernel
    return kernel.transpose(0, 2, 1, 3).reshape(shape[0] * shape[2], -1)
