"""Conjugate gradients for the eigenvector of largest |eigenvalue| of a symmetric operator, in four vectors.

For extreme eigenvalues they go as far as Lanczos with as many products (Knyazev 2001, §5), which keeps a vector a step;
of a large model each is as long as its weights. The direction after a move is conjugate to the last one with respect to
H − λ (Hestenes & Stiefel 1952), the move is that of Rayleigh and Ritz in the plane of point and direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    point, scale = _begin(product, start)

    def move(_: Array, point: _Point) -> _Point:
        point = _turn(point)
        return _move(point._replace(turned=_over(scale, product(point.direction))))

    return _unit(jax.lax.fori_loop(1, steps, move, point).u)


def top_eigenvector_by_calls(product: Product, start: PyTree, steps: int) -> PyTree:
    """`top_eigenvector` with its loop in Python, for a product that is compiled by itself (`krylov.by_calls`)."""
    point, scale = _begin(product, start)
    for _ in range(1, steps):
        point = _turn_in_place(point)
        point = _move_in_place(point._replace(turned=_over_in_place(scale, product(point.direction))))
    return _unit(point.u)


def _begin(product: Product, start: PyTree) -> tuple[_Point, Array]:
    """The first point, and the power of two in which products are taken, so that no square leaves the range."""
    u = _unit(start)
    image = product(u)
    scale = tree.unit(image)
    image = _over(scale, image)
    value = tree.dot(u, image)
    direction, turned = (jax.tree.map(jnp.zeros_like, u) for _ in range(2))
    other, overlap = (jnp.zeros_like(value) for _ in range(2))
    return _Point(u, image, direction, turned, value, other, overlap), scale


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


def _move(point: _Point) -> _Point:
    """To the vector of largest |Rayleigh quotient| in the plane of u and the direction, by the angle to it."""
    across, other = tree.dot(point.u, point.turned), tree.dot(point.direction, point.turned)
    middle, half = (point.value + other) / 2, (point.value - other) / 2
    angle, radius, up = jnp.arctan2(across, half) / 2, jnp.hypot(half, across), middle >= 0
    cosine = jnp.where(up, jnp.cos(angle), -jnp.sin(angle))
    sine = jnp.where(up, jnp.sin(angle), jnp.cos(angle))

    def moved(a: PyTree, b: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: cosine * x + sine * y, a, b)

    return point._replace(
        u=moved(point.u, point.direction),
        image=moved(point.image, point.turned),
        value=middle + jnp.where(up, radius, -radius),
        other=other,
        overlap=sine,
    )


_turn_in_place = jax.jit(_turn, donate_argnums=0)
_move_in_place = jax.jit(_move, donate_argnums=0)
_over_in_place = jax.jit(_over, donate_argnums=1)
