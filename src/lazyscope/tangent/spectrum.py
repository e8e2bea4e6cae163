"""Eigenvalues of a kernel, and its conditioning."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyscope.door import entrance


class Spectrum(NamedTuple):
    """Eigenvalues of a kernel in descending order and what they say about its conditioning.

    `rank` counts eigenvalues above `rcond`·λ_1, `condition` is λ_1/λ_rank, the largest over the smallest of those (of
    a kernel with rank < size the condition number of the whole is infinite), `effective_rank` is (tr K)²/tr K². The
    zero kernel has rank 0, effective rank 0 and condition inf.
    """

    eigenvalues: Float[Array, " size"]
    rank: Int[Array, ""]
    rcond: Float[Array, ""]
    condition: Float[Array, ""]
    effective_rank: Float[Array, ""]


@entrance
def spectrum(kernel: Array, *, rcond: float | None = None) -> Spectrum:
    """Spectrum of a symmetric kernel `(n, n)` or `(n, n, k, k)`, the latter as an (n·k, n·k) matrix.

    `rcond` defaults to size·eps, the level of rounding. Raises ValueError for other shapes.
    """
    matrix = as_matrix(kernel)
    values = jnp.linalg.eigvalsh(matrix)[::-1]
    level = jnp.asarray(matrix.shape[0] * jnp.finfo(matrix.dtype).eps if rcond is None else rcond, matrix.dtype)
    counted = values > level * values[0]
    smallest = jnp.min(jnp.where(counted, values, jnp.inf))
    squares = jnp.sum(values**2)
    return Spectrum(
        eigenvalues=values,
        rank=jnp.sum(counted),
        rcond=level,
        condition=jnp.where(counted.any(), values[0] / smallest, jnp.inf),
        effective_rank=jnp.where(squares > 0, jnp.sum(values) ** 2 / jnp.where(squares > 0, squares, 1), 0),
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
