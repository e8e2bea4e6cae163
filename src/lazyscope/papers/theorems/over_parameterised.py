"""Chizat et al. 2019, Theorem 2.4: over-parameterised nets converge exponentially to the global minimum.

    lazyscope reproduce chizat2019-thm2.4 --size quick

Square loss, Dh(w0) onto with smallest singular value s, ‖h(w0)‖ <= C0 = s³/(32‖Dh‖Lip(Dh)), alpha > ‖y‖/C0. Then
‖αh(w(t)) − y‖ <= ‖αh(w0) − y‖ exp(−s²t/4) for ever, and w, w̄ and their outputs stay within O(1/α), O(log α/α²) and
O(1/α), uniformly in time. Centred two-layer tanh net, (n, d, m) = (20, 20, 100), ours: the condition is met by alpha of
some hundreds. Lip(Dh) is a bound that holds on the ball of the proof. The true late rate is s², four times the
theorem's.
"""

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.quantities import power
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.convergence import OVER, draw_residual, late_rate, over
from lazyscope.papers.theorems.flows import draw_power

LARGE = slice(100, None)  # the alphas over which slopes are fitted
STATED = (ours("tanh, two layers, teacher-student"),)
CAPTION = (
    "Residual of the flow against time in units of 1/λmin, the slowest direction's, at several output scales, with the "
    "linearised flow (crosses) and the theorem's guarantee exp(−t λmin/4) (grey). Right: suprema over all times "
    "against alpha, with fitted slopes."
)


def least_rate(ds: xr.Dataset) -> np.ndarray:
    """Least −log(residual)/(λmin t) over time and the alphas that the theorem admits."""
    rate = -np.log(ds.residual) / ds.unit
    return rate.where(ds.alpha > ds.threshold).min(("alpha", "unit")).values


def late_rate_error(ds: xr.Dataset) -> np.ndarray:
    """Late rate of the flow over that of the linearised flow, minus 1, at the largest alpha."""
    last = ds.isel(alpha=-1)
    return (late_rate(last.residual) / late_rate(last.linear_residual) - 1).values


def worst_moved(ds: xr.Dataset) -> np.ndarray:
    """Largest ‖w − w0‖ over its bound, over the alphas that the theorem admits."""
    return (ds.moved / ds.moved_bound).where(ds.alpha > ds.threshold).max("alpha").values


CLAIMS = (
    Claim(
        sentence="‖αh(w(t)) − y‖ <= ‖αh(w0) − y‖ exp(−s²t/4) for alpha > ‖y‖/C0.",
        source="chizat2019 Theorem 2.4",
        measure="least −log(residual)/(s²t) over time and the alphas above ‖y‖/C0",
        quantity=least_rate,
        accepted=(0.25, np.inf),
        every_seed=True,
    ),
    Claim(
        sentence="The rate tends to that of the linearised flow, s² = λmin(K)/n in the end.",
        source="ours, on Theorem 2.4",
        measure="late log-slope of the residual over the linearised flow's, minus 1, at the largest alpha",
        quantity=late_rate_error,
        accepted=(-0.02, 0.02),
    ),
    Claim(
        sentence="‖w(t) − w0‖ <= 8‖Dh(w0)‖‖αh(w0) − y‖/(α s²) for all t.",
        source="chizat2019 Theorem 2.4, proof",
        measure="largest ‖w − w0‖ over this bound, for alpha above ‖y‖/C0",
        quantity=worst_moved,
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="Uniformly in time ‖w − w0‖ = O(1/α).",
        source="chizat2019 Theorem 2.4",
        measure="slope of log sup ‖w − w0‖ against log alpha, alpha >= 100",
        quantity=power("moved", "alpha", alpha=LARGE),
        accepted=(-1.05, -0.95),
    ),
    Claim(
        sentence="Uniformly in time ‖αh(w) − αh̄(w̄)‖ = O(1/α).",
        source="chizat2019 Theorem 2.4",
        measure="slope of log of the largest output gap against log alpha, alpha >= 100",
        quantity=power("output_gap", "alpha", alpha=LARGE),
        accepted=(-1.05, -0.95),
    ),
    Claim(
        sentence="Uniformly in time ‖w − w̄‖ = O(log α/α²).",
        source="chizat2019 Theorem 2.4; the note omits the logarithm",
        measure="slope of log sup ‖w − w̄‖ against log alpha, alpha >= 100",
        quantity=power("weight_gap", "alpha", alpha=LARGE),
        accepted=(-2.1, -1.85),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Residual against time, and suprema against alpha."""
    figure, (left, right) = figures.new_figure(11, 4.4, columns=2, log=("y", "xy"))
    draw_residual(left, ds)
    for variable, label, color in (
        ("moved", "sup ‖w − w0‖", figures.BLUE),
        ("weight_gap", "sup ‖w − w̄‖", figures.ORANGE),
        ("output_gap", "sup ‖αh(w) − αh̄(w̄)‖", figures.GREEN),
    ):
        draw_power(right, ds[variable], label=label, color=color, fitted=LARGE)
    right.axvline(float(ds.threshold.mean()), color=figures.GREY, linestyle=":", label="alpha = ‖y‖/C0")
    figures.finish(right, x="output scale alpha", y="supremum over all times", legend="lower left")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Rates in units of λmin, suprema and constants against alpha, means over seeds."""
    return figures.table(
        {
            "least rate": (-np.log(ds.residual) / ds.unit).min("unit"),
            "late rate": late_rate(ds.residual),
            "late rate, linearised": late_rate(ds.linear_residual),
            "sup ‖w − w0‖": ds.moved,
            "sup ‖w − w̄‖": ds.weight_gap,
            "output gap": ds.output_gap,
            "‖y‖/C0": ds.threshold,
            "λmin/n": ds.slowest,
            "condition": ds.condition,
            "steps": ds.steps,
        },
        "alpha",
    )


THM2_4 = Figure(caption=CAPTION, sizes=OVER, compute=over, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
