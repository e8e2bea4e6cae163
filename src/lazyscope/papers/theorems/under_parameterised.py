"""Chizat et al. 2019, Theorem 2.5: under-parameterised nets converge geometrically to a local minimum.

    lazyscope reproduce chizat2019-thm2.5 --size quick

h(w0) = 0, R strongly convex, rank Dh(w) constant near w0: for alpha large enough the flow converges geometrically to a
local minimum of F_alpha, at a rate that tends to that of the linearised flow, λ, the smallest nonzero eigenvalue of
K(w0)/n. Its loss tends to that of the projection of y on the range of Dh(w0), not to 0. Centred tanh net of two units
with fixed readouts ±1, n = 60, d = 5: full column rank 10 < n. Ours; the theorem gives no experiment.
"""

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.quantities import LAST, at
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.convergence import (
    UNDER,
    draw_end_loss,
    excess,
    late_rate,
    left_over,
    rate_at_largest_alpha,
    under,
)

STATED = (
    ours("tanh, two layers, teacher-student"),
    ours("frozen at ±1; the output is centred", "Dh then has constant rank", "readouts"),
)
CAPTION = (
    "Left: gradient norm of the flow against time in units of 1/λ, λ the smallest nonzero eigenvalue of the kernel at "
    "w0; grey, the slope of exp(−t λ). Right: distance of the train loss at the end from that of the projection on the "
    "range of Dh(w0), against the output scale: it falls as 1/α."
)


def rate_change(ds: xr.Dataset) -> np.ndarray:
    """Late decay rate of ‖∇F‖ at the largest alpha over that at the one before, minus 1."""
    rate = late_rate(ds.gradient)
    return (rate.isel(alpha=-1) / rate.isel(alpha=-2) - 1).values


CLAIMS = (
    Claim(
        sentence="For alpha large enough the flow converges geometrically, at a rate independent of alpha.",
        source="chizat2019 Theorem 2.5",
        measure="late decay rate of ‖∇F‖ in units of λ at the largest alpha over that at the one before, minus 1",
        quantity=rate_change,
        accepted=(-0.05, 0.05),
    ),
    Claim(
        sentence="That rate is the linearised flow's: λ, the smallest nonzero eigenvalue of K(w0)/n.",
        source="ours, on Theorem 2.5",
        measure="late decay rate of ‖∇F‖ over λ at the largest alpha",
        quantity=rate_at_largest_alpha,
        accepted=(0.9, 1.1),
        scale=Scale.RATIO,
    ),
    Claim(
        sentence="The limit is a local minimum of F_α.",
        source="chizat2019 Theorem 2.5",
        measure="smallest over largest eigenvalue of the Hessian of F at the end, at the largest alpha",
        quantity=at("convexity", alpha=LAST),
        accepted=(0, np.inf),
        every_seed=True,
        note="Positive definite: a strict local minimum.",
    ),
    Claim(
        sentence="Its loss is that of the projection of y on the range of Dh(w0).",
        source="ours, on Theorem 2.5",
        measure="train loss at the end over the projection's, minus 1, at the largest alpha",
        quantity=excess,
        accepted=(-0.01, 0.01),
    ),
    Claim(
        sentence="It is not the global minimum.",
        source="chizat2019 §2.3; note §3.2",
        measure="train loss at the end over that at the start, at the largest alpha; the global minimum of R is 0",
        quantity=left_over,
        accepted=(0.01, np.inf),
        scale=Scale.RATIO,
    ),
)


def draw_gradient(ax: Axes, ds: xr.Dataset) -> None:
    """Gradient norm of under-parameterised flows against time."""
    shown = [ds.alpha.values[0], ds.alpha.values[-2], ds.alpha.values[-1]]
    for alpha, color, line in zip(shown, (figures.ORANGE, figures.GREEN, figures.BLUE), ("-", "--", ":"), strict=True):
        figures.curve(ax, ds.gradient.sel(alpha=alpha), "unit", label=f"alpha = {alpha:g}", color=color, line=line)
    ax.plot(ds.unit.values, 0.1 * np.exp(-ds.unit.values), color=figures.GREY, label="slope of exp(−t λ)")
    figures.finish(ax, x="time in units of 1/λ", y="‖∇F‖ relative to the start", legend="lower left")


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Gradient norm against time, and end loss against alpha."""
    figure, (left, right) = figures.new_figure(11, 4.4, columns=2, log=("y", "xy"))
    draw_gradient(left, ds)
    draw_end_loss(right, ds)
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Rates and losses against alpha, means over seeds."""
    return figures.table(
        {
            "late rate / λ": late_rate(ds.gradient),
            "end gradient": ds.gradient.isel(unit=-1),
            "end loss": ds.train_loss.isel(unit=-1),
            "projection": ds.projection_loss,
            "start": ds.start_loss,
            "convexity": ds.convexity,
            "rank": ds["rank"],
            "steps": ds.steps,
        },
        "alpha",
    )


THM2_5 = Figure(caption=CAPTION, sizes=UNDER, compute=under, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
