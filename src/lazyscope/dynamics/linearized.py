"""The linearised descent for the square loss, in closed form at any step, infinity included.

Descent on R(alpha·h̄(w))/alpha² with step η moves the training outputs u = alpha·h̄ by u ← u − η (K/n)(u − y), so with
the eigenpairs (λ, v) of K/n at w0 (theory: Lee et al. 2019, eqs. 8-9, in discrete time)

    u_k − y     = Σ (1 − ηλ)^k v vᵀ (u_0 − y),
    w_k − w0    = −(1/alpha n) Dhᵀ Σ v [(1 − (1 − ηλ)^k)/λ] vᵀ (u_0 − y),

and held-out outputs follow from w_k. No step is iterated.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.dynamics.run import BUDGET, Run, Status, check_positive
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.tangent import jacobian


def linearized_descent(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float | Array = 1.0,
    step_size: float | Array,
    steps: Any,
) -> Run:
    """The run of `gradient_descent` on `linearize(apply, params0)`, without iterating, at increasing `steps`.

    `np.inf` is a valid last step: the limit, in which directions below n·eps·λmax keep their initial residual. Costs
    one dense Jacobian and one eigendecomposition of the `(n·k, n·k)` kernel, whatever the number of steps. `params`
    are those at the last step; `observed` is the pair of outputs alpha·h̄ on the training and held-out inputs.

    Raises ValueError for another loss than the square loss and for steps that are not increasing and >= 0.
    """
    if problem.loss is not square_loss:
        raise ValueError("linearized_descent is exact for the square loss only: descend on linearize(apply, params0)")
    for name, value in (("step_size", step_size), ("alpha", alpha)):
        check_positive(name, value)
    counts = np.asarray(steps, float)
    if counts.ndim != 1 or counts.size == 0 or np.any(np.diff(counts) <= 0) or np.isnan(counts).any() or counts[0] < 0:
        raise ValueError(f"steps must be an increasing list of numbers >= 0, got {steps}")

    held_out = None if problem.x_test is None or problem.y_test is None else (problem.x_test, problem.y_test)
    scale = jnp.asarray(alpha, float), jnp.asarray(step_size, float)
    return _solve(apply, params0, problem.x, problem.y, held_out, *scale, jnp.asarray(counts))


@partial(jax.jit, static_argnums=0)
def _solve(
    apply: Apply,
    params0: PyTree,
    x: Array,
    y: Array,
    held_out: tuple[Array, Array] | None,
    alpha: Float[Array, ""],
    step_size: Float[Array, ""],
    steps: Float[Array, " R"],
) -> Run:
    n = x.shape[0]
    dh = jacobian(apply, params0, x)
    rows = dh.reshape(-1, dh.shape[-1])
    alpha, step_size, at = (v.astype(rows.dtype) for v in (alpha, step_size, steps))
    start = alpha * apply(params0, x)
    eigenvalues, vectors = jnp.linalg.eigh(rows @ rows.T / n)
    modes = vectors.T @ (start - y).reshape(-1)

    def outputs_and_pull(k: Array) -> tuple[Array, Array]:
        kept = vectors @ (_powers(eigenvalues, step_size, k) * modes)
        return y + kept.reshape(y.shape), -(vectors @ (_filter(eigenvalues, step_size, k) * modes)) / n

    # `pull` is movement in the basis of the rows of Dh: w_k = w0 + Dhᵀ pull / alpha.
    train, pull = jax.vmap(outputs_and_pull)(at)
    test, test_loss = None, jnp.full(at.shape, jnp.nan, rows.dtype)
    if held_out is not None:
        x_test, y_test = held_out
        cross = jacobian(apply, params0, x_test)
        cross = cross.reshape(-1, dh.shape[-1]) @ rows.T
        start_test = alpha * apply(params0, x_test)
        test = jax.vmap(lambda v: start_test + (cross @ v).reshape(start_test.shape))(pull)
        test_loss = jax.vmap(square_loss, in_axes=(0, None))(test, y_test)
    train_loss = jax.vmap(square_loss, in_axes=(0, None))(train, y)
    time = step_size * at
    top = eigenvalues[-1]
    return Run(
        step=at,
        time=time,
        kernel_time=time * top,
        train_loss=train_loss,
        test_loss=test_loss,
        best_test_loss=jax.lax.cummin(test_loss),
        observed=(train, test),
        params=_moved(params0, pull[-1] @ rows / alpha),
        status=_status(step_size * top, start, train_loss),
    )


def _powers(eigenvalues: Array, step_size: float | Array, k: Array) -> Float[Array, " nk"]:
    """(1 − ηλ)^k, with rounding-level eigenvalues held at 1 and the limit at k = inf."""
    resolved = _resolved(eigenvalues)
    rate = step_size * jnp.where(resolved, eigenvalues, 1)
    small = rate < 0.5
    size = jnp.where(small, jnp.log1p(-jnp.where(small, rate, 0.25)), _log(1 - rate))
    odd = jnp.where(jnp.isinf(k), 0, k) % 2 == 1
    power = jnp.where((rate > 1) & odd, -1, 1) * jnp.exp(k * size)
    return jnp.where(resolved, power, 1)


def _filter(eigenvalues: Array, step_size: float | Array, k: Array) -> Float[Array, " nk"]:
    """(1 − (1 − ηλ)^k)/λ without cancellation at small ηλ; ηk for unresolved λ, and 0 for those at k = inf."""
    resolved = _resolved(eigenvalues)
    safe = jnp.where(resolved, eigenvalues, 1)
    rate = step_size * safe
    small = rate < 0.5
    gentle = -jnp.expm1(k * jnp.log1p(-jnp.where(small, rate, 0.25)))
    weight = jnp.where(small, gentle, 1 - _powers(eigenvalues, step_size, k))
    flat = step_size * jnp.where(jnp.isinf(k), 0, k)
    return jnp.where(resolved, weight / safe, flat)


def _resolved(eigenvalues: Array) -> Array:
    return eigenvalues > eigenvalues.size * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[-1]


def _log(ratio: Array) -> Array:
    return jnp.log(jnp.maximum(jnp.abs(ratio), jnp.finfo(ratio.dtype).tiny))


def _moved(params0: PyTree, movement: Array) -> PyTree:
    theta, merge = tree.split(params0)
    pieces = jnp.split(movement, np.cumsum([leaf.size for leaf in theta])[:-1])
    return merge([leaf + piece.reshape(leaf.shape) for leaf, piece in zip(theta, pieces, strict=True)])


def _status(rate: Array, start: Array, train_loss: Array) -> Status:
    eps = jnp.finfo(start.dtype).eps
    start_norm = jnp.linalg.norm(start.reshape(-1)) / np.sqrt(start.shape[0])
    return Status(
        code=jnp.full((), BUDGET),
        unstable=jnp.asarray(rate > 2),
        precision_limited=10 * eps * start_norm > 0.1 * jnp.sqrt(2 * train_loss[-1]),
        still_improving=jnp.zeros((), bool),
    )
