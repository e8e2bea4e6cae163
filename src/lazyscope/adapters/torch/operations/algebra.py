"""Linear algebra of square matrices and decompositions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def _transposed(a: Array) -> Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _zeros(a: Array) -> Array:
    return jnp.zeros(a.shape[:-2], jnp.int32)  # PyTorch's code of a success


def _cholesky(a: Array, upper: bool = False) -> Array:
    factor = jnp.linalg.cholesky(_transposed(a) if upper else a, symmetrize_input=False)
    return _transposed(factor) if upper else factor


def _cholesky_solve(b: Array, factor: Array, upper: bool = False) -> Array:
    lower = _transposed(factor) if upper else factor
    return _triangular(_transposed(lower), _triangular(lower, b, upper=False), upper=True)


def _triangular(a: Array, b: Array, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Array:
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(v, batch + v.shape[-2:]) for v in (a, b))
    return jax.lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular)


def _triangular_solve(
    b: Array, a: Array, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Array, Array]:
    matrix = jnp.swapaxes(a, -1, -2) if transpose else a
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return _triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular), jnp.broadcast_to(
        a, batch + a.shape[-2:]
    )


def _solve(a: Array, b: Array, left: bool = True) -> Array:
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    b = b[..., None] if vector else b
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(v, batch + v.shape[-2:]) for v in (a, b))
    x = jnp.linalg.solve(a, b) if left else _plain(jnp.linalg.solve(_plain(a), _plain(b)))
    return x[..., 0] if vector else x


def _plain(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _solved(a: Array, b: Array, left: bool = True, check_errors: bool = False) -> tuple[Array, Array, Array, Array]:  # noqa: ARG001
    lu, pivots, info = _lu_factor(a)
    return _solve(a, b, left), lu, pivots, info


def _lu_factor(a: Array, pivot: bool = True, check_errors: bool = False) -> tuple[Array, Array, Array]:  # noqa: ARG001
    if not pivot:
        raise ValueError("from_torch needs a pivoted LU decomposition, got pivot=False: pivot it")
    lu, pivots, _ = jax.lax.linalg.lu(a)
    return lu, pivots + 1, _zeros(a)


def _triangles(lu: Array) -> tuple[Array, Array]:
    rows, columns = lu.shape[-2:]
    k = min(rows, columns)
    return jnp.tril(lu[..., :, :k], -1) + jnp.eye(rows, k, dtype=lu.dtype), jnp.triu(lu[..., :k, :])


def _permutation(pivots: Array, rows: int, dtype: Any) -> Array:
    """P of A = P L U, from PyTorch's pivots, which count from 1."""
    order = jax.lax.linalg.lu_pivots_to_permutation(pivots - 1, rows)
    return _plain(order[..., None] == jnp.arange(rows)).astype(dtype)


def _lu_unpack(lu: Array, pivots: Array, data: bool = True, permutation: bool = True) -> tuple[Array, Array, Array]:
    none = jnp.zeros((0,), lu.dtype)
    p = _permutation(pivots, lu.shape[-2], lu.dtype) if permutation else none
    return (p, *(_triangles(lu) if data else (none, none)))


def _lu(a: Array, pivot: bool = True) -> tuple[Array, Array, Array]:
    lu, pivots, _ = _lu_factor(a, pivot)
    return _lu_unpack(lu, pivots)


def _lu_solve(lu: Array, pivots: Array, b: Array, left: bool = True, adjoint: bool = False) -> Array:
    lower, upper = _triangles(lu)
    a = _permutation(pivots, lu.shape[-2], lu.dtype) @ (lower @ upper)
    return _solve(_transposed(a) if adjoint else a, b, left)


def _determinant(a: Array) -> tuple[Array, Array, Array]:
    lu, pivots, _ = _lu_factor(a)
    return (jnp.linalg.det(a) if a.size else jnp.ones(a.shape[:-2])), lu, pivots


