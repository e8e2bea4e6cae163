"""Note, §5.1: whether the stall of lazy training is a matter of step size, momentum and initialisation.

    lazyscope reproduce note-s5.1 --size quick

An under-parameterised symmetrised net (n, d, m) = (200, 10, 8), lazy at tau = 30, ends at a local minimum: the residual
of projecting y on the range of Dh(w0). Descent at several steps, given as fractions of the limit η·λmax(K(w0))/n = 2,
and with momentum β, for the same effective kernel_time Σ η·λmax/(n(1 − β)) (so at unequal numbers of steps). The same
net at tau = 0.3 leaves the minimum behind. Below, the limit itself: heavy ball is stable up to 2(1 + β). Settings ours:
the note gives none. The note cites [7] (Sutskever et al. 2013), which also speaks of initialisation and of SGD: the
same stall with minibatches, and from a sparse start. What does decide is tau, the scale of the initialisation, which is
laziness. Of the rule min(10, 0.1/tau²): gradients and the largest stable step against tau, and steps to a tenth of the
initial loss. On two idle cores: tiny 25 s, quick 50 s, paper 4 min.

Expected at quick (5 trials): train loss 1.04 times the projection residual at every step and momentum at tau = 30 (one
trial has not arrived), 2e-6 to 3e-9 times at tau = 0.3.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lazyscope import figures
from lazyscope.claims import Claim, Outcome
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.papers import step_cells
from lazyscope.papers.settings import FULL_BATCH, NO_STOP, TRAINING, unused
from lazyscope.papers.step_cells import Speed
from lazyscope.papers.student import Protocol, decades, setup
from lazyscope.sweep import Progress, Store, sweep
from lazyscope.tangent import largest_eigenvalue

CELL_VERSION = 1
LAZY, RICH = 30.0, 0.3
MOMENTA = (0.0, 0.9)
EDGE_STEPS = 100
RELATIVE_RATES = tuple(round(0.9 + 0.02 * i, 2) for i in range(11))  # of the limit 2(1 + β)


@dataclass(frozen=True)
class Steps:
    """The net, the effective kernel_time of every run, the steps as fractions of the limit 2, and the rule's net."""

    protocol: Protocol
    kernel_time: float
    fractions: tuple[float, ...]
    speed: Speed
    seeds: int


NARROW = Protocol(n=200, n_test=1, d=10, width=8)
GRADIENT_TAUS = decades(-2, 3, 0.5)
SIZES = {
    "tiny": Steps(
        Protocol(n=60, n_test=1, d=4, width=4),
        2000.0,
        (0.1, 0.2),
        Speed(Protocol(n=40, n_test=1, d=8, width=8), (0.3, 1.0, 3.0), 200),
        seeds=3,
    ),
    "quick": Steps(
        NARROW,
        6000.0,
        (0.1, 0.4, 0.8),
        Speed(Protocol(n=300, n_test=1, d=30, width=50), (0.1, 1.0, 3.0), 1000),
        seeds=5,
    ),
    "paper": Steps(
        NARROW, 20_000.0, (0.05, 0.1, 0.2, 0.4, 0.8), Speed(Protocol(n_test=1), (0.1, 0.3, 1.0, 3.0), 10_000), seeds=10
    ),
}
SETTINGS = (FULL_BATCH, NO_STOP, *unused("protocol", *TRAINING))
CAPTION = (
    "Left: train loss at the end over the residual of projecting y on the range of Dh(w0), for steps from a tenth of "
    "the stability limit on, with and without momentum, at equal effective kernel_time. Lazy nets (tau = 30) all stall "
    "at that residual; the same nets at tau = 0.3 do not. Right: largest loss within 100 steps over its start against "
    "the step in units of the limit 2(1 + β)."
)


def stall(key: Key[Array, ""], *, tau: Array, fraction: float, momentum: float, spec: Steps) -> dict[str, Array]:
    """Train loss at the end of a run of given effective kernel_time, and the projection residual."""
    model, params0, problem = setup(key, spec.protocol)
    step_size = 2 * fraction / largest_eigenvalue(model.apply, params0, problem.x)
    num_steps = round(spec.kernel_time * (1 - momentum) / (2 * fraction))
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=tau**2,
        step_size=step_size,
        num_steps=num_steps,
        momentum=momentum,
        record=(0, num_steps),
    )
    limit = linearized_descent(model.apply, params0, problem, alpha=tau**2, step_size=step_size, steps=[np.inf])
    return {"train_loss": run.train_loss[-1], "residual": limit.train_loss[-1], "start": run.train_loss[0]}


def edge(key: Key[Array, ""], *, rate: Array, momentum: float, protocol: Protocol) -> dict[str, Array]:
    """Largest train loss in 100 steps over its start, lazy, the step in units of the limit 2(1 + β)."""
    model, params0, problem = setup(key, protocol)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=1e6,
        step_size=2 * (1 + momentum) * rate / largest_eigenvalue(model.apply, params0, problem.x),
        num_steps=EDGE_STEPS,
        momentum=momentum,
        record=range(EDGE_STEPS + 1),
    )
    # The largest on the way, not the last: just above the limit the loss rises, and may come down again (a catapult).
    return {"growth": jnp.nanmax(run.train_loss) / run.train_loss[0]}


