"""Directions of largest curvature: eigenvectors of the Hessian, and of the tangent kernel in parameter space."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import examples
from lazyscope.door import checked_outputs, entrance
from lazyscope.examples import Batch
from lazyscope.krylov import lanczos
from lazyscope.landscape.vectors import flatten
from lazyscope.models import Apply
from lazyscope.tangent import kernel_product, start_vector


class Curvature(NamedTuple):
    """Eigenpairs with `residuals` ‖A v − λ v‖, largest |λ| first; directions are pytrees of length 1."""

    directions: tuple[PyTree, ...]
    values: Float[Array, " k"]
    residuals: Float[Array, " k"]


@entrance
def hessian_directions(
    function: Callable[[PyTree], Array],
    params: PyTree,
    *,
    count: int = 2,
    num_products: int = 60,
    key: Key[Array, ""] | None = None,
) -> Curvature:
    """The `count` eigenvectors of ∇²f at `params` with the largest |eigenvalue|, by Lanczos on Hessian products.

    From a fixed start, or a drawn one with `key`. `residuals` say how far the iteration is from converged: raise
    `num_products` where they are not small. Raises ValueError where fewer than `count` eigenvalues are not 0.
    """
    start, unflatten = flatten(params)
    first = start_vector(start.size, start.dtype) if key is None else jax.random.normal(key, start.shape, start.dtype)
    values, vectors, residuals = _hessian(function, num_products, params, first)
    return _largest(values, vectors, residuals, count, unflatten)


@entrance
def kernel_directions(
    apply: Apply, params: PyTree, x: Batch, *, count: int = 2, num_products: int = 60, key: Key[Array, ""] | None = None
) -> Curvature:
    """The `count` top eigenvectors of Dhᵀ Dh/n: the weight changes that move the outputs on `x` most.

    They are Dhᵀ z for the top eigenvectors z of the tangent kernel K, with the eigenvalues of K/n.
    """
    outputs = checked_outputs(apply, params, x)
    first = (
        start_vector(outputs.size, outputs.dtype)
        if key is None
        else jax.random.normal(key, (outputs.size,), outputs.dtype)
    )
    values, vectors, residuals = _kernel(apply, num_products, params, x, first)
    _, unflatten = flatten(params)
    return _largest(values, vectors, residuals, count, unflatten)


@partial(jax.jit, static_argnums=(0, 1))
def _hessian(
    function: Callable[[PyTree], Array], num_products: int, params: PyTree, first: Array
) -> tuple[Array, Array, Array]:
    at, unflatten = flatten(params)
    gradient = jax.grad(lambda v: function(unflatten(v)))
    return tuple(lanczos(lambda v: jax.jvp(gradient, (at,), (v,))[1], first, depth=num_products))  # type: ignore[return-value]


@partial(jax.jit, static_argnums=(0, 1))
def _kernel(apply: Apply, num_products: int, params: PyTree, x: Batch, first: Array) -> tuple[Array, Array, Array]:
    at, unflatten = flatten(params)
    outputs, pull = jax.vjp(lambda v: apply(unflatten(v), x), at)
    product, n = kernel_product(apply, params, x), examples.count(x)
    ritz = lanczos(lambda v: product(v.reshape(outputs.shape)).reshape(-1) / n, first, depth=num_products)
    vectors = jax.vmap(lambda z: pull(z.reshape(outputs.shape))[0])(ritz.vectors)
    sizes = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return ritz.values, vectors / jnp.where(sizes > 0, sizes, 1), ritz.residuals


def _largest(
    values: Array, vectors: Array, residuals: Array, count: int, unflatten: Callable[[Array], PyTree]
) -> Curvature:
    order = jnp.argsort(-jnp.abs(values))[:count]
    noise = 100 * jnp.finfo(values.dtype).eps * jnp.abs(values[order[0]])
    found = int(jnp.sum(jnp.abs(values[order]) > noise))
    if found < count:
        raise ValueError(f"{count} directions of curvature need as many eigenvalues that are not 0, got {found}")
    return Curvature(tuple(unflatten(vectors[i]) for i in order), values[order], residuals[order])
