"""The derivative of the outputs in each parameter leaf, in the form from which kernels are cheapest.

A leaf has its Jacobian, or, where it enters through one product alone (`lazyscope.tangent.weights`), the factors of
that: inputs u_p and slopes δ_p at positions p, with ∂h_c/∂w = Σ_p δ_cp u_pᵀ. The kernel of two examples is then

    K[c, d] = ⟨∂h_c/∂w, ∂h_d'/∂w⟩ = Σ_pq (u_p·u'_q) (δ_cp·δ'_dq),

which for one position and few units costs less than the inner products of Jacobians by the number of inputs
(structured derivatives of Novak et al. 2022, §3). Whichever needs fewer operations for a pair of examples is taken.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope import examples, tree
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.tangent.uses import Use
from lazyscope.tangent.weights import Function, Place, Turned, places, tapped

Outputs = Literal["all", "diagonal", "trace"]
"""What is kept of the pairs (c, d) of outputs: all, those with c = d, or the sum of these."""

_AXES = {"all": ("c", "d", "cd"), "diagonal": ("c", "c", "c"), "trace": ("c", "c", "")}


class Factors(NamedTuple):
    """Inputs and slopes of one leaf at the positions of its product."""

    inputs: Float[Array, "... positions fan_in"]
    slopes: Float[Array, "... k positions units"]


class Turns(NamedTuple):
    """The entries of one leaf that a loop takes turn by turn, each with its derivative."""

    each: "tuple[Derivative, ...]"


Derivative = Float[Array, "... k _"] | Factors | Turns


def jacobians(apply: Apply, params: PyTree, x: Batch) -> list[Float[Array, "n k _"]]:
    """One Jacobian per leaf, its entries in the order of the leaf."""
    single, theta = _single(apply, params)

    def one(example: PyTree) -> list[Array]:
        rows = jax.jacrev(single)(theta, example)
        return [row.reshape(row.shape[0], -1) for row in rows]

    return jax.vmap(one)(x)


def derivatives(apply: Apply, params: PyTree, x: Batch, *, by_leaf: bool = True) -> list[Derivative]:
    """One derivative per leaf, by factors where there are any, in one backward pass an example and output.

    Without `by_leaf` a bias has none of its own: it is among the inputs of its weights, as one that is always 1.
    """
    single, theta = _single(apply, params)
    found = places(single, theta, examples.take(x, 0))
    turns = [place.turns if isinstance(place, Turned) else 0 for place in found]
    if not any(turns):
        return _derivatives(single, theta, x, found, by_leaf)

    def together(apart: list[Array]) -> list[Array]:
        rest = iter(apart)
        return [jnp.stack([next(rest) for _ in range(length)]) if length else next(rest) for length in turns]

    def of_entries(apart: list[Array], example: PyTree) -> Array:
        return single(together(apart), example)

    apart = [entry for leaf, length in zip(theta, turns, strict=True) for entry in (leaf if length else [leaf])]
    rest = iter(_derivatives(of_entries, apart, x, places(of_entries, apart, examples.take(x, 0)), by_leaf))
    if not by_leaf:
        return list(rest)
    return [Turns(tuple(next(rest) for _ in range(length))) if length else next(rest) for length in turns]


def _derivatives(
    single: Function, theta: list[Array], x: Batch, found: Sequence[Place | Turned | None], by_leaf: bool
) -> list[Derivative]:
    found = [place if isinstance(place, Place) else None for place in found]
    joined = set() if by_leaf else {place.offset for place in found if place and place.offset is not None}
    shifts = {
        leaf: [jnp.zeros(use.output.shape, use.output.dtype) for use in p.uses] for leaf, p in enumerate(found) if p
    }
    others = {leaf: value for leaf, value in enumerate(theta) if leaf not in shifts and leaf not in joined}

    def one(example: PyTree) -> list[Derivative]:
        def value(others: dict[int, Array], shifts: dict[int, list[Array]]) -> tuple[Array, dict[int, list[Array]]]:
            return tapped(single, [others.get(leaf, w) for leaf, w in enumerate(theta)], example, shifts)

        (rows, slopes), inputs = jax.jacrev(value, argnums=(0, 1), has_aux=True)(others, shifts)

        def derivative(leaf: int, place: Place | None) -> Derivative:
            if place is None:
                return rows[leaf].reshape(len(rows[leaf]), -1)
            given = jnp.concatenate(inputs[leaf])
            if place.offset in joined:
                given = jnp.concatenate([given, jnp.ones((len(given), 1), given.dtype)], axis=1)
            pieces = [_by_position(piece, use) for piece, use in zip(slopes[leaf], place.uses, strict=True)]
            return Factors(given, jnp.concatenate(pieces, axis=1))

        return [derivative(leaf, place) for leaf, place in enumerate(found) if leaf not in joined]

    return jax.vmap(one)(x)


def in_units(found: list[Derivative], unit: Float[Array, ""] | None) -> list[Derivative]:
    """Derivatives over `unit` (default 1), a power of two. The scale of a leaf's inputs is moved to its slopes.

    Products of inputs alone, or of slopes alone, then overflow only where the kernel does.
    """

    def form(leaf: Derivative) -> Derivative:
        if isinstance(leaf, Turns):
            return Turns(tuple(map(form, leaf.each)))
        if not isinstance(leaf, Factors):
            return leaf if unit is None else leaf / unit
        of_inputs = tree.unit(leaf.inputs)
        slopes = leaf.slopes if unit is None else leaf.slopes / unit
        return Factors(leaf.inputs / of_inputs, slopes * of_inputs)

    return [form(leaf) for leaf in found]


def cheaper(found: list[Derivative], outputs: Outputs) -> list[Derivative]:
    """The same derivatives, by Jacobians where kernels need fewer operations so."""

    def form(leaf: Derivative) -> Derivative:
        if isinstance(leaf, Turns):
            return Turns(tuple(map(form, leaf.each)))
        if not isinstance(leaf, Factors):
            return leaf
        by_factors, by_jacobians = _operations(leaf, outputs)
        return leaf if by_factors < by_jacobians else multiplied(leaf)

    return [form(leaf) for leaf in found]


def multiplied(leaf: Factors) -> Float[Array, "n k _"]:
    """The Jacobian Σ_p δ_p u_pᵀ of a leaf, from its factors, units first: so nothing as large as it is transposed."""
    jacobian = jnp.einsum("icmp,ipa->icma", leaf.slopes.transpose(0, 1, 3, 2), leaf.inputs)
    return jacobian.reshape(*jacobian.shape[:2], -1)


def contract(left: list[Derivative], right: list[Derivative], outputs: Outputs) -> list[Array]:
    """The kernel of each leaf between two batches, (n, n2) and the axes of the outputs."""
    return [_contract(u, v, outputs) for u, v in zip(left, right, strict=True)]


def _single(apply: Apply, params: PyTree) -> tuple[Function, list[Array]]:
    theta, merge = tree.split(params)
    return lambda th, example: apply(merge(th), examples.alone(example))[0].reshape(-1), theta


def _by_position(slopes: Array, use: Use) -> Float[Array, "k positions units"]:
    return slopes.transpose(0, *(axis + 1 for axis in use.axes)).reshape(-1, use.positions, use.units)


def _operations(leaf: Factors, outputs: Outputs) -> tuple[int, int]:
    """Multiplications that the kernel of a pair of examples needs, by factors and by Jacobians."""
    (positions, fan_in), (k, _, units) = leaf.inputs.shape[1:], leaf.slopes.shape[1:]
    pairs = k * k if outputs == "all" else k
    if positions == 1:
        return fan_in + pairs * units, pairs * fan_in * units
    return positions**2 * (fan_in + k * units) + pairs * positions * units, pairs * fan_in * units


def _contract(u: Derivative, v: Derivative, outputs: Outputs) -> Array:
    if isinstance(u, Turns) and isinstance(v, Turns):
        return sum(_contract(*pair, outputs) for pair in zip(u.each, v.each, strict=True))  # type: ignore[return-value]
    c, d, kept = _AXES[outputs]
    if not (isinstance(u, Factors) and isinstance(v, Factors)):
        return jnp.einsum(f"i{c}p,j{d}p->ij{kept}", u, v)
    if u.inputs.shape[1] == 1:
        alike = jnp.einsum("ia,ja->ij", u.inputs[:, 0], v.inputs[:, 0])
        slopes = jnp.einsum(f"i{c}m,j{d}m->ij{kept}", u.slopes[:, :, 0], v.slopes[:, :, 0])
        return alike.reshape(*alike.shape, *[1] * len(kept)) * slopes

    def column(other: Factors) -> Array:
        alike = jnp.einsum("ipa,qa->ipq", u.inputs, other.inputs)
        moved = jnp.einsum("ipq,qmd->ipmd", alike, other.slopes)
        return jnp.einsum(f"i{c}pm,ipm{d}->i{kept}", u.slopes, moved)

    # One example at a time: what is between the products stays in the cache, and the order of axes is that in which
    # each product is needed next.
    return jnp.moveaxis(jax.lax.map(column, Factors(v.inputs, v.slopes.transpose(0, 2, 3, 1))), 0, 1)
