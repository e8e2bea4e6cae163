"""Training of the centred model alpha·(h(w) − h(w0)) in the coordinates u = alpha·(w − w0), exact in float32.

With d(u) = (h(w0 + e·u) − h(w0))/e, e = 1/alpha, the outputs are d(u) itself, and a step of descent on F_alpha is

    u ← u − η ∇_u R(d(u)),

without a division by alpha²: neither outputs nor steps shrink with alpha, so float32 keeps its digits at alpha = 1e7,
where the weights themselves would not move by one rounding. e = 0 trains the linearised model.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from lazyscope.problems import Loss

Difference = Callable[..., tuple[Array, PyTree]]


class Centred(NamedTuple):
    """State of a run: u, the optimiser's memory, steps taken. A pytree of arrays, to be saved and loaded as it is."""

    u: PyTree
    optimizer: PyTree
    step: Int[Array, ""]


class CentredTraining(NamedTuple):
    """`start(params0) -> state` and `advance(state, params0, x, y, e) -> (state, loss before the step)`."""

    start: Callable[[PyTree], Centred]
    advance: Callable[..., tuple[Centred, Float[Array, ""]]]


def centred_training(difference: Difference, *, loss: Loss, optimizer: optax.GradientTransformation) -> CentredTraining:
    """Steps of `optimizer` on F_alpha for a model with a `difference` (`Model`), such as those of `lazyscope.vision`.

    `optimizer` must be linear in the gradient, as SGD with momentum and any schedule is: then its steps in u are alpha
    times those in w. `advance` is compiled and takes over the memory of the state that it is given. With e = 0 the
    linearised model is trained, the limit of large alpha.
    """

    def start(params0: PyTree) -> Centred:
        u = jax.tree.map(jnp.zeros_like, params0)
        return Centred(u, optimizer.init(u), jnp.zeros((), jnp.int32))

    def advance(
        state: Centred, params0: PyTree, x: Array, y: Array, e: float | Array
    ) -> tuple[Centred, Float[Array, ""]]:
        # On some devices products of float32 numbers keep fewer digits than that unless they are told.
        with jax.default_matmul_precision("highest"):
            value, gradient = jax.value_and_grad(lambda u: loss(difference(params0, u, x, e)[0], y))(state.u)
        updates, memory = optimizer.update(gradient, state.optimizer)
        return Centred(optax.apply_updates(state.u, updates), memory, state.step + 1), value

    return CentredTraining(start, jax.jit(advance, donate_argnums=0))
