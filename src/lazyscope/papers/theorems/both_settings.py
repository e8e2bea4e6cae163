"""Note, §3.2: convergence under lazy training, over- and under-parameterised.

    lazyscope reproduce note-s3.2 --size quick

Stated for a strictly convex R and a Dh(w0) of full rank; what is needed is a strongly convex R and a Dh(w0) that is
onto, and for the global claim alpha > ‖y‖/C0 (chizat2019-thm2.4). Square loss where nothing else is said; shares its
cells with chizat2019-thm2.4 and -thm2.5, whose nets are ours: tanh, centred, and under-parameterised with two units and
readouts frozen at ±1, since readouts that move make directions so slow that no flow gets to their end. With all weights
free the rank of Dh is constant around w0 for a centred net and not for a symmetrised one, whose pairs have equal
derivatives at w0 and nowhere near it.
"""

from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials, prefixed
from lazyscope.papers.quantities import LAST, at, log10_ratio, power
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.assumptions import STARTS, Starts, independences, offsets, ranks
from lazyscope.papers.theorems.convergence import (
    OVER,
    UNDER,
    Convergence,
    draw_end_loss,
    draw_residual,
    excess,
    late_rate,
    left_over,
    over,
    rate_at_largest_alpha,
    under,
)
from lazyscope.papers.theorems.losses import LOSSES, Losses, convex_losses


@dataclass(frozen=True)
class Both:
    """The two settings, other losses and starts."""

    over: Convergence
    under: Convergence
    losses: Losses
    starts: Starts


SIZES = {
    size: Size(Both(OVER[size].settings, UNDER[size].settings, LOSSES[size], STARTS[size]), OVER[size].seeds)
    for size in ("tiny", "quick", "paper")
}
STATED = (
    ours("tanh, two layers, centred, teacher-student"),
    ours(
        "frozen at ±1 in the under-parameterised flow", "readouts that move make directions without an end", "readouts"
    ),
)
CAPTION = (
    "Left, over-parameterised: the residual falls exponentially to 0, for every alpha as for the linearised flow. "
    "Middle, the linearised flow under other losses: strong convexity makes it exponential, strict convexity does not. "
    "Right, under-parameterised (two units, readouts frozen at ±1: ours): the train loss at the end tends to that of "
    "the projection as alpha grows."
)


def compute(settings: Both, trials: Trials) -> xr.Dataset:
    """Over-parameterised flows under their own names, under-parameterised ones with an `under_` before theirs.

    Beside them other losses, minimisers at several alpha, starts with h(w0) other than 0, and ranks around w0.
    """
    parts = [
        over(settings.over, trials),
        prefixed(under(settings.under, trials), "under_", "alpha", "unit"),
        convex_losses(settings.losses, trials),
        independences(settings.starts, trials),
        offsets(settings.starts, trials),
        ranks(settings.starts, trials),
    ]
    return xr.merge(parts, join="exact")


def _under(ds: xr.Dataset) -> xr.Dataset:
    names = [str(name) for name in ds.data_vars if str(name).startswith("under_")]
    return ds[names].rename({name: name.removeprefix("under_") for name in [*names, "under_alpha", "under_unit"]})


def rate_change(values: xr.DataArray) -> np.ndarray:
    """Late decay rate over that in the middle third, minus 1."""
    middle = values.sel(unit=values.unit <= 0.67 * float(values.unit[-1]))
    return (late_rate(values, 0.67) / late_rate(middle, 0.5) - 1).values


def _decay_claim(convex: str, sentence: str, note: str = "") -> Claim:
    return Claim(
        sentence=sentence,
        source="note §3.2",
        measure="late log-slope of the linearised flow's loss over that before, minus 1; exponential is 0",
        quantity=lambda ds: rate_change(ds.loss_left.sel(convex=convex).rename(loss_unit="unit")),
        accepted=(-0.15, 0.15),
        note=note,
        moved="the flow was followed for 12 units of time at first, which ends below the integrator's tolerance.",
    )


def _rank_claim(device: str, what: str, note: str = "") -> Claim:
    return Claim(
        sentence=f"Dh(w) has constant rank around w0 ({what}).",
        source="note §3.2, assumption",
        measure="rank at 0.001 per weight from w0 minus that at w0, over the number of weights; all weights free",
        quantity=at(lambda ds: (ds.rank_nearby - ds["rank"]) / ds.parameters, device=device),
        accepted=(-0.01, 0.01),
        note=note,
    )


