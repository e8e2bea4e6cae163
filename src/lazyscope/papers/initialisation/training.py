"""Runs of the two-layer net at several initialisation scales tau, and what they are compared with.

Every run is made in v = w/tau units: by the scale law the run (tau, alpha, η) of a 2-homogeneous model is the run
(1, alpha·tau², η·tau²), up to the scale of the weights, and there large tau neither overflows nor loses digits.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.differential import differential_change
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.measures import trained_gap
from lazyscope.models import Doubled
from lazyscope.papers.figure import Cell, Trials, prefixed
from lazyscope.papers.student import (
    DIFFERENTIAL_EXAMPLES,
    QUICK,
    TINY,
    Protocol,
    decades,
    held_out,
    how_it_ended,
    setup,
)
from lazyscope.problems import least_squares_test_loss, square_loss
from lazyscope.store import stored_as


@dataclass(frozen=True)
class TwoStarts:
    """A plain and a symmetrised experiment of the same protocol."""

    protocol: Protocol
    taus: tuple[float, ...]
    symmetrised_taus: tuple[float, ...]


BOTH_STARTS = {
    "tiny": TwoStarts(
        replace(TINY, doubled=False),
        (0.1, 1.0, 100.0, 1e6),
        (0.1, 1.0, 100.0),  # in so small a net single gates still flip at 10
    ),
    "quick": TwoStarts(
        replace(QUICK, doubled=False),
        (0.1, 0.316228, 1.0, 10.0, 100.0, 1e6),
        (0.01, 0.1, 0.316228, 1.0, 3.16228),
    ),
    "paper": TwoStarts(Protocol(doubled=False), decades(-1, 2, 0.2) + decades(3, 6, 1), decades(-2.2, 1, 0.1)),
}


@stored_as("lazyscope.papers.protocol.train")
def train(key: Key[Array, ""], *, tau: Array, protocol: Protocol) -> dict[str, Array]:
    """One run at initialisation scale tau: recorded losses, held-out outputs, what moved and how it ended."""
    model, params0, problem = setup(key, protocol)
    x_test, y_test = held_out(problem)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=tau**2,
        step_size=protocol.step_rule(tau) * tau**2,
        num_steps=protocol.num_steps,
        record=protocol.record,
        test_every=protocol.test_every,
        stop=protocol.stop,
    )
    outputs = tau**2 * model.apply(run.params, x_test)
    change = differential_change(model.apply, params0, run.params, x_test[:DIFFERENTIAL_EXAMPLES])
    return {
        "train_loss": run.train_loss,
        "test_loss": run.test_loss,
        "best_test_loss": run.best_test_loss,
        "kernel_time": run.kernel_time,
        "outputs_test": outputs,
        "end_test_loss": square_loss(outputs, y_test),
        "movement": tree.norm(tree.sub(run.params, params0)) / tree.norm(params0),
        "readout_norm": tree.norm(_readout(run.params)) / tree.norm(_readout(params0)),
        "differential_change": change.value,
        "nonlinear_r2": _nonlinear_r2(outputs, y_test, x_test),
        **how_it_ended(run.status),
    }


@stored_as("lazyscope.papers.protocol.reference")
def reference(key: Key[Array, ""], *, taus: tuple[float, ...], protocol: Protocol) -> dict[str, Array]:
    """What a trial is compared with: the linearised descent at every tau, and three baselines.

    One eigendecomposition serves every tau, because the kernel in v units does not depend on it. The last of the
    recorded steps is infinity. Baselines: the zero predictor, least squares on (x, 1), and least squares on the
    `width` ReLU features of a plain initialisation.
    """
    model, params0, problem = setup(key, protocol)
    x_test, y_test = held_out(problem)
    steps = np.array([*protocol.record, np.inf])

    def linearised(tau: Array) -> tuple[Array, Array, Array, Array]:
        run = linearized_descent(
            model.apply,
            params0,
            problem,
            alpha=tau**2,
            step_size=protocol.step_rule(tau) * tau**2,
            steps=steps,
        )
        last_finite = run.observed[1][-2]
        return run.train_loss, run.test_loss, last_finite, tau**2 * model.apply(params0, x_test)

    train_loss, test_loss, outputs, start = jax.vmap(linearised)(jnp.asarray(taus))
    plain = model.init(jax.random.split(key)[1])

    def features(x: Array) -> Array:
        return jax.nn.relu(x @ plain["b"].T)

    return {
        "linear_train_loss": train_loss,
        "linear_test_loss": test_loss,
        "linear_outputs_test": outputs,
        "start_outputs_test": start,
        "y_test": y_test,
        "zero_test_loss": 0.5 * jnp.mean(y_test**2),
        "least_squares_test_loss": least_squares_test_loss(affine(problem.x), affine(x_test), problem),
        "random_features_test_loss": least_squares_test_loss(features(problem.x), features(x_test), problem),
    }


TRAIN = Cell(
    train,
    3,
    dict.fromkeys(("train_loss", "test_loss", "best_test_loss", "kernel_time"), ("step",))
    | {"outputs_test": ("example",)},
)
REFERENCE = Cell(
    reference,
    1,
    {
        "linear_train_loss": ("tau", "linear_step"),
        "linear_test_loss": ("tau", "linear_step"),
        "linear_outputs_test": ("tau", "example"),
        "start_outputs_test": ("tau", "example"),
        "y_test": ("example",),
    },
)


def runs(protocol: Protocol, taus: tuple[float, ...], trials: Trials) -> xr.Dataset:
    """Training runs at every tau and seed, without anything to compare them with."""
    ds = trials.over(TRAIN, {"tau": taus}, protocol=protocol)
    return ds.assign_coords(tau=list(taus), step=list(protocol.record))


def experiment(protocol: Protocol, taus: tuple[float, ...], trials: Trials) -> xr.Dataset:
    """The `runs` at every tau and seed, the linearised descent beside them, and the gap `g` between the two.

    g = ‖f_T − f_lin,T‖ / min(‖f_T − f_0‖, ‖y − mean y‖) on held-out inputs (`docs/design.md`, the regime).
    """
    trained = runs(protocol, taus, trials)
    beside = trials.over(REFERENCE, {}, taus=taus, protocol=protocol)
    ds = xr.merge([trained, beside], join="exact")
    ds = ds.assign_coords(tau=list(taus), linear_step=[*protocol.record, np.inf])
    arrays = (ds.outputs_test, ds.linear_outputs_test, ds.start_outputs_test, ds.y_test)
    gap = xr.apply_ufunc(
        lambda *outputs: float(trained_gap(*map(jnp.asarray, outputs))),
        *arrays,
        input_core_dims=[["example"]] * 4,
        vectorize=True,
        output_dtypes=[float],
    )
    return ds.assign(gap=gap).drop_vars(["outputs_test", "linear_outputs_test", "start_outputs_test", "y_test"])


def from_both_starts(settings: TwoStarts, trials: Trials) -> xr.Dataset:
    """Plain runs at `tau`, and symmetrised runs at `symmetrised_tau` with variables named `symmetrised_*`."""
    plain = experiment(settings.protocol, settings.taus, trials)
    paired = experiment(replace(settings.protocol, doubled=True), settings.symmetrised_taus, trials)
    kept = paired[["gap", "differential_change", "end_test_loss", "nonlinear_r2"]]
    return xr.merge([plain, prefixed(kept, "symmetrised_", "tau")], join="exact")


def affine(x: Array) -> Array:
    """The features (x, 1) of linear regression."""
    return jnp.concatenate([x, jnp.ones((x.shape[0], 1))], axis=1)


def _readout(params: PyTree) -> list[Array]:
    return [params.plus["a"], params.minus["a"]] if isinstance(params, Doubled) else [params["a"]]


def _nonlinear_r2(outputs: Array, y: Array, x: Array) -> Array:
    """Share of what a linear function of x leaves of y that the net explains with its own nonlinear part."""
    basis = jnp.linalg.qr(affine(x))[0]
    net, target = (v - basis @ (basis.T @ v) for v in (outputs, y))
    return 1 - jnp.sum((target - net) ** 2) / jnp.sum(target**2)
