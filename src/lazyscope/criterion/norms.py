"""The operator norms ‖Dh‖ and ‖D²h‖ of a model on a batch, from products alone.

Both live in the function space of `docs/notation.md`: with f the outputs divided by √n and flattened, they are the
Euclidean norms of Df (‖Dh‖² = λmax(K)/n) and of the symmetric bilinear map B(u, v) = D²f[u, v],

    ‖D²h‖ = max ‖B(u, v)‖ over unit u, v = max_z ‖H_z‖ = max_u ‖B(u, u)‖,   H_z = D²(z·f),   z unit,

the second and third form because H_z is symmetric. Finding that maximum is a nonconvex problem (the spectral norm of
a tensor), so the search below is a portfolio of starts and its value a lower bound. One product is one Df·v, Dfᵀz,
B(u, v) or H_z v, each a small multiple of the cost of a gradient.

Parameters and inputs are arguments of every compiled product: closed over, XLA would fold the model's constants,
which takes minutes for a convolutional net. Random vectors are drawn on the host: on small models, compiling JAX's
generator takes longer than the whole search.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from lazyscope import tree
from lazyscope.krylov import RitzPairs, lanczos, lanczos_by_calls, slow_in_loops
from lazyscope.models import Apply


class Budget(NamedTuple):
    """How far the norms are searched, in products.

    `products` caps all that `criterion` spends on the two norms together; the rest says how it is shared out.
    """

    products: int  # no ascent starts that would pass this many
    jacobian_steps: int  # Lanczos steps for ‖Dh‖, two products each, repeated while unconverged
    kernel_starts: int  # ascents from the top left singular vectors of Dh
    probes: (
        int  # random H_z v: coordinate energies and the Frobenius norm; 0: no slices, no upper bound for large models
    )
    coordinates: int  # slices B(e_j, ·) through the coordinates of most energy ...
    keep: int  # ... of which so many are continued and climbed from
    random_starts: int
    climb_steps: int  # Lanczos steps of one climb
    dense: int = 2**22  # numbers that D²h may hold for the dense upper bound


QUICK = Budget(
    products=40,
    jacobian_steps=9,
    kernel_starts=1,
    probes=0,
    coordinates=0,
    keep=0,
    random_starts=0,
    climb_steps=6,
    dense=0,
)
DEFAULT = Budget(
    products=2000,
    jacobian_steps=24,
    kernel_starts=4,
    probes=16,
    coordinates=64,
    keep=8,
    random_starts=4,
    climb_steps=15,
)
THOROUGH = Budget(
    products=20000,
    jacobian_steps=40,
    kernel_starts=16,
    probes=64,
    coordinates=512,
    keep=32,
    random_starts=64,
    climb_steps=20,
)

_SCREEN, _CONTINUE = 6, 25  # Lanczos steps of a slice, first for all and then for those kept
_SETTLED = 1e-4  # an ascent that gains less, relative to its value, is over
_AGREE = 0.01  # starts whose values are this close count as agreeing


@dataclass(frozen=True)
class Estimate:
    """A norm with what is known of its error: `value` lies within about `error` of it where `converged` says so."""

    value: float
    error: float
    products: int
    converged: bool

    def __str__(self) -> str:
        mark = "" if self.converged else ", not converged"
        return f"{self.value:.6g} ± {self.error:.1g} ({self.products} products{mark})"


@dataclass(frozen=True)
class Search(Estimate):
    """The best of several ascents: a lower bound.

    `error` is the last gain of the best ascent, and `converged` says that it had settled: neither limits the distance
    to the global maximum. `starts` ascents were made, `agree` of them ended within 1 % of the best, and `spread` is
    how far below the best, relative to it, the lowest ended.
    """

    starts: int = 0
    agree: int = 0
    spread: float = 0.0

    def __str__(self) -> str:
        mark = "settled" if self.converged else "still climbing"
        return (
            f">= {self.value:.6g} ({self.agree} of {self.starts} starts agree within 1 %, spread {self.spread:.1%}, "
            f"{mark}, {self.products} products)"
        )


class _Ascent(NamedTuple):
    """A direction z in output space and u in parameter space, with the largest ‖B‖ seen on the way."""

    z: Array | np.ndarray
    u: Array | np.ndarray
    value: float
    gain: float = np.inf

    @property
    def settled(self) -> bool:
        return self.gain <= _SETTLED * self.value


def jacobian_norm(
    apply: Apply, params: PyTree, x: Array, *, key: Key[Array, ""], budget: Budget
) -> tuple[Estimate, Float[Array, "starts nk"], Float[Array, " p"]]:
    """‖Dh‖ by Lanczos on DhDhᵀ/n or DhᵀDh/n, whichever is smaller, with an error from the residual.

    Also returns the leading left singular vectors (the kernel's top directions) and the top right one. The eigenvalue
    error is at most the residual ρ, and about ρ²/gap once Ritz values are apart (Parlett 1998, §11.7).
    """
    tolerance = 1e-7 if _parameter_dtype(params) == jnp.float64 else 1e-4
    most = max(budget.kernel_starts, 1)
    singular = _singular_by_calls if slow_in_loops(apply, params, x) else _singular
    spent, directions = 0, None
    outputs = int(np.prod(jax.eval_shape(apply, params, x).shape))
    start = _host_generator(key).standard_normal(min(outputs, _num_parameters(params)))
    start = jnp.asarray(start, _parameter_dtype(params))
    while True:
        run = singular(apply, params, x, start, depth=budget.jacobian_steps, most=most)
        eigenvalue, error = float(run.eigenvalue), float(run.error)
        spent += 2 * int(run.steps)
        directions = run.left if directions is None else directions
        value = np.sqrt(max(eigenvalue, 0.0))
        error = error / (2 * value) if value > 0 else 0.0
        converged = error <= tolerance * value
        # A restart from the best vector so far; three in all, so that a flat spectrum ends unconverged and says so.
        if converged or spent + 2 * budget.jacobian_steps > min(6 * budget.jacobian_steps, budget.products / 2):
            return Estimate(float(value), float(error), spent, bool(converged)), directions, run.right
        start = run.vector


def hessian_norm(
    apply: Apply,
    params: PyTree,
    x: Array,
    *,
    key: Key[Array, ""],
    budget: Budget,
    kernel_directions: Float[Array, "starts nk"],
    right: Float[Array, " p"] | None = None,
    spent: int = 0,
) -> tuple[Search, Float[Array, " p"], Float[np.ndarray, " probes"]]:
    """‖D²h‖ from below, the direction u with ‖B(u, u)‖ equal to it, and the probes ‖H_z v‖² (mean: Frobenius norm²).

    Three kinds of start, since none wins everywhere: the kernel's top directions; slices, the top singular pair of
    v ↦ B(e_j, v) for coordinates e_j of much energy (in a ReLU net every hidden unit is a local maximum of its own, and
    from e_j plain alternation cannot leave); random directions. Each then climbs: u the eigenvector of H_z of largest
    |eigenvalue|, z ← B(u, u)/‖B(u, u)‖. After one climb each, the budget goes to the highest that has not settled.
    `right`, the right singular vector of the first kernel direction, starts the first climb: on a conv net of 9 million
    parameters six Lanczos steps from there reach what twelve do from a random vector.
    """
    count = _Counter(budget.products, spent)
    products = _Products(
        apply,
        params,
        x,
        _host_generator(key),
        _num_parameters(params),
        _parameter_dtype(params),
        slow_in_loops(apply, params, x),
    )
    kernel = np.asarray(kernel_directions[: budget.kernel_starts])
    nowhere = np.zeros(products.size, products.dtype)
    ascents = [_Ascent(z, nowhere if i or right is None else right, 0.0) for i, z in enumerate(kernel)]
    probes = np.zeros(0)
    if budget.probes:
        energy, probes = products.probe(budget.probes, kernel.shape[1], count)
        ascents += _slices(products, energy, budget, count)
    for _ in range(budget.random_starts):
        if count.allows(_cost(_SCREEN)):
            ascents.append(products.slice(products.normal(), products.normal(), _SCREEN, count))

    best = _climb_all(products, ascents, budget, count)
    values = np.array([a.value for a in best])
    top = best[int(values.argmax())]
    spread = 1 - values.min() / top.value if top.value > 0 else 0.0
    search = Search(
        value=top.value,
        error=min(top.gain, top.value),
        products=count.spent - spent,
        converged=top.settled,
        starts=len(best),
        agree=int(np.sum(values >= (1 - _AGREE) * top.value)),
        spread=float(spread),
    )
    return search, jnp.asarray(top.u), probes


@dataclass
class _Counter:
    """Products spent so far against the most allowed."""

    most: int
    spent: int

    def add(self, products: int) -> None:
        self.spent += products

    def allows(self, products: int) -> bool:
        return self.spent + products <= self.most


class _Products(NamedTuple):
    """The compiled products of one model on one batch, and where its random vectors come from."""

    apply: Apply
    params: PyTree
    x: Array
    random: np.random.Generator
    size: int
    dtype: np.dtype
    by_calls: bool

    def normal(self) -> np.ndarray:
        """A random unit vector."""
        v = self.random.standard_normal(self.size)
        return (v / np.linalg.norm(v)).astype(self.dtype)

    def probe(self, probes: int, num_outputs: int, count: _Counter) -> tuple[np.ndarray, np.ndarray]:
        """Energies E[(H_z v)_j²] = Σ_ki T_kji² of the coordinates, and each probe's ‖H_z v‖², of mean ‖T‖_F²."""
        energy, squares = np.zeros(self.size), []
        for _ in range(probes):
            z, v = (self.random.choice([-1.0, 1.0], k).astype(self.dtype) for k in (num_outputs, self.size))
            image = np.asarray(_hessian_product(self.apply, self.params, self.x, z, v), float)
            energy += image**2 / probes
            squares.append(np.sum(image**2))
        count.add(probes)
        return energy, np.array(squares)

    def slice(self, u: np.ndarray, v: Array | np.ndarray, steps: int, count: _Counter) -> _Ascent:
        """The top singular pair of B(u, ·), from `v`."""
        steps = min(steps, self.size)
        count.add(_cost(steps))
        run = _slice_by_calls if self.by_calls else _slice
        z, v, value = run(self.apply, self.params, self.x, u, v, np.asarray(steps), depth=_CONTINUE)
        return _Ascent(z, v, float(value))

    def climb(self, ascent: _Ascent, depth: int, count: _Counter) -> _Ascent:
        """One round: u for this z, then z for that u. What an unfinished eigenvector would lose is not taken."""
        count.add(min(depth, self.size) + 1)
        run = _climb_by_calls if self.by_calls else _climb
        z, u, value = run(self.apply, self.params, self.x, ascent.z, ascent.u, self.normal(), depth=depth)
        value = float(value)
        if value < ascent.value:
            return ascent._replace(gain=0.0)
        return _Ascent(z, u, value, value - ascent.value)


def _slices(products: _Products, energy: np.ndarray, budget: Budget, count: _Counter) -> list[_Ascent]:
    """Ascents from the coordinates of most energy: all screened by a few steps, the best continued."""
    chosen = np.argsort(-energy)[: budget.coordinates]
    chosen = chosen[energy[chosen] > 0].tolist()
    start = products.normal()

    def coordinate(j: int) -> np.ndarray:
        return np.eye(1, products.size, j, dtype=products.dtype)[0]

    screened = [
        (products.slice(coordinate(j), start, _SCREEN, count), j) for j in chosen if count.allows(_cost(_SCREEN))
    ]
    screened.sort(key=lambda pair: -pair[0].value)
    return [
        products.slice(coordinate(j), ascent.u, _CONTINUE, count)
        if products.size > _SCREEN and count.allows(_cost(_CONTINUE))
        else ascent
        for ascent, j in screened[: budget.keep]
    ]


def _cost(steps: int) -> int:
    """Products of one slice: two a step, and one for z."""
    return 2 * steps + 1


def _climb_all(products: _Products, ascents: list[_Ascent], budget: Budget, count: _Counter) -> list[_Ascent]:
    """Climb from every start once, the highest first, then always the highest that has not settled."""
    cost = min(budget.climb_steps, products.size) + 1
    waiting = sorted(ascents, key=lambda a: -a.value)
    climbing: list[_Ascent] = []
    done: list[_Ascent] = []
    while (waiting or climbing) and count.allows(cost):
        if waiting:
            climbing.append(products.climb(waiting.pop(0), budget.climb_steps, count))
            continue
        highest = max(range(len(climbing)), key=lambda i: climbing[i].value)
        ascent = products.climb(climbing.pop(highest), budget.climb_steps, count)
        (done if ascent.settled else climbing).append(ascent)
    return [*done, *climbing, *waiting]


def normalized_outputs(
    apply: Apply, params: PyTree, x: Array
) -> tuple[Callable[[Float[Array, " p"]], Float[Array, " nk"]], Float[Array, " p"]]:
    """f: parameters as one vector ↦ outputs/√n as one vector, and the vector at `params`."""
    theta, merge = tree.split(params)
    vector, unravel = ravel_pytree(theta)

    def f(v: Array) -> Array:
        outputs = apply(merge(unravel(v)), x)
        return (outputs.reshape(-1) / math.sqrt(x.shape[0])).astype(vector.dtype)

    return f, vector


class _Singular(NamedTuple):
    eigenvalue: Array
    error: Array
    steps: Array
    vector: Array  # on the side Lanczos ran on, to restart from
    left: Array
    right: Array


@partial(jax.jit, static_argnums=0, static_argnames=("depth", "most"))
def _singular(apply: Apply, params: PyTree, x: Array, start: Array, *, depth: int, most: int) -> _Singular:
    f, vector = normalized_outputs(apply, params, x)
    value, push = jax.linearize(f, vector)
    transpose = jax.linear_transpose(push, vector)

    def pull(z: Array) -> Array:
        return transpose(z)[0]

    on_outputs = value.size <= vector.size
    pairs = lanczos((lambda z: push(pull(z))) if on_outputs else (lambda v: pull(push(v))), start, depth=depth)
    top = pairs.vectors[_largest_first(pairs)[:most]]
    return _largest(pairs, top, jax.lax.map(pull if on_outputs else push, top), on_outputs)


def _singular_by_calls(apply: Apply, params: PyTree, x: Array, start: Array, *, depth: int, most: int) -> _Singular:
    on_outputs = int(np.prod(jax.eval_shape(apply, params, x).shape)) <= _num_parameters(params)

    def push(v: Array) -> Array:
        return _push(apply, params, x, v)

    def pull(z: Array) -> Array:
        return _pull(apply, params, x, z)

    pairs = lanczos_by_calls((lambda z: push(pull(z))) if on_outputs else (lambda v: pull(push(v))), start, depth=depth)
    top = pairs.vectors[_largest_first(pairs)[:most]]
    return _largest(pairs, top, jnp.stack([(pull if on_outputs else push)(v) for v in top]), on_outputs)


def _largest_first(pairs: RitzPairs) -> Array:
    return jnp.arange(pairs.values.size)[::-1]


def _largest(pairs: RitzPairs, top: Array, images: Array, on_outputs: bool) -> _Singular:
    """The largest eigenvalue with its error, `top` and its normalised images on the other side."""
    tiny, eps = jnp.finfo(top.dtype).tiny, jnp.finfo(top.dtype).eps
    images = images / jnp.maximum(jnp.linalg.norm(images, axis=1, keepdims=True), tiny)
    residual = pairs.residuals[-1]
    gap = pairs.values[-1] - pairs.values[-2] if pairs.values.size > 1 else pairs.values[-1]
    # Below the rounding of the eigenvalue itself the residual says nothing.
    floor = eps * jnp.abs(pairs.values[-1])
    error = jnp.maximum(jnp.minimum(residual, residual**2 / jnp.maximum(gap - residual, floor)), floor)
    left, right = (top, images) if on_outputs else (images, top)
    return _Singular(pairs.values[-1], error, jnp.asarray(pairs.values.size), pairs.vectors[-1], left, right[0])


@partial(jax.jit, static_argnums=0)
def _hessian_product(apply: Apply, params: PyTree, x: Array, z: Array | np.ndarray, v: Array | np.ndarray) -> Array:
    f, vector = normalized_outputs(apply, params, x)
    return jax.jvp(jax.grad(lambda w: jnp.vdot(z, f(w))), (vector,), (v,))[1]


@partial(jax.jit, static_argnums=0, static_argnames="depth")
def _slice(
    apply: Apply, params: PyTree, x: Array, u: Array, v: Array, steps: Int[Array, ""], *, depth: int
) -> tuple[Array, Array, Array]:
    """Top singular triple of A_u = B(u, ·) from `v`: A_u is the Jacobian of w ↦ Df(w)u, so two products a step."""
    f, vector = normalized_outputs(apply, params, x)
    _, push = jax.linearize(lambda w: jax.jvp(f, (w,), (u,))[1], vector)
    transpose = jax.linear_transpose(push, vector)
    pairs = lanczos(lambda w: transpose(push(w))[0], v, depth=depth, steps=steps)
    right = pairs.vectors[jnp.argmax(pairs.values)]
    z, value = _unit(push(right))
    return z, right, value


def _slice_by_calls(
    apply: Apply, params: PyTree, x: Array, u: np.ndarray, v: Array | np.ndarray, steps: np.ndarray, *, depth: int
) -> tuple[Array, Array, Array]:
    def product(w: Array) -> Array:
        return _slice_product(apply, params, x, u, w)

    pairs = lanczos_by_calls(product, jnp.asarray(v), depth=min(depth, int(steps)))
    right = pairs.vectors[jnp.argmax(pairs.values)]
    z, value = _unit(_mixed(apply, params, x, u, right))
    return z, right, value


@partial(jax.jit, static_argnums=0, static_argnames="depth")
def _climb(
    apply: Apply, params: PyTree, x: Array, z: Array, u: Array, wobble: Array, *, depth: int
) -> tuple[Array, Array, Array]:
    f, vector = normalized_outputs(apply, params, x)
    _, product = jax.linearize(jax.grad(lambda w: jnp.vdot(z, f(w))), vector)
    # A small perturbation: from an exact eigenvector Lanczos would see nothing else.
    pairs = lanczos(product, u + 1e-3 * wobble, depth=depth)
    u = pairs.vectors[jnp.argmax(jnp.abs(pairs.values))]
    z, value = _unit(second_derivative(f, vector, u))
    return z, u, value


def _climb_by_calls(
    apply: Apply,
    params: PyTree,
    x: Array,
    z: Array | np.ndarray,
    u: Array | np.ndarray,
    wobble: np.ndarray,
    *,
    depth: int,
) -> tuple[Array, Array, Array]:
    def product(v: Array) -> Array:
        return _hessian_product(apply, params, x, z, v)

    pairs = lanczos_by_calls(product, jnp.asarray(u + 1e-3 * wobble), depth=depth)
    u = pairs.vectors[jnp.argmax(jnp.abs(pairs.values))]
    z, value = _unit(_mixed(apply, params, x, u, u))
    return z, u, value


@partial(jax.jit, static_argnums=0)
def _push(apply: Apply, params: PyTree, x: Array, v: Array) -> Array:
    f, vector = normalized_outputs(apply, params, x)
    return jax.jvp(f, (vector,), (v,))[1]


@partial(jax.jit, static_argnums=0)
def _pull(apply: Apply, params: PyTree, x: Array, z: Array) -> Array:
    f, vector = normalized_outputs(apply, params, x)
    return jax.vjp(f, vector)[1](z)[0]


@partial(jax.jit, static_argnums=0)
def _mixed(apply: Apply, params: PyTree, x: Array, u: Array | np.ndarray, v: Array) -> Array:
    """B(u, v)."""
    f, vector = normalized_outputs(apply, params, x)
    return jax.jvp(lambda w: jax.jvp(f, (w,), (u,))[1], (vector,), (v,))[1]


@partial(jax.jit, static_argnums=0)
def _slice_product(apply: Apply, params: PyTree, x: Array, u: Array | np.ndarray, v: Array) -> Array:
    """A_uᵀA_u v for A_u = B(u, ·)."""
    f, vector = normalized_outputs(apply, params, x)
    _, pull = jax.vjp(lambda w: jax.jvp(f, (w,), (u,))[1], vector)
    return pull(_mixed(apply, params, x, u, v))[0]


def second_derivative(
    f: Callable[[Float[Array, " p"]], Float[Array, " nk"]], vector: Float[Array, " p"], u: Float[Array, " p"]
) -> Float[Array, " nk"]:
    """B(u, u) = D²f[u, u]."""
    return jax.jvp(lambda w: jax.jvp(f, (w,), (u,))[1], (vector,), (u,))[1]


def _unit(b: Array) -> tuple[Array, Array]:
    value = jnp.linalg.norm(b)
    return b / jnp.where(value > 0, value, 1), value


def _host_generator(key: Key[Array, ""]) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _num_parameters(params: PyTree) -> int:
    return tree.size(tree.split(params)[0])


def _parameter_dtype(params: PyTree) -> np.dtype:
    return jnp.result_type(*tree.split(params)[0])