def compute(
    spec: Steps, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Stalls over tau, step and momentum, and growth at the edge of stability over step and momentum."""
    options = {"key": key, "seeds": spec.seeds, "version": CELL_VERSION, "store": store, "progress": progress}
    stalls = sweep(
        partial(stall, spec=spec),
        {"fraction": spec.fractions, "momentum": MOMENTA, "tau": (RICH, LAZY)},
        static=["fraction", "momentum"],
        **options,
    )
    edges = sweep(
        partial(edge, protocol=spec.protocol),
        {"rate": RELATIVE_RATES, "momentum": MOMENTA},
        static=["momentum"],
        **options,
    )
    return xr.merge([stalls, edges, *_others(spec, key=key, store=store, progress=progress)], join="exact")


def _others(
    spec: Steps, *, key: Key[Array, ""], store: Store | None, progress: Progress | None
) -> tuple[xr.Dataset, ...]:
    """Stalls by SGD and from a sparse start; gradients over `gradient_tau`, steps to a tenth over `speed_tau`."""
    options = {"key": key, "seeds": spec.seeds, "store": store, "progress": progress}
    lazy = {"tau": LAZY, "kernel_time": spec.kernel_time, "protocol": spec.protocol}
    by_sgd = sweep(partial(step_cells.sgd_stall, **lazy), {}, version=step_cells.SGD_VERSION, **options)
    sparse = sweep(partial(step_cells.sparse_stall, **lazy), {}, version=step_cells.SPARSE_VERSION, **options)
    cell = partial(step_cells.start_gradient, protocol=spec.speed.protocol)
    gradients = sweep(cell, {"tau": GRADIENT_TAUS}, version=step_cells.GRADIENT_VERSION, **options)
    shared = replace(spec.speed, taus=())  # what decides a cell's numbers
    taken = partial(step_cells.speed, spec=shared)
    speeds = sweep(taken, {"tau": spec.speed.taus}, version=step_cells.SPEED_VERSION, **options)
    return by_sgd, sparse, gradients.rename(tau="gradient_tau"), speeds.rename(tau="speed_tau")


def _excess(ds: xr.Dataset, tau: float) -> xr.DataArray:
    at = ds.sel(tau=tau)
    return at.train_loss / at.residual


def dependence(ds: xr.Dataset) -> np.ndarray:
    """Largest over smallest train loss among all steps and momenta, tau = 30, minus 1."""
    loss = ds.train_loss.sel(tau=LAZY)
    settings = ["fraction", "momentum"]
    return (loss.max(settings) / loss.min(settings) - 1).values


def escape(ds: xr.Dataset) -> np.ndarray:
    """log10 of the largest train loss over projection residual over steps and momenta, tau = 0.3."""
    return np.log10(_excess(ds, RICH).max(["fraction", "momentum"]).values)


def slope(ds: xr.Dataset, variable: str) -> np.ndarray:
    """Slope of log `variable` against log tau over tau >= 1, plain initialisation."""
    late = ds[variable].sel(gradient_tau=ds.gradient_tau >= 1).transpose("gradient_tau", "seed")
    return np.polyfit(np.log(late.gradient_tau.values), np.log(late.values), 1)[0]


def rule_over(ds: xr.Dataset, other: str) -> np.ndarray:
    """log10 of the steps to a tenth of the loss by the rule over those by another step, mean over tau."""
    return np.log10(ds.rule_steps / ds[other]).mean("speed_tau").values


def limit(ds: xr.Dataset, momentum: float) -> np.ndarray:
    """The first step, in units of 2(1 + β), at which the loss grows a hundredfold; a stable one swings less."""
    growing = ds.growth.sel(momentum=momentum) > 100
    return ds.rate.where(growing).min("rate").values


def _expect(outcome: Outcome | None) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": outcome, "paper": outcome}


def _limit_claim(momentum: float, sentence: str) -> Claim:
    return Claim(
        sentence=sentence,
        source="ours, on note §5.1",
        measure="first step at which the loss grows a hundredfold within 100 steps, in units of 2(1 + β), lazy",
        quantity=partial(limit, momentum=momentum),
        accepted=(0.96, 1.04),
        expected=_expect(Outcome.HOLDS),
    )


SENTENCE = "That lazy training ends at a local minimum is a matter of momentum, initialisation and parameter choices"
ON_RULE = "note §5.1, the step rule"
CLAIMS = (
    Claim(
        sentence=f"{SENTENCE} (momentum, step).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="largest over smallest train loss among steps and momenta at equal kernel_time, tau = 30, minus 1",
        quantity=dependence,
        accepted=(0.05, np.inf),
        expected=_expect(Outcome.FAILS),
        note="All end at one loss, the residual of projecting y on the range of Dh(w0) but for what time is left.",
    ),
    Claim(
        sentence=f"{SENTENCE} (SGD).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="log10 of train loss over projection residual, SGD with momentum and a decaying step, tau = 30",
        quantity=lambda ds: np.log10(ds.sgd_excess.values),
        accepted=(-np.inf, -np.log10(1.1)),
        expected=_expect(None),
        note="The range is that of the next claim but one: below the residual by a tenth.",
    ),
    Claim(
        sentence=f"{SENTENCE} (the law of the initialisation).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="log10 of train loss over projection residual from a sparse start, momentum 0.9, tau = 30",
        quantity=lambda ds: np.log10(ds.sparse_excess.values),
        accepted=(-np.inf, -np.log10(1.1)),
        expected=_expect(None),
    ),
    Claim(
        sentence=f"{SENTENCE} (the scale of the initialisation).",
        source="note §5.1 on [7]; ours: the scale is what laziness is",
        measure="log10 of the largest train loss over projection residual over steps and momenta, tau = 0.3",
        quantity=escape,
        accepted=(-np.inf, -np.log10(1.1)),
        expected=_expect(Outcome.HOLDS),
        note="The same nets and steps at a small tau go below that minimum: it is a matter of initialisation: of what "
        "makes it lazy.",
    ),
    Claim(
        sentence="Larger weights correspond to larger gradients.",
        source=ON_RULE,
        measure="slope of log ‖∇F(w0)‖ against log tau over tau >= 1, plain initialisation",
        quantity=partial(slope, variable="gradient_norm"),
        accepted=(0.0, np.inf),
        expected=_expect(None),
    ),
    Claim(
        sentence="So a larger step size would be appropriate as tau increases.",
        source=ON_RULE,
        measure="slope of log of the largest stable step 2/λmax(K(w0)/n) against log tau over tau >= 1",
        quantity=partial(slope, variable="stable_step"),
        accepted=(0.0, np.inf),
        expected=_expect(None),
        note="The curvature grows as tau²: the rule follows the largest step that descent can take.",
    ),
    Claim(
        sentence="The rule potentially slows convergence where gradients are well-behaved.",
        source=ON_RULE,
        measure="log10 of steps to a tenth of the initial train loss, rule over 0.9 of the largest step; mean over tau",
        quantity=partial(rule_over, other="best_steps"),
        accepted=(0.05, np.inf),
        expected=_expect(None),
    ),
    Claim(
        sentence="A step that does not shrink with tau (0.005) converges faster.",
        source=ON_RULE,
        measure="log10 of steps to a tenth of the initial train loss, rule over 0.005; mean over tau",
        quantity=partial(rule_over, other="fixed_steps"),
        accepted=(0.05, np.inf),
        expected=_expect(None),
        note="At tau = 0.1 it takes 1/2000 of the rule's step, and from tau near 7 on it diverges.",
    ),
    _limit_claim(0.0, "Descent is stable up to η·λmax(K)/n = 2."),
    _limit_claim(0.9, "With momentum β = 0.9 it is stable up to η·λmax(K)/n = 2(1 + β) = 3.8."),
)


def draw(ds: xr.Dataset) -> Figure:
    """Left the stall over steps, right the edge of stability."""
    figure, (left, right) = figures.new_figure(11, 4.3, columns=2)
    left.set_xscale("log")
    left.set_yscale("log")
    left.xaxis.set_minor_formatter(NullFormatter())
    right.set_yscale("log")
    for tau, color in ((LAZY, figures.BLUE), (RICH, figures.ORANGE)):
        for momentum, line in zip(MOMENTA, ("-", "--"), strict=True):
            values = _excess(ds, tau).sel(momentum=momentum)
            label = f"tau = {tau:g}, momentum {momentum:g}"
            figures.curve(left, values, "fraction", label=label, color=color, line=line, marker="o")
    left.axhline(1, color=figures.GREY, linewidth=0.8)
    figures.finish(left, x="η·λmax(K(w0))/n, fraction of 2", y="end train loss over projection residual")
    for momentum, color in zip(MOMENTA, (figures.BLUE, figures.GREEN), strict=True):
        values = ds.growth.sel(momentum=momentum)
        figures.curve(right, values, "rate", label=f"momentum {momentum:g}", color=color, marker="o")
    right.axhline(1, color=figures.GREY, linewidth=0.8)
    right.axvline(1, color=figures.INK, linewidth=1, linestyle="--", label="stability limit")
    figures.finish(right, x="η·λmax(K(w0))/n over 2(1 + β)", y="largest loss within 100 steps over its start")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Train loss over projection residual at every step, means over seeds."""
    columns = {
        f"tau {tau:g}, momentum {momentum:g}": _excess(ds, tau).sel(momentum=momentum)
        for tau in (LAZY, RICH)
        for momentum in MOMENTA
    }
    return figures.table(columns, "fraction")
