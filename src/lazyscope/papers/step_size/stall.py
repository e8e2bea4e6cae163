"""Note, §5.1: whether the stall of lazy training is a matter of step size, momentum and initialisation.

    lazyscope reproduce note-s5.1 --size quick

An under-parameterised symmetrised net (n, d, m) = (200, 10, 8), lazy at tau = 30, ends at a local minimum: the residual
of projecting y on the range of Dh(w0). Descent at several steps, given as fractions of the limit η·λmax(K(w0))/n = 2,
and with momentum β, for the same effective kernel_time Σ η·λmax/(n(1 − β)) (so at unequal numbers of steps). The same
net at tau = 0.3 leaves the minimum behind. Below, the limit itself: heavy ball is stable up to 2(1 + β). Settings ours:
the note gives none. The note cites [7] (Sutskever et al. 2013), which also speaks of initialisation and of SGD: the
same stall with minibatches, and from a sparse start. What does decide is tau, the scale of the initialisation, which is
laziness. Of the rule min(10, 0.1/tau²): gradients and the largest stable step against tau, and steps to a tenth of the
initial loss.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.ticker import NullFormatter

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.quantities import at, log10, power
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, TRAINING, unused
from lazyscope.papers.step_size.training import (
    EDGE,
    SGD_STALL,
    SPARSE_STALL,
    SPEED,
    STALL,
    START_GRADIENT,
    Speed,
)
from lazyscope.papers.student import Protocol, decades

LAZY, RICH = 30.0, 0.3
MOMENTA = (0.0, 0.9)
RELATIVE_RATES = tuple(round(0.9 + 0.02 * i, 2) for i in range(11))  # of the limit 2(1 + β)


@dataclass(frozen=True)
class Steps:
    """The net, the effective kernel_time of every run, the steps as fractions of the limit 2, and the rule's net."""

    protocol: Protocol
    kernel_time: float
    fractions: tuple[float, ...]
    speed: Speed


NARROW = Protocol(n=200, n_test=1, d=10, width=8)
GRADIENT_TAUS = decades(-2, 3, 0.5)
SIZES = {
    "tiny": Size(
        Steps(
            Protocol(n=60, n_test=1, d=4, width=4),
            2000.0,
            (0.1, 0.2),
            Speed(Protocol(n=40, n_test=1, d=8, width=8), (0.3, 1.0, 3.0), 200),
        ),
        seeds=3,
    ),
    "quick": Size(
        Steps(
            NARROW,
            6000.0,
            (0.1, 0.4, 0.8),
            Speed(Protocol(n=300, n_test=1, d=30, width=50), (0.1, 1.0, 3.0), 1000),
        ),
        seeds=5,
    ),
    "paper": Size(
        Steps(
            NARROW,
            20_000.0,
            (0.05, 0.1, 0.2, 0.4, 0.8),
            Speed(Protocol(n_test=1), (0.1, 0.3, 1.0, 3.0), 10_000),
        ),
        seeds=10,
    ),
}
STATED = (FULL_BATCH, NO_STOP, *unused("protocol", *TRAINING))
CAPTION = (
    "Left: train loss at the end over the residual of projecting y on the range of Dh(w0), for steps from a tenth of "
    "the stability limit on, with and without momentum, at equal effective kernel_time. Lazy nets (tau = 30) all stall "
    "at that residual; the same nets at tau = 0.3 do not. Right: largest loss within 100 steps over its start against "
    "the step in units of the limit 2(1 + β)."
)


def compute(settings: Steps, trials: Trials) -> xr.Dataset:
    """Stalls over tau, step and momentum, by SGD and from a sparse start; growth over step and momentum.

    Gradients over `gradient_tau`, steps to a tenth of the loss over `speed_tau`.
    """
    run = {"kernel_time": settings.kernel_time, "protocol": settings.protocol}
    steps = {"fraction": settings.fractions, "momentum": MOMENTA, "tau": (RICH, LAZY)}
    speed = settings.speed
    parts = [
        trials.over(STALL, steps, **run),
        trials.over(EDGE, {"rate": RELATIVE_RATES, "momentum": MOMENTA}, protocol=settings.protocol),
        trials.over(SGD_STALL, {}, tau=LAZY, **run),
        trials.over(SPARSE_STALL, {}, tau=LAZY, **run),
        trials.over(START_GRADIENT, {"tau": GRADIENT_TAUS}, protocol=speed.protocol).rename(tau="gradient_tau"),
        # Without the other values of tau, which decide nothing of a cell's numbers.
        trials.over(SPEED, {"tau": speed.taus}, spec=replace(speed, taus=())).rename(tau="speed_tau"),
    ]
    return xr.merge(parts, join="exact")


def excess(ds: xr.Dataset) -> xr.DataArray:
    """Train loss at the end over the projection residual."""
    return ds.train_loss / ds.residual


def dependence(ds: xr.Dataset) -> xr.DataArray:
    """Largest over smallest train loss among all steps and momenta, minus 1."""
    settings = ["fraction", "momentum"]
    return ds.train_loss.max(settings) / ds.train_loss.min(settings) - 1


