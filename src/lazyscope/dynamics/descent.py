"""Full-batch gradient descent on F_alpha(w) = R(alpha·h(w))/alpha².

One step is w ← w − η ∇F_alpha(w) = w − (η/alpha) Dh(w)ᵀ∇R(alpha·h(w)) (Chizat et al. 2019, §2; note §3). The division
by alpha² is in the objective only; recorded losses are R(alpha·h).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lazyscope import passes, tree
from lazyscope.door import entrance
from lazyscope.dynamics.loop import ending, kept_rows, taken, through, visited
from lazyscope.dynamics.run import Run, check_positive, check_record
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem
from lazyscope.tangent import largest_eigenvalue


class EarlyStop(NamedTuple):
    """Stop when the loss has not fallen by `min_delta` below its best for `patience` steps.

    On the train loss by default. `on_test=True` watches the *test* loss, as the note's code does: the held-out data
    then choose the stopping time, so that the test loss is no longer a test. `min_delta` is absolute, in loss units:
    scale it with the loss.
    """

    patience: int
    min_delta: float = 0.0
    on_test: bool = False


class _Plan(NamedTuple):
    """What is decided before a run starts, and is part of its program."""

    num_steps: int
    record: tuple[int, ...]
    momentum: float
    observe: Callable[[PyTree], PyTree] | None
    stop: EarlyStop | None
    test_every: int | None


class _Data(NamedTuple):
    x: Batch
    y: Batch
    x_test: Batch | None
    y_test: Array | None


class _State(NamedTuple):
    step: Array
    theta: list[Array]
    lost: list[Array]
    optimizer: Any
    best_test: Array
    watched: Array
    waited: Array
    running: Array


@entrance
def gradient_descent(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float | Array = 1.0,
    step_size: float | Array,
    num_steps: int,
    momentum: float = 0.0,
    record: Any = None,
    observe: Callable[[PyTree], PyTree] | None = None,
    stop: EarlyStop | None = None,
    test_every: int | None = None,
) -> Run:
    """Gradient descent on F_alpha from `params0`, as one compiled program.

    `momentum` is the heavy ball's β: v ← β v + ∇F, w ← w − η v. `record` lists the steps to record (default: about 40,
    log-spaced, with 0 and the last); `observe(params)` is evaluated at those. `test_every=k` evaluates the test loss
    every k steps for `best_test_loss` (default: at the recorded steps only). Every step costs 4ndm FLOP for the
    two-layer net, 2ndm more where the test loss is evaluated.

    Raises ValueError for a step size, alpha or number of steps that is not positive, for a `record` that is not
    increasing, for outputs that are not real floats, and when stopping on the test loss without held-out data.
    """
    for name, value in (("step_size", step_size), ("alpha", alpha), ("num_steps", num_steps)):
        check_positive(name, value)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum:g}")
    if problem.x_test is None and ((stop is not None and stop.on_test) or test_every is not None):
        raise ValueError("watching the test loss needs held-out data: build the Problem with x_test and y_test")
    if test_every is not None and test_every < 1:
        raise ValueError(f"test_every must be at least 1, got {test_every}")
    tree.split(params0)
    return _descend(
        passes.in_blocks(apply, params0, problem.x),
        problem.loss,
        _Plan(num_steps, check_record(record, num_steps), float(momentum), observe, stop, test_every),
        params0,
        _Data(problem.x, problem.y, problem.x_test, problem.y_test),
        alpha=jnp.asarray(alpha, float),
        step_size=jnp.asarray(step_size, float),
    )


@partial(jax.jit, static_argnums=range(3))
def _descend(
    apply: Apply,
    loss: Loss,
    plan: _Plan,
    params0: PyTree,
    data: _Data,
    *,
    alpha: Float[Array, ""],
    step_size: Float[Array, ""],
) -> Run:
    x, y, x_test, y_test = data
    num_steps, record, momentum, observe, stop, test_every = plan
    theta0, merge = tree.split(params0)
    dtype = jnp.result_type(*theta0)
    alpha, step_size = alpha.astype(dtype), step_size.astype(dtype)
    optimizer = optax.sgd(step_size, momentum=momentum or None)

    def train_loss(theta: list[Array]) -> Array:
        return loss(alpha * apply(merge(theta), x), y)

    def test_loss(theta: list[Array]) -> Array:
        if x_test is None:
            return jnp.full((), jnp.nan, dtype)
        return loss(alpha * apply(merge(theta), x_test), y_test)  # type: ignore[arg-type]

    def advance(state: _State) -> _State:
        value, gradient = jax.value_and_grad(train_loss)(state.theta)
        gradient = tree.scale(1 / alpha**2, gradient)
        updates, memory = optimizer.update(gradient, state.optimizer)
        theta, lost = taken(state.theta, updates, state.lost)
        best = state.best_test
        if test_every is not None:
            due = state.step % test_every == 0
            best = jax.lax.cond(due, lambda: jnp.fmin(best, test_loss(state.theta)), lambda: best)
        if stop is None:
            return state._replace(step=state.step + 1, theta=theta, lost=lost, optimizer=memory, best_test=best)
        return _watch(state, stop, test_loss(state.theta) if stop.on_test else value, theta, lost, memory, best)

    def look(state: _State, until: Array) -> tuple[_State, tuple[Any, ...]]:
        test = test_loss(state.theta)
        state = state._replace(best_test=jnp.fmin(state.best_test, test))
        seen = None if observe is None else observe(merge(state.theta))
        reached = state.step == until
        losses = [jnp.where(reached, v, jnp.nan) for v in (train_loss(state.theta), test, state.best_test)]
        return state, (*losses, seen)

    state = _State(
        step=jnp.zeros((), int),
        theta=theta0,  # type: ignore[arg-type]
        lost=jax.tree.map(jnp.zeros_like, theta0),
        optimizer=optimizer.init(theta0),
        best_test=jnp.full((), jnp.nan, dtype),
        watched=jnp.full((), jnp.inf, dtype),
        waited=jnp.zeros((), int),
        running=jnp.ones((), bool),
    )
    steps, kept, late = visited(record, num_steps)
    state, (train, test, best, seen) = through(advance, look, state, steps)

    sharpness0, sharpness = (largest_eigenvalue(apply, p, x) for p in (params0, merge(state.theta)))
    status = ending(
        loss,
        start=alpha * apply(params0, x),
        outputs=alpha * apply(merge(state.theta), x),
        y=y,
        theta0=theta0,
        theta=state.theta,
        lost=state.lost,
        running=state.running,
        rate=step_size * sharpness,
        late_loss=train[late],
    )
    time = step_size * jnp.asarray(record, dtype)
    return Run(
        step=jnp.asarray(record),
        time=time,
        kernel_time=time * sharpness0,
        train_loss=train[kept],
        test_loss=test[kept],
        best_test_loss=best[kept],
        observed=kept_rows(seen, kept),
        params=merge(state.theta),
        status=status,
    )


def _watch(state: _State, stop: EarlyStop, loss: Array, theta: Any, lost: Any, memory: Any, best: Array) -> _State:
    # `loss` is that of state.theta. Where it calls for a stop the step is not taken: the parameters stay those judged.
    improved = loss < state.watched - stop.min_delta
    waited = jnp.where(improved, 0, state.waited + 1)
    running = waited < stop.patience
    keep = partial(jax.tree.map, lambda new, old: jnp.where(running, new, old))
    return _State(
        step=state.step + running.astype(int),
        theta=keep(theta, state.theta),
        lost=keep(lost, state.lost),
        optimizer=keep(memory, state.optimizer),
        best_test=best,
        watched=jnp.where(improved, loss, state.watched),
        waited=waited,
        running=running,
    )
