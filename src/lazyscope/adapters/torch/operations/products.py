"""Matrix products."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import norm


def _addmm(bias: Array, a: Array, b: Array, beta: Any = 1, alpha: Any = 1) -> Array:
    product = a @ b
    return (bias if beta == 1 else beta * bias) + (product if alpha == 1 else alpha * product)


def _addbmm(bias: Array, a: Array, b: Array, beta: Any = 1, alpha: Any = 1) -> Array:
    return beta * bias + alpha * jnp.sum(a @ b, 0)


def grouping(a: Any, b: Any) -> tuple[str, int]:
    """Of a product whose rows, columns or inner places belong to groups g: its sums, and how many such places."""
    return {
        (2, 3): ("gr,ri,gic->rc", a.shape[0]),
        (3, 2): ("gc,gri,ic->rc", b.shape[-1]),
        (2, 2): ("gi,ri,ic->grc", a.shape[-1]),
    }[a.ndim, b.ndim]


def _grouped_mm(a: Array, b: Array, offs: Array | None = None, bias: Array | None = None, *_: Any, **__: Any) -> Array:
    """Each group's rows by its matrix, as a mixture of experts has it; groups end before `offs`."""
    if offs is None:
        product = a @ b
    else:
        sums, size = grouping(a, b)
        group = jnp.sum(offs[:, None] <= jnp.arange(size, dtype=offs.dtype), 0)
        member = (group == jnp.arange(len(offs))[:, None]).astype(a.dtype)
        product = jnp.einsum(sums, member, a, b)
    return product if bias is None else product + bias


def _trilinear(a: Array, b: Array, c: Array, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, *_: Any) -> Array:
    a, b, c = (jnp.expand_dims(v, tuple(axes)) for v, axes in ((a, expand1), (b, expand2), (c, expand3)))
    return jnp.sum(a * b * c, tuple(sumdim))


def _differences(a: Array, b: Array) -> Array:
    return a[..., :, None, :] - b[..., None, :, :]


def _pairs(x: Array) -> Array:
    rows, columns = np.triu_indices(x.shape[0], 1)
    return x[rows] - x[columns]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "_cdist_forward": lambda a, b, p, _: norm(_differences(a, b), p, -1),
    "_cdist_forward.squared": lambda a, b, *_: jnp.sum(_differences(a, b) ** 2, -1),
    "_grouped_mm": _grouped_mm,
    "transformers.grouped_mm_fallback.default": _grouped_mm,
    "_pdist_forward": lambda x, p=2.0: norm(_pairs(x), p, -1),
    "_trilinear": _trilinear,
    "addbmm": _addbmm,
    "addmm": _addmm,
    "addmv": _addmm,
    "bmm": jnp.matmul,
    "dist": lambda a, b, p=2: norm(a - b, p, None),
    "mm": jnp.matmul,
}
