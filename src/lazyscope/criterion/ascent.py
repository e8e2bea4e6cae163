"""The two moves of the search for ‖D²h‖, and where its random vectors come from.

A slice is the top singular pair of v ↦ B(u, v) for a fixed u. A climb takes u as the eigenvector of H_z of largest
|eigenvalue|, then z as the direction of B(u, u). Random vectors are drawn on the host: on small models, compiling JAX's
generator takes longer than the whole search.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lazyscope import tree
from lazyscope.criterion.budget import Counter
from lazyscope.criterion.products import hessian_product, mixed, normalized_outputs, second_derivative, slice_product
from lazyscope.door import pushed
from lazyscope.examples import Batch
from lazyscope.krylov import lanczos, lanczos_by_calls
from lazyscope.models import Apply

SCREEN, CONTINUE = 6, 25  # Lanczos steps of a slice, first for all and then for those kept
_SETTLED = 1e-4  # an ascent that gains less, relative to its value, is over


class Ascent(NamedTuple):
    """A direction z in output space and u in parameter space, with the largest ‖B‖ seen on the way."""

    z: Array | np.ndarray
    u: Array | np.ndarray
    value: float
    gain: float = np.inf

    @property
    def settled(self) -> bool:
        """Whether the last move gained next to nothing."""
        return self.gain <= _SETTLED * self.value


class Moves(NamedTuple):
    """The moves of one model on one batch, and where its random vectors come from."""

    apply: Apply
    params: PyTree
    x: Batch
    random: np.random.Generator
    size: int
    dtype: np.dtype
    by_calls: bool

    def normal(self) -> np.ndarray:
        """A random unit vector."""
        v = self.random.standard_normal(self.size)
        return (v / np.linalg.norm(v)).astype(self.dtype)

    def probe(self, probes: int, num_outputs: int, count: Counter) -> tuple[np.ndarray, np.ndarray]:
        """Energies E[(H_z v)_j²] = Σ_ki T_kji² of the coordinates, and each probe's ‖H_z v‖, of mean square ‖T‖_F²."""
        energy, norms = np.zeros(self.size), []
        for _ in range(probes):
            z, v = (self.random.choice([-1.0, 1.0], k).astype(self.dtype) for k in (num_outputs, self.size))
            image = np.asarray(hessian_product(self.apply, self.params, self.x, z, v), float)
            energy += image**2 / probes
            norms.append(tree.host_norm(image))
        count.add(probes)
        return energy, np.array(norms)

    def slice(self, u: np.ndarray, v: Array | np.ndarray, steps: int, count: Counter) -> Ascent:
        """The top singular pair of B(u, ·), from `v`."""
        steps = min(steps, self.size)
        count.add(cost(steps))
        run = _slice_by_calls if self.by_calls else _slice
        z, v, value = run(self.apply, self.params, self.x, u, v, np.asarray(steps), depth=CONTINUE)
        return Ascent(z, v, float(value))

    def climb(self, ascent: Ascent, depth: int, count: Counter) -> Ascent:
        """One round: u for this z, then z for that u. What an unfinished eigenvector would lose is not taken."""
        count.add(min(depth, self.size) + 1)
        run = _climb_by_calls if self.by_calls else _climb
        z, u, value = run(self.apply, self.params, self.x, ascent.z, ascent.u, self.normal(), depth=depth)
        value = float(value)
        if value < ascent.value:
            return ascent._replace(gain=0.0)
        return Ascent(z, u, value, value - ascent.value)


def cost(steps: int) -> int:
    """Products of one slice: two a step, and one for z."""
    return 2 * steps + 1


@partial(jax.jit, static_argnums=0, static_argnames="depth")
def _slice(
    apply: Apply, params: PyTree, x: Batch, u: Array, v: Array, steps: Int[Array, ""], *, depth: int
) -> tuple[Array, Array, Array]:
    """Top singular triple of A_u = B(u, ·) from `v`: A_u is the Jacobian of w ↦ Df(w)u, so two products a step."""
    f, vector = normalized_outputs(apply, params, x)
    _, push = jax.linearize(lambda w: pushed(f, w, u)[1], vector)
    transpose = jax.linear_transpose(push, vector)
    pairs = lanczos(lambda w: transpose(push(w))[0], v, depth=depth, steps=steps, wanted=jnp.argmax)
    right = pairs.vectors[0]
    z, value = _unit(push(right))
    return z, right, value


def _slice_by_calls(
    apply: Apply, params: PyTree, x: Batch, u: np.ndarray, v: Array | np.ndarray, steps: np.ndarray, *, depth: int
) -> tuple[Array, Array, Array]:
    def product(w: Array) -> Array:
        return slice_product(apply, params, x, u, w)

    pairs = lanczos_by_calls(product, jnp.asarray(v), depth=min(depth, int(steps)), wanted=jnp.argmax)
    right = pairs.vectors[0]
    z, value = _unit(mixed(apply, params, x, u, right))
    return z, right, value


@partial(jax.jit, static_argnums=0, static_argnames="depth")
def _climb(
    apply: Apply, params: PyTree, x: Batch, z: Array, u: Array, wobble: Array, *, depth: int
) -> tuple[Array, Array, Array]:
    # A small perturbation: from an exact eigenvector Lanczos would see nothing else.
    return climb(*normalized_outputs(apply, params, x), z, u + 1e-3 * wobble, depth=depth)


def climb(
    f: Callable[[Float[Array, " p"]], Float[Array, " nk"]],
    vector: Float[Array, " p"],
    z: Float[Array, " nk"],
    u: Float[Array, " p"],
    *,
    depth: int,
) -> tuple[Float[Array, " nk"], Float[Array, " p"], Float[Array, ""]]:
    """One round: u, the eigenvector of H_z of largest |eigenvalue|, by Lanczos from `u`; z, the direction of B(u, u).

    Returns (z, u, ‖B(u, u)‖).
    """
    _, product = jax.linearize(jax.grad(lambda w: jnp.vdot(z, f(w))), vector)
    u = lanczos(product, u, depth=depth, wanted=_largest).vectors[0]
    z, value = _unit(second_derivative(f, vector, u))
    return z, u, value


def _climb_by_calls(
    apply: Apply,
    params: PyTree,
    x: Batch,
    z: Array | np.ndarray,
    u: Array | np.ndarray,
    wobble: np.ndarray,
    *,
    depth: int,
) -> tuple[Array, Array, Array]:
    def product(v: Array) -> Array:
        return hessian_product(apply, params, x, z, v)

    u = lanczos_by_calls(product, jnp.asarray(u + 1e-3 * wobble), depth=depth, wanted=_largest).vectors[0]
    z, value = _unit(mixed(apply, params, x, u, u))
    return z, u, value


def _largest(values: Array) -> Array:
    return jnp.argmax(jnp.abs(values))


def _unit(b: Array) -> tuple[Array, Array]:
    value = tree.norm(b)
    return b / jnp.where(value > 0, value, 1), value
