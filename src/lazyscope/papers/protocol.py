"""The two-layer cell that several figures of both papers share.

Teacher-student data on the sphere, a two-layer ReLU student, full-batch descent with the step rule of Chizat et al.
2019. Every run is made in v = w/tau units: by the scale law the run (tau, alpha, η) of a 2-homogeneous model is the run
(1, alpha·tau², η·tau²), up to the scale of the weights, and there large tau neither overflows nor loses digits.

The papers' scripts call `stepsize` what is η on F_alpha here; the two agree for the code of Chizat et al. 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.differential import differential_change
from lazyscope.dynamics import DIVERGED, EarlyStop, default_record, gradient_descent, linearized_descent
from lazyscope.measures import trained_gap
from lazyscope.models import Doubled, Model, two_layer
from lazyscope.problems import Problem, least_squares_test_loss, square_loss, teacher_student
from lazyscope.sweep import Progress, Store, sweep

StepRule = Callable[[Array], Array]
DIFFERENTIAL_EXAMPLES = 200  # held-out inputs on which the change j of the differential is measured


def chizat_step_size(tau: Array) -> Array:
    """η = min(10, 0.1/tau²) (Chizat et al. 2019, test_vs_scale). Constant in v = w/tau units but for the cap."""
    return jnp.minimum(10.0, 0.1 / tau**2)


def fixed_step_size(tau: Array) -> Array:
    """η = 0.005 whatever tau (note §5.1)."""
    return jnp.full_like(tau, 0.005)


def power_step_size(tau: Array, *, power: float, at_one: float = 0.1) -> Array:
    """η = at_one·tau^power: with power > 0 smaller steps for smaller tau, which note §5.1 proposes to try."""
    return at_one * tau**power


@dataclass(frozen=True)
class Protocol:
    """Settings of one two-layer experiment; the defaults are those of Chizat et al. 2019, Figure 1c."""

    n: int = 1000
    n_test: int = 1000
    d: int = 100
    width: int = 50
    teacher_width: int = 3
    target_scale: float = 1.0
    num_steps: int = 10_000
    doubled: bool = True
    step_rule: StepRule = chizat_step_size
    test_every: int = 10
    stop: EarlyStop | None = None

    @property
    def record(self) -> tuple[int, ...]:
        """Recorded steps: 0, about 24 log-spaced ones and the last."""
        return default_record(self.num_steps, 24)


@dataclass(frozen=True)
class Specification:
    """What a figure computes at one size: the protocol, the values of tau and the number of seeds."""

    protocol: Protocol
    taus: tuple[float, ...]
    seeds: int


def decades(first: float, last: float, step: float) -> tuple[float, ...]:
    """10^first, 10^(first+step), ..., 10^last, as decimal numbers that print short."""
    exponents = np.arange(round((last - first) / step) + 1) * step + float(first)
    return tuple(float(f"{10**e:.6g}") for e in exponents)


def setup(key: Key[Array, ""], protocol: Protocol) -> tuple[Model, PyTree, Problem]:
    """Model, initial parameters at tau = 1 and problem of a trial: the same for every tau, as in the papers' code."""
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(
        key_data,
        n=protocol.n,
        d=protocol.d,
        n_test=protocol.n_test,
        teacher_width=protocol.teacher_width,
        target_scale=protocol.target_scale,
    )
    model = two_layer(protocol.width, protocol.d)
    return model, model.init(key_init, doubled=protocol.doubled), problem


# A cell function's numbers are known by its version: raise it when they change (tests/test_versions.py watches).
TRAIN_VERSION = 2
REFERENCE_VERSION = 1

TRAIN_DIMS = dict.fromkeys(("train_loss", "test_loss", "best_test_loss", "kernel_time"), ("step",)) | {
    "outputs_test": ("example",)
}


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
        "diverged": run.status.code == DIVERGED,
        "unstable": run.status.unstable,
        "precision_limited": run.status.precision_limited,
        "still_improving": run.status.still_improving,
    }


REFERENCE_DIMS = {
    "linear_train_loss": ("tau", "linear_step"),
    "linear_test_loss": ("tau", "linear_step"),
    "linear_outputs_test": ("tau", "example"),
    "start_outputs_test": ("tau", "example"),
    "y_test": ("example",),
}


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


def runs(
    protocol: Protocol,
    taus: tuple[float, ...],
    *,
    seeds: int,
    key: Key[Array, ""],
    store: Store | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Training runs at every tau and seed, without anything to compare them with."""
    options = {"key": key, "seeds": seeds, "store": store, "progress": progress}
    ds = sweep(partial(train, protocol=protocol), {"tau": taus}, dims=TRAIN_DIMS, version=TRAIN_VERSION, **options)
    return ds.assign_coords(tau=list(taus), step=list(protocol.record))


def experiment(
    protocol: Protocol,
    taus: tuple[float, ...],
    *,
    seeds: int,
    key: Key[Array, ""],
    store: Store | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The `runs` at every tau and seed, the linearised descent beside them, and the gap `g` between the two.

    g = ‖f_T − f_lin,T‖ / min(‖f_T − f_0‖, ‖y − mean y‖) on held-out inputs (`docs/design.md`, the regime).
    """
    options = {"key": key, "seeds": seeds, "store": store, "progress": progress}
    trained = runs(protocol, taus, **options)
    beside = sweep(
        partial(reference, taus=taus, protocol=protocol), {}, dims=REFERENCE_DIMS, version=REFERENCE_VERSION, **options
    )
    ds = xr.merge([trained, beside], join="exact").assign_coords(tau=list(taus), linear_step=[*protocol.record, np.inf])
    arrays = (ds.outputs_test, ds.linear_outputs_test, ds.start_outputs_test, ds.y_test)
    gap = xr.apply_ufunc(
        lambda *outputs: float(trained_gap(*map(jnp.asarray, outputs))),
        *arrays,
        input_core_dims=[["example"]] * 4,
        vectorize=True,
        output_dtypes=[float],
    )
    return ds.assign(gap=gap).drop_vars(["outputs_test", "linear_outputs_test", "start_outputs_test", "y_test"])


def held_out(problem: Problem) -> tuple[Array, Array]:
    """The held-out inputs and targets, which every problem of this protocol has."""
    if problem.x_test is None or problem.y_test is None:
        raise ValueError("the two-layer protocol needs held-out data: set n_test >= 1")
    return problem.x_test, problem.y_test


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
