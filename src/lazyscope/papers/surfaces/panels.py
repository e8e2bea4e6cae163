"""Panels of loss landscapes: contour grids for paper, one surface at a time for the page."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.papers.width.training import MEAN, SQRT

SHOWN = 4  # columns of a contour grid
SHORT = {SQRT: "m^(−1/2)", MEAN: "1/m"}
LEVELS = np.linspace(-2.5, 1.5, 17)  # log10 of the loss over the zero predictor's; beyond, the colours are the ends'


class Surface(NamedTuple):
    """Values on a square grid with equal axes, and points (x, y, z, label) above it."""

    axis: np.ndarray
    values: np.ndarray
    points: Mapping[str, np.ndarray] = {}


def color_scale() -> ScalarMappable:
    """What the colours of every contour panel mean."""
    return ScalarMappable(BoundaryNorm(LEVELS, 256), "viridis")


def contours(ax: Axes, axis: np.ndarray, values: np.ndarray) -> None:
    """Filled contours of log10 values on a square grid; the first axis of `values` is drawn to the right."""
    logs = np.clip(np.log10(values.T), LEVELS[0], LEVELS[-1])
    ax.contourf(axis, axis, logs, levels=LEVELS, cmap="viridis")
    ax.contour(axis, axis, logs, levels=LEVELS[::2], colors="white", linewidths=0.3)
    ax.set_xlim(axis[0], axis[-1])
    ax.set_ylim(axis[0], axis[-1])
    ax.grid(visible=False)
    ax.tick_params(labelsize=7)


def surfaces(ds: xr.Dataset) -> Figure:
    """Rows: both scales by the note's protocol, both corrected. Columns: up to four widths."""
    chosen = np.unique(np.linspace(0, ds.sizes["width"] - 1, SHOWN).round().astype(int))
    rows = [(kind, exponent) for kind in ("note", "corrected") for exponent in (MEAN, SQRT)]
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(2.5 * len(chosen) + 2, 9.6))
        axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    for panels, (kind, exponent) in zip(axes, rows, strict=True):
        for ax, i in zip(panels, chosen, strict=True):
            one = ds.isel(width=i).sel(exponent=exponent)
            axis = (one.note_axis if kind == "note" else ds.corrected_axis).values
            contours(ax, axis, one[f"{kind}_surface"].values)
            if kind == "note":
                inside = one.note_points.values
                ax.plot(inside[:, 0], inside[:, 1], "x", color="white", ms=5)
            else:
                ax.plot(0, 0, "o", color="white", ms=4)
        label = "note: principal components\nraw weights" if kind == "note" else "corrected: unit by unit\nrelative"
        panels[0].set_ylabel(f"alpha = {SHORT[exponent]}\n{label}", fontsize=8)
    for ax, i in zip(axes[0], chosen, strict=True):
        ax.set_title(f"m = {int(ds.width[i])}")
    figure.colorbar(color_scale(), ax=axes, shrink=0.6, label="log10 of test loss over that of the zero predictor")
    return figure


def choose_surface(chosen: Mapping[str, Surface]) -> dict[str, object]:
    """A plotly figure, as plain data, of named surfaces in log10 with a menu that shows one at a time."""
    import plotly.graph_objects as go

    traces, owners = [], []
    for name, surface in chosen.items():
        height = np.round(np.clip(np.log10(surface.values.T), LEVELS[0], LEVELS[-1]), 3)
        axis = np.round(surface.axis, 4)
        traces.append(
            go.Surface(x=axis, y=axis, z=height.tolist(), colorscale="Viridis", cmin=LEVELS[0], cmax=LEVELS[-1])
        )
        owners.append(name)
        for label, points in surface.points.items():
            x, y, z = np.round(points.T, 4)
            marks = {"size": 4, "symbol": "circle" if "true" in label else "x"}
            traces.append(go.Scatter3d(x=x, y=y, z=z, mode="markers", name=label, marker=marks))
            owners.append(name)
    first = next(iter(chosen))
    for trace, owner in zip(traces, owners, strict=True):
        trace.visible = owner == first
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [owner == name for owner in owners]}]}
        for name in chosen
    ]
    figure = go.Figure(traces)
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.08}],
        scene={"zaxis": {"title": "log10 of test loss over zero's"}, "xaxis": {"title": "x"}, "yaxis": {"title": "y"}},
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        height=560,
        showlegend=True,
        legend={"x": 0, "y": 0},
        template="none",
    )
    return figure.to_plotly_json()
