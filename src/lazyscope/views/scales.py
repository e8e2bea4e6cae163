"""What other output scales would do: g, j and held-out losses against alpha, and between which two it gets lazy."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.diagnose.diagnosis import Diagnosis
from lazyscope.figures import BLUE, GREEN, ORANGE
from lazyscope.views.items import Shown, dataset, deciders, table


def crossing(found: Sequence[Diagnosis]) -> tuple[float, float] | None:
    """The largest alpha at which training is not lazy and the next one, from which on it is; None without such two."""
    lazy = [one.regime == "lazy" for one in found]
    last = max((i for i, is_lazy in enumerate(lazy) if not is_lazy), default=-1)
    return (found[last].alpha, found[last + 1].alpha) if 0 <= last < len(found) - 1 else None


def at_scales(scales: Sequence[Diagnosis]) -> Shown:
    """Diagnoses of one case at several output scales as a picture with its numbers."""
    found = sorted(scales, key=lambda one: one.alpha)
    alphas, between = [one.alpha for one in found], crossing(found)
    columns = deciders(found) | {name: [one.losses[name] for one in found] for name in found[0].losses}
    regimes = ", ".join(f"{one.regime} at {one.alpha:g}" for one in found)
    where = "Between no two of these scales does it get lazy for good" if between is None else (
        f"It gets lazy between alpha = {between[0]:g} and {between[1]:g}"
    )  # fmt: skip
    return Shown(
        "diagnosis-scales",
        "Other output scales",
        f"The same case, trained at each output scale: {regimes}. {where}.",
        partial(_draw, found, columns, between),
        table("alpha", columns, [f"{alpha:g}" for alpha in alphas]),
        dataset("alpha", columns, alpha=alphas),
    )


def _draw(
    found: Sequence[Diagnosis],
    columns: dict[str, list[float]],
    between: tuple[float, float] | None,
    *,
    narrow: bool = False,
) -> Figure:
    alphas = [one.alpha for one in found]
    figure, (left, right) = figures.new_figure(9.0, 4.0, columns=2, narrow=narrow)
    limits = found[0].thresholds
    for letter, color, limit in (("g", BLUE, limits.gap_lazy), ("j", ORANGE, limits.differential_lazy)):
        _with_intervals(left, alphas, columns, letter, color)
        left.axhline(
            limit, color=color, linewidth=0.8, linestyle=(0, (4, 3)), label=f"{letter} up to {limit:.2g}: lazy"
        )
    for name, color, line in (("loss, trained", BLUE, "o-"), ("loss, linearised", ORANGE, "x--")):
        right.plot(alphas, columns[name], line, color=color, markersize=4, label=name)
    for ax in (left, right):
        if between is not None:
            ax.axvspan(*between, color=GREEN, alpha=0.2, linewidth=0, label="gets lazy in between")
        positive = all(v > 0 for line in ax.lines for v in np.asarray(line.get_ydata(), float))
        ax.set(xscale="log", yscale="log" if positive else "linear")
    figures.finish(left, x="output scale alpha", y="g and j")
    figures.finish(right, x="output scale alpha", y="loss")
    return figure


def _with_intervals(ax: Axes, alphas: list[float], columns: dict[str, list[float]], name: str, color: str) -> None:
    ax.plot(alphas, columns[name], "o-", color=color, markersize=4, label=name)
    low, high = (np.asarray(columns[f"{name} {end}"], float) for end in ("from", "to"))
    held = np.isfinite(low) & np.isfinite(high)
    ax.fill_between(np.asarray(alphas)[held], low[held], high[held], color=color, alpha=0.15, linewidth=0)
