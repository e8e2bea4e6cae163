"""The operator norm ‖Dh‖ of a model on a batch: ‖Dh‖² = λmax(K)/n."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.criterion import products
from lazyscope.criterion.budget import PRODUCTS, Budget
from lazyscope.criterion.estimate import Estimate
from lazyscope.criterion.products import Leaves, host_generator, leaf_outputs, num_parameters, parameter_dtype
from lazyscope.door import linearized, outputs_of
from lazyscope.examples import Batch
from lazyscope.krylov import RitzPairs, by_calls, lanczos, lanczos_by_calls
from lazyscope.models import Apply
from lazyscope.progress import Progress, silent


def jacobian_norm(
    apply: Apply, params: PyTree, x: Batch, *, key: Key[Array, ""], budget: Budget, progress: Progress = silent
) -> tuple[Estimate, Float[Array, "starts nk"], tuple[Leaves, ...]]:
    """‖Dh‖ by Lanczos on DhDhᵀ/n or DhᵀDh/n, whichever is smaller, with an error from the residual.

    Also returns the leading left singular vectors (the kernel's top directions) and the right ones. The eigenvalue
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
) -> tuple[Estimate, Float[Array, "starts nk"], tuple[Leaves, ...], float]:
    """`jacobian_norm`, and ‖Dhᵀz‖ for a vector z of outputs, by the same program."""
    tolerance = 1e-7 if parameter_dtype(params) == jnp.float64 else 1e-4
    most = max(budget.kernel_starts, 1)
    singular = _singular_by_calls if by_calls(apply, params, x) else _singular
    spent, left, right = 0, None, ()
    outputs = int(np.prod(outputs_of(apply, params, x).shape))
    start = host_generator(key).standard_normal(min(outputs, num_parameters(params)))
    start = jnp.asarray(start, parameter_dtype(params))
    while True:
        run = singular(apply, params, x, start, along, depth=budget.jacobian_steps, most=most)
        eigenvalue, error, unit = float(run.eigenvalue), float(run.error), float(run.unit)
        spent += 2 * int(run.steps)
        progress(min(spent, budget.products), budget.products, PRODUCTS)
        left, right = (run.left, run.right) if left is None else (left, (run.right[0], *right[1:]))
        value = np.sqrt(max(eigenvalue, 0.0))
        error = error / (2 * value) if value > 0 else 0.0
        converged = error <= tolerance * value
        # A restart from the best vector so far; three in all, so that a flat spectrum ends unconverged and says so.
        if converged or spent + 2 * budget.jacobian_steps > min(6 * budget.jacobian_steps, budget.products / 2):
            found = Estimate(float(unit * value), float(unit * error), spent, bool(converged))
            return found, left, right, float(run.along)
        start = run.vector


class _Singular(NamedTuple):
    unit: Array  # a power of two of the scale of Dh, by which it is divided
    eigenvalue: Array
    error: Array
    steps: Array
    vector: Array  # on the side Lanczos ran on, to restart from
    left: Array
    right: tuple[Leaves, ...]
    along: Array | float = 0.0  # ‖Dhᵀz‖ of the vector z that is asked for


@partial(jax.jit, static_argnums=0, static_argnames=("depth", "most"))
def _singular(
    apply: Apply, params: PyTree, x: Batch, start: Array, along: Array, *, depth: int, most: int
) -> _Singular:
    f, theta = leaf_outputs(apply, params, x)
    value, push, pull = linearized(f, theta)
    sides = _sides(push, pull, theta, value.size <= tree.size(theta))
    return _search(sides, start, along, depth, most, lanczos, jax.lax.map)


def _singular_by_calls(
    apply: Apply, params: PyTree, x: Batch, start: Array, along: Array, *, depth: int, most: int
) -> _Singular:
    def push(v: Leaves) -> Array:
        return products.push(apply, params, x, v)

    def pull(z: Array) -> Leaves:
        return products.pull(apply, params, x, z)

    on_outputs = int(np.prod(outputs_of(apply, params, x).shape)) <= num_parameters(params)
    sides = _sides(push, pull, tree.split(params)[0], on_outputs)
    return _search(sides, start, along, depth, most, lanczos_by_calls, _map_by_calls)


class _Sides(NamedTuple):
    """Dh from the side of fewer numbers, where Lanczos runs on vectors, to the other and back."""

    there: Callable[[Array], PyTree]
    back: Callable[[PyTree], Array]
    pull: Callable[[Array], Leaves]
    leaves: Callable[[Array], Leaves] | None  # of a vector, where that side is the parameters'


def _sides(push: Callable[[Leaves], Array], pull: Callable[[Array], Leaves], theta: Leaves, on_outputs: bool) -> _Sides:
    if on_outputs:
        return _Sides(pull, push, pull, None)
    _, unravel = ravel_pytree(theta)
    return _Sides(lambda v: push(unravel(v)), lambda z: ravel_pytree(pull(z))[0], pull, unravel)


def _map_by_calls(function: Callable[[Array], PyTree], rows: Array) -> PyTree:
    return jax.tree.map(lambda *each: jnp.stack(each), *(function(row) for row in rows))


def _search(
    sides: _Sides,
    start: Array,
    along: Array,
    depth: int,
    most: int,
    run: Callable[..., RitzPairs],
    over: Callable[[Callable[[Array], PyTree], Array], PyTree],
) -> _Singular:
    unit = tree.unit(sides.there(start / tree.norm(start)))

    def square(v: Array) -> Array:
        return sides.back(tree.scale(1 / unit, sides.there(v))) / unit

    pairs = run(square, start, depth=depth)
    top = pairs.vectors[_largest_first(pairs)[:most]]
    images = over(sides.there, top)
    return _largest(unit, pairs, top, images, sides.leaves)._replace(along=tree.norm(sides.pull(along)))


def _largest_first(pairs: RitzPairs) -> Array:
    return jnp.arange(pairs.values.size)[::-1]


def _largest(
    unit: Array, pairs: RitzPairs, top: Array, images: PyTree, leaves: Callable[[Array], Leaves] | None
) -> _Singular:
    """The largest eigenvalue with its error, `top` and its normalised images on the other side."""
    tiny, eps = jnp.finfo(top.dtype).tiny, jnp.finfo(top.dtype).eps
    lengths = jnp.maximum(jax.vmap(tree.norm)(images), tiny)
    rows = tuple(jax.tree.map(lambda leaf, i=i: leaf[i] / lengths[i], images) for i in range(len(top)))
    residual = pairs.residuals[-1]
    gap = pairs.values[-1] - pairs.values[-2] if pairs.values.size > 1 else pairs.values[-1]
    # Below the rounding of the eigenvalue itself the residual says nothing.
    floor = eps * jnp.abs(pairs.values[-1])
    error = jnp.maximum(jnp.minimum(residual, residual**2 / jnp.maximum(gap - residual, floor)), floor)
    left, right = (top, rows) if leaves is None else (jnp.stack(rows), tuple(leaves(row) for row in top))
    return _Singular(unit, pairs.values[-1], error, jnp.asarray(pairs.values.size), pairs.vectors[-1], left, right)
