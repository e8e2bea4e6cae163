"""Full-batch descent in parts: compiled loops between looks at it, or single steps over compiled blocks of examples.

A compiled loop takes as many steps at a time as last about `PART` seconds, so that it can tell how far it is; how many
changes no number. Data that do not fit one pass, and convolutions on a CPU, which XLA runs in their fast form outside
of compiled loops only, go step by step. The square loss and the cross-entropy are means over examples, so a block gives
its share of the gradient in one pass forward and back; for any other loss the outputs of all examples come first, which
costs one pass forward more.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lazyscope import passes, tree
from lazyscope.door import pushed
from lazyscope.dynamics.loop import taken
from lazyscope.examples import Batch, take
from lazyscope.krylov import slow_in_loops
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem, cross_entropy, square_loss
from lazyscope.progress import Progress, due, silent

Theta = list[Array]
Look = Callable[[int, PyTree, float], None]
"""`look(step, params, loss)`: the parameters after so many steps, with their loss on the training data."""


class Losses(NamedTuple):
    """The loss on the training data at the start, nine tenths on and at the end."""

    start: float
    late: float
    end: float


PART = 0.2  # seconds that a compiled loop may take without a word


def descent_in_parts(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float,
    step_size: float,
    num_steps: int,
    linear: bool = False,
    memory_budget: float = passes.BUDGET,
    report: Progress = silent,
    record: Sequence[int] = (),
    look: Look | None = None,
) -> tuple[PyTree, Losses]:
    """Parameters after `num_steps` steps of descent on F_alpha, and how the loss fell.

    The numbers of `gradient_descent`, to rounding; with `linear` those of descent on `linearize(apply, params0)`.
    `look` is called at the steps in `record`, 0 for the start.
    """
    theta, merge = tree.split(params0)
    lost = [jnp.zeros_like(leaf) for leaf in theta]  # `taken` says what for
    one_pass = passes.block_size(apply, params0, problem.x, memory_budget) == problem.num_examples
    compiled = one_pass and not slow_in_loops(apply, params0, problem.x)
    given = problem, alpha, linear, memory_budget
    again, what, rate = due(report), steps_of(linear), step_size / alpha / alpha
    late, losses = (9 * num_steps) // 10, {}
    step, most = 0, 1
    for pause in sorted({0, *record, late, num_steps}):
        while step < pause:
            count, began = min(most, pause - step), time.monotonic()
            if compiled:
                theta, lost = jax.block_until_ready(
                    _steps(apply, problem.loss, linear, params0, theta, lost, problem.x, problem.y, alpha, rate, count)
                )
            else:
                theta, lost = _step(theta, lost, loss_and_gradient(apply, params0, theta, *given)[1], rate)
            step += count
            most = _paced(most, time.monotonic() - began) if compiled else 1
            if again():
                jax.block_until_ready(theta)
                report(step, num_steps, what)
        losses[pause] = float(_loss(apply, params0, theta, *given))
        if look is not None and pause in record:
            look(pause, merge(theta), losses[pause])
    return merge(theta), Losses(losses[0], losses[late], losses[num_steps])


def _paced(most: int, seconds: float) -> int:
    """How many steps to take at a time, after so many took so long."""
    return 2 * most if seconds < PART / 2 else max(most // 2, 1) if seconds > 2 * PART else most


def steps_of(linear: bool) -> str:
    """What a report calls the steps of the one or the other descent."""
    return f"training {'its linearisation' if linear else 'the model'}, steps"


def loss_and_gradient(
    apply: Apply,
    params0: PyTree,
    theta: Theta,
    problem: Problem,
    alpha: float,
    linear: bool = False,
    memory_budget: float = passes.BUDGET,
) -> tuple[Array, Theta]:
    """R(alpha·h) and its gradient in the parameters `theta`, not divided by alpha², in blocks of examples.

    `params0` gives what is no parameter, and with `linear` the point at which h is linearised.
    """
    x, y, n = problem.x, problem.y, problem.num_examples
    slices = list(passes.blocks(apply, params0, x, memory_budget))
    if len(slices) == 1:
        return _share(apply, problem.loss, linear, params0, theta, x, y, alpha)
    if problem.loss in (square_loss, cross_entropy):
        shares = (
            _weighted(
                (s.stop - s.start) / n,
                _share(apply, problem.loss, linear, params0, theta, take(x, s), y[s], alpha),
            )
            for s in slices
        )
        return _total(shares)
    outputs = jnp.concatenate([_outputs(apply, linear, params0, theta, take(x, s)) for s in slices])
    value, slope = _slope(problem.loss, outputs, y, alpha)
    pulled = ((0.0, _pull(apply, linear, params0, theta, take(x, s), slope[s])) for s in slices)
    return value, _total(pulled)[1]


def _loss(
    apply: Apply, params0: PyTree, theta: Theta, problem: Problem, alpha: float, linear: bool, memory_budget: float
) -> Array:
    x = problem.x
    rows = [
        _outputs(apply, linear, params0, theta, take(x, s)) for s in passes.blocks(apply, params0, x, memory_budget)
    ]
    return _value(problem.loss, rows[0] if len(rows) == 1 else jnp.concatenate(rows), problem.y, alpha)


def _total(shares: Iterator[tuple[Array | float, Theta]]) -> tuple[Array, Theta]:
    found = next(shares)
    for share in shares:
        found = _add(found, share)
    return found  # type: ignore[return-value]


def _model(apply: Apply, linear: bool, params0: PyTree, theta: Theta, x: Batch) -> Array:
    theta0, merge = tree.split(params0)
    if not linear:
        return apply(merge(theta), x)
    outputs, change = pushed(lambda th: apply(merge(th), x), theta0, tree.sub(theta, theta0))
    return outputs + change


_outputs = jax.jit(_model, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=range(3))
def _share(
    apply: Apply, loss: Loss, linear: bool, params0: PyTree, theta: Theta, x: Batch, y: Batch, alpha: float | Array
) -> tuple[Array, Theta]:
    def value(th: Theta) -> Array:
        outputs = _model(apply, linear, params0, th, x)
        return loss(jnp.asarray(alpha, outputs.dtype) * outputs, y)

    return jax.value_and_grad(value)(theta)


@partial(jax.jit, static_argnums=(0, 1))
def _pull(apply: Apply, linear: bool, params0: PyTree, theta: Theta, x: Batch, z: Array) -> Theta:
    return jax.vjp(lambda th: _model(apply, linear, params0, th, x), theta)[1](z)[0]


@partial(jax.jit, static_argnums=range(3))
def _steps(
    apply: Apply,
    loss: Loss,
    linear: bool,
    params0: PyTree,
    theta: Theta,
    lost: Theta,
    x: Batch,
    y: Batch,
    alpha: float | Array,
    rate: float | Array,
    count: int | Array,
) -> tuple[Theta, Theta]:
    def step(_: Array, at: tuple[Theta, Theta]) -> tuple[Theta, Theta]:
        return _step(*at, _share(apply, loss, linear, params0, at[0], x, y, alpha)[1], rate)

    return jax.lax.fori_loop(0, count, step, (theta, lost))


@partial(jax.jit, static_argnums=0)
def _value(loss: Loss, f: Array, y: Batch, alpha: float | Array) -> Array:
    return loss(jnp.asarray(alpha, f.dtype) * f, y)


@partial(jax.jit, static_argnums=0)
def _slope(loss: Loss, outputs: Array, y: Batch, alpha: float | Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda f: loss(jnp.asarray(alpha, f.dtype) * f, y))(outputs)


@jax.jit
def _weighted(weight: float | Array, share: tuple[Array, Theta]) -> tuple[Array, Theta]:
    return jax.tree.map(lambda leaf: jnp.asarray(weight, leaf.dtype) * leaf, share)


@partial(jax.jit, donate_argnums=0)
def _add(total: tuple[Array | float, Theta], share: tuple[Array | float, Theta]) -> tuple[Array, Theta]:
    return jax.tree.map(jnp.add, total, share)


@jax.jit
def _step(theta: Theta, lost: Theta, gradient: Theta, rate: float | Array) -> tuple[Theta, Theta]:
    return taken(theta, [-jnp.asarray(rate, g.dtype) * g for g in gradient], lost)
