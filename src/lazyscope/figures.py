"""Drawing: one look for every figure, bands over seeds, marks for how cells ended. Datasets in, matplotlib out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

# Okabe and Ito's palette: distinct in print, in the dark and for colour-blind readers.
INK, BLUE, ORANGE, GREEN, PURPLE, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "svg.hashsalt": "lazyscope",
}


@dataclass(frozen=True)
class Mark:
    """How to show that a cell ended in a certain way: hatched when its numbers should not be trusted."""

    variable: str
    label: str
    hatched: bool


MARKS = (
    Mark("diverged", "diverged", True),
    Mark("unstable", "unstable: η·λmax > 2 at the end", True),
    Mark("precision_limited", "precision limited", True),
    Mark("still_improving", "still improving at the end of the budget", False),
)


NARROW = 4.4  # inches, of a figure for a phone


def new_figure(
    width: float = 7.2,
    height: float = 4.2,
    columns: int = 1,
    ratios: Sequence[float] | None = None,
    *,
    log: str | Sequence[str] = "",
    base: int = 10,
    narrow: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot's global state, and its axes from left to right, their widths in `ratios`.

    `log` names the logarithmic scales, "x", "y" or "xy", of all axes or of each; `base` is that of x. A `narrow` one,
    for a phone, has the axes one below the other, each at most as high as it is wide.
    """
    size = (NARROW, min(height, NARROW) * columns) if narrow else (width, height)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        if narrow:
            axes = list(figure.subplots(columns, 1, squeeze=False)[:, 0])
        else:
            axes = list(figure.subplots(1, columns, squeeze=False, width_ratios=ratios)[0])
    for ax, scales in zip(axes, [log] * columns if isinstance(log, str) else log, strict=True):
        if "x" in scales:
            ax.set_xscale("log", base=base)
        if "y" in scales:
            ax.set_yscale("log")
    return figure, axes


def curve(ax: Axes, values: xr.DataArray, x: str, *, label: str, color: str, line: str = "-", marker: str = "") -> None:
    """Mean over seeds against dimension `x`, with a band of one standard deviation (ddof 1) where seeds are many."""
    mean = values.mean("seed")
    ax.plot(values[x].values, mean.values, line, color=color, label=label, marker=marker, markersize=3.5, linewidth=1.6)
    if values.sizes["seed"] > 1:
        spread = values.std("seed", ddof=1)
        low = np.maximum((mean - spread).values, 0.02 * mean.values) if ax.get_yscale() == "log" else mean - spread
        ax.fill_between(values[x].values, low, (mean + spread).values, color=color, alpha=0.15, linewidth=0)


def guide(
    ax: Axes, values: xr.DataArray, x: str, power: float, *, label: str, color: str = GREY, end: int = -1
) -> None:
    """A dashed power law through the mean of values at one `end` of dimension `x`."""
    along, mean = values[x].values, values.mean("seed").values
    law = mean[end] * (along / along[end]) ** power
    ax.plot(along, law, color=color, linewidth=1, linestyle=(0, (4, 3)), label=label)


class Level(NamedTuple):
    """A horizontal baseline: a number per seed that does not depend on the axis."""

    values: xr.DataArray
    label: str
    color: str


def levels(ax: Axes, baselines: Sequence[Level]) -> None:
    """Baselines at their means over seeds, named at the right edge, names kept apart. Draw them after the curves."""
    heights = [float(baseline.values.mean()) for baseline in baselines]
    for baseline, height in zip(baselines, heights, strict=True):
        ax.axhline(height, color=baseline.color, linewidth=1, linestyle=(0, (4, 3)))
    to_axes = ax.transData + ax.transAxes.inverted()
    last = -np.inf
    for height, baseline in sorted(zip(heights, baselines, strict=True), key=lambda pair: pair[0]):
        last = max(last + 0.045, to_axes.transform((ax.get_xlim()[0], height))[1])
        ax.annotate(
            baseline.label, (1.005, last), xycoords="axes fraction", va="center", fontsize=8, color=baseline.color
        )


def mark_cells(ax: Axes, status: xr.Dataset, heights: xr.DataArray, x: str) -> None:
    """Hatch the columns of `x` in which any seed diverged, was unstable or precision limited; dot the unfinished."""
    centres = status[x].values
    for mark in MARKS:
        if mark.variable not in status:
            continue
        hit = status[mark.variable].any("seed").values
        if not hit.any():
            continue
        if mark.hatched:
            for i, (low, high) in enumerate(_column_edges(centres)):
                if hit[i]:
                    ax.axvspan(low, high, facecolor="none", edgecolor=GREY, hatch="///", linewidth=0, alpha=0.6)
            ax.plot([], [], "s", color="none", markeredgecolor=GREY, label=f"hatched: {mark.label}")
        else:
            ax.plot(
                centres[hit],
                heights.mean("seed").values[hit],
                "o",
                mfc="none",
                mec=INK,
                ms=6,
                mew=0.8,
                label=mark.label,
            )


