"""Landscapes of any scalar function of a pytree: values on lines and planes, and where points lie relative to them.

    w(s) = center + Σ_k s_k d_k

A plane shows the function on two directions out of p. A point off the plane has its own value, which the surface above
its projection does not show: `project` gives both, with the distance between the two.

`frame` makes centres and directions (through points, random filter-normalised, principal components, top curvature),
`surface` evaluates, `projection` places points, `alignment` undoes permutations of hidden units.

>>> import jax.numpy as jnp
>>> from lazyscope import landscape
>>> bowl = lambda w: jnp.sum(w**2)
>>> axes = (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
>>> surface = landscape.plane(bowl, jnp.zeros(2), axes, extent=1.0, resolution=3)
>>> surface.values.tolist()
[[2.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 2.0]]
"""

from lazyscope.landscape.alignment import Aligned, align, mlp_axes, two_layer_axes
from lazyscope.landscape.curvature import Curvature, hessian_directions, kernel_directions
from lazyscope.landscape.frame import Frame, Principal, between, filter_normalised, mean, principal, through
from lazyscope.landscape.projection import Projection, project
from lazyscope.landscape.surface import MEMORY_BUDGET, Barrier, Line, Plane, barrier, line, plane, sublevel_radius

__all__ = [
    "MEMORY_BUDGET",
    "Aligned",
    "Barrier",
    "Curvature",
    "Frame",
    "Line",
    "Plane",
    "Principal",
    "Projection",
    "align",
    "barrier",
    "between",
    "filter_normalised",
    "hessian_directions",
    "kernel_directions",
    "line",
    "mean",
    "mlp_axes",
    "plane",
    "principal",
    "project",
    "sublevel_radius",
    "through",
    "two_layer_axes",
]
