"""Pytree algebra: the parameter space R^p of the papers, whatever the container.

Only floating-point leaves are parameters. Integer leaves, PRNG keys and `None` travel along unchanged, so a model
with buffers or counters works as it is (`lazyscope.door.leaves` holds what is no array fixed). Norms and products
accumulate over all leaves at once.
"""

from collections import Counter
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf is differentiated: an array (or Python float) of real floating-point type."""
    return jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.floating) if _is_array(leaf) else isinstance(leaf, float)


def check_sharding(name: str, leaf: Any) -> None:
    """ValueError for an array over Explicit axes of a mesh: the sharding of every result would have to be said."""
    known = isinstance(leaf, jax.Array) and hasattr(leaf, "copy_to_host_async")  # no tracer
    mesh = getattr(leaf.sharding, "mesh", None) if known else None
    kinds = zip(getattr(mesh, "axis_names", ()), getattr(mesh, "axis_types", None) or (), strict=False)
    if axes := [axis for axis, kind in kinds if kind is jax.sharding.AxisType.Explicit]:
        raise ValueError(
            f"{name} must not be sharded over Explicit axes of a mesh, got {axes}: make it with "
            "jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))"
        )


def split(params: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """Separate parameters from what is set aside.

    Returns the list of floating-point leaves and `merge`, which puts such a list back among the other leaves.
    Raises ValueError when nothing is left to differentiate or a leaf is complex.
    """
    leaves, structure = jax.tree.flatten(params)
    for leaf in leaves:
        if _is_array(leaf) and jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.complexfloating):
            raise ValueError(f"parameters must be real, got a {leaf.dtype} leaf of shape {leaf.shape}: split it")
    chosen = [is_parameter(leaf) for leaf in leaves]
    if not any(chosen):
        raise ValueError(
            "parameters must be a pytree with at least one floating-point array, "
            f"got {structure}: pass the weights, not the module or its configuration"
        )

    def merge(theta: list[Array]) -> PyTree:
        remaining = iter(theta)
        return jax.tree.unflatten(
            structure, [next(remaining) if c else leaf for leaf, c in zip(leaves, chosen, strict=True)]
        )

    return [jnp.asarray(leaf) for leaf, c in zip(leaves, chosen, strict=True) if c], merge


def group_names(params: PyTree) -> list[str]:
    """One name per parameter leaf, its path (`layers/0/w`), in the order of `split`, no two alike.

    Paths that read alike (`{"a/b": ...}` and `{"a": {"b": ...}}`) are written out: `['a/b']` and `['a']['b']`.
    """
    paths = [path for path, leaf in jax.tree_util.tree_leaves_with_path(params) if is_parameter(leaf)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") or "parameters" for path in paths]
    seen = Counter(names)
    return [jax.tree_util.keystr(path) if seen[name] > 1 else name for path, name in zip(paths, names, strict=True)]


def copy(params: PyTree) -> PyTree:
    """The pytree with containers and arrays of its own, out of reach of updates in place and of donation."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if isinstance(leaf, jax.Array | np.ndarray) else leaf, params)


def add(a: PyTree, b: PyTree) -> PyTree:
    """A + b, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


@jax.jit
def sub(a: PyTree, b: PyTree) -> PyTree:
    """A − b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def differences(a: PyTree, b: PyTree) -> list[Array]:
    """B − A, parameter by parameter in the order of `split`; ValueError unless they are checkpoints of one model."""
    before, after = split(a)[0], split(b)[0]
    shapes_before, shapes_after = [leaf.shape for leaf in before], [leaf.shape for leaf in after]
    if shapes_before != shapes_after:
        raise ValueError(f"two checkpoints of one model must have equal shapes, got {shapes_before} and {shapes_after}")
    return sub(after, before)


@jax.jit
def ratio(change: Array, scale: Array) -> Array:
    """change/scale; 0/0 is no change, and change where there was nothing is infinite."""
    return jnp.where(change == 0, 0, change / jnp.where((scale == 0) & (change == 0), 1, scale))


def scale(factor: float | Array, a: PyTree) -> PyTree:
    """factor·a, each leaf in its own precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, a)


def dot(a: PyTree, b: PyTree) -> Array:
    """Euclidean inner product over all leaves."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))  # type: ignore[return-value]


@jax.jit
def unit(a: PyTree) -> Array:
    """The largest magnitude over all leaves, rounded down to a power of two; 1 where it is no normal positive number.

    Quantities are squared and multiplied after division by it: that changes no digit, and nothing over- or underflows
    on the way. It has no derivative.
    """
    largest = reduce(jnp.maximum, (jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(a)))
    largest = jax.lax.stop_gradient(largest)
    # Below the smallest normal number devices may flush to 0, and a quotient would be NaN.
    usable = jnp.isfinite(largest) & (largest >= jnp.finfo(largest.dtype).tiny)
    largest = jnp.where(usable, largest, 1)
    mantissa, _ = jnp.frexp(largest)
    return largest / (2 * mantissa)


@jax.jit
def norm(a: PyTree) -> Array:
    """Euclidean norm ‖a‖ over all leaves, at any scale: inf only where the norm itself is beyond the largest float."""
    square = dot(a, a)
    limits = jnp.finfo(square.dtype)

    def in_units() -> Array:
        one = unit(a)
        scaled = jax.tree.map(lambda leaf: leaf / one, a)
        return one * jnp.sqrt(dot(scaled, scaled))

    # The square of a norm in the middle of the range has lost nothing; elsewhere it may be 0, inf or without digits.
    usual = (square > limits.tiny / limits.eps**2) & (square < limits.max)
    return jax.lax.cond(usual, lambda: jnp.sqrt(square), in_units)


def host_norm(values: np.ndarray | np.generic) -> float:
    """Euclidean norm of an array of NumPy in double precision, at any scale."""
    values = np.asarray(values, float)
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm((values / largest).reshape(-1)))


def size(a: PyTree) -> int:
    """Number of scalars p."""
    return sum(leaf.size for leaf in jax.tree.leaves(a))


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")
