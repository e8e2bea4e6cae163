"""Permutations of hidden units: which reordering brings one net closest to another (Ainsworth et al. 2023).

Reordering hidden units leaves a net's outputs alone but moves its weights, so the mean of two solutions, or the plane
through them, says little until their units are matched. With one hidden layer the best match is one linear assignment,
exact; with more, each layer is matched in turn, given the others, until nothing changes: a local optimum.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.optimize import linear_sum_assignment

from lazyscope import tree
from lazyscope.door import entrance
from lazyscope.landscape.vectors import vector_like

Axes = Mapping[str, tuple[str | None, ...]]


class Aligned(NamedTuple):
    """The reordered parameters, the order of each set of units, and ‖w − reference‖ before and after."""

    params: PyTree
    orders: dict[str, np.ndarray]
    before: Float[Array, ""]
    after: Float[Array, ""]


def two_layer_axes() -> dict[str, tuple[str | None, ...]]:
    """Which axes of `two_layer` count hidden units."""
    return {"a": ("hidden",), "b": ("hidden", None)}


def mlp_axes(depth: int, *, bias: bool = False) -> dict[str, tuple[str | None, ...]]:
    """Which axes of an `mlp` with `depth` layers count which hidden units."""
    names: list[str | None] = [None, *(f"hidden {i}" for i in range(depth - 1)), None]
    axes: dict[str, tuple[str | None, ...]] = {f"layers/{i}/w": (names[i + 1], names[i]) for i in range(depth)}
    return axes | {f"layers/{i}/b": (names[i + 1],) for i in range(depth)} if bias else axes


@entrance
def align(params: PyTree, reference: PyTree, axes: Axes, *, sweeps: int = 50) -> Aligned:
    """`params` with its hidden units reordered to lie as near to `reference` as possible, in the same function.

    `axes` gives for every parameter, by name (`tree.group_names`), the set of units that each of its axes counts, None
    for inputs and outputs: `two_layer_axes()`, `mlp_axes(depth)`, or your own for any net. Raises ValueError when a
    parameter has no entry, or one with another number of axes.
    """
    vector_like(reference, params, "the net to align")
    names = tree.group_names(params)
    theta, merge = tree.split(params)
    fixed = {name: np.asarray(leaf) for name, leaf in zip(names, tree.split(reference)[0], strict=True)}
    moving = {name: np.asarray(leaf) for name, leaf in zip(names, theta, strict=True)}
    for name, leaf in moving.items():
        if len(axes.get(name, ())) != leaf.ndim:
            raise ValueError(
                f"axes must name the units of each of the {leaf.ndim} axes of {name!r}, got {axes.get(name)}: "
                "None for inputs and outputs"
            )
    sizes = {unit: leaf.shape[i] for name, leaf in moving.items() for i, unit in enumerate(axes[name]) if unit}
    orders = {unit: np.arange(size) for unit, size in sizes.items()}
    for _ in range(sweeps):
        changed = False
        for unit in orders:
            match = _match(unit, moving, fixed, axes, orders)
            changed |= not np.array_equal(match, orders[unit])
            orders[unit] = match
        if not changed:
            break
    placed = merge([jnp.asarray(_reorder(moving[name], axes[name], orders)) for name in names])
    goal = tree.split(reference)[0]
    before, after = (tree.norm(tree.sub(tree.split(p)[0], goal)) for p in (params, placed))
    return Aligned(placed, orders, before, after)


def _reorder(leaf: np.ndarray, units: tuple[str | None, ...], orders: Mapping[str, np.ndarray]) -> np.ndarray:
    for axis, unit in enumerate(units):
        if unit is not None and unit in orders:
            leaf = np.take(leaf, orders[unit], axis=axis)
    return leaf


def _match(
    unit: str,
    moving: Mapping[str, np.ndarray],
    fixed: Mapping[str, np.ndarray],
    axes: Axes,
    orders: Mapping[str, np.ndarray],
) -> np.ndarray:
    """The order of one set of units that maximises ⟨reordered, reference⟩, the other sets in their current order."""
    size = orders[unit].size
    gain = np.zeros((size, size))
    others = {name: order for name, order in orders.items() if name != unit}
    for name, leaf in moving.items():
        for axis, counted in enumerate(axes[name]):
            if counted == unit:
                source = np.moveaxis(_reorder(leaf, axes[name], others), axis, 0).reshape(size, -1)
                gain += np.moveaxis(fixed[name], axis, 0).reshape(size, -1) @ source.T
    rows, columns = linear_sum_assignment(gain, maximize=True)
    order = np.empty(size, int)
    order[rows] = columns
    # A tie of rounding must not count as a change, or the sweeps would not end.
    units = np.arange(size)
    better = gain[units, order].sum() - gain[units, orders[unit]].sum() > 1e-12 * np.abs(gain).max() * size
    return order if better else orders[unit]
