"""What moved between two checkpoints: parameters, kernel, activations, and the gap to the linearisation.

Every change is 0 at `params0` and every share 1; a ratio whose numerator is 0 is 0, one whose denominator alone is 0 is
inf, and none is NaN for finite inputs. All are functions of arrays that can be jitted, with `apply` static.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from lazyscope import tree
from lazyscope.door import entrance, outputs_of, pushed
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Problem, check_range
from lazyscope.tangent import (
    MEMORY_BUDGET,
    as_matrix,
    blocked_tangent_kernel,
    derivative_unit,
    group_kernels,
)


class Grouped(NamedTuple):
    """A measure over all parameters and per group (one per parameter leaf, by `tree.group_names`)."""

    all: Float[Array, ""]
    groups: dict[str, Float[Array, ""]]


class Movement(NamedTuple):
    """Relative movement of the parameters, ‖w − w0‖/‖w0‖, over all parameters and per group.

    A group that starts at zero (biases, zero heads, the B of LoRA) has no scale of its own: `absolute[name]` is True
    and `groups[name]` is its ‖w − w0‖. `all` is absolute where every group is. `entrywise` is the note's
    S_t = Σ_i abs(w_i − w0_i)/abs(w0_i) over entries with w0_i != 0: for Gaussian weights its mean over seeds does not
    exist, so it is drawn and never claimed on.
    """

    all: Float[Array, ""]
    groups: dict[str, Float[Array, ""]]
    absolute: dict[str, Bool[Array, ""]]
    entrywise: Float[Array, ""]


@entrance
def distance(params0: PyTree, params: PyTree) -> Grouped:
    """‖w − w0‖, Euclidean, in all and per group."""
    return _grouped(params0, tree.differences(params0, params))


@entrance
def relative_change(params0: PyTree, params: PyTree) -> Movement:
    """‖w − w0‖/‖w0‖ in all and per group, absolute for groups that start at zero, and S_t (note §4.2)."""
    start, moved = distance(_zeros_like(params0), params0), distance(params0, params)
    absolute = {name: size == 0 for name, size in start.groups.items()}

    def relative(size: Array, change: Array) -> Array:
        return change / jnp.where(size == 0, 1, size)

    theta0, _ = tree.split(params0)
    shares = [
        jnp.sum(jnp.abs(change) / jnp.where(leaf == 0, jnp.inf, jnp.abs(leaf)))
        for leaf, change in zip(theta0, tree.differences(params0, params), strict=True)
    ]
    return Movement(
        all=relative(start.all, moved.all),
        groups={name: relative(start.groups[name], moved.groups[name]) for name in moved.groups},
        absolute=absolute,
        entrywise=sum(shares),  # type: ignore[arg-type]
    )


@entrance
def kernel_change(
    apply: Apply, params0: PyTree, params: PyTree, x: Batch, *, memory_budget: float = MEMORY_BUDGET
) -> Grouped:
    """Relative change of the tangent kernel on `x` in Frobenius norm, in all and per parameter group g.

    In all ‖K(w) − K(w0)‖/‖K(w0)‖, and ‖K_g(w) − K_g(w0)‖/max(‖K_g(w0)‖, ‖K(w0)‖/100) per group: a group with less
    than a hundredth of the kernel is measured against that hundredth. The largest over groups sees what the total
    hides (docs/design.md, the regime).
    """
    unit = derivative_unit(apply, params0, x)
    before, after = (group_kernels(apply, p, x, memory_budget=memory_budget, unit=unit) for p in (params0, params))
    return change_of_kernels(before, after)


def change_of_kernels(before: dict[str, Array], after: dict[str, Array]) -> Grouped:
    """`kernel_change` of two sets of `group_kernels`."""
    total = tree.norm(sum(before.values()))
    changes = {name: after[name] - before[name] for name in before}

    def change(name: str) -> Array:
        scale = jnp.maximum(tree.norm(before[name]), total / 100)
        return tree.ratio(tree.norm(changes[name]), scale)

    in_all = tree.norm(sum(changes.values()))
    return Grouped(tree.ratio(in_all, total), {name: change(name) for name in before})


@entrance
def kernel_distance(
    apply: Apply, params0: PyTree, params: PyTree, x: Batch, *, memory_budget: float = MEMORY_BUDGET
) -> Float[Array, ""]:
    """1 − <K, K0>/(‖K‖‖K0‖), the cosine distance of the kernels at the two points (Fort et al. 2020).

    Blind to a change of the kernel's scale. Computed as ½‖K/‖K‖ − K0/‖K0‖‖², which keeps its digits near 0.
    """
    return distance_of_kernels(*(_kernel(apply, p, x, memory_budget) for p in (params0, params)))


def distance_of_kernels(before: Array, after: Array) -> Float[Array, ""]:
    """`kernel_distance` of two kernels on the same inputs."""
    return 0.5 * jnp.sum((_unit(after) - _unit(before)) ** 2)


@entrance
def target_alignment(
    apply: Apply, params: PyTree, problem: Problem, *, memory_budget: float = MEMORY_BUDGET
) -> Float[Array, ""]:
    """Kernel-target alignment yᵀK y/(‖K‖_F ‖y‖²) on the training data (Cristianini et al. 2001), in [0, 1].

    Integer labels stand for their one-hot vectors where the outputs are `(n, k)`. Nothing is centred: subtract the mean
    from the targets first where a constant is not part of the question. 0 for a zero kernel or zero targets.
    """
    kernel = _kernel(apply, params, problem.x, memory_budget)
    return alignment_of_kernel(kernel, problem.y, outputs_of(apply, params, problem.x).shape)


def alignment_of_kernel(kernel: Array, y: Array, shape: tuple[int, ...]) -> Float[Array, ""]:
    """`target_alignment` of a kernel on the inputs of the targets `y`, for outputs of that shape."""
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1 and len(shape) == 2:
        check_range("target_alignment", y, shape[1])
        y = jax.nn.one_hot(y, shape[1])
    if y.shape != shape:
        raise ValueError(
            f"target_alignment needs targets of the outputs' shape {tuple(shape)} or class labels, "
            f"got {tuple(y.shape)}: reshape y"
        )
    matrix = as_matrix(kernel)
    target = _unit(y.astype(matrix.dtype).reshape(-1))
    return target @ _unit(matrix) @ target


@entrance
def cka(k: Array, l: Array) -> Float[Array, ""]:  # noqa: E741
    """Centred kernel alignment <HKH, HLH>/(‖HKH‖‖HLH‖), H = 1 − 11ᵀ/n (Cortes et al. 2012), in [0, 1].

    Kernels `(n, n)`, or `(n, n, k, k)`, which are traced over outputs first. 0 where a centred kernel vanishes. Raises
    ValueError when the numbers of examples differ.
    """
    if k.shape[:2] != l.shape[:2]:
        raise ValueError(
            f"cka compares two kernels on the same examples, got shapes {tuple(k.shape)} and {tuple(l.shape)}: "
            "compute both on one batch"
        )
    return jnp.sum(_unit(_centered(k)) * _unit(_centered(l)))


@entrance
def stable_rank(matrix: Float[Array, "m d"]) -> Float[Array, ""]:
    """‖A‖_F²/‖A‖², the sum of the squared singular values over the largest: between 1 and the rank, NaN for A = 0.

    Unlike the rank it does not jump: what is numerically low-rank counts as that (Varre et al. 2023).
    """
    values = jnp.linalg.svdvals(matrix / tree.unit(matrix))
    return jnp.sum((values / values[0]) ** 2)


@entrance
def linearization_gap(apply: Apply, params0: PyTree, params: PyTree, x: Batch) -> Float[Array, ""]:
    """‖h(w) − h̄(w)‖/‖h(w) − h(w0)‖ on `x`, h̄ the linearisation at w0: the gap at the same weights, after the fact.

    One forward-mode product. The same at every output scale alpha. It bounds nothing about where the linearised model
    would have trained to: that is `trained_gap`. A movement of the outputs near eps·‖h(w0)‖ leaves only rounding.
    """
    return _linearization_gap(apply, params0, params, x, tree.differences(params0, params))


@partial(jax.jit, static_argnums=0)
def _linearization_gap(apply: Apply, params0: PyTree, params: PyTree, x: Batch, change: list[Array]) -> Array:
    theta0, merge = tree.split(params0)
    outputs0, linear = pushed(lambda th: apply(merge(th), x), theta0, change)
    moved = apply(params, x) - outputs0
    gap = tree.ratio(tree.norm(moved - linear), tree.norm(moved))
    # At w0 the two programs may still differ in the last bit.
    return jnp.where(tree.norm(change) == 0, 0, gap)


@entrance
def trained_gap(
    f: Float[Array, "n *out"],
    f_linear: Float[Array, "n *out"],
    f0: Float[Array, "n *out"],
    y: Float[Array, "n *out"] | None = None,
) -> Float[Array, ""]:
    """Gap g = ‖f_T − f_lin,T‖/min(‖f_T − f_0‖, ‖y − mean y‖), trained model against trained linearisation.

    All on the same (held-out) inputs and with alpha in them. `y` are real targets, for the square loss: without their
    spread a large initial output, which both models have to undo, would dilute the gap (docs/design.md, the regime).
    Leave `y` out for other losses. Targets that are all equal have no spread and are left out, too.
    """
    scale = tree.norm(f - f0)
    if y is not None:
        spread = tree.norm(y - jnp.mean(y, axis=0, keepdims=True))
        vary = jnp.any(y != y[:1])  # the mean of equal numbers may be off by a rounding
        scale = jnp.where(vary, jnp.minimum(scale, spread), scale)
    return tree.ratio(tree.norm(f - f_linear), scale)


@entrance
def activation_stability(gates: Callable[[PyTree, Array], PyTree], params0: PyTree, params: PyTree, x: Batch) -> PyTree:
    """Share of (example, unit) pairs whose gate is as it was at `params0`, per layer, in the structure of `gates`.

    The "stability of activations" of Chizat et al. 2019 (§3.2). 1 at `params0`.
    """
    return jax.tree.map(
        lambda before, after: jnp.sum(before == after) / before.size, gates(params0, x), gates(params, x)
    )


def _kernel(apply: Apply, params: PyTree, x: Batch, memory_budget: float) -> Array:
    """The kernel up to its scale."""
    unit = derivative_unit(apply, params, x)
    return blocked_tangent_kernel(apply, params, x, memory_budget=memory_budget, unit=unit)


def _grouped(params0: PyTree, leaves: list[Array]) -> Grouped:
    sizes = dict(zip(tree.group_names(params0), (tree.norm(leaf) for leaf in leaves), strict=True))
    return Grouped(tree.norm(leaves), sizes)


def _zeros_like(params: PyTree) -> PyTree:
    theta, merge = tree.split(params)
    return merge([jnp.zeros_like(leaf) for leaf in theta])


def _centered(kernel: Array) -> Array:
    kernel = kernel / tree.unit(kernel)
    if kernel.ndim == 4:
        kernel = jnp.trace(kernel, axis1=2, axis2=3)
    rows = kernel - jnp.mean(kernel, axis=0, keepdims=True)
    return rows - jnp.mean(rows, axis=1, keepdims=True)


def _unit(array: Array) -> Array:
    length = tree.norm(array)
    return array / jnp.where(length > 0, length, 1)
