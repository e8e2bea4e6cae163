"""Full-batch descent as a loop in Python over compiled blocks of examples.

For data that do not fit one pass, and for convolutions on a CPU, which XLA runs in their fast form outside of compiled
loops only. The square loss and the cross-entropy are means over examples, so a block gives its share of the gradient in
one pass forward and back; for any other loss the outputs of all examples come first, which costs one pass forward more.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lazyscope import passes, tree
from lazyscope.door import pushed
from lazyscope.examples import Batch, take
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem, cross_entropy, square_loss
from lazyscope.progress import Progress, due, silent

Theta = list[Array]


def descent_by_calls(
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
) -> tuple[PyTree, bool]:
    """Parameters after `num_steps` steps of descent on F_alpha, and whether the last tenth gained more than 1 %.

    The numbers of `gradient_descent`, to rounding; with `linear` those of descent on `linearize(apply, params0)`.
    """
    theta, merge = tree.split(params0)
    late = (9 * num_steps) // 10
    late_loss = jnp.zeros(())
    again, what = due(report), steps_of(linear)
    for step in range(num_steps):
        loss, gradient = loss_and_gradient(apply, params0, theta, problem, alpha, linear, memory_budget)
        late_loss = loss if step == late else late_loss
        theta = _step(theta, gradient, step_size / alpha**2)
        if again():
            jax.block_until_ready(loss)
            report(step, num_steps, what)
    loss, _ = loss_and_gradient(apply, params0, theta, problem, alpha, linear, memory_budget)
    return merge(theta), bool(loss < 0.99 * late_loss)


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
    apply: Apply, loss: Loss, linear: bool, params0: PyTree, theta: Theta, x: Batch, y: Array, alpha: float | Array
) -> tuple[Array, Theta]:
    def value(th: Theta) -> Array:
        outputs = _model(apply, linear, params0, th, x)
        return loss(jnp.asarray(alpha, outputs.dtype) * outputs, y)

    return jax.value_and_grad(value)(theta)


@partial(jax.jit, static_argnums=(0, 1))
def _pull(apply: Apply, linear: bool, params0: PyTree, theta: Theta, x: Batch, z: Array) -> Theta:
    return jax.vjp(lambda th: _model(apply, linear, params0, th, x), theta)[1](z)[0]


@partial(jax.jit, static_argnums=0)
def _slope(loss: Loss, outputs: Array, y: Array, alpha: float | Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda f: loss(jnp.asarray(alpha, f.dtype) * f, y))(outputs)


@jax.jit
def _weighted(weight: float | Array, share: tuple[Array, Theta]) -> tuple[Array, Theta]:
    return jax.tree.map(lambda leaf: jnp.asarray(weight, leaf.dtype) * leaf, share)


@partial(jax.jit, donate_argnums=0)
def _add(total: tuple[Array | float, Theta], share: tuple[Array | float, Theta]) -> tuple[Array, Theta]:
    return jax.tree.map(jnp.add, total, share)


@jax.jit
def _step(theta: Theta, gradient: Theta, rate: float | Array) -> Theta:
    return [w - jnp.asarray(rate, w.dtype) * g for w, g in zip(theta, gradient, strict=True)]
