"""Passes over more examples than fit: in blocks, under one memory budget, with the numbers of one pass to rounding.

A pass keeps what each equation of the model gives for each example, so that is what a block is counted by. Data that
fit are one block, and then a pass is the model itself. Two forms: loops in Python over compiled blocks where arrays are
at hand (`outputs`, `push`, `pull`: no compiled loop around a convolution, which XLA's CPU runs forty times slower), and
`in_blocks`, a model that loops by itself, for code that is compiled as a whole.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.door import pushed
from lazyscope.examples import Batch, count, take
from lazyscope.models import Apply

BUDGET = 2**30
"""Bytes that what one pass keeps of its examples may take: 1 GiB."""


def blocks(apply: Apply, params: PyTree, x: Batch, budget: float = BUDGET) -> Iterator[slice]:
    """Slices of examples, of equal length but for the last, each of which a pass can keep."""
    n, size = count(x), block_size(apply, params, x, budget)
    yield from (slice(at, min(at + size, n)) for at in range(0, n, size))


def block_size(apply: Apply, params: PyTree, x: Batch, budget: float = BUDGET) -> int:
    """How many examples a pass may keep: all of them, or blocks of equal size."""
    n = count(x)
    most = max(int(budget / max(_example_bytes(apply, params, x), 1)), 1)
    return n if n <= most else -(-n // -(-n // most))


def outputs(apply: Apply, params: PyTree, x: Batch, budget: float = BUDGET) -> Float[Array, "n *out"]:
    """apply(params, x), block by block."""
    found = [_outputs(apply, params, take(x, block)) for block in blocks(apply, params, x, budget)]
    return found[0] if len(found) == 1 else jnp.concatenate(found)


def push(apply: Apply, params: PyTree, x: Batch, v: list[Array], budget: float = BUDGET) -> Float[Array, "n *out"]:
    """Dh·v on the batch, for v like the leaves of `tree.split`."""
    return outputs_and_push(apply, params, x, v, budget)[1]


def outputs_and_push(
    apply: Apply, params: PyTree, x: Batch, v: list[Array], budget: float = BUDGET
) -> tuple[Float[Array, "n *out"], Float[Array, "n *out"]]:
    """The outputs and Dh·v on the batch, in one pass."""
    found = [_push(apply, params, take(x, block), v) for block in blocks(apply, params, x, budget)]
    return found[0] if len(found) == 1 else tuple(map(jnp.concatenate, zip(*found, strict=True)))  # type: ignore[return-value]


def pull(apply: Apply, params: PyTree, x: Batch, z: Float[Array, "n *out"], budget: float = BUDGET) -> list[Array]:
    """Dhᵀz, a list like the leaves of `tree.split`."""
    parts = (_pull(apply, params, take(x, block), z[block]) for block in blocks(apply, params, x, budget))
    return total(parts)


def total(parts: Iterator[list[Array]]) -> list[Array]:
    """The sum of lists of arrays."""
    found = next(parts)
    for part in parts:
        found = tree.add(found, part)
    return found


@dataclass(frozen=True)
class InBlocks:
    """A model that goes through its examples in blocks, and again for its derivatives, which keep one block's."""

    apply: Apply
    size: int

    def __call__(self, params: PyTree, x: Batch) -> Array:
        """h(params, x)."""
        n = count(x)
        if n <= self.size:
            return self.apply(params, x)
        number = -(-n // self.size)
        # Repeats the last example: any value would do, but this one is sure to be a valid input.
        rows = jnp.minimum(jnp.arange(number * self.size), n - 1)
        stacked = jax.tree.map(lambda leaf: leaf[rows].reshape(number, self.size, *leaf.shape[1:]), x)
        found = jax.lax.map(jax.checkpoint(partial(self.apply, params), prevent_cse=False), stacked)
        return found.reshape(number * self.size, *found.shape[2:])[:n]


def in_blocks(apply: Apply, params: PyTree, x: Batch, budget: float = BUDGET) -> Apply:
    """`apply` itself where a pass over `x` fits the budget, else the same function by blocks of examples."""
    size = block_size(apply, params, x, budget)
    return apply if size == count(x) else InBlocks(apply, size)


@partial(jax.jit, static_argnums=0)
def _outputs(apply: Apply, params: PyTree, x: Batch) -> Array:
    return apply(params, x)


@partial(jax.jit, static_argnums=0)
def _push(apply: Apply, params: PyTree, x: Batch, v: list[Array]) -> tuple[Array, Array]:
    theta, merge = tree.split(params)
    return pushed(lambda th: apply(merge(th), x), theta, v)


@partial(jax.jit, static_argnums=0)
def _pull(apply: Apply, params: PyTree, x: Batch, z: Array) -> list[Array]:
    theta, merge = tree.split(params)
    return jax.vjp(lambda th: apply(merge(th), x), theta)[1](z)[0]


def _example_bytes(apply: Apply, params: PyTree, x: Batch) -> int:
    weights, structure = jax.tree.flatten(jax.eval_shape(lambda given: given, params))
    data, batch = jax.tree.flatten(jax.eval_shape(lambda given: given, x))
    examples = tuple((leaf.shape[1:], leaf.dtype) for leaf in data)
    return _kept(apply, structure, tuple(weights), batch, examples)


# Looking through a large model takes longer than a small pass.
@lru_cache(maxsize=256)
def _kept(
    apply: Apply,
    structure: jax.tree_util.PyTreeDef,
    weights: tuple[jax.ShapeDtypeStruct, ...],
    batch: jax.tree_util.PyTreeDef,
    examples: tuple[tuple[tuple[int, ...], Any], ...],
) -> int:
    """Bytes that one more example adds: what is done to weights alone is the same for any number."""

    def of(n: int) -> int:
        x = [jax.ShapeDtypeStruct((n, *shape), dtype) for shape, dtype in examples]
        given = jax.tree.unflatten(structure, weights), jax.tree.unflatten(batch, x)
        return _bytes(jax.make_jaxpr(apply)(*given).jaxpr)

    return of(3) - of(2)


def _bytes(jaxpr: Jaxpr) -> int:
    found = 0
    for equation in jaxpr.eqns:
        given = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: isinstance(p, Jaxpr | ClosedJaxpr))
        inner = [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in given if isinstance(p, Jaxpr | ClosedJaxpr)]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        found += times * sum(map(_bytes, inner)) if inner else sum(_size(v.aval) for v in equation.outvars)
    return found


def _size(aval: Any) -> int:
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4) if hasattr(aval, "shape") else 0
