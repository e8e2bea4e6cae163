"""Explorer: move through runs by tau, alpha and initialisation, and watch loss, movement, g and j together.

    lazyscope reproduce explorer --size quick

By the scale law (note §3.4) the run at (tau, alpha), with the step that goes with it, is the run at (tau·√alpha, 1):
one run a value of tau·√alpha is stored, half a decade apart, for plain and for symmetrised nets, and the page's
sliders for tau and alpha both move along it. The runs are those of Figures 3 and 4 where the store has them: at quick
27 s on two cores after these, a minute and more without; paper size takes 10^4 steps and ten trials, about 10 min.

Expected at quick (3 seeds): both starts end on a plateau, and their gaps g at its end are 13 decades apart. The
change j of the differential is .72 there from the plain start and 7e-7 from the symmetrised one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome
from lazyscope.diagnose import Thresholds
from lazyscope.papers.protocol import Protocol, decades, experiment
from lazyscope.papers.settings import FULL_BATCH, NO_STOP, Setting
from lazyscope.sweep import Progress, Store

STARTS = ("symmetrised", "plain")
CURVES = ("train_loss", "test_loss", "linear_test_loss")
MEASURES = ("gap", "differential_change", "movement", "end_test_loss")


@dataclass(frozen=True)
class Both:
    """A protocol and values of tau·√alpha."""

    protocol: Protocol
    taus: tuple[float, ...]
    seeds: int


SIZES = {
    "tiny": Both(Protocol(n=40, n_test=40, d=8, width=8, num_steps=300), decades(-1, 1, 0.5), seeds=3),
    "quick": Both(Protocol(num_steps=5000), decades(-2, 2, 0.5), seeds=3),
    "paper": Both(Protocol(), decades(-2, 2, 0.5), seeds=10),
}
SETTINGS = (FULL_BATCH, NO_STOP, Setting("protocol.doubled", run="yes and no"))
CAPTION = (
    "What separates the two plateaus: the test losses (left) are flat at large tau·√alpha from either start; the gap g "
    "to the trained linearised model (right) falls below the threshold of laziness from the symmetrised start alone."
)


def compute(
    spec: Both, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Both experiments, along `start`."""
    parts = [
        experiment(
            replace(spec.protocol, doubled=start == "symmetrised"),
            spec.taus,
            seeds=spec.seeds,
            key=key,
            store=store,
            progress=progress,
        )[[*CURVES, *MEASURES]]
        for start in STARTS
    ]
    return xr.concat(parts, xr.Variable("start", np.array(STARTS)), join="exact")


def apart(ds: xr.Dataset) -> np.ndarray:
    """log10 of the plain over the symmetrised gap at the largest tau·√alpha."""
    last = ds.gap.isel(tau=-1)
    return np.log10(last.sel(start="plain") / last.sel(start="symmetrised")).values


CLAIMS = (
    Claim(
        sentence="Of the two plateaus only the symmetrised one is lazy training.",
        source="ours, on note §3.3, Figures 3 and 4",
        measure="log10 of the gap g of plain over that of symmetrised nets at the largest tau·√alpha",
        quantity=apart,
        accepted=(1.0, np.inf),
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": None},
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """End test losses and gaps of both starts."""
    figure, (left, right) = figures.new_figure(11.5, 4.2, columns=2)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
    for start, colour in zip(STARTS, (figures.BLUE, figures.ORANGE), strict=True):
        one = ds.sel(start=start)
        figures.curve(left, one.end_test_loss, "tau", label=start, color=colour, marker="o")
        figures.curve(right, one.gap, "tau", label=start, color=colour, marker="o")
    right.axhline(Thresholds().gap_lazy, color=figures.GREY, linestyle="--", linewidth=1, label="lazy below")
    figures.finish(left, x="tau·√alpha", y="test loss at the end")
    figures.finish(right, x="tau·√alpha", y="gap g to the trained linearised model")
    return figure


def interactive(ds: xr.Dataset) -> dict[str, Any]:
    """Means over seeds for the page's explorer: curves by step and measures, by start and tau·√alpha."""
    mean = ds.mean("seed")
    thresholds = Thresholds()

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
        "lazy": {"gap": thresholds.gap_lazy, "differential_change": thresholds.differential_lazy},
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
