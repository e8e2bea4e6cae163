"""Products with the derivatives of a model on a batch, in the function space of `docs/notation.md`.

With f the outputs divided by √n and flattened: Df·v, Dfᵀz, B(u, v) = D²f[u, v] and H_z v for H_z = D²(z·f), each a
small multiple of the cost of a gradient. Parameters and inputs are arguments of every compiled product: closed over,
XLA would fold the model's constants, which takes minutes for a convolutional net. Examples that do not fit one pass go
through in blocks (`lazyscope.passes`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import examples, passes, tree
from lazyscope.door import pushed
from lazyscope.examples import Batch
from lazyscope.models import Apply

Leaves = list[Array]  # a vector of parameters, as the leaves of `tree.split`: as one array it would be copied


def leaf_outputs(apply: Apply, params: PyTree, x: Batch) -> tuple[Callable[[Leaves], Float[Array, " nk"]], Leaves]:
    """f: parameters as leaves ↦ outputs/√n as one vector, and the leaves at `params`, no narrower than outputs."""
    theta, merge = tree.split(params)
    dtype, length = jnp.result_type(*theta), math.sqrt(examples.count(x))

    def f(leaves: Leaves) -> Array:
        return (apply(merge(leaves), x).reshape(-1) / length).astype(dtype)

    return f, theta


def normalized_outputs(
    apply: Apply, params: PyTree, x: Batch
) -> tuple[Callable[[Float[Array, " p"]], Float[Array, " nk"]], Float[Array, " p"]]:
    """`leaf_outputs` with parameters as one vector."""
    f, theta = leaf_outputs(apply, params, x)
    vector, unravel = ravel_pytree(theta)
    return lambda v: f(unravel(v)), vector


@dataclass(frozen=True)
class _InUnits:
    # Equal where model and unit are, so that programs compiled for it are found again.
    apply: Apply
    unit: float

    def __call__(self, params: PyTree, x: Array) -> Array:
        outputs = self.apply(params, x)
        # The barrier keeps XLA from multiplying the units of two products, which no float may hold.
        return jax.lax.optimization_barrier(outputs / jnp.asarray(self.unit, outputs.dtype))


def in_units(apply: Apply, unit: float) -> Apply:
    """`apply` over `unit`; itself for 1, which is the unit of `coarse_unit` at all ordinary scales."""
    return apply if unit == 1 else _InUnits(apply, unit)


def coarse_unit(size: float) -> float:
    """A power of 2^32 within 2^32 of `size` (1 for 0): squares of what is left fit float32, and it seldom changes."""
    return 2.0 ** (32 * int(math.log2(size) / 32)) if 0 < size < math.inf else 1.0


def hessian_product(apply: Apply, params: PyTree, x: Batch, z: Array | np.ndarray, v: Leaves) -> Leaves:
    """H_z v."""
    return _sum(
        apply, params, x, 0.5, lambda part, block: _hessian_product(apply, params, part, block(jnp.asarray(z)), v)
    )


def curvature(apply: Apply, params: PyTree, x: Batch, u: Leaves) -> Array:
    """B(u, u)."""
    return _join(apply, params, x, lambda part: _curvature(apply, params, part, u))


def push(apply: Apply, params: PyTree, x: Batch, v: Leaves) -> Array:
    """Df·v."""
    return _join(apply, params, x, lambda part: _push(apply, params, part, v))


def pull(apply: Apply, params: PyTree, x: Batch, z: Array) -> Leaves:
    """Dfᵀz."""
    return _sum(apply, params, x, 0.5, lambda part, block: _pull(apply, params, part, block(z)))


def mixed(apply: Apply, params: PyTree, x: Batch, u: Array | np.ndarray, v: Array) -> Array:
    """B(u, v)."""
    return _join(apply, params, x, lambda part: _mixed(apply, params, part, u, v))


def slice_product(apply: Apply, params: PyTree, x: Batch, u: Array | np.ndarray, v: Array) -> Array:
    """A_uᵀA_u v for A_u = B(u, ·)."""
    return _sum(apply, params, x, 1.0, lambda part, _: _slice_product(apply, params, part, u, v))


def _join(apply: Apply, params: PyTree, x: Batch, product: Callable[[Batch], Array]) -> Array:
    """What a product gives for the outputs of each block of examples (`lazyscope.passes`), one after the other."""
    slices = list(passes.blocks(apply, params, x))
    if len(slices) == 1:
        return product(x)
    n = examples.count(x)
    # In each block f is the outputs over the root of its own number of examples.
    return jnp.concatenate([_scaled(product(examples.take(x, s)), (_size(s) / n) ** 0.5) for s in slices])


def _sum(
    apply: Apply, params: PyTree, x: Batch, power: float, product: Callable[[Batch, Callable[[Array], Array]], Any]
) -> Any:
    """The sum over blocks of examples of a product that is of degree 2·power in the outputs."""
    slices = list(passes.blocks(apply, params, x))
    if len(slices) == 1:
        return product(x, lambda z: z)
    n = examples.count(x)
    parts = (
        _scaled(
            product(examples.take(x, s), lambda z, s=s: jnp.asarray(z).reshape(n, -1)[s].reshape(-1)),
            (_size(s) / n) ** power,
        )
        for s in slices
    )
    return reduce(tree.add, parts)


def _size(block: slice) -> int:
    return block.stop - block.start


def _scaled(product: PyTree, factor: float) -> PyTree:
    return tree.scale(factor, product)


@partial(jax.jit, static_argnums=0)
def _hessian_product(apply: Apply, params: PyTree, x: Batch, z: Array | np.ndarray, v: Leaves) -> Leaves:
    f, theta = leaf_outputs(apply, params, x)
    return jax.jvp(jax.grad(lambda w: jnp.vdot(z, f(w))), (theta,), (v,))[1]


@partial(jax.jit, static_argnums=0)
def _curvature(apply: Apply, params: PyTree, x: Batch, u: Leaves) -> Array:
    return second_derivative(*leaf_outputs(apply, params, x), u)


@partial(jax.jit, static_argnums=0)
def _push(apply: Apply, params: PyTree, x: Batch, v: Leaves) -> Array:
    return pushed(*leaf_outputs(apply, params, x), v)[1]


@partial(jax.jit, static_argnums=0)
def _pull(apply: Apply, params: PyTree, x: Batch, z: Array) -> Leaves:
    return jax.vjp(*leaf_outputs(apply, params, x))[1](z)[0]


@partial(jax.jit, static_argnums=0)
def _mixed(apply: Apply, params: PyTree, x: Batch, u: Array | np.ndarray, v: Array) -> Array:
    f, vector = normalized_outputs(apply, params, x)
    return jax.jvp(lambda w: pushed(f, w, u)[1], (vector,), (v,))[1]


@partial(jax.jit, static_argnums=0)
def _slice_product(apply: Apply, params: PyTree, x: Batch, u: Array | np.ndarray, v: Array) -> Array:
    f, vector = normalized_outputs(apply, params, x)
    _, pull = jax.vjp(lambda w: pushed(f, w, u)[1], vector)
    return pull(_mixed(apply, params, x, u, v))[0]


def second_derivative(f: Callable[[PyTree], Float[Array, " nk"]], at: PyTree, u: PyTree) -> Float[Array, " nk"]:
    """B(u, u) = D²f[u, u] for parameters as one vector or as leaves."""
    return jax.jvp(lambda w: pushed(f, w, u)[1], (at,), (u,))[1]


def host_generator(key: Key[Array, ""]) -> np.random.Generator:
    """NumPy's generator, seeded by a key of JAX."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def num_parameters(params: PyTree) -> int:
    """How many numbers are differentiated."""
    return tree.size(tree.split(params)[0])


def parameter_dtype(params: PyTree) -> np.dtype:
    """The type of all parameters as one vector."""
    return jnp.result_type(*tree.split(params)[0])
