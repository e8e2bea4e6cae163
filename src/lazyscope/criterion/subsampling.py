"""kappa on a random subset of the examples, and what that costs."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from lazyscope.criterion.products import Leaves, in_units, leaf_outputs, second_derivative
from lazyscope.criterion.start import Start
from lazyscope.door import pushed
from lazyscope.examples import Batch, alone, count, take
from lazyscope.intervals import relative
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss


class Subsampling(NamedTuple):
    """What using `examples` of `total` examples costs.

    `kappa_error` is the relative standard error of kappa at fixed maximisers (delta method, without replacement).
    A maximum over few examples is too large by more than that, so the same directions are evaluated on as many
    held-out examples: on average the norm over all the data lies between the held-out value and the one reported.
    """

    examples: int
    total: int
    kappa_error: float
    jacobian_norm_held_out: float
    hessian_norm_held_out: float


def subset(
    problem: Problem, number: int | None, key: Key[Array, ""]
) -> tuple[Batch, Batch, tuple[Batch, Batch] | None]:
    """All the data, or a random subset and, apart from it, up to as many held-out examples."""
    n = problem.num_examples
    if number is None or number == n:
        return problem.x, problem.y, None
    if not 2 <= number < n:
        raise ValueError(f"examples must lie between 2 and the {n} of the problem, got {number}: pass fewer or None")
    order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(n)
    chosen, rest = order[:number], order[number : 2 * number]
    return take(problem.x, chosen), take(problem.y, chosen), (take(problem.x, rest), take(problem.y, rest))


def subsampling(
    apply: Apply,
    params: PyTree,
    data: tuple[Batch, Batch],
    x_held_out: Array,
    right: Leaves,
    top: Leaves,
    start: Start,
    problem: Problem,
    alpha: float,
    unit: float,
) -> Subsampling:
    """Each squared norm is a mean over examples at its maximiser, and at a maximum the maximiser's own shift drops out.

    With a_i, b_i, r_i the examples' shares of ‖Dh‖², ‖D²h‖², ‖αh − y‖² relative to their means, the influence
    of example i on log kappa is (b_i + r_i)/2 − a_i. For another loss than the square loss the shares of the loss
    stand in for those of the residual.
    """
    x, y = data
    m = count(x)
    within = in_units(apply, unit)
    jacobian, hessian = (np.asarray(v, float) for v in _shares(within, params, x, right, top))
    held = [
        unit * math.sqrt(float(np.mean(np.asarray(v, float)))) for v in _shares(within, params, x_held_out, right, top)
    ]
    outputs = jnp.asarray(alpha, start.outputs.dtype) * start.outputs
    if problem.loss is square_loss:
        losses = _squares(np.asarray(outputs, float) - np.asarray(y, float))
    else:
        losses = np.asarray(jax.vmap(lambda f, t: problem.loss(f[None], alone(t)))(outputs, y), float)
    influence = (relative(hessian) + relative(losses)) / 2 - relative(jacobian)
    error = float(np.std(influence, ddof=1)) / math.sqrt(m) * math.sqrt(1 - m / problem.num_examples)
    return Subsampling(m, problem.num_examples, error, held[0], held[1])


@partial(jax.jit, static_argnums=0)
def _shares(apply: Apply, params: PyTree, x: Batch, right: Leaves, top: Leaves) -> tuple[Array, Array]:
    """n·(its share) of each example in ‖Dh·right‖² and ‖B(top, top)‖², so that the norms² are means."""
    f, theta = leaf_outputs(apply, params, x)
    n = count(x)

    def by_example(v: Array) -> Array:
        return jnp.sum(v.reshape(n, -1) ** 2, axis=1) * n

    return by_example(pushed(f, theta, right)[1]), by_example(second_derivative(f, theta, top))


def _squares(rows: np.ndarray) -> np.ndarray:
    """The squared norm of each row, up to a common factor."""
    largest = float(np.max(np.abs(rows), initial=0.0)) or 1.0
    return np.sum((rows / largest).reshape(len(rows), -1) ** 2, axis=1)
