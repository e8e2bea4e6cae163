"""‖D_l h_i(w0)‖² and ‖ΔD_l h_i‖² between two points, of each example i, output and leaf l, without Jacobians.

Where the derivative in a leaf is Σ_p δ_p u_pᵀ (`lazyscope.tangent.derivatives`), its change is a sum over twice as many
positions, and the norm of such a sum follows from inner products of positions:

    δ'u'ᵀ − δuᵀ = Δδ u'ᵀ + δ Δuᵀ,     ‖Σ_p a_p b_pᵀ‖_F² = Σ_pq (a_p·a_q)(b_p·b_q).

All of it is small where the change is, so that nothing cancels but what the two summands leave of each other: sums are
taken in double precision, in which half the digits are those of a float32. Where the matrices need fewer operations
(convolutions with many positions and a small kernel) they are multiplied out.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.tangent.blocks import each_leaf, held
from lazyscope.tangent.derivatives import Derivative, Factors, Turns

_DOUBLE = 2  # what an operation in double precision costs against one in single precision


def squares(
    apply: Apply, params0: PyTree, params: PyTree, x: Batch
) -> tuple[float, Float[np.ndarray, "n k leaves"], Float[np.ndarray, "n k leaves"]]:
    """A power of two of the scale of Dh, and both squares over the square of it; for arrays at hand alone."""
    before, after = (each_leaf(apply, at, x) for at in (_typed(params0, params), _typed(params, params0)))
    with jax.enable_x64(True):
        # One small program for all leaves of one shape: that of all leaves would take longer to compile than to run.
        found = jax.device_get([_of(*pair) for pair in zip(before, after, strict=True)])
    unit = max(float(scale) for scale, _, _ in found)
    starts, changes = (np.stack([(leaf[0] / unit) ** 2 * leaf[i] for leaf in found], axis=2) for i in (1, 2))
    return unit, starts, changes


def _typed(params: PyTree, other: PyTree) -> PyTree:
    """The weights without weak types that those at the other point lack: a model is another program with them."""

    def typed(leaf: Array, beside: Array) -> Array:
        weak = getattr(leaf, "weak_type", False) and not getattr(beside, "weak_type", False)
        return jnp.asarray(leaf, leaf.dtype) if weak else leaf

    return jax.tree.map(typed, params, other)


def numbers(apply: Apply, params: PyTree, x: Batch) -> int:
    """About how many entries `squares` holds of one example."""
    return 2 * held(apply, params, x)


def _of(before: Derivative, after: Derivative) -> tuple[Array, Float[Array, "n k"], Float[Array, "n k"]]:
    if not (isinstance(before, Turns) and isinstance(after, Turns)):
        return _of_leaf(before, after)
    scales, *squares = zip(*(_of(*pair) for pair in zip(before.each, after.each, strict=True)), strict=True)
    unit = jnp.max(jnp.stack(scales))
    starts, changes = (sum((s / unit) ** 2 * part for s, part in zip(scales, parts, strict=True)) for parts in squares)
    return unit, starts, changes  # type: ignore[return-value]


@jax.jit
def _of_leaf(before: Derivative, after: Derivative) -> tuple[Array, Float[Array, "n k"], Float[Array, "n k"]]:
    """The scale of a leaf's derivatives, a power of two, and the squares in it."""
    if not (isinstance(before, Factors) and isinstance(after, Factors)):
        unit = tree.unit((before, after))
        return unit.astype(float), _summed(before / unit), _summed((after - before) / unit)  # type: ignore[operator]
    of_inputs, of_slopes = tree.unit((before.inputs, after.inputs)), tree.unit((before.slopes, after.slopes))
    start, end = (Factors(one.inputs / of_inputs, one.slopes / of_slopes) for one in (before, after))
    # Differences in the type of the model: those of two numbers of one size are exact.
    inputs = jnp.concatenate([end.inputs, end.inputs - start.inputs], axis=1)
    slopes = jnp.concatenate([end.slopes - start.slopes, start.slopes], axis=2)
    of = _over_positions if _by_positions(start) else _multiplied
    return of_inputs.astype(float) * of_slopes.astype(float), of(start), of(Factors(inputs, slopes))


def _over_positions(leaf: Factors) -> Float[Array, "n k"]:
    u, slopes = leaf.inputs.astype(float), leaf.slopes.astype(float)
    moved = jnp.einsum("ipq,icqm->icpm", jnp.einsum("ipa,iqa->ipq", u, u), slopes)
    return jnp.sum(slopes * moved, axis=(2, 3))


def _multiplied(leaf: Factors) -> Float[Array, "n k"]:
    return _summed(jnp.einsum("ipa,icpm->icam", leaf.inputs, leaf.slopes))


def _summed(rows: Array) -> Float[Array, "n k"]:
    return jnp.sum(rows.astype(float) ** 2, axis=tuple(range(2, rows.ndim)))


def _by_positions(leaf: Factors) -> bool:
    """Whether inner products of positions need fewer operations than the matrices, of an example and its change."""
    (positions, fan_in), (k, _, units) = leaf.inputs.shape[1:], leaf.slopes.shape[1:]
    return _DOUBLE * 5 * positions * (fan_in + k * units) < 3 * k * fan_in * units
