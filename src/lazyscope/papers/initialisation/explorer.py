"""Explorer: move through runs by tau, alpha and initialisation, and watch loss, movement, g and j together.

    lazyscope reproduce explorer --size quick

By the scale law (note §3.4) the run at (tau, alpha), with the step that goes with it, is the run at (tau·√alpha, 1):
one run a value of tau·√alpha is stored, half a decade apart, for plain and for symmetrised nets, and the page's
sliders for tau and alpha both move along it. The runs are those of Figures 3 and 4 where the store has them.
"""

from dataclasses import replace
from typing import Any

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size, Trials, side_by_side
from lazyscope.papers.initialisation.training import experiment
from lazyscope.papers.quantities import LAST, LAZY, at, log10_ratio
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, Setting
from lazyscope.papers.student import QUICK, TINY, Protocol, Scales, decades

STARTS = ("symmetrised", "plain")
CURVES = ("train_loss", "test_loss", "linear_test_loss")
MEASURES = ("gap", "differential_change", "movement", "end_test_loss")


def compute(settings: Scales, trials: Trials) -> xr.Dataset:
    """Both experiments, along `start`; taus are values of tau·√alpha."""
    starts = {
        start: experiment(replace(settings.protocol, doubled=start == "symmetrised"), settings.taus, trials)
        for start in STARTS
    }
    return side_by_side("start", starts)[[*CURVES, *MEASURES]]


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """End test losses and gaps of both starts."""
    figure, (left, right) = figures.new_figure(11.5, 4.2, columns=2, log="xy")
    for start, colour in zip(STARTS, (figures.BLUE, figures.ORANGE), strict=True):
        one = ds.sel(start=start)
        figures.curve(left, one.end_test_loss, "tau", label=start, color=colour, marker="o")
        figures.curve(right, one.gap, "tau", label=start, color=colour, marker="o")
    right.axhline(LAZY.gap_lazy, color=figures.GREY, linestyle="--", linewidth=1, label="lazy below")
    figures.finish(left, x="tau·√alpha", y="test loss at the end")
    figures.finish(right, x="tau·√alpha", y="gap g to the trained linearised model")
    return figure


def interactive(ds: xr.Dataset) -> dict[str, Any]:
    """Means over seeds for the page's explorer: curves by step and measures, by start and tau·√alpha."""
    mean = ds.mean("seed")

    def plain(values: xr.DataArray) -> list[Any]:
        return [[_short(v) for v in row] if np.ndim(row) else _short(row) for row in values.values]

    runs = {
        start: {name: plain(mean[name].sel(start=start).transpose("tau", ...)) for name in (*CURVES, *MEASURES)}
        for start in STARTS
    }
    for run in runs.values():
        run["linear_test_loss"] = [row[:-1] for row in run["linear_test_loss"]]  # the last is that for ever
    return {
        "kind": "explorer",
        "scales": [_short(v) for v in ds.tau.values],
        "steps": [int(v) for v in ds.step.values],
        "runs": runs,
        "lazy": {"gap": LAZY.gap_lazy, "differential_change": LAZY.differential_lazy},
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """End test loss, gap, change of the differential and movement of both starts."""
    rows = {
        f"{start}: {label}": ds[name].sel(start=start)
        for start in STARTS
        for name, label in zip(MEASURES, ("g", "j", "movement", "loss"), strict=True)
    }
    return figures.table(rows, "tau")


EXPLORER = Figure(
    caption="What separates the two plateaus: the test losses (left) are flat at large tau·√alpha from either start; "
    "the gap g to the trained linearised model (right) falls below the threshold of laziness from the symmetrised "
    "start alone.",
    sizes={
        "tiny": Size(Scales(TINY, decades(-1, 1, 0.5)), seeds=3),
        "quick": Size(Scales(QUICK, decades(-2, 2, 0.5)), seeds=3),
        "paper": Size(Scales(Protocol(), decades(-2, 2, 0.5)), seeds=10),
    },
    compute=compute,
    claims=(
        Claim(
            sentence="Of the two plateaus only the symmetrised one is lazy training.",
            source="ours, on note §3.3, Figures 3 and 4",
            measure="log10 of the gap g of plain over that of symmetrised nets at the largest tau·√alpha",
            quantity=log10_ratio(at("gap", start="plain", tau=LAST), at("gap", start="symmetrised", tau=LAST)),
            accepted=(1.0, np.inf),
        ),
    ),
    draw=draw,
    numbers=numbers,
    interactive=interactive,
    stated=(FULL_BATCH, NO_STOP, Setting("protocol.doubled", run="yes and no")),
)
