"""Centres and directions: through points, random and filter-normalised, principal components."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.door import entrance
from lazyscope.landscape.vectors import direction_matrix, flatten, stack, vector_like


class Frame(NamedTuple):
    """A centre and directions, as pytrees: the arguments of `plane` and `project`."""

    center: PyTree
    directions: tuple[PyTree, ...]


class Principal(NamedTuple):
    """Principal components of a set of points.

    Directions of length 1 in descending order of `variances` (sum of squares along them over R − 1); `explained` is
    each one's share of the total.
    """

    center: PyTree
    directions: tuple[PyTree, ...]
    variances: Float[Array, " k"]
    explained: Float[Array, " k"]


@entrance
def between(first: PyTree, second: PyTree) -> Frame:
    """The line of two points: the first at 0, the second at 1. Raises ValueError when they are equal."""
    origin, unflatten = flatten(first)
    direction = unflatten(vector_like(first, second, "point 1") - origin)
    direction_matrix(first, [direction], 1)
    return Frame(first, (direction,))


@entrance
def through(first: PyTree, second: PyTree, third: PyTree) -> Frame:
    """The plane of three points, with orthonormal directions: the first at the origin, the second on the first axis.

    Raises ValueError when the three lie on one line.
    """
    origin, unflatten = flatten(first)
    differences = [unflatten(vector_like(first, p, f"point {i}") - origin) for i, p in ((1, second), (2, third))]
    basis, mixing = np.linalg.qr(np.asarray(direction_matrix(first, differences, 2)).T)
    # With the signs that put the second and third point at positive coordinates.
    rows = (basis * np.sign(np.diag(mixing))).T
    return Frame(first, tuple(unflatten(jnp.asarray(row)) for row in rows))


@entrance
def filter_normalised(
    key: Key[Array, ""], params: PyTree, *, axes: Mapping[str, int | None] | None = None, count: int = 2
) -> tuple[PyTree, ...]:
    """`count` random directions with the scale of the weights, filter by filter (Li et al. 2018, §4).

    d ← (d/‖d‖)·‖w‖ for every filter: in a leaf of two or more axes each slice along axis 0, all weights that go into
    one unit. Leaves of one axis are taken for biases and kept fixed, as in the paper's figures. `axes` says otherwise
    for single leaves, by their name or its last part: the axis that counts units, or None for the whole leaf as one
    filter. `{"a": 0}` is right for `two_layer`, whose readout weights are a leaf of one axis; Flax kernels have their
    units on the last axis.

    For `two_layer` with `{"a": 0}` the surface does not change when a unit of a ReLU net is rescaled, b_i → c b_i,
    a_i → a_i/c. For deeper nets it is unchanged only under rescaling of whole layers.
    """
    chosen = axes or {}
    theta, merge = tree.split(params)
    names = tree.group_names(params)
    for name in chosen:
        if not any(name in (group, group.rpartition("/")[2]) for group in names):
            raise ValueError(f"axes must name parameters, got {name!r}: the names are {', '.join(names)}")

    def rescaled(leaf_key: Array, name: str, leaf: Array) -> Array:
        drawn = jax.random.normal(leaf_key, leaf.shape, leaf.dtype)
        short = name.rpartition("/")[2]
        if name in chosen or short in chosen:
            axis = chosen.get(name, chosen.get(short))
        elif leaf.ndim >= 2:
            axis = 0
        else:
            return jnp.zeros_like(leaf)
        if axis is not None and not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(f"the axis of units of {name!r} must be one of its {leaf.ndim}, got {axis}")
        others = tuple(i for i in range(leaf.ndim) if axis is None or i != axis % leaf.ndim)
        length, size = (jnp.sqrt(jnp.sum(v**2, axis=others, keepdims=True)) for v in (drawn, leaf))
        return drawn / jnp.where(length > 0, length, 1) * size

    directions = []
    for k in jax.random.split(key, count):
        keys = jax.random.split(k, len(theta))
        directions.append(merge([rescaled(*item) for item in zip(keys, names, theta, strict=True)]))
    return tuple(directions)


@entrance
def mean(points: Sequence[PyTree]) -> PyTree:
    """The mean of points, leaf by leaf."""
    _, unflatten = flatten(points[0])
    return unflatten(jnp.mean(stack(points), axis=0))


@entrance
def principal(points: Sequence[PyTree], *, count: int = 2, center: PyTree | None = None) -> Principal:
    """The first principal components of a trajectory or a set of solutions, about their mean.

    With `center`, about that point instead, as is usual for trajectories (their last point). Raises ValueError when
    the points span fewer than `count` directions.
    """
    rows = np.asarray(stack(points))
    _, unflatten = flatten(points[0])
    origin = rows.mean(axis=0) if center is None else np.asarray(vector_like(points[0], center, "the center"))
    _, sizes, directions = np.linalg.svd(rows - origin, full_matrices=False)
    noise = sizes[0] * max(rows.shape) * np.finfo(rows.dtype).eps
    rank = int(np.sum(sizes > noise))
    if rank < count:
        raise ValueError(f"{count} principal components need points that span as many, got {rank}: add other points")
    squares = sizes**2
    return Principal(
        center=unflatten(jnp.asarray(origin)),
        directions=tuple(unflatten(jnp.asarray(row)) for row in directions[:count]),
        variances=jnp.asarray(squares[:count] / max(rows.shape[0] - 1, 1)),
        explained=jnp.asarray(squares[:count] / np.sum(squares)),
    )
