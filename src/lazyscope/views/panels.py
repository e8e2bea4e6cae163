"""The other pictures of a diagnosis: layers, what the kernel can learn, outputs, what was seen along training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.diagnose.kept import Learnable, Outputs, Trajectory
from lazyscope.diagnose.layers import GroupRow
from lazyscope.diagnose.regime import Thresholds
from lazyscope.figures import BLUE, GREY, INK, ORANGE

SMALLEST = 1e-4  # a partial gap from which on it has a bar
LONGEST = 26  # characters of a name beside a bar


def draw_layers(shares: Axes, alone: Axes, rows: Sequence[GroupRow]) -> None:
    """Bars: each group's share of Dh and of its change, and beside them how far it goes beyond first order."""
    places = np.arange(len(rows), 0, -1)
    shares.barh(places + 0.19, [row.start_share for row in rows], 0.36, color=GREY, label="of Dh")
    shares.barh(places - 0.19, [row.change_share for row in rows], 0.36, color=ORANGE, label="of its change")
    shares.set_yticks(places, [_short(row.name) for row in rows], parse_math=False)
    shares.set(xlim=(0, 1), ylim=(0.4, len(rows) + 0.6), xlabel="share", title="")
    shares.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    gaps = [row.partial_gap for row in rows]
    widths = [gap if gap is not None and gap > SMALLEST else SMALLEST for gap in gaps]
    alone.barh(places, np.asarray(widths) - SMALLEST, 0.5, left=SMALLEST, color=BLUE)
    alone.set(xscale="log", xlim=(SMALLEST, 30 * max([1.0, *(w for w in widths if np.isfinite(w))])))
    alone.set(ylim=shares.get_ylim(), xlabel="beyond first order")
    alone.set_yticks(places, [""] * len(rows))
    for place, width, gap in zip(places, widths, gaps, strict=True):
        said = "not computed" if gap is None else f"{gap:.2g}"
        alone.annotate(said, (width, place), (3, 0), textcoords="offset points", va="center", fontsize=8)


def layers(rows: Sequence[GroupRow], *, narrow: bool = False) -> Figure:
    """`draw_layers` as a figure of its own."""
    figure, (shares, alone) = figures.new_figure(7.2, 1.6 + 0.42 * len(rows), columns=2, ratios=(3, 2), narrow=narrow)
    draw_layers(shares, alone, rows)
    if narrow:  # below the other panel instead of beside its names
        alone.set_yticks(shares.get_yticks(), [_short(row.name) for row in rows], parse_math=False)
    return figure


def outputs(found: Outputs, *, narrow: bool = False) -> Figure:
    """Trained against linearised outputs; where there are targets, both against them too."""
    figure, axes = figures.new_figure(8.4, 4.0, columns=1 + bool(found.target), narrow=narrow)
    first = axes[0]
    first.plot(found.linearised, found.trained, "o", color=BLUE, markersize=3.5, alpha=0.7)
    first.set(xlabel="output of the trained linearisation", ylabel="output of the trained model")
    if found.target:
        axes[1].plot(found.target, found.linearised, "x", color=ORANGE, markersize=4, alpha=0.7, label="linearised")
        axes[1].plot(found.target, found.trained, "o", color=BLUE, markersize=3.5, alpha=0.7, label="trained")
        figures.finish(axes[1], x="target", y="output")
    for ax in axes:
        ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    return figure


def learnable(found: Learnable, *, narrow: bool = False) -> Figure:
    """Leading eigenvalues of K(w0), and the part of what is to be learnt on so many leading directions."""
    figure, axes = figures.new_figure(8.4, 3.8, columns=1 + bool(found.shares), narrow=narrow)
    count = np.arange(1, len(found.eigenvalues) + 1)
    axes[0].plot(count, found.eigenvalues, "o-", color=INK, markersize=3)
    axes[0].set(xscale="log", yscale="log", xlabel="direction", ylabel="eigenvalue of K(w0), over the largest")
    if found.shares:
        axes[1].plot(count, np.cumsum(found.shares), "o-", color=ORANGE, markersize=3)
        axes[1].set(xscale="log", ylim=(0, 1.05), xlabel="leading directions")
        axes[1].set_ylabel("share of what is to be learnt")
    return figure


def trajectory(found: Trajectory, thresholds: Thresholds, *, narrow: bool = False) -> Figure:
    """Losses of the model and of its linearisation by step; beside them g and j, and up to where they are lazy."""
    losses, deciders = bool(found.step), bool(found.gap or found.differential)
    width = 8.8 if losses and deciders else 7.2
    figure, axes = figures.new_figure(width, 4.0, columns=losses + deciders, narrow=narrow)
    if losses:
        lines = [
            ("train", found.train, GREY, "-"),
            ("train, linearised", found.train_linearised, GREY, "--"),
            ("held out", found.test, BLUE, "-"),
            ("held out, linearised", found.test_linearised, ORANGE, "--"),
        ]
        for label, values, color, line in lines:
            _by_step(axes[0], found.step, values, line, color=color, label=label)
        figures.finish(axes[0], x="step + 1", y="loss")
    if deciders:
        lines = [
            ("g", found.gap_step, found.gap, thresholds.gap_lazy, BLUE),
            ("j", found.differential_step, found.differential, thresholds.differential_lazy, ORANGE),
        ]
        for label, steps, values, limit, color in lines:
            _by_step(axes[-1], steps, values, "o-", color=color, label=label, markersize=3)
            if values:
                told = f"{label} up to {limit:.2g}: lazy"
                axes[-1].axhline(limit, color=color, linewidth=0.8, linestyle=(0, (4, 3)), label=told)
        figures.finish(axes[-1], x="step + 1", y="g and j")
    return figure


def _by_step(ax: Axes, steps: Sequence[int], values: Sequence[float], line: str, **look: Any) -> None:
    """Values on logarithmic axes where all are positive; 0 at the start is where every run begins, and is left out."""
    at, heights = np.asarray(steps, float) + 1, np.asarray(values, float)
    shown = np.isfinite(heights) & ~((heights == 0) & (at == 1)) if len(heights) else np.zeros(0, bool)
    if shown.any():
        ax.plot(at[shown], heights[shown], line, **look)
        logarithmic = ax.get_yscale() == "log" or len(ax.lines) == 1
        ax.set(xscale="log", yscale="log" if logarithmic and heights[shown].min() > 0 else "linear")


def _short(name: str) -> str:
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
