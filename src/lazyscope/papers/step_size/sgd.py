"""Chizat et al. 2019, Figure 2(b): population loss of SGD on fresh data against the initialisation scale tau.

    lazyscope reproduce chizat2019-fig2b --size quick

Two-layer ReLU net of 50 units in pairs, every step on 200 fresh points of the sphere of R^100; the population loss is
the mean loss of the last batches, each of which the net has not met. All values of tau of a trial share their batches.

Two settings. *Theirs* (populationSGD.jl): the student is a mean, alpha = 1/m, the teacher is divided by the batch size,
the step min(0.25/tau², 25) multiplies gradients without their factor 1/m, and that of b is multiplied by d. With the
unit teacher that is alpha = 200/m and, in v = w/tau units, η_a = step·tau²/m and η_b = d·η_a; losses are given in units
of the unit teacher. *Ours* has the normalisation of Figure 1(c), alpha = 1 and η = min(0.1/tau², 10), so that its tau
axis is that of Figure 1(c); theirs is shifted by a factor sqrt(200/m) = 2.

Third panel: SGD on minibatches tends to the full-batch flow as η^(1/2), with that flow's descent at a tiny step.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Key, PyTree
from matplotlib.ticker import NullFormatter

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import DIVERGED, gradient_descent, minibatches, sgd
from lazyscope.models import Doubled, two_layer
from lazyscope.papers.figure import Cell, Figure, Size, Trials, prefixed
from lazyscope.papers.quantities import FIRST, LAST, at, log10_ratio, power, rank_correlation
from lazyscope.papers.stated_settings import Setting, unused
from lazyscope.papers.step_size.rules import chizat_step_size
from lazyscope.papers.student import Protocol, decades, setup
from lazyscope.problems import square_loss
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue

HORIZON = 8.0  # kernel_time at which SGD is compared with the flow
RATES = (0.4, 0.2, 0.1, 0.05)  # η·λmax(K(w0))/n


@dataclass(frozen=True)
class Population:
    """Settings of the two experiments; `d`, `width`, `batch` as in the paper."""

    taus: tuple[float, ...]
    d: int
    width: int
    batch: int
    num_steps: int
    averaged: int
    rate_protocol: Protocol


SMALL = Protocol(n=100, n_test=1, d=10, width=10)
SIZES = {
    "tiny": Size(Population((0.316228, 1.0, 4.0), 6, 8, 40, 400, 100, Protocol(n=40, n_test=1, d=5, width=6)), seeds=3),
    "quick": Size(Population((0.1, 0.316228, 1.0, 4.0), 100, 50, 200, 3000, 500, SMALL), seeds=5),
    "paper": Size(
        Population((0.01, 0.02, 0.04, *decades(-1, 0, 0.1), 2.0, 4.0, 8.0), 100, 50, 200, 20_000, 2000, SMALL), seeds=10
    ),
}
STATED = (
    Setting("taus", "0.01, 0.02, 0.04, 0.1 to 1 in steps of 10^0.1, 2, 4, 8", "time"),
    Setting("num_steps", "20000", "time"),
    Setting("averaged", "2000", "time"),
    Setting("seeds", "10", "time"),
    Setting(
        "step and normalisation",
        "the second of the two",
        "tau then means what it means in Figure 1(c)",
        run="ours; theirs",
    ),
    *unused("rate_protocol", "num_steps", "step_rule", "test_every", "stop"),
)
CAPTION = (
    "Population loss after SGD on fresh batches, mean of the last ones, against tau, with our normalisation (left) and "
    "that of the released code (middle); dotted, the zero predictor. Right: root mean square distance of the outputs "
    "of SGD to those of the full-batch flow at equal kernel_time against the step; the dashed line has slope 1/2."
)


def population(
    key: Key[Array, ""],
    *,
    theirs: bool,
    taus: tuple[float, ...],
    d: int,
    width: int,
    batch: int,
    num_steps: int,
    averaged: int,
) -> dict[str, Array]:
    """SGD at every tau of a trial on the same fresh batches."""
    key_teacher, key_init, key_batches = jax.random.split(key, 3)
    key_a, key_b = jax.random.split(key_teacher)
    model, teacher_model = two_layer(width, d), two_layer(3, d)
    teacher = {"a": jax.random.rademacher(key_a, (3,), float), "b": _sphere(key_b, 3, d)}
    params0 = model.init(key_init, doubled=True)

    def fresh(key: Key[Array, ""]) -> tuple[Array, Array]:
        x = _sphere(key, batch, d)
        return x, teacher_model.apply(teacher, x)

    def one(tau: Array) -> tuple[Array, Array]:
        if theirs:
            alpha = batch / width * tau**2
            eta_a = jnp.minimum(0.25 / tau**2, 25.0) * tau**2 / width
            eta_b = d * eta_a
        else:
            alpha, eta_a = tau**2, chizat_step_size(tau) * tau**2
            eta_b = eta_a
        record = range(num_steps - averaged, num_steps)
        run = sgd(
            model.apply,
            params0,
            fresh,
            alpha=alpha,
            optimizer=optax.stateless(partial(_step, eta_a=eta_a, eta_b=eta_b)),
            num_steps=num_steps,
            key=key_batches,
            loss=square_loss,
            record=record,
        )
        return jnp.mean(run.train_loss), run.status.code == DIVERGED

    losses, diverged = jax.vmap(one)(jnp.asarray(taus))
    _, y = fresh(jax.random.fold_in(key, 7))
    return {"loss": losses, "diverged": diverged, "zero": 0.5 * jnp.mean(y**2)}


def _step(gradient: PyTree, _params: PyTree, *, eta_a: Array, eta_b: Array) -> PyTree:
    return Doubled(*({"a": -eta_a * half["a"], "b": -eta_b * half["b"]} for half in gradient))


def _sphere(key: Key[Array, ""], rows: int, d: int) -> Array:
    v = jax.random.normal(key, (rows, d))
    return v / jnp.linalg.norm(v, axis=1, keepdims=True)


POPULATION = Cell(population, 1, dict.fromkeys(("loss", "diverged"), ("tau",)))


@stored_as("lazyscope.papers.chizat2019.fig2b.distance_to_flow")
def distance_to_flow(key: Key[Array, ""], *, protocol: Protocol) -> dict[str, Array]:
    """Root mean square distance of SGD's outputs to the flow's at a fixed kernel_time, for every step."""
    model, params0, problem = setup(key, protocol)
    unit = 1 / largest_eigenvalue(model.apply, params0, problem.x)
    fine = 2000
    flow = gradient_descent(
        model.apply, params0, problem, step_size=HORIZON / fine * unit, num_steps=fine, record=(0, fine)
    )
    target = model.apply(flow.params, problem.x)
    batches = minibatches(problem, problem.num_examples // 8)

    def squared(rate: float, draw: Array) -> Array:
        run = sgd(
            model.apply,
            params0,
            batches,
            optimizer=optax.sgd(rate * unit),
            num_steps=round(HORIZON / rate),
            key=draw,
            loss=square_loss,
            record=(0,),
        )
        return jnp.mean((model.apply(run.params, problem.x) - target) ** 2)

    draws = jax.random.split(jax.random.fold_in(key, 1), 24)
    return {
        "distance": jnp.stack([jnp.sqrt(jnp.mean(jax.vmap(partial(squared, rate))(draws))) for rate in RATES]),
    }


DISTANCE = Cell(distance_to_flow, 1, {"distance": ("rate",)})


def compute(settings: Population, trials: Trials) -> xr.Dataset:
    """Population losses in both settings, and the distance of SGD to the flow."""
    parts = []
    for prefix, theirs in (("", False), ("their_", True)):
        ds = trials.over(
            POPULATION,
            {},
            theirs=theirs,
            taus=settings.taus,
            d=settings.d,
            width=settings.width,
            batch=settings.batch,
            num_steps=settings.num_steps,
            averaged=settings.averaged,
        )
        parts.append(prefixed(ds.assign_coords(tau=list(settings.taus)), prefix))
    rates = trials.over(DISTANCE, {}, protocol=settings.rate_protocol)
    return xr.merge([*parts, rates.assign_coords(rate=list(RATES))], join="exact")


def from_a_tenth(ds: xr.Dataset, variable: str) -> xr.DataArray:
    """A population loss at tau >= 0.1."""
    return ds[variable].sel(tau=slice(0.1, None))


def _growth_claim(prefix: str, setting: str) -> Claim:
    loss = partial(from_a_tenth, variable=f"{prefix}loss")
    return Claim(
        sentence=f"The population loss at convergence grows with tau ({setting}).",
        source="chizat2019 Figure 2(b), caption quoted from memory",
        measure="log10 of the population loss at the largest tau over that at the first tau >= 0.1, equal steps",
        quantity=log10_ratio(at(loss, tau=LAST), at(loss, tau=FIRST)),
        accepted=(np.log10(1.5), np.inf),
    )


CLAIMS = (
    _growth_claim("", "normalised as Figure 1(c)"),
    _growth_claim("their_", "normalisation and steps of the released code"),
    Claim(
        sentence="The larger tau the larger the population loss.",
        source="chizat2019 Figure 2(b), caption quoted from memory",
        measure="Spearman correlation of tau >= 0.1 and the population loss, normalised as Figure 1(c)",
        quantity=rank_correlation(partial(from_a_tenth, variable="loss"), "tau"),
        accepted=(0.8, np.inf),
        scale=Scale.CORRELATION,
    ),
    Claim(
        sentence="SGD tends to the gradient flow as the step goes to 0.",
        source="note §3; the fluctuations of SGD at a fixed time are of order η^(1/2)",
        measure="slope of log rms distance to the flow's outputs against log step, equal kernel_time",
        quantity=power("distance", "rate"),
        accepted=(0.4, 0.65),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Both normalisations, and the rate at which SGD tends to the flow."""
    figure, (left, middle, right) = figures.new_figure(13, 4.2, columns=3, log="xy")
    for axis in (right.xaxis, right.yaxis, middle.yaxis):
        axis.set_minor_formatter(NullFormatter())
    for ax, prefix, title in ((left, "", "normalised as Figure 1(c)"), (middle, "their_", "as in the released code")):
        loss = ds[f"{prefix}loss"]
        figures.curve(ax, loss, "tau", label="SGD, fresh batches", color=figures.BLUE, marker="o")
        ax.axhline(float(ds[f"{prefix}zero"].mean()), color=figures.GREY, linestyle=":", label="zero predictor")
        ax.set_title(title)
        figures.finish(ax, x="initialisation scale tau", y="population loss (last batches)")
    figures.curve(right, ds.distance, "rate", label="SGD to flow", color=figures.GREEN, marker="o")
    mean = ds.distance.mean("seed").values
    right.plot(ds.rate, mean[0] * (ds.rate.values / ds.rate.values[0]) ** 0.5, "--", color=figures.INK, label="slope ½")
    figures.finish(right, x="η·λmax(K(w0))/n", y="rms distance of outputs")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Population losses against tau, means over seeds."""
    return figures.table({"normalised as Figure 1(c)": ds.loss, "released code": ds.their_loss}, "tau")


FIG2B = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
