"""Stochastic gradient descent on F_alpha(w) = R(alpha·h(w))/alpha², on minibatches of a problem or on fresh data.

Step k draws a batch (x_k, y_k) from a key of its own and hands ∇F_alpha on it to an optax optimizer. With plain
`optax.sgd(η)` that is w ← w − (η/alpha) Dh(w; x_k)ᵀ∇R(alpha·h(w; x_k)), full-batch descent when every batch is the
whole problem. At a fixed time T the fluctuations around the gradient flow have size η^(1/2), their mean is of order η.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import examples, tree
from lazyscope.door import entrance
from lazyscope.dynamics.loop import ending, kept_rows, taken, through, visited
from lazyscope.dynamics.run import Run, check_positive, check_record
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem
from lazyscope.tangent import largest_eigenvalue

Batches = Callable[[Key[Array, ""]], tuple[Batch, Batch]]


class _State(NamedTuple):
    step: Array
    theta: list[Array]
    lost: list[Array]
    optimizer: Any
    step_size: Array
    time: Array
    running: Array


@entrance
def minibatches(problem: Problem, size: int) -> Batches:
    """`batches(key) -> (x, y)`: `size` training examples drawn without replacement, each batch anew.

    Batches are independent of each other, so a pass over the data repeats some examples and misses others. With `size`
    the number of examples every batch is the whole problem in its own order.

    Raises ValueError unless 1 <= size <= n.
    """
    n = problem.num_examples
    if not 1 <= size <= n:
        raise ValueError(f"a minibatch holds 1 to {n} of the training examples, got size={size}: choose one in between")

    def batches(key: Key[Array, ""]) -> tuple[Batch, Batch]:
        if size == n:
            return problem.x, problem.y
        chosen = jax.random.choice(key, n, (size,), replace=False)
        return examples.take(problem.x, chosen), examples.take(problem.y, chosen)

    return batches


@entrance
def sgd(
    apply: Apply,
    params0: PyTree,
    batches: Batches,
    *,
    alpha: float | Array = 1.0,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    key: Key[Array, ""],
    loss: Loss,
    record: Any = None,
    observe: Callable[[PyTree], PyTree] | None = None,
) -> Run:
    """SGD on F_alpha from `params0`, as one compiled program; every step takes a batch from `batches(key)`.

    `optimizer` is applied to ∇F_alpha of the parameters as a pytree. `record` and `observe` are those of
    `gradient_descent`. The train loss at a recorded step is that of the batch drawn for the next step, which the
    parameters have not met: with fresh data an unbiased estimate of the population loss. There is no held-out data
    here: test losses are NaN, so evaluate them in `observe`.

    `time` sums −⟨u, ∇F⟩/‖∇F‖² over the updates u: exactly Σ η for `optax.sgd` with any schedule, the part of the steps
    along the gradient for other optimizers. `kernel_time` is time·λmax(K(w0))/n on the batch of step 0, and the flags
    of the status are judged on the last batch, `still_improving` with both of its losses.

    One program per (apply, batches, optimizer, loss, observe) as objects: build each once and keep it. Raises
    ValueError for an alpha or number of steps that is not positive and for a `record` that is not increasing.
    """
    for name, value in (("alpha", alpha), ("num_steps", num_steps)):
        check_positive(name, value)
    tree.split(params0)
    record = check_record(record, num_steps)
    return _train(apply, batches, optimizer, loss, record, num_steps, observe, params0, jnp.asarray(alpha, float), key)


@partial(jax.jit, static_argnums=range(7))
def _train(
    apply: Apply,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    record: tuple[int, ...],
    num_steps: int,
    observe: Callable[[PyTree], PyTree] | None,
    params0: PyTree,
    alpha: Float[Array, ""],
    key: Key[Array, ""],
) -> Run:
    theta0, merge = tree.split(params0)
    dtype = jnp.result_type(*theta0)
    alpha = alpha.astype(dtype)

    def grouped(theta: list[Array]) -> PyTree:
        # The user's pytree, so that an optimizer may treat its groups differently, with nothing but parameters in it.
        leaves = iter(theta)
        return jax.tree.map(lambda leaf: next(leaves) if tree.is_parameter(leaf) else None, params0)

    def batch(step: Array | int) -> tuple[Batch, Batch]:
        return batches(jax.random.fold_in(key, step))

    def loss_on(theta: list[Array], data: tuple[Batch, Batch]) -> Array:
        return loss(alpha * apply(merge(theta), data[0]), data[1])

    def advance(state: _State) -> _State:
        gradient = tree.scale(1 / alpha**2, jax.grad(loss_on)(state.theta, batch(state.step)))
        updates, memory = optimizer.update(grouped(gradient), state.optimizer, grouped(state.theta))
        moves = jax.tree.leaves(updates)
        square = tree.dot(gradient, gradient)
        step_size = -tree.dot(moves, gradient) / jnp.where(square > 0, square, 1)
        theta, lost = taken(state.theta, moves, state.lost)
        return _State(
            step=state.step + 1,
            theta=theta,
            lost=lost,
            optimizer=memory,
            step_size=step_size,
            time=state.time + step_size,
            running=state.running,
        )

    last = batch(num_steps)

    def look(state: _State, until: Array) -> tuple[_State, tuple[Any, ...]]:
        seen = None if observe is None else observe(merge(state.theta))
        return state, (loss_on(state.theta, batch(until)), loss_on(state.theta, last), state.time, seen)

    state = _State(
        step=jnp.zeros((), int),
        theta=theta0,
        lost=jax.tree.map(jnp.zeros_like, theta0),
        optimizer=optimizer.init(grouped(theta0)),
        step_size=jnp.zeros((), dtype),
        time=jnp.zeros((), dtype),
        running=jnp.ones((), bool),
    )
    steps, kept, late = visited(record, num_steps)
    state, (train, train_on_last, time, seen) = through(advance, look, state, steps)

    x0, params = batch(0)[0], merge(state.theta)
    x, y = last
    status = ending(
        loss,
        start=alpha * apply(params0, x),
        outputs=alpha * apply(params, x),
        y=y,
        theta0=theta0,
        theta=state.theta,
        lost=state.lost,
        running=state.running,
        rate=state.step_size * largest_eigenvalue(apply, params, x),
        late_loss=train_on_last[late],
    )
    unknown = jnp.full(len(record), jnp.nan, dtype)
    return Run(
        step=jnp.asarray(record),
        time=time[kept],
        kernel_time=time[kept] * largest_eigenvalue(apply, params0, x0),
        train_loss=train[kept],
        test_loss=unknown,
        best_test_loss=unknown,
        observed=kept_rows(seen, kept),
        params=params,
        status=status,
    )
