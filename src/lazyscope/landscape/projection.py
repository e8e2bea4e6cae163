"""Where points lie relative to a line or a plane, and what the function is at the points and at their projections.

The surface above a projected point is not the value of the point: in p dimensions almost all of a point's distance from
the centre is usually off the plane.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope.door import entrance
from lazyscope.landscape.vectors import direction_matrix, flatten, vector_like


class Projection(NamedTuple):
    """R points and a k-dimensional affine space.

    `coordinates[r]` are the coefficients of the nearest point of the space, in units of the directions. `in_plane` is
    the share of ‖w − center‖² that lies in the space (1 for the centre itself), `off_plane` the distance to it.
    `explained` is the share of Σ_r ‖w_r − center‖². `values` are those of the function at the points, `shadows` those
    at their projections; NaN without a function.
    """

    coordinates: Float[Array, "r k"]
    in_plane: Float[Array, " r"]
    off_plane: Float[Array, " r"]
    explained: Float[Array, ""]
    values: Float[Array, " r"]
    shadows: Float[Array, " r"]


@entrance
def project(
    points: Sequence[PyTree],
    center: PyTree,
    directions: Sequence[PyTree],
    *,
    function: Callable[[PyTree], Array] | None = None,
) -> Projection:
    """Nearest points of center + span(directions) to `points`, by least squares, with their true values.

    Points may come from several models that share a tree. Raises ValueError as `plane` does.
    """
    matrix = direction_matrix(center, directions)
    rows = jnp.stack([vector_like(center, point, f"point {i}") for i, point in enumerate(points)])
    return _project(function, center, matrix, rows)


@partial(jax.jit, static_argnums=0)
def _project(
    function: Callable[[PyTree], Array] | None, center: PyTree, matrix: Float[Array, "k p"], rows: Float[Array, "r p"]
) -> Projection:
    origin, unflatten = flatten(center)
    moved = rows - origin[None]
    # Q from the directions as columns: an orthonormal basis of their span.
    basis, mixing = jnp.linalg.qr(matrix.T)
    along = moved @ basis
    inside = along @ basis.T
    squares = jnp.sum(moved**2, axis=1)
    kept = jnp.sum(along**2, axis=1)
    total = jnp.sum(squares)

    def value(row: Array) -> Array:
        return jnp.full((), jnp.nan, row.dtype) if function is None else function(unflatten(row))

    return Projection(
        coordinates=jax.scipy.linalg.solve_triangular(mixing, along.T).T,
        in_plane=jnp.where(squares > 0, kept / jnp.where(squares > 0, squares, 1), 1),
        off_plane=jnp.linalg.norm(moved - inside, axis=1),
        explained=jnp.where(total > 0, jnp.sum(kept) / jnp.where(total > 0, total, 1), 1),
        values=jax.lax.map(value, rows),
        shadows=jax.lax.map(value, origin[None] + inside),
    )