def _log_determinant(a: Array) -> tuple[Array, Array, Array, Array]:
    lu, pivots, _ = _lu_factor(a)
    sign, log = jnp.linalg.slogdet(a) if a.size else (jnp.ones(a.shape[:-2]), jnp.zeros(a.shape[:-2]))
    return sign, log, lu, pivots


def _eigh(a: Array, uplo: str = "L", compute_v: bool = True) -> tuple[Array, Array]:  # noqa: ARG001
    values, vectors = jnp.linalg.eigh(a, UPLO=uplo, symmetrize_input=False)
    return values, vectors


def _svd(a: Array, full: bool = False, compute_uv: bool = True, driver: Any = None) -> tuple[Array, ...]:  # noqa: ARG001
    if not compute_uv:
        empty = jnp.zeros((0,), a.dtype)
        return empty, jnp.linalg.svd(a, compute_uv=False), empty
    u, values, v = jnp.linalg.svd(a, full_matrices=False)
    if full and a.shape[-1] != a.shape[-2]:  # what completes the bases is arbitrary and has no derivative
        rest, _, below = jnp.linalg.svd(jax.lax.stop_gradient(a), full_matrices=True)
        k = values.shape[-1]
        u, v = jnp.concatenate([u, rest[..., k:]], -1), jnp.concatenate([v, below[..., k:, :]], -2)
    return u, values, v


def _qr(a: Array, mode: str = "reduced") -> tuple[Array, Array]:
    if mode == "r":
        return jnp.zeros((0,), a.dtype), jnp.linalg.qr(a, mode="r")
    return tuple(jnp.linalg.qr(a, mode=mode))


def _reflected(v: Array, scales: Array) -> Array:
    """The first columns of the product of I − τ v vᴴ over the columns v, which have 1 on the diagonal and 0 above."""
    rows, columns = v.shape[-2:]
    v = jnp.tril(v, -1) + jnp.eye(rows, columns, dtype=v.dtype)
    q = jnp.broadcast_to(jnp.eye(rows, columns, dtype=v.dtype), v.shape)
    for k in reversed(range(scales.shape[-1])):
        one = v[..., :, k : k + 1]
        q = q - scales[..., k, None, None] * (one @ (_transposed(one) @ q))
    return q


def _pinv(a: Array, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Array:
    if rtol is None:
        rtol = max(a.shape[-2:]) * jnp.finfo(a.dtype).eps if atol is None else 0.0
    if atol is not None:
        largest = jnp.max(jnp.linalg.svd(jax.lax.stop_gradient(a), compute_uv=False), -1, initial=0.0)
        rtol = jnp.maximum(rtol, atol / jnp.where(largest == 0, 1, largest))
    return jnp.linalg.pinv(a, rtol=rtol, hermitian=hermitian)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_linalg_det": _determinant,
    "_linalg_eigh": _eigh,
    "_linalg_slogdet": _log_determinant,
    "_linalg_solve_ex": _solved,
    "_linalg_svd": _svd,
    "cholesky": _cholesky,
    "cholesky_inverse": lambda factor, upper=False: _cholesky_solve(
        jnp.eye(factor.shape[-1], dtype=factor.dtype), factor, upper
    ),
    "cholesky_solve": _cholesky_solve,
    "linalg_cholesky_ex": lambda a, *, upper=False, check_errors=False: (_cholesky(a, upper), _zeros(a)),  # noqa: ARG005
    "linalg_householder_product": _reflected,
    "linalg_inv_ex": lambda a, *, check_errors=False: (jnp.linalg.inv(a), _zeros(a)),  # noqa: ARG005
    "linalg_lu": _lu,
    "linalg_lu_factor_ex": _lu_factor,
    "linalg_lu_solve": _lu_solve,
    "linalg_matrix_exp": jax.scipy.linalg.expm,
    "linalg_pinv.atol_rtol_tensor": _pinv,
    "linalg_qr": _qr,
    "linalg_solve_triangular": _triangular,
    "lu_unpack": _lu_unpack,
    "triangular_solve": _triangular_solve,
}
