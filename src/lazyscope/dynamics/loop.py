"""What every discrete training loop shares: steps in segments between recordings, and how a run ended."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.dynamics.run import BUDGET, DIVERGED, STOPPED, Status, movement_rounded, precision_limited, residual_norm
from lazyscope.examples import Batch
from lazyscope.problems import Loss


def visited(record: Sequence[int], num_steps: int) -> tuple[list[int], np.ndarray, int]:
    """Steps at which a loop pauses: those recorded, nine tenths of the budget and the end; where each is among them.

    Returns (steps, positions of `record`, position of nine tenths).
    """
    late = (9 * num_steps) // 10
    steps = sorted({*record, late, num_steps})
    return steps, np.searchsorted(steps, record), steps.index(late)


def through(
    advance: Callable[[Any], Any], look: Callable[[Any, Array], tuple[Any, Any]], state: Any, steps: Sequence[int]
) -> tuple[Any, Any]:
    """Repeat `advance` until `state.step` is each of `steps` in turn, or not `state.running`, and `look` there."""

    def segment(state: Any, until: Array) -> tuple[Any, Any]:
        state = jax.lax.while_loop(lambda s: (s.step < until) & s.running, advance, state)
        return look(state, until)

    return jax.lax.scan(segment, state, jnp.asarray(steps))


def taken(theta: list[Array], moves: PyTree, lost: list[Array]) -> tuple[list[Array], list[Array]]:
    """The weights after `moves`, and what rounding lost of these, to be made up for at the next step (Kahan 1965).

    A step is of order 1/alpha, so that at a large output scale a weight of size 1 would keep few of its digits, in the
    end none, and training would stall far from where it leads to. `lost` is as small as that rounding; 0 at the start.
    """
    due = tree.add(moves, lost)
    after = tree.add(theta, due)
    return after, tree.sub(due, tree.sub(after, theta))


def ending(
    loss: Loss,
    *,
    start: Array,
    outputs: Array,
    y: Batch,
    theta0: list[Array],
    theta: list[Array],
    lost: list[Array],
    running: Array,
    rate: Float[Array, ""],
    late_loss: Float[Array, ""],
) -> Status:
    """The status of a run from its outputs alpha·h at the start and the end; `rate` is η·λmax(K)/n at the end."""
    final = loss(outputs, y)
    finite = jnp.isfinite(final) & jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in theta]))
    return Status(
        code=jnp.where(finite, jnp.where(running, BUDGET, STOPPED), DIVERGED),
        unstable=~finite | (rate > 2),
        precision_limited=precision_limited(start, residual_norm(loss, outputs, y))
        | movement_rounded(theta0, tree.add(tree.sub(theta, theta0), lost)),
        still_improving=final < 0.99 * late_loss,
    )


def kept_rows(seen: PyTree, kept: np.ndarray) -> PyTree:
    """The recorded rows of what was seen at every pause."""
    return jax.tree.map(lambda leaf: leaf[kept], seen)
