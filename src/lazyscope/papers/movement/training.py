"""Training runs looked at along the way: losses, movement, and the gap to the linearised descent at equal steps."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope.dynamics import DIVERGED, default_record, gradient_descent, linearized_descent
from lazyscope.measures import relative_change, trained_gap
from lazyscope.papers.figure import Cell, Trials
from lazyscope.papers.student import Protocol, Scales, from_both_starts, held_out, setup
from lazyscope.store import stored_as

RICH_TAU, LAZY_TAU = 0.1, 2.0  # tau of the nets that chizat2019 calls non-lazy and lazy
POINTS = 60


def recorded(protocol: Protocol) -> tuple[int, ...]:
    """About 60 log-spaced steps, with half and a tenth of the budget among them."""
    marks = {protocol.num_steps // 2, protocol.num_steps // 10}
    return tuple(sorted({*default_record(protocol.num_steps, POINTS), *marks}))


@stored_as("lazyscope.papers.trajectories.trajectory")
def trajectory(key: Key[Array, ""], *, tau: Array, protocol: Protocol) -> dict[str, Array]:
    """One run in v = w/tau units, its relative movement and its gap to the linearised descent at the recorded steps."""
    model, params0, problem = setup(key, protocol)
    x_test, y_test = held_out(problem)
    alpha, step_size = tau**2, protocol.step_rule(tau) * tau**2

    def observe(params: PyTree) -> tuple[Array, Array, Array, Array]:
        moved = relative_change(params0, params)
        largest = jnp.max(jnp.stack(list(moved.groups.values())))
        return tau**2 * model.apply(params, x_test), moved.all, largest, moved.entrywise

    record = recorded(protocol)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=alpha,
        step_size=step_size,
        num_steps=protocol.num_steps,
        record=record,
        observe=observe,
    )
    linear = linearized_descent(model.apply, params0, problem, alpha=alpha, step_size=step_size, steps=np.array(record))
    outputs, movement, largest, entrywise = run.observed
    start = tau**2 * model.apply(params0, x_test)
    gap = jax.vmap(lambda f, f_linear: trained_gap(f, f_linear, start, y_test))(outputs, linear.observed[1])
    stopped = _note_stop(key, tau, protocol)
    return {
        "train_loss": run.train_loss,
        "test_loss": run.test_loss,
        "kernel_time": run.kernel_time,
        "movement": movement,
        "largest_movement": largest,
        "entrywise": entrywise,
        "gap": gap,
        "linear_train_loss": linear.train_loss,
        "linear_test_loss": linear.test_loss,
        "diverged": run.status.code == DIVERGED,
        "stop_step": stopped,
    }


def _note_stop(key: Key[Array, ""], tau: Array, protocol: Protocol) -> Array:
    """The step at which `protocol.stop` ends the run, the budget where it does not or where there is no such rule."""
    if protocol.stop is None:
        return jnp.asarray(float(protocol.num_steps))
    model, params0, problem = setup(key, protocol)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=tau**2,
        step_size=protocol.step_rule(tau) * tau**2,
        num_steps=protocol.num_steps,
        record=range(0, protocol.num_steps + 1, max(protocol.num_steps // 200, 1)),
        stop=protocol.stop,
    )
    # Losses recorded after the stop are NaN: the last finite one names the step, to half a per cent of the budget.
    return jnp.max(jnp.where(jnp.isfinite(run.train_loss), run.step, 0)).astype(float)


TRAJECTORY = Cell(
    trajectory,
    1,
    dict.fromkeys(
        (
            "train_loss",
            "test_loss",
            "kernel_time",
            "movement",
            "largest_movement",
            "entrywise",
            "gap",
            "linear_train_loss",
            "linear_test_loss",
        ),
        ("step",),
    ),
)


def trajectories(settings: Scales, trials: Trials) -> xr.Dataset:
    """Trajectories at every tau and seed, plain (no prefix) and symmetrised (`symmetrised_`)."""

    def run(protocol: Protocol) -> xr.Dataset:
        ds = trials.over(TRAJECTORY, {"tau": settings.taus}, protocol=protocol)
        return ds.assign_coords(tau=list(settings.taus), step=list(recorded(protocol)))

    return from_both_starts(run, settings.protocol)
