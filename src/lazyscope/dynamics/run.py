"""What a training run returns: recorded losses, final parameters and how it ended.

Everything is an array, so that runs can be jitted, mapped and stored; words appear only when a status is printed.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from lazyscope import tree
from lazyscope.criterion.precision import drowned
from lazyscope.examples import Batch
from lazyscope.problems import Loss, square_loss

BUDGET, STOPPED, DIVERGED = 0, 1, 2


class Status(NamedTuple):
    """How a run ended: one code and three flags (`docs/design.md`).

    `code`: 0 budget used up, 1 stopped early, 2 diverged (a loss that is not finite).
    `unstable`: η·λmax(K)/n > 2 at the end, for a loss of curvature 1 in the outputs.
    `precision_limited`: 10·eps·‖alpha·h(w0)‖ > 0.1·(final residual), the start is too large for the float type, or
    10·eps·‖w0‖ > 0.1·‖w − w0‖, it rounds what the weights moved.
    `still_improving`: the last tenth of the time lowered the train loss by more than 1 %.
    """

    code: Int[Array, ""]
    unstable: Bool[Array, ""]
    precision_limited: Bool[Array, ""]
    still_improving: Bool[Array, ""]

    def __str__(self) -> str:
        flags = ("unstable", "precision_limited", "still_improving")
        words = [("budget", "stopped", "diverged")[int(self.code)]]
        return ", ".join(words + [name.replace("_", " ") for name in flags if bool(getattr(self, name))])


class Run(NamedTuple):
    """A training run at its R recorded steps.

    Losses are R(alpha·h), never divided by alpha²; NaN after an early stop and where there is no held-out data.
    `time` is Σ η, `kernel_time` Σ η·λmax(K(w0))/n, the time at which runs of different scale are compared.
    `best_test_loss` is the running minimum over the steps at which the test loss was evaluated. Flows are recorded at
    times and have no steps: there `step` counts the records. `details` is what the method adds: `Integration` for
    `gradient_flow`, `Resolution` for the closed forms.
    """

    step: Int[Array, " R"] | Float[Array, " R"]
    time: Float[Array, " R"]
    kernel_time: Float[Array, " R"]
    train_loss: Float[Array, " R"]
    test_loss: Float[Array, " R"]
    best_test_loss: Float[Array, " R"]
    observed: PyTree
    params: PyTree
    status: Status
    details: Any = None


class Integration(NamedTuple):
    """How an integrator got to its last time: steps tried, accepted and rejected, and the time reached."""

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    reached: Float[Array, ""]


class Resolution(NamedTuple):
    """What a closed form resolves: the `rank` eigenvalues of K(w0)/n above `rcond` times the largest."""

    eigenvalues: Float[Array, " nk"]
    rank: Int[Array, ""]
    rcond: Float[Array, ""]


def default_record(num_steps: int, count: int = 40) -> tuple[int, ...]:
    """About `count` log-spaced steps with 0 and `num_steps`."""
    spaced = np.geomspace(1, max(num_steps, 1), count).round().astype(int)
    return tuple(int(s) for s in np.unique(np.concatenate([[0], spaced, [num_steps]])) if s <= num_steps)


def check_record(record: Any, num_steps: int) -> tuple[int, ...]:
    """The recorded steps as a tuple; ValueError unless increasing integers within [0, num_steps]."""
    if record is None:
        return default_record(num_steps)
    steps = tuple(int(s) for s in record)
    if not steps or any(b <= a for a, b in itertools.pairwise(steps)) or steps[0] < 0:
        raise ValueError(f"record must list increasing steps >= 0, got {_short(steps)}: sort it and drop repeats")
    if steps[-1] > num_steps:
        raise ValueError(f"record must stay within num_steps={num_steps}, got step {steps[-1]}: cut it or run longer")
    return steps


def check_times(times: Any, *, infinite: bool = False) -> Array:
    """Recorded times as an array; ValueError unless increasing, >= 0 and finite (`infinite` allows a last np.inf)."""
    try:
        at = np.asarray(times, float)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(times)  # traced: the cell that made them has checked them
    listed = at.ndim == 1 and at.size > 0 and not np.isnan(at).any()
    if not listed or np.any(np.diff(at) <= 0) or at[0] < 0 or (np.isinf(at[-1]) and not infinite):
        kind = "numbers >= 0, np.inf allowed last" if infinite else "finite numbers >= 0"
        shown = _short(tuple(at.tolist())) if at.ndim == 1 else f"shape {at.shape}"
        raise ValueError(f"times must be an increasing list of {kind}, got {shown}: sort them and drop repeats")
    return jnp.asarray(at)


def check_positive(name: str, value: Any) -> None:
    """ValueError unless a concrete `value` is a positive finite number; traced values pass."""
    try:
        number = float(value)
    except TypeError:
        return  # a tracer: the cell that made it has checked its settings
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive finite number, got {number:g}")


def residual_norm(loss: Loss, outputs: Array, y: Batch) -> Float[Array, ""]:
    """‖∇R(f)‖ in function space: ‖f − y‖ for the square loss."""
    if loss is square_loss:
        return jnp.sqrt(2 * loss(outputs, y))
    return jnp.sqrt(outputs.shape[0]) * jnp.linalg.norm(jax.grad(loss)(outputs, y).reshape(-1))


def precision_limited(start: Float[Array, "n *out"], residual: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether the outputs alpha·h at the start drown the residual in their rounding (`criterion.precision`)."""
    return drowned(jnp.linalg.norm(start.reshape(-1)) / math.sqrt(start.shape[0]), residual, start.dtype)


def movement_rounded(theta0: list[Array], moved: list[Array]) -> Bool[Array, ""]:
    """Whether the weights drown what they moved in their rounding, by the same rule; not where they do not move."""
    movement = tree.norm(moved)
    return (movement > 0) & drowned(tree.norm(theta0), movement, movement.dtype)


def _short(steps: tuple[float, ...]) -> str:
    return str(steps) if len(steps) <= 8 else f"({', '.join(map(str, steps[:8]))}, ...)"
