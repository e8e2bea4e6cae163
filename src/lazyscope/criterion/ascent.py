"""The two moves of the search for ‖D²h‖, and where its random vectors come from.

A slice is the top singular pair of v ↦ B(u, v) for a fixed u. A climb takes u towards the eigenvector of H_z of largest
|eigenvalue| (`climb`), then z as the direction of B(u, u). Random vectors are drawn on the host: on small models,
compiling JAX's generator takes longer than the whole search.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from lazyscope import tree
from lazyscope.criterion.budget import Counter
from lazyscope.criterion.climb import top_eigenvector, top_eigenvector_by_calls
from lazyscope.criterion.products import (
    Leaves,
    curvature,
    hessian_product,
    leaf_outputs,
    mixed,
    normalized_outputs,
    second_derivative,
    slice_product,
)
from lazyscope.door import pushed
from lazyscope.examples import Batch
from lazyscope.krylov import lanczos, lanczos_by_calls
from lazyscope.models import Apply

SCREEN, CONTINUE = 6, 25  # Lanczos steps of a slice, first for all and then for those kept
_LONGEST = 4  # times the products of a first climb that one takes
_SETTLED = 1e-4  # an ascent that gains less, relative to its value, is over


class Ascent(NamedTuple):
    """A direction z in output space and u in parameter space, with the largest ‖B‖ seen on the way."""

    z: Array | np.ndarray
    u: Leaves
    value: float
    gain: float = np.inf
    climbs: int = 0

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

    def leaves(self, v: np.ndarray) -> Leaves:
        """A vector of parameters as leaves."""
        theta = tree.split(self.params)[0]
        ends = np.cumsum([leaf.size for leaf in theta])[:-1]
        return [jnp.asarray(part.reshape(leaf.shape)) for part, leaf in zip(np.split(v, ends), theta, strict=True)]

    def probe(self, probes: int, num_outputs: int, count: Counter) -> tuple[np.ndarray, np.ndarray]:
        """Energies E[(H_z v)_j²] = Σ_ki T_kji² of the coordinates, and each probe's ‖H_z v‖, of mean square ‖T‖_F²."""
        energy, norms = np.zeros(self.size), []
        for _ in range(probes):
            z, v = (self.random.choice([-1.0, 1.0], k).astype(self.dtype) for k in (num_outputs, self.size))
            image = flat(hessian_product(self.apply, self.params, self.x, z, self.leaves(v))).astype(float)
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
        return Ascent(z, self.leaves(np.asarray(v)), float(value))

    def climb(self, ascent: Ascent, steps: int, count: Counter) -> Ascent:
        """One round: u for this z, then z for that u. The buffers of `ascent.u` are given up.

        z settles within one or two rounds and u does not: a round takes twice the products of the one before, from
        `steps` on and as far as there are any.
        """
        steps = min(steps * min(2**ascent.climbs, _LONGEST), self.size, max(count.left - 1, 1))
        count.add(steps + 1)
        run = _climb_by_calls if self.by_calls else _climb
        # A small perturbation: from an exact eigenvector nothing else would be seen.
        z, u, value = run(self.apply, self.params, self.x, ascent.z, self._perturbed(ascent.u), steps)
        value = float(value)
        gain = max(value - ascent.value, 0.0)
        return Ascent(z, u, max(value, ascent.value), gain, ascent.climbs + 1)

    def _perturbed(self, u: Leaves) -> Leaves:
        # In the type of the leaf: a large model's in double precision would be two copies of its weights.
        each = [self.random.standard_normal(leaf.shape, leaf.dtype) for leaf in u]
        return _add(u, each, np.asarray(1e-3 / np.sqrt(sum(np.vdot(leaf, leaf) for leaf in each)), self.dtype))


def flat(u: Leaves) -> np.ndarray:
    """Leaves as one vector."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in u])


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


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def _climb(
    apply: Apply, params: PyTree, x: Batch, z: Array, u: Leaves, steps: Int[Array, ""]
) -> tuple[Array, Leaves, Array]:
    f, theta = leaf_outputs(apply, params, x)
    _, product = jax.linearize(jax.grad(lambda w: jnp.vdot(z, f(w))), theta)
    u = top_eigenvector(product, u, steps)
    z, value = _unit(second_derivative(f, theta, u))
    return z, u, value


def _climb_by_calls(
    apply: Apply, params: PyTree, x: Batch, z: Array | np.ndarray, u: Leaves, steps: int
) -> tuple[Array, Leaves, Array]:
    u = top_eigenvector_by_calls(lambda v: hessian_product(apply, params, x, z, v), u, steps)
    z, value = _unit(curvature(apply, params, x, u))
    return z, u, value


@partial(jax.jit, donate_argnums=0)
def _add(u: Leaves, change: Leaves, factor: Array) -> Leaves:
    return [leaf + factor * step for leaf, step in zip(u, change, strict=True)]


def _unit(b: Array) -> tuple[Array, Array]:
    value = tree.norm(b)
    return b / jnp.where(value > 0, value, 1), value
