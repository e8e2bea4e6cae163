"""Conjugate gradients for the eigenvector of largest |eigenvalue| of a symmetric operator, in four vectors.

For extreme eigenvalues they go as far as Lanczos with as many products (Knyazev 2001, §5), which keeps a vector a step;
of a large model each is as long as its weights. The direction after a move is conjugate to the last one with respect to
H − λ (Hestenes & Stiefel 1952), the move is that of Rayleigh and Ritz in the plane of point and direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from lazyscope import tree

Product = Callable[[PyTree], PyTree]


class _Point(NamedTuple):
    """Unit vectors u and d, the direction of the last move, H of both, and u·Hu, d·Hd and u·d.

    After a move u·Hd = (u·Hu)(u·d), as u is the Ritz vector. A move writes u and H u alone, a turn d: four vectors do.
    """

    u: PyTree
    image: PyTree
    direction: PyTree
    turned: PyTree
    value: Array
    other: Array
    overlap: Array


def top_eigenvector(product: Product, start: PyTree, steps: Int[Array, ""] | int) -> PyTree:
    """A unit vector u of a large |u·Hu|, by so many products, the first of them with `start`."""

    def step(i: Array, carry: tuple[_Point, Array]) -> tuple[_Point, Array]:
        point, scale = carry
        image = product(point.direction)
        scale = jax.lax.cond(i == 0, lambda: tree.unit(image), lambda: scale)
        return _turn(_move(point._replace(turned=_over(scale, image)), i == 0)), scale

    point = _begin(start)
    return _unit(jax.lax.fori_loop(0, steps, step, (point, jnp.ones_like(point.value)))[0].u)


def top_eigenvector_by_calls(product: Product, start: PyTree, steps: int) -> PyTree:
    """`top_eigenvector` with its loop in Python, for a product that is compiled by itself (`krylov.by_calls`)."""
    point, scale = _begin(start), None
    for i in range(steps):
        image = product(point.direction)
        scale = tree.unit(image) if scale is None else scale
        point = _move_in_place(point._replace(turned=_over_in_place(scale, image)), np.asarray(i == 0))
        if i + 1 < steps:
            point = _turn_in_place(point)
    return _unit(point.u)


def _begin(start: PyTree) -> _Point:
    """Nowhere, with the start as the direction.

    The first product also gives the power of two in which all are taken, so that no square leaves the range.
    """
    u, image, turned = (jax.tree.map(jnp.zeros_like, start) for _ in range(3))
    nothing = (jnp.zeros((), jnp.result_type(*jax.tree.leaves(start))) for _ in range(3))
    return _Point(u, image, _unit(start), turned, *nothing)


def _unit(v: PyTree) -> PyTree:
    length = tree.norm(v)
    return _over(jnp.where(length > 0, length, 1), v)


def _over(scale: Array, v: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf / scale, v)


def _turn(point: _Point) -> _Point:
    """The next direction: conjugate to the last one, of length 1, or 0 where u is an eigenvector to rounding."""
    u, value, overlap = point.u, point.value, point.overlap
    slope = jax.tree.map(lambda h, v: h - value * v, point.image, u)
    bend = point.other - value  # d·(H − λ)d of the part of d at right angles to u
    turned = jax.tree.map(lambda t, r: t - overlap * r, point.turned, slope)
    kept = jnp.where(bend == 0, 0, -tree.dot(slope, turned) / jnp.where(bend == 0, 1, bend))
    direction = jax.tree.map(lambda r, d, v: r + kept * (d - overlap * v), slope, point.direction, u)
    along = tree.dot(u, direction)  # 0 but for rounding
    direction = jax.tree.map(lambda d, v: d - along * v, direction, u)
    length, noise = tree.norm(direction), 1e-5 if jnp.finfo(value.dtype).bits < 64 else 1e-9
    alive = ~(length <= noise * jnp.abs(value))  # NaN is no end: it shows in the value
    return point._replace(
        direction=jax.tree.map(lambda d: jnp.where(alive, d / jnp.where(alive, length, 1), 0), direction)
    )


def _move(point: _Point, first: Array) -> _Point:
    """To the vector of largest |Rayleigh quotient| in the plane of u and the direction, by the angle to it.

    The first move is to the direction itself.
    """
    across, other = tree.dot(point.u, point.turned), tree.dot(point.direction, point.turned)
    middle, half = (point.value + other) / 2, (point.value - other) / 2
    angle, radius, up = jnp.arctan2(across, half) / 2, jnp.hypot(half, across), middle >= 0
    cosine = jnp.where(first, 0, jnp.where(up, jnp.cos(angle), -jnp.sin(angle)))
    sine = jnp.where(first, 1, jnp.where(up, jnp.sin(angle), jnp.cos(angle)))

    def moved(a: PyTree, b: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: cosine * x + sine * y, a, b)

    return point._replace(
        u=moved(point.u, point.direction),
        image=moved(point.image, point.turned),
        value=jnp.where(first, other, middle + jnp.where(up, radius, -radius)),
        other=other,
        overlap=sine,
    )


_turn_in_place = jax.jit(_turn, donate_argnums=0)
_move_in_place = jax.jit(_move, donate_argnums=0)
_over_in_place = jax.jit(_over, donate_argnums=1)
