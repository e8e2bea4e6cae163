"""The operator norm ‖Dh‖ of a model on a batch: ‖Dh‖² = λmax(K)/n."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.criterion import products
from lazyscope.criterion.budget import PRODUCTS, Budget
from lazyscope.criterion.estimate import Estimate
from lazyscope.criterion.products import host_generator, normalized_outputs, num_parameters, parameter_dtype
from lazyscope.door import linearized, outputs_of
from lazyscope.examples import Batch
from lazyscope.krylov import RitzPairs, by_calls, lanczos, lanczos_by_calls
from lazyscope.models import Apply
from lazyscope.progress import Progress, silent


def jacobian_norm(
    apply: Apply, params: PyTree, x: Batch, *, key: Key[Array, ""], budget: Budget, progress: Progress = silent
) -> tuple[Estimate, Float[Array, "starts nk"], Float[Array, " p"]]:
    """‖Dh‖ by Lanczos on DhDhᵀ/n or DhᵀDh/n, whichever is smaller, with an error from the residual.

    Also returns the leading left singular vectors (the kernel's top directions) and the top right one. The eigenvalue
    error is at most the residual ρ, and about ρ²/gap once Ritz values are apart (Parlett 1998, §11.7).
    """
    along = jnp.zeros(int(np.prod(outputs_of(apply, params, x).shape)), parameter_dtype(params))
    return jacobian_norm_along(apply, params, x, along, key=key, budget=budget, progress=progress)[:3]


def jacobian_norm_along(
    apply: Apply,
    params: PyTree,
    x: Batch,
    along: Float[Array, " nk"],
    *,
    key: Key[Array, ""],
    budget: Budget,
    progress: Progress = silent,
) -> tuple[Estimate, Float[Array, "starts nk"], Float[Array, " p"], float]:
    """`jacobian_norm`, and ‖Dhᵀz‖ for a vector z of outputs, by the same program."""
    tolerance = 1e-7 if parameter_dtype(params) == jnp.float64 else 1e-4
    most = max(budget.kernel_starts, 1)
    singular = _singular_by_calls if by_calls(apply, params, x) else _singular
    spent, directions = 0, None
    outputs = int(np.prod(outputs_of(apply, params, x).shape))
    start = host_generator(key).standard_normal(min(outputs, num_parameters(params)))
    start = jnp.asarray(start, parameter_dtype(params))
    while True:
        run = singular(apply, params, x, start, along, depth=budget.jacobian_steps, most=most)
        eigenvalue, error, unit = float(run.eigenvalue), float(run.error), float(run.unit)
        spent += 2 * int(run.steps)
        progress(min(spent, budget.products), budget.products, PRODUCTS)
        directions = run.left if directions is None else directions
        value = np.sqrt(max(eigenvalue, 0.0))
        error = error / (2 * value) if value > 0 else 0.0
        converged = error <= tolerance * value
        # A restart from the best vector so far; three in all, so that a flat spectrum ends unconverged and says so.
        if converged or spent + 2 * budget.jacobian_steps > min(6 * budget.jacobian_steps, budget.products / 2):
            found = Estimate(float(unit * value), float(unit * error), spent, bool(converged))
            return found, directions, run.right, float(run.along)
        start = run.vector


class _Singular(NamedTuple):
    unit: Array  # a power of two of the scale of Dh, by which it is divided
    eigenvalue: Array
    error: Array
    steps: Array
    vector: Array  # on the side Lanczos ran on, to restart from
    left: Array
    right: Array
    along: Array | float = 0.0  # ‖Dhᵀz‖ of the vector z that is asked for


@partial(jax.jit, static_argnums=0, static_argnames=("depth", "most"))
def _singular(
    apply: Apply, params: PyTree, x: Batch, start: Array, along: Array, *, depth: int, most: int
) -> _Singular:
    f, vector = normalized_outputs(apply, params, x)
    value, push, pull = linearized(f, vector)
    return _search(push, pull, start, along, depth, most, value.size <= vector.size, lanczos, jax.lax.map)


def _singular_by_calls(
    apply: Apply, params: PyTree, x: Batch, start: Array, along: Array, *, depth: int, most: int
) -> _Singular:
    on_outputs = int(np.prod(outputs_of(apply, params, x).shape)) <= num_parameters(params)

    def push(v: Array) -> Array:
        return products.push(apply, params, x, v)

    def pull(z: Array) -> Array:
        return products.pull(apply, params, x, z)

    return _search(push, pull, start, along, depth, most, on_outputs, lanczos_by_calls, _map_by_calls)


def _map_by_calls(function: Callable[[Array], Array], rows: Array) -> Array:
    return jnp.stack([function(row) for row in rows])


def _search(
    push: Callable[[Array], Array],
    pull: Callable[[Array], Array],
    start: Array,
    along: Array,
    depth: int,
    most: int,
    on_outputs: bool,
    run: Callable[..., RitzPairs],
    over: Callable[[Callable[[Array], Array], Array], Array],
) -> _Singular:
    there, back = (pull, push) if on_outputs else (push, pull)
    unit = tree.unit(there(start / tree.norm(start)))
    pairs = run(lambda v: back(there(v) / unit) / unit, start, depth=depth)
    top = pairs.vectors[_largest_first(pairs)[:most]]
    return _largest(unit, pairs, top, over(there, top), on_outputs)._replace(along=tree.norm(pull(along)))


def _largest_first(pairs: RitzPairs) -> Array:
    return jnp.arange(pairs.values.size)[::-1]


def _largest(unit: Array, pairs: RitzPairs, top: Array, images: Array, on_outputs: bool) -> _Singular:
    """The largest eigenvalue with its error, `top` and its normalised images on the other side."""
    tiny, eps = jnp.finfo(top.dtype).tiny, jnp.finfo(top.dtype).eps
    images = images / jnp.maximum(jax.vmap(tree.norm)(images), tiny)[:, None]
    residual = pairs.residuals[-1]
    gap = pairs.values[-1] - pairs.values[-2] if pairs.values.size > 1 else pairs.values[-1]
    # Below the rounding of the eigenvalue itself the residual says nothing.
    floor = eps * jnp.abs(pairs.values[-1])
    error = jnp.maximum(jnp.minimum(residual, residual**2 / jnp.maximum(gap - residual, floor)), floor)
    left, right = (top, images) if on_outputs else (images, top)
    return _Singular(unit, pairs.values[-1], error, jnp.asarray(pairs.values.size), pairs.vectors[-1], left, right[0])
