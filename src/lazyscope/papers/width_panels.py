"""Panels, tables and slopes that the two figures over width share."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.papers.widths import EXPONENTS, MEAN, NAMES, SQRT

WIDE = 32  # below it the nets differ much between trials, and slopes are of something else
COLORS = {SQRT: figures.ORANGE, MEAN: figures.BLUE}


def log_slope(values: xr.DataArray) -> np.ndarray:
    """Slope of log values against log width over widths >= 32, one per seed."""
    wide = values.sel(width=values.width >= WIDE).transpose("width", "seed")
    return np.polyfit(np.log(wide.width.values), np.log(wide.values), 1)[0]


def equal_time_loss(ds: xr.Dataset) -> xr.DataArray:
    """Test loss at m^(-1/2) at the kernel_time that 1/m reaches at the end."""
    return ds.test_loss.sel(exponent=SQRT, step=ds.attrs["equal_time_step"])


def draw(ds: xr.Dataset) -> Figure:
    """Left the losses against width, right gap and movement."""
    figure, (left, right) = figures.new_figure(11, 4.6, columns=2)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
    unit = ds.attrs["target_scale"] ** 2
    for exponent in EXPONENTS:
        one, color = ds.sel(exponent=exponent), COLORS[exponent]
        figures.curve(left, one.end_test_loss / unit, "width", label=NAMES[exponent], color=color, marker="o")
        label = f"linearised, {NAMES[exponent]}"
        figures.curve(left, one.linear_test_loss / unit, "width", label=label, color=color, line="--")
        figures.curve(right, one.gap, "width", label=f"gap g, {NAMES[exponent]}", color=color, marker="o")
        label = f"movement ‖w − w0‖/‖w0‖, {NAMES[exponent]}"
        figures.curve(right, one.movement, "width", label=label, color=color, line=":")
    early = equal_time_loss(ds) / unit
    label = f"{NAMES[SQRT]} at the kernel_time of 1/m"
    figures.curve(left, early, "width", label=label, color=COLORS[SQRT], line=":")
    figures.levels(left, [figures.Level(ds.zero_test_loss.isel(width=-1, exponent=0) / unit, "zero", figures.GREY)])
    figures.finish(left, x="width m", y="test loss  ½‖f − y‖² / target scale²")
    figures.finish(right, x="width m", y="relative change")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Losses, gap, change of the differential, movement and kernel_time at both output scales, means over seeds."""
    unit = ds.attrs["target_scale"] ** 2
    rows: dict[str, xr.DataArray] = {}
    for exponent in EXPONENTS:
        one, name = ds.sel(exponent=exponent), NAMES[exponent].removeprefix("alpha = ")
        rows |= {
            f"{name}: end test loss": one.end_test_loss / unit,
            f"{name}: linearised": one.linear_test_loss / unit,
            f"{name}: gap g": one.gap,
            f"{name}: change j of Dh": one.differential_change,
            f"{name}: movement": one.movement,
            f"{name}: kernel_time": one.kernel_time.isel(step=-1),
        }
    rows[f"{NAMES[SQRT].removeprefix('alpha = ')} at the kernel_time of 1/m"] = equal_time_loss(ds) / unit
    return figures.table(rows, "width")
