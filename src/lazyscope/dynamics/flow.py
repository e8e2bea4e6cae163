"""Gradient flow of F_alpha, by an adaptive integrator (Chizat et al. 2019, eq. 3; note §3).

    w'(t) = −∇F_alpha(w) = −(1/alpha) Dh(w)ᵀ∇R(alpha·h(w)),   w(0) = w0.

What is integrated is u = alpha·(w − w0), which is as large at every alpha because the outputs' movement is Dh·u to
first order: with w itself, whose movement falls as 1/alpha, a tolerance relative to w would drown a lazy run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.door import entrance
from lazyscope.dynamics.run import (
    BUDGET,
    DIVERGED,
    STOPPED,
    Integration,
    Run,
    Status,
    check_positive,
    check_times,
    movement_rounded,
    precision_limited,
    residual_norm,
)
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem
from lazyscope.tangent import largest_eigenvalue

EXPLICIT = diffrax.Tsit5()


@entrance
def gradient_flow(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float | Array = 1.0,
    times: Any,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    solver: diffrax.AbstractAdaptiveSolver = EXPLICIT,
    max_steps: int = 100_000,
    observe: Callable[[PyTree], PyTree] | None = None,
) -> Run:
    """The flow of F_alpha from `params0`, recorded at increasing `times`, which the integrator steps onto exactly.

    `rtol` and `atol` bound the error of a step in u = alpha·(w − w0), so that they mean the same at every alpha.
    `solver` is any adaptive diffrax solver. The explicit default, `diffrax.Tsit5()`, is limited by stability to about
    3.3/λmax(K/n) a step; where the last time is thousands of those, pass an implicit one, `diffrax.Kvaerno5()`, which
    solves p x p systems. `observe(params)` is evaluated at the recorded times; `details` counts the steps tried and
    rejected. The parameters at all recorded times are kept until the end.

    Kinks: the vector field of a ReLU net jumps where a gate flips. An adaptive solver finds such points by rejecting
    steps, which costs more the tighter the tolerance (n = 1000, 50 units, t = 100: 314 steps at rtol 1e-6, 4987 at
    1e-8), and its order drops to one there: stay near rtol 1e-6, or use a smooth activation where digits matter.

    Inside jit or vmap `times` may be traced, in any order. Inside shard_map, hence inside the cells of a sweep, only
    explicit solvers work: the linear solves of implicit ones cannot be traced there (lineax 0.1).

    Raises ValueError for an alpha or a tolerance that is not positive, for times that are not increasing, finite and
    >= 0, and when `max_steps` do not reach the last time. Traced, nothing can be raised: the status is then "stopped"
    ("diverged" for values that are not finite), with NaN at the times that were not reached.
    """
    for name, value in (("alpha", alpha), ("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        check_positive(name, value)
    at = check_times(times)
    tree.split(params0)
    run = _flow(
        apply,
        problem.loss,
        solver,
        max_steps,
        observe,
        params0,
        (problem.x, problem.y, problem.x_test, problem.y_test),
        jnp.asarray(alpha, float),
        at,
        (jnp.asarray(rtol, float), jnp.asarray(atol, float)),
    )
    _check_reached(run, at, rtol, atol)
    return run


@partial(jax.jit, static_argnums=range(5))
def _flow(
    apply: Apply,
    loss: Loss,
    solver: diffrax.AbstractAdaptiveSolver,
    max_steps: int,
    observe: Callable[[PyTree], PyTree] | None,
    params0: PyTree,
    data: tuple[Batch, Batch, Batch | None, Batch | None],
    alpha: Float[Array, ""],
    times: Float[Array, " R"],
    tolerances: tuple[Float[Array, ""], Float[Array, ""]],
) -> Run:
    x, y, x_test, y_test = data
    theta0, merge = tree.split(params0)
    dtype = jnp.result_type(*theta0)
    alpha, times, rtol, atol = (v.astype(dtype) for v in (alpha, times, *tolerances))

    def at(u: list[Array]) -> list[Array]:
        return tree.add(theta0, tree.scale(1 / alpha, u))

    def train_loss(u: list[Array]) -> Array:
        return loss(alpha * apply(merge(at(u)), x), y)

    def record(u: list[Array]) -> tuple[Any, ...]:
        test = jnp.full((), jnp.nan, dtype)
        if x_test is not None and y_test is not None:
            test = loss(alpha * apply(merge(at(u)), x_test), y_test)
        return train_loss(u), test, None if observe is None else observe(merge(at(u)))

    # alpha·∇F_alpha(w) = (1/alpha)∇_w R = ∇_u R, the gradient through w = w0 + u/alpha.
    times = jnp.maximum(times, 0)
    last = jnp.max(times)
    stops = jnp.sort(jnp.append(times, 0.9 * last))  # the latter tells whether the loss is still falling
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda _time, u, _args: tree.scale(-1, jax.grad(train_loss)(u))),
        solver,
        t0=jnp.zeros((), dtype),
        t1=last,
        dt0=None,
        y0=jax.tree.map(jnp.zeros_like, theta0),
        saveat=diffrax.SaveAt(subs=(diffrax.SubSaveAt(ts=stops), diffrax.SubSaveAt(t1=True))),
        stepsize_controller=diffrax.ClipStepSizeController(diffrax.PIDController(rtol=rtol, atol=atol), step_ts=stops),
        max_steps=max_steps,
        throw=False,
    )
    saved, end = solution.ys  # type: ignore[misc]
    reached_time = solution.ts[1][0]  # type: ignore[index]
    train, test, seen = jax.lax.map(record, saved)
    # What was not reached is filled with inf.
    reached = stops <= reached_time
    train, test = (jnp.where(reached, values, jnp.nan) for values in (train, test))
    kept, late = jnp.searchsorted(stops, times), train[jnp.searchsorted(stops, 0.9 * last)]
    train, test, seen = jax.tree.map(lambda leaf: leaf[kept], (train, test, seen))
    moved = jax.tree.map(lambda leaf: leaf[0], end)
    params = merge(at(moved))
    outputs = alpha * apply(params, x)
    finite = jnp.all(jnp.isfinite(outputs)) & (solution.result != diffrax.RESULTS.nonfinite)
    done = solution.result == diffrax.RESULTS.successful
    status = Status(
        code=jnp.where(finite, jnp.where(done, BUDGET, STOPPED), DIVERGED),
        unstable=~finite,
        precision_limited=precision_limited(alpha * apply(params0, x), residual_norm(loss, outputs, y))
        | movement_rounded(theta0, tree.scale(1 / alpha, moved)),
        still_improving=loss(outputs, y) < 0.99 * late,
    )
    return Run(
        step=jnp.arange(times.size),
        time=times,
        kernel_time=times * largest_eigenvalue(apply, params0, x),
        train_loss=train,
        test_loss=test,
        best_test_loss=jax.lax.cummin(test),
        observed=seen,
        params=params,
        status=status,
        details=Integration(
            solution.stats["num_steps"],
            solution.stats["num_accepted_steps"],
            solution.stats["num_rejected_steps"],
            reached_time,
        ),
    )


def _check_reached(run: Run, times: Array, rtol: Any, atol: Any) -> None:
    try:
        code, last = int(run.status.code), float(times[-1])
    except TypeError:
        return  # inside a transformation the status tells
    if code == BUDGET:
        return
    steps, _, rejected, reached = run.details
    got = f"got to t = {float(reached):.4g} after {int(steps)} steps, {int(rejected)} of them rejected"
    if code == DIVERGED:
        raise ValueError(f"the flow must stay finite up to t = {last:.4g}, {got}: use smaller times or a tighter rtol")
    raise ValueError(
        f"the flow must reach t = {last:.4g} within max_steps, {got}: loosen rtol={float(rtol):g} and "
        f"atol={float(atol):g} (ReLU kinks stall tight ones), raise max_steps, or pass solver=diffrax.Kvaerno5() "
        "where the problem is stiff"
    )
