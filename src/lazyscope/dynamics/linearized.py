"""The linearised descent and flow for the square loss, in closed form at any step or time, infinity included.

Descent on R(alpha·h̄(w))/alpha² with step η moves the training outputs u = alpha·h̄ by u ← u − η (K/n)(u − y), the flow
by u' = −(K/n)(u − y). With the eigenpairs (λ, v) of K/n at w0 (Lee et al. 2019, eqs. 8-9; in discrete time as well)

    u − y  = Σ r v vᵀ (u_0 − y),                       r = (1 − ηλ)^k  or  e^(−λt),
    w − w0 = −(1/alpha n) Dhᵀ Σ v [(1 − r)/λ] vᵀ (u_0 − y),

and held-out outputs follow from w. Nothing is iterated or integrated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from lazyscope import examples, tree
from lazyscope.door import check_examples, entrance
from lazyscope.dynamics.run import BUDGET, Resolution, Run, Status, check_positive, check_times, precision_limited
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.tangent import jacobian


class _Modes(NamedTuple):
    """Eigenvalues of K/n at w0 in ascending order, and which of them are told from rounding."""

    values: Float[Array, " nk"]
    resolved: Bool[Array, " nk"]


# A law of motion: from modes and a step or time to r and (1 − r)/λ for every mode.
_Law = Callable[[_Modes, Array, Array], tuple[Array, Array]]


@entrance
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
    check_examples(apply, params0, problem.x)
    counts = np.asarray(steps, float)
    if counts.ndim != 1 or counts.size == 0 or np.any(np.diff(counts) <= 0) or np.isnan(counts).any() or counts[0] < 0:
        raise ValueError(f"steps must be an increasing list of numbers >= 0, got {steps}")
    step = jnp.asarray(step_size, float)
    data = problem.x, problem.y, _held_out(problem)
    return _solve(apply, _descent, params0, *data, jnp.asarray(alpha, float), step, jnp.asarray(counts), None)


@entrance
def kernel_flow(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float | Array = 1.0,
    times: Any,
    rcond: float | Array | None = None,
) -> Run:
    """The run of `gradient_flow` on `linearize(apply, params0)`, without integrating, at increasing `times`.

    `np.inf` is a valid last time: the train loss is then that of the projection of `y` on h(w0) + range Dh(w0).
    Directions with λ <= rcond·λmax (default: n·k·eps, rounding) are left out: they keep their initial residual at all
    times, and the parameters do not move along them. `details` has the eigenvalues of K/n, the rank and rcond. Costs,
    `params` and `observed` are as for `linearized_descent`.

    Can be jitted and mapped over `alpha`, `times` and `rcond`: the eigendecomposition is then done once.

    Raises ValueError for another loss than the square loss, for alpha or rcond that are not positive, and for times
    that are not increasing and >= 0.
    """
    if problem.loss is not square_loss:
        raise ValueError(
            "kernel_flow is exact for the square loss, got another: use gradient_flow on linearize(apply, params0)"
        )
    check_positive("alpha", alpha)
    if rcond is not None:
        check_positive("rcond", rcond)
        rcond = jnp.asarray(rcond, float)
    check_examples(apply, params0, problem.x)
    at, no_step = check_times(times, infinite=True), jnp.ones(())
    data = problem.x, problem.y, _held_out(problem)
    run = _solve(apply, _flow, params0, *data, jnp.asarray(alpha, float), no_step, at, rcond)
    return run._replace(step=jnp.arange(run.time.size))


def _held_out(problem: Problem) -> tuple[Batch, Array] | None:
    return None if problem.x_test is None or problem.y_test is None else (problem.x_test, problem.y_test)


@partial(jax.jit, static_argnums=(0, 1))
def _solve(
    apply: Apply,
    law: _Law,
    params0: PyTree,
    x: Batch,
    y: Array,
    held_out: tuple[Batch, Array] | None,
    alpha: Float[Array, ""],
    step_size: Float[Array, ""],
    steps: Float[Array, " R"],
    rcond: Float[Array, ""] | None,
) -> Run:
    n = examples.count(x)
    dh = jacobian(apply, params0, x)
    rows = dh.reshape(-1, dh.shape[-1])
    alpha, step_size, at = (v.astype(rows.dtype) for v in (alpha, step_size, steps))
    start = alpha * apply(params0, x)
    eigenvalues, vectors = jnp.linalg.eigh(rows @ rows.T / n)
    level = jnp.asarray(eigenvalues.size * jnp.finfo(rows.dtype).eps if rcond is None else rcond, rows.dtype)
    modes = _Modes(eigenvalues, eigenvalues > level * eigenvalues[-1])
    residual = vectors.T @ (start - y).reshape(-1)

    def outputs_and_pull(k: Array) -> tuple[Array, Array]:
        kept, pulled = law(modes, step_size, k)
        return y + (vectors @ (kept * residual)).reshape(y.shape), -(vectors @ (pulled * residual)) / n

    # `pull` is movement in the basis of the rows of Dh: w = w0 + Dhᵀ pull / alpha.
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
        status=_status(law is _descent, step_size * top, start, train_loss),
        details=Resolution(eigenvalues, jnp.sum(modes.resolved), level),
    )


def _descent(modes: _Modes, step_size: Array, k: Array) -> tuple[Array, Array]:
    """(1 − ηλ)^k, 1 for unresolved λ; (1 − (1 − ηλ)^k)/λ, ηk for unresolved λ and 0 for those at k = inf."""
    resolved = modes.resolved
    safe = jnp.where(resolved, modes.values, 1)
    rate = step_size * safe
    small = rate < 0.5
    logarithm = jnp.log1p(-jnp.where(small, rate, 0.25))
    odd = jnp.where(jnp.isinf(k), 0, k) % 2 == 1
    power = jnp.where((rate > 1) & odd, -1, 1) * jnp.exp(k * jnp.where(small, logarithm, _log(1 - rate)))
    # Without cancellation at small ηλ.
    weight = jnp.where(small, -jnp.expm1(k * logarithm), 1 - power)
    flat = step_size * jnp.where(jnp.isinf(k), 0, k)
    return jnp.where(resolved, power, 1), jnp.where(resolved, weight / safe, flat)


def _flow(modes: _Modes, _step_size: Array, t: Array) -> tuple[Array, Array]:
    """e^(−λt) and (1 − e^(−λt))/λ; 1 and 0 for unresolved λ."""
    safe = jnp.where(modes.resolved, modes.values, 1)
    kept, pulled = jnp.exp(-safe * t), -jnp.expm1(-safe * t) / safe
    return jnp.where(modes.resolved, kept, 1), jnp.where(modes.resolved, pulled, 0)


def _log(ratio: Array) -> Array:
    return jnp.log(jnp.maximum(jnp.abs(ratio), jnp.finfo(ratio.dtype).tiny))


def _moved(params0: PyTree, movement: Array) -> PyTree:
    theta, merge = tree.split(params0)
    pieces = jnp.split(movement, np.cumsum([leaf.size for leaf in theta])[:-1])
    return merge([leaf + piece.reshape(leaf.shape) for leaf, piece in zip(theta, pieces, strict=True)])


def _status(iterated: bool, rate: Array, start: Array, train_loss: Array) -> Status:
    return Status(
        code=jnp.full((), BUDGET),
        unstable=jnp.asarray(iterated & (rate > 2)),
        precision_limited=precision_limited(start, jnp.sqrt(2 * train_loss[-1])),
        still_improving=jnp.zeros((), bool),
    )
