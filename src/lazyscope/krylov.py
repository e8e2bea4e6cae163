"""Lanczos for symmetric operators given as products, safe at breakdown.

matfree's tridiagonalisation divides by the residual norm: NaN on the zero operator, amplified rounding noise beyond
the operator's rank. The operators here (tangent kernels, Hessians of few outputs) often have a rank below the number
of steps, so this one stops quietly: once the residual falls below `sqrt(eps)`-like noise, later vectors are zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lazyscope import passes, tree
from lazyscope.examples import Batch, count
from lazyscope.models import Apply

Wanted = Callable[[Float[Array, " depth"]], Int[Array, ""]]


class RitzPairs(NamedTuple):
    """Approximate eigenpairs in ascending order, with residual norms ‖A v − λ v‖."""

    values: Float[Array, " depth"]
    vectors: Float[Array, "vectors size"]
    residuals: Float[Array, " depth"]


def lanczos(
    product: Callable[[Float[Array, " size"]], Float[Array, " size"]],
    start: Float[Array, " size"],
    *,
    depth: int,
    steps: Int[Array, ""] | None = None,
    wanted: Wanted | None = None,
) -> RitzPairs:
    """Ritz pairs of a symmetric operator after `depth` products from `start`, fully re-orthogonalised twice.

    With `steps`, a number known only when the program runs, it stops after that many of the `depth` products. With
    `wanted`, of the vectors only the one is formed whose number it gives for the values: of a large model each is as
    long as its weights.
    `depth` is cut to the size of the vector. Residuals are β_depth·|last component| (Parlett 1998, §13.2). On the
    zero operator all values are 0. Zero vectors stand in after a breakdown; their values are 0, too.
    """
    size, dtype = start.size, start.dtype
    depth = min(depth, size)

    def step(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        basis, current = carry
        basis, following, diagonal, off_diagonal = _extend(basis, current, product(current), i)
        return (basis, following), (diagonal, off_diagonal)

    def step_or_rest(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        nothing = jnp.zeros((), dtype)
        return jax.lax.cond(i < last + 1, step, lambda carry, _: (carry, (nothing, nothing)), carry, i)

    last = depth - 1 if steps is None else jnp.minimum(steps.astype(int), depth) - 1
    first, _ = _unit(start, jnp.zeros((), dtype))
    body = step if steps is None else step_or_rest
    (basis, _), (diagonal, off) = jax.lax.scan(body, (jnp.zeros((depth, size), dtype), first), jnp.arange(depth))
    return _pairs(basis, diagonal, off, last, wanted)


def lanczos_by_calls(
    product: Callable[[Float[Array, " size"]], Float[Array, " size"]],
    start: Float[Array, " size"],
    *,
    depth: int,
    wanted: Wanted | None = None,
) -> RitzPairs:
    """`lanczos` with its loop in Python, for a `product` that is compiled by itself.

    For convolutions on a CPU: XLA brings those of a gradient into the form of its fast kernel in the outermost
    computation only, and inside a compiled loop they take ten to twenty times as long.
    """
    depth = min(depth, start.size)
    basis = jnp.zeros((depth, start.size), start.dtype)
    current, _ = _unit(start, jnp.zeros((), start.dtype))
    entries = []
    for i in range(depth):
        basis, current, diagonal, off = _extend_in_place(basis, current, product(current), i)
        entries.append((diagonal, off))
    diagonals, offs = (jnp.stack(column) for column in zip(*entries, strict=True))
    return _pairs(basis, diagonals, offs, depth - 1, wanted)


def by_calls(apply: Apply, params: PyTree, x: Batch) -> bool:
    """Whether products have to be compiled by themselves: examples that do not fit one pass, or slow in loops."""
    return passes.block_size(apply, params, x) < count(x) or slow_in_loops(apply, params, x)


def slow_in_loops(apply: Apply, params: PyTree, x: Batch) -> bool:
    """Whether compiled loops over derivatives of `apply` are slow: convolutions on a CPU (see `lanczos_by_calls`)."""
    if jax.default_backend() != "cpu":
        return False
    return "conv_general_dilated" in str(jax.make_jaxpr(apply)(params, x))


def _extend(basis: Array, current: Array, image: Array, i: Array) -> tuple[Array, Array, Array, Array]:
    """One step: the basis with `current` in it, the vector that follows, and the entries α and β."""
    basis = basis.at[i].set(current)
    diagonal = jnp.vdot(current, image)
    rest = image - basis.T @ (basis @ image)
    rest = rest - basis.T @ (basis @ rest)
    following, off_diagonal = _unit(rest, tree.norm(image))
    return basis, following, diagonal, off_diagonal


_extend_in_place = jax.jit(_extend, donate_argnums=0)


def _unit(v: Array, reference: Array) -> tuple[Array, Array]:
    noise = 1e-5 if jnp.finfo(v.dtype).bits < 64 else 1e-9
    length = tree.norm(v)
    alive = ~(length <= noise * reference)  # NaN is no breakdown: it shows in all values
    return jnp.where(alive, v / jnp.where(alive, length, 1), 0), jnp.where(alive, length, 0)


def _pairs(basis: Array, diagonal: Array, off: Array, last: int | Array, wanted: Wanted | None) -> RitzPairs:
    # The last β leaves the space spanned so far: it measures the residual and is no entry of the projected operator.
    inside = off.at[last].set(0)[:-1]
    projected = jnp.diag(diagonal) + jnp.diag(inside, 1) + jnp.diag(inside, -1)
    one = tree.unit(projected)
    values, mixing = jnp.linalg.eigh(projected / one)
    vectors = mixing.T @ basis if wanted is None else (mixing[:, wanted(values)] @ basis)[None]
    return RitzPairs(one * values, vectors, off[last] * jnp.abs(mixing[last]))
