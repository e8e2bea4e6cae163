"""Note, §3.4: level lines of the criterion in the plane of initialisation scale tau and output scale alpha.

    lazyscope reproduce note-s3.4 --size quick

For a q-homogeneous model kappa depends on alpha·tau^q alone, so its level lines are alpha ∝ tau^-q, exactly, with q = 2
for the two-layer ReLU net; the note leaves q undetermined. Evaluated at the scaled weights themselves, not through the
scale law.
"""

from functools import partial

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size
from lazyscope.papers.kappa.closed_form import FULL, SMALL, STATED, Plane, kappa_from_both_starts
from lazyscope.papers.student import decades

SIZES = {
    "tiny": Size(Plane(SMALL, decades(-1, 1, 0.5), decades(-2, 2, 0.5)), seeds=3),
    "quick": Size(Plane(FULL, decades(-2, 2, 0.25), decades(-3, 3, 0.25)), seeds=5),
    "paper": Size(Plane(FULL, decades(-2.2, 3, 0.1), decades(-3, 6, 0.1)), seeds=10),
}
CAPTION = (
    "kappa at initialisation over tau and alpha, symmetrised (left) and plain (right); lines of equal kappa, and "
    "dashed the law alpha ∝ tau^−2. kappa depends on alpha·tau² alone, so that every level is such a line for both "
    "starts. Plain, the levels end at kappa_inf: from there on kappa is flat, and lower levels do not exist."
)


def level_slope(ds: xr.Dataset, variable: str) -> np.ndarray:
    """Slope of log alpha against log tau along a level of kappa, per seed.

    The level is the median of kappa over the plane, and at least three times its smallest value, since a plain net has
    a median at kappa_inf, where kappa is flat. On each column of tau, log alpha is interpolated in log kappa.
    """
    values = np.log(ds[variable].transpose("seed", "tau", "alpha").values)
    log_alpha, log_tau = np.log(ds.alpha.values), np.log(ds.tau.values)
    return np.array([_slope_of_level(plane, log_tau, log_alpha) for plane in values])


def _slope_of_level(plane: np.ndarray, log_tau: np.ndarray, log_alpha: np.ndarray) -> float:
    level = max(np.median(plane), np.min(plane) + np.log(3))
    crossing = [
        (t, np.interp(-level, -column, log_alpha))
        for t, column in zip(log_tau, plane, strict=True)
        if column[-1] < level < column[0]
    ]
    taus, alphas = np.array(crossing, float).T
    return float(np.polyfit(taus, alphas, 1)[0])


def _claim(start: str, variable: str, note: str) -> Claim:
    return Claim(
        sentence=f"To keep the criterion at a given level alpha ∝ 1/tau^q must hold ({start}).",
        source="note §3.4",
        measure=f"slope of log alpha against log tau along a level of kappa, {start}; −q is −2",
        quantity=partial(level_slope, variable=variable),
        accepted=(-2.02, -1.98),
        note=note,
    )


CLAIMS = (
    _claim(
        "symmetrised",
        "symmetrised_kappa",
        "q = 2 follows from the model, two layers of ReLU without biases; it is not an empirical law.",
    ),
    _claim("plain", "kappa", "The same identity; but levels below kappa_inf are reached at no alpha and tau."),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Level lines of log10 kappa, one panel a start."""
    figure, axes = figures.new_figure(10.5, 4.4, columns=2, log="xy")
    panels = (("symmetrised", ds.symmetrised_kappa), ("plain", ds.kappa))
    for ax, (name, values) in zip(axes, panels, strict=True):
        mean = np.log10(values.mean("seed").transpose("alpha", "tau").values)
        filled = ax.contourf(ds.tau.values, ds.alpha.values, mean, levels=14, cmap="viridis_r")
        lines = ax.contour(ds.tau.values, ds.alpha.values, mean, levels=8, colors=figures.INK, linewidths=0.6)
        ax.clabel(lines, fontsize=7, fmt=lambda v: f"10^{v:.1f}")
        middle = np.sqrt(ds.tau.values[0] * ds.tau.values[-1])
        law = (ds.tau.values / middle) ** -2.0
        ax.plot(ds.tau.values, law, color=figures.ORANGE, linestyle="--", linewidth=1.8, label="alpha ∝ tau^−2")
        ax.set_ylim(ds.alpha.values[0], ds.alpha.values[-1])
        ax.set_title(name)
        figures.finish(ax, x="initialisation scale tau", y="output scale alpha")
        figure.colorbar(filled, ax=ax, label="log10 kappa")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Kappa at alpha nearest 1 against tau, means over seeds."""
    one = ds.sel(alpha=1.0, method="nearest")
    return figures.table({"plain": one.kappa, "symmetrised": one.symmetrised_kappa}, "tau")


S3_4 = Figure(
    caption=CAPTION,
    sizes=SIZES,
    compute=kappa_from_both_starts,
    claims=CLAIMS,
    draw=draw,
    numbers=numbers,
    stated=STATED,
)