def first_growing(ds: xr.Dataset) -> xr.DataArray:
    """The first step, in units of 2(1 + β), at which the loss grows a hundredfold; a stable one swings less."""
    return ds.rate.where(ds.growth > 100).min("rate")


def _limit_claim(momentum: float, sentence: str) -> Claim:
    return Claim(
        sentence=sentence,
        source="ours, on note §5.1",
        measure="first step at which the loss grows a hundredfold within 100 steps, in units of 2(1 + β), lazy",
        quantity=at(first_growing, momentum=momentum),
        accepted=(0.96, 1.04),
    )


SENTENCE = "That lazy training ends at a local minimum is a matter of momentum, initialisation and parameter choices"
ON_RULE = "note §5.1, the step rule"
CLAIMS = (
    Claim(
        sentence=f"{SENTENCE} (momentum, step).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="largest over smallest train loss among steps and momenta at equal kernel_time, tau = 30, minus 1",
        quantity=at(dependence, tau=LAZY),
        accepted=(0.05, np.inf),
        note="All end at one loss, the residual of projecting y on the range of Dh(w0) but for what time is left.",
    ),
    Claim(
        sentence=f"{SENTENCE} (SGD).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="log10 of train loss over projection residual, SGD with momentum and a decaying step, tau = 30",
        quantity=log10(at("sgd_excess")),
        accepted=(-np.inf, -np.log10(1.1)),
        note="The range is that of the next claim but one: below the residual by a tenth.",
    ),
    Claim(
        sentence=f"{SENTENCE} (the law of the initialisation).",
        source="note §5.1 on [7] (Sutskever et al. 2013)",
        measure="log10 of train loss over projection residual from a sparse start, momentum 0.9, tau = 30",
        quantity=log10(at("sparse_excess")),
        accepted=(-np.inf, -np.log10(1.1)),
    ),
    Claim(
        sentence=f"{SENTENCE} (the scale of the initialisation).",
        source="note §5.1 on [7]; ours: the scale is what laziness is",
        measure="log10 of the largest train loss over projection residual over steps and momenta, tau = 0.3",
        quantity=log10(at(lambda ds: excess(ds).max(["fraction", "momentum"]), tau=RICH)),
        accepted=(-np.inf, -np.log10(1.1)),
        note="The same nets and steps at a small tau go below that minimum: it is a matter of initialisation: of what "
        "makes it lazy.",
    ),
    Claim(
        sentence="Larger weights correspond to larger gradients.",
        source=ON_RULE,
        measure="slope of log ‖∇F(w0)‖ against log tau over tau >= 1, plain initialisation",
        quantity=power("gradient_norm", "gradient_tau", gradient_tau=slice(1, None)),
        accepted=(0.0, np.inf),
    ),
    Claim(
        sentence="So a larger step size would be appropriate as tau increases.",
        source=ON_RULE,
        measure="slope of log of the largest stable step 2/λmax(K(w0)/n) against log tau over tau >= 1",
        quantity=power("stable_step", "gradient_tau", gradient_tau=slice(1, None)),
        accepted=(0.0, np.inf),
        note="The curvature grows as tau²: the rule follows the largest step that descent can take.",
    ),
    Claim(
        sentence="The rule potentially slows convergence where gradients are well-behaved.",
        source=ON_RULE,
        measure="log10 of steps to a tenth of the initial train loss, rule over 0.9 of the largest step; mean over tau",
        quantity=at(lambda ds: np.log10(ds.rule_steps / ds.best_steps).mean("speed_tau")),
        accepted=(0.05, np.inf),
    ),
    Claim(
        sentence="A step that does not shrink with tau (0.005) converges faster.",
        source=ON_RULE,
        measure="log10 of steps to a tenth of the initial train loss, rule over 0.005; mean over tau",
        quantity=at(lambda ds: np.log10(ds.rule_steps / ds.fixed_steps).mean("speed_tau")),
        accepted=(0.05, np.inf),
        note="At tau = 0.1 it takes 1/2000 of the rule's step, and from tau near 7 on it diverges.",
    ),
    _limit_claim(0.0, "Descent is stable up to η·λmax(K)/n = 2."),
    _limit_claim(0.9, "With momentum β = 0.9 it is stable up to η·λmax(K)/n = 2(1 + β) = 3.8."),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the stall over steps, right the edge of stability."""
    figure, (left, right) = figures.new_figure(11, 4.3, columns=2, log=("xy", "y"))
    left.xaxis.set_minor_formatter(NullFormatter())
    for tau, color in ((LAZY, figures.BLUE), (RICH, figures.ORANGE)):
        for momentum, line in zip(MOMENTA, ("-", "--"), strict=True):
            values = excess(ds).sel(tau=tau, momentum=momentum)
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
        f"tau {tau:g}, momentum {momentum:g}": excess(ds).sel(tau=tau, momentum=momentum)
        for tau in (LAZY, RICH)
        for momentum in MOMENTA
    }
    return figures.table(columns, "fraction")


S5_1 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