def square(column: float, row: float, color: str) -> Rectangle:
    """A filled unit square around a cell of a table."""
    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=2)


def swatches(ax: Axes, colors: Mapping[str, str]) -> None:
    """A legend of colours, to the right of the panel."""
    handles = [Patch(facecolor=color, label=name) for name, color in colors.items()]
    ax.legend(handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def landscape(surface: xr.Dataset) -> Figure:
    """A plane of losses `value` over `x` and `y` as contours, in log10 where all are positive.

    With `coordinates` over `point`, the points too: shadows on the plane, true values and distances from it.
    """
    figure, (ax,) = new_figure(7.4, 5.4)
    values = surface.value.transpose("y", "x").values
    logarithmic = np.nanmin(values) > 0
    drawn = ax.contourf(surface.x, surface.y, np.log10(values) if logarithmic else values, levels=20, cmap="viridis")
    figure.colorbar(drawn, ax=ax, label="log10 of the loss" if logarithmic else "loss")
    ax.grid(visible=False)
    if "coordinates" in surface:
        ax.set_xlim(ax.get_xlim())
        ax.set_ylim(ax.get_ylim())
        for marker, color, name in zip("ox^", ("white", ORANGE, "white"), surface.point.values, strict=False):
            one = surface.sel(point=name)
            label = f"{name}: loss {float(one['values']):.3g}, {float(one.off_plane):.3g} off the plane"
            ax.plot(*one.coordinates.values, marker, color=color, mec=color if marker == "x" else INK, label=label)
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    ax.set_xlabel("first direction")
    ax.set_ylabel("second direction")
    return figure


def loss_line(line: xr.Dataset, *, height: float, at: float) -> Figure:
    """Losses `value` over `x` between two points, their straight interpolation and the barrier above it."""
    figure, (ax,) = new_figure(6.2, 4.0)
    x, values = line.x.values, line.value.values
    ends = np.interp(at, [0, 1], values[[0, -1]])
    ax.plot(x, values, color=INK, linewidth=1.6, label="loss")
    ax.plot(x[[0, -1]], values[[0, -1]], "--", color=ORANGE, label="between the ends")
    if height > 0:
        ax.annotate("", (at, ends + height), (at, ends), arrowprops={"arrowstyle": "<->", "color": ORANGE})
    finish(ax, x="from the first point to the second", y="loss")
    ax.set_title(f"barrier {height:.3g} at {at:.2f}", fontsize=9)
    return figure


def finish(ax: Axes, *, x: str, y: str, legend: Any = "best") -> None:
    """Axis labels and a legend in the common look."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(fontsize=8, loc=legend, frameon=False)


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same drawing."""
    return _save(figure, "svg", metadata={"Date": None})


def to_png(figure: Figure) -> bytes:
    """The figure as PNG at 160 dots per inch."""
    return _save(figure, "png", dpi=160)


def to_pdf(figure: Figure) -> bytes:
    """The figure as PDF, the same bytes for the same drawing."""
    return _save(figure, "pdf", metadata={"CreationDate": None})


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _column_edges(centres: np.ndarray) -> list[tuple[float, float]]:
    if centres.size == 1:
        return [(centres[0] / 1.2, centres[0] * 1.2)]
    middles = np.sqrt(centres[1:] * centres[:-1])
    lows = np.concatenate([[centres[0] / min(centres[1] / centres[0], 3) ** 0.5], middles])
    highs = np.concatenate([middles, [centres[-1] * min(centres[-1] / centres[-2], 3) ** 0.5]])
    return list(zip(lows, highs, strict=True))


def table(rows: Mapping[str, xr.DataArray], x: str) -> list[list[str]]:
    """Means over seeds as text, one row per value of `x`: the numbers behind a picture."""
    names = list(rows)
    header = [x, *names]
    coordinate = rows[names[0]][x].values
    body = [
        [f"{value:.3g}", *(f"{float(rows[name].mean('seed').values[i]):.3g}" for name in names)]
        for i, value in enumerate(coordinate)
    ]
    return [header, *body]