CLAIMS = (
    Claim(
        sentence="Over-parameterised, the model converges with an exponential rate with respect to time.",
        source="note §3.2",
        measure="late log-slope of the residual over that before, minus 1, at the largest alpha",
        quantity=lambda ds: rate_change(ds.residual.isel(alpha=-1)),
        accepted=(-0.15, 0.15),
    ),
    Claim(
        sentence="It converges to the global minimum.",
        source="note §3.2",
        measure="residual at the end over that at the start, largest over all alpha",
        quantity=at(lambda ds: ds.residual.max("alpha"), unit=LAST),
        accepted=(-np.inf, 1e-3),
        scale=Scale.SIZE,
        note="At alpha = 1 as well, far below the theorem's threshold.",
    ),
    Claim(
        sentence="The gap between the model and its linearised version is at most of the order of 1/α.",
        source="note §3.2",
        measure="slope of log of the largest output gap over all times against log alpha, alpha >= 100",
        quantity=power("output_gap", "alpha", alpha=slice(100, None)),
        accepted=(-1.05, -0.95),
    ),
    _decay_claim(
        "quartic",
        "R strictly convex: the linearised flow converges linearly (quartic loss).",
        "It falls as a power of the time. What is needed is strong convexity.",
    ),
    _decay_claim(
        "logistic",
        "R strictly convex: the linearised flow converges linearly (logistic loss).",
        "It falls as 1/t, and where labels can be fitted there is no minimiser to converge to.",
    ),
    _decay_claim("strongly convex", "R strongly convex and smooth, not quadratic: it converges linearly."),
    Claim(
        sentence="With h(w0) = 0 the global minimiser does not depend on α.",
        source="note §3.2",
        measure="‖w̄* at the largest α − w̄* at the smallest‖ over ‖w̄* − w0‖ at the smallest",
        quantity=at("weights_apart", output="centred"),
        accepted=(-np.inf, 0.01),
        scale=Scale.SIZE,
        note="Its outputs αh̄(w̄*) do not depend on α; w̄* − w0 is in proportion to 1/α.",
    ),
    Claim(
        sentence="Its outputs αh̄(w̄*) do not depend on α.",
        source="note §3.2, corrected",
        measure="largest difference of αh̄(w̄*) between three α, relative to its size",
        quantity=at("end_apart", output="centred"),
        accepted=(-np.inf, 1e-9),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="w̄* − w0 is in proportion to 1/α.",
        source="ours, on note §3.2",
        measure="slope of log ‖w̄* − w0‖ against log α, h(w0) = 0",
        quantity=power("minimiser", "linear_alpha", output="centred"),
        accepted=(-1.001, -0.999),
    ),
    Claim(
        sentence="Initialised with ‖h(w0)‖ <= C0 it converges at an exponential rate, as guaranteed.",
        source="note §3.2 (norm not big), chizat2019 Theorem 2.4",
        measure="largest residual over ‖αh(w0) − y‖ exp(−t λmin/4), from ‖h(w0)‖ = C0 at α = 2‖y‖/C0",
        quantity=at("offset_guarantee", size=1.0),
        accepted=(-np.inf, 1.0),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="A large ‖h(w0)‖ de-stabilises the model: the guarantee fails at 1000·C0.",
        source="note §3.2",
        measure="the same from ‖h(w0)‖ = 1000·C0",
        quantity=at("offset_guarantee", size=1000.0),
        accepted=(1.0, np.inf),
        scale=Scale.RATIO,
        note="C0 is sufficient only: a thousand times as far the guarantee still holds.",
    ),
    _rank_claim("centred", "centred net"),
    _rank_claim(
        "symmetrised",
        "symmetrised net",
        "Its pairs have the same derivatives at w0 alone, so that the theorem does not cover the note's own start.",
    ),
    Claim(
        sentence="Under-parameterised, the model converges geometrically for a large enough α.",
        source="note §3.2",
        measure="late decay rate of ‖∇F‖ in units of λ at the largest alpha",
        quantity=lambda ds: rate_at_largest_alpha(_under(ds)),
        accepted=(0.9, 1.1),
        scale=Scale.RATIO,
    ),
    Claim(
        sentence="It converges to a local minimum that the variations of w can reach: the projection.",
        source="note §3.2",
        measure="train loss at the end over the projection's on the range of Dh(w0), minus 1, at the largest alpha",
        quantity=lambda ds: excess(_under(ds)),
        accepted=(-0.01, 0.01),
    ),
    Claim(
        sentence="It does not reach the global minimiser, which is out of reach of the variations of w.",
        source="note §3.2",
        measure="train loss at the end over that at the start, at the largest alpha; the global minimum of R is 0",
        quantity=lambda ds: left_over(_under(ds)),
        accepted=(0.01, np.inf),
        scale=Scale.RATIO,
    ),
    Claim(
        sentence="The same net can go lower: where it ends is not its global minimum.",
        source="note §3.2",
        measure="log10 of the train loss at the end at the largest alpha over the least at any alpha, same start",
        quantity=log10_ratio(
            at("under_train_loss", under_unit=LAST, under_alpha=LAST),
            at(lambda ds: ds.under_train_loss.min("under_alpha"), under_unit=LAST),
        ),
        accepted=(float(np.log10(1.01)), np.inf),
        note="The claim before compares with 0, which no net of ten weights reaches on 60 examples.",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Residual against time over-parameterised, other losses, end loss against alpha under-parameterised."""
    figure, (left, middle, right) = figures.new_figure(14.5, 4.4, columns=3, log=("y", "y", "xy"))
    draw_residual(left, ds)
    left.set_title("over-parameterised")
    colors = (figures.BLUE, figures.GREEN, figures.ORANGE, figures.PURPLE)
    for convex, color in zip(ds.convex.values, colors, strict=True):
        figures.curve(middle, ds.loss_left.sel(convex=convex), "loss_unit", label=convex, color=color)
    middle.set_title("linearised flow, other losses")
    figures.finish(middle, x="time in units of 1/λmin", y="R(αh̄) / R(0)")
    draw_end_loss(right, _under(ds))
    right.set_title("under-parameterised")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """The over-parameterised flows against alpha, means over seeds."""
    return figures.table(
        {
            "end residual": ds.residual.isel(unit=-1),
            "late rate / λmin": late_rate(ds.residual),
            "output gap": ds.output_gap,
            "‖y‖/C0": ds.threshold,
        },
        "alpha",
    )


S3_2 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
