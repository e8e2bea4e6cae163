"""The tangent kernel K = Dh Dhᵀ on a batch as an array (Jacot et al. 2018; Chizat et al. 2019, §2.1)."""

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.door import check_examples, entrance, outputs_of
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.tangent import blocks
from lazyscope.tangent.blocks import Form
from lazyscope.tangent.derivatives import jacobians
from lazyscope.tangent.products import derivative_size

MEMORY_BUDGET = 2 * 2**30
"""Bytes that the derivatives and kernels of one call may take: 2 GiB."""


@entrance
def tangent_kernel(
    apply: Apply, params: PyTree, x: Batch, x2: Batch | None = None, *, memory_budget: float = MEMORY_BUDGET
) -> Float[Array, "n n2 *kk"]:
    """Dense tangent kernel: `(n, n2)` for outputs `(n,)`, else `(n, n2, k, k)` with k the flattened trailing axes.

    K[i, j] = Dh(x_i) Dh(x2_j)ᵀ, summed over all parameters. Needs, for both batches at once, the derivatives of all
    examples (at most n·k·p numbers each, fewer by the structure of `lazyscope.tangent.weights`) and twice the kernel;
    raises ValueError when these bytes are over `memory_budget` (`blocked_tangent_kernel` then gives the same numbers).
    """
    check_examples(apply, params, x)
    form = Form("all")
    needed = blocks.dense_bytes(apply, params, x, x2, form)
    if needed > memory_budget:
        raise ValueError(
            f"a dense tangent kernel must fit memory_budget={memory_budget:.3g} bytes, needs {needed:.3g}: call "
            "blocked_tangent_kernel(apply, params, x, x2), or kernel_product for products alone"
        )
    kernel = blocks.dense(apply, params, x, x2, form)
    _check_scale(apply, params, x, kernel)
    return _without_axes(apply, params, x, kernel)


@entrance
def blocked_tangent_kernel(
    apply: Apply,
    params: PyTree,
    x: Batch,
    x2: Batch | None = None,
    *,
    memory_budget: float = MEMORY_BUDGET,
    unit: Float[Array, ""] | None = None,
) -> Float[Array, "n n2 *kk"]:
    """`tangent_kernel` in blocks of examples, as large as `memory_budget` bytes allow: the same numbers to rounding.

    Derivatives of all examples are computed once per row of blocks (half of that for `x2=None`, by symmetry). Raises
    ValueError when not even the kernel with the derivatives of one pair of examples fits. With `unit`
    (`tangent.derivative_unit`) the kernel over unit², for scales at which no float holds the kernel itself.
    """
    check_examples(apply, params, x)
    kernel = blocks.blocked(apply, params, x, x2, Form("all"), memory_budget, unit)
    _check_scale(apply, params, x, kernel)
    return _without_axes(apply, params, x, kernel)


@entrance
def traced_kernel(
    apply: Apply, params: PyTree, x: Batch, x2: Batch | None = None, *, memory_budget: float = MEMORY_BUDGET
) -> Float[Array, "n n2"]:
    """Σ_c K[i, j, c, c], the kernel traced over outputs, in blocks; K itself for outputs `(n,)`."""
    check_examples(apply, params, x)
    kernel = blocks.blocked(apply, params, x, x2, Form("trace"), memory_budget)
    _check_scale(apply, params, x, kernel)
    return kernel


@entrance
def diagonal_kernel(
    apply: Apply, params: PyTree, x: Batch, x2: Batch | None = None, *, memory_budget: float = MEMORY_BUDGET
) -> Float[Array, "n n2 k"]:
    """K[i, j, c, c], one kernel per output c, in blocks; k = 1 for outputs `(n,)`."""
    check_examples(apply, params, x)
    kernel = blocks.blocked(apply, params, x, x2, Form("diagonal"), memory_budget)
    _check_scale(apply, params, x, kernel)
    return kernel


@entrance
def group_kernels(
    apply: Apply,
    params: PyTree,
    x: Batch,
    x2: Batch | None = None,
    *,
    memory_budget: float = MEMORY_BUDGET,
    unit: Float[Array, ""] | None = None,
) -> dict[str, Float[Array, "n n2 *kk"]]:
    """One kernel per parameter leaf, K_g = D_g h D_g hᵀ, by name (`tree.group_names`); they sum to the tangent kernel.

    In blocks, since there are as many kernels as groups. `unit`, and the ValueError, as in `blocked_tangent_kernel`.
    """
    check_examples(apply, params, x)
    kernels = blocks.blocked(apply, params, x, x2, Form("all", by_leaf=True), memory_budget, unit)
    _check_scale(apply, params, x, kernels)
    named = zip(tree.group_names(params), kernels, strict=True)
    return {name: _without_axes(apply, params, x, kernel) for name, kernel in named}


@entrance
def group_kernel_examples(apply: Apply, params: PyTree, x: Batch, numbers: float) -> int:
    """How many examples of a batch have derivatives, and `group_kernels`, of at most so many numbers each."""
    return blocks.affordable(apply, params, x, Form("all", by_leaf=True), numbers)


@entrance
def jacobian(apply: Apply, params: PyTree, x: Batch) -> Float[Array, "n k p"]:
    """Dh as a dense array: n examples, k flattened outputs, p parameters in the order of `tree.split`."""
    check_examples(apply, params, x)
    return jnp.concatenate(jacobians(apply, params, x), axis=2)


def _check_scale(apply: Apply, params: PyTree, x: Batch, kernel: PyTree) -> None:
    """Refuse a kernel so small that its entries lose digits, or all are 0, where the derivative is not."""
    try:
        largest = float(_largest(kernel))
    except jax.errors.ConcretizationTypeError:
        return
    limits = jnp.finfo(jax.tree.leaves(kernel)[0].dtype)
    # What is below the smallest float is lost: at this limit no more than some roundings of the largest entry.
    least = float(limits.tiny) / (16 * float(limits.eps))
    if not largest < least:
        return
    if largest > 0 or bool(derivative_size(apply, params, x) > 0):
        raise ValueError(
            f"a kernel must have entries above {least:.2g} in {limits.dtype} to keep its digits, got {largest:.2g} at "
            "most: divide the outputs by their scale, or pass float64"
        )


@jax.jit
def _largest(kernel: PyTree) -> Array:
    return reduce(jnp.maximum, (jnp.max(jnp.abs(k), initial=0) for k in jax.tree.leaves(kernel)))


def _without_axes(apply: Apply, params: PyTree, x: Batch, kernel: Array) -> Array:
    return kernel[:, :, 0, 0] if len(outputs_of(apply, params, x).shape) == 1 else kernel
