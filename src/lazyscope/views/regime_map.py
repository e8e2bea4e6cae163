"""The regime map: j against g on logarithmic axes, the regimes shaded, diagnoses with their intervals, references.

A number that is 0 or beyond the frame lies on its edge, as a triangle that points out of it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from lazyscope import figures
from lazyscope.diagnose.references import REFERENCES, nearest
from lazyscope.diagnose.regime import REGIMES, Thresholds
from lazyscope.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE
from lazyscope.intervals import Interval

SHADES = dict(zip(REGIMES, ("#cfe6d6", "#fbf1d0", "#f6d8c6"), strict=True))
COLORS = (BLUE, ORANGE, GREEN, PURPLE, INK)
FAMILIES = {  # of references, by what is in the name, the first that fits
    "two-layer": BLUE,
    "classifies": PURPLE,
    "fine-tuning": ORANGE,
    "conv net": GREEN,
    "attention": "#8f6600",
    "MLP": INK,
}
LEAST, MOST = 1e-6, 1e3  # what the frame holds, however far away a number is
FRAME = (2e-3, 20.0, 2e-3, 5.0)  # g and j, from and to: what it holds in any case
NAMED = 4  # references that are named, the nearest
TEXT = 7.0  # size of names, in points


class Point(NamedTuple):
    """A diagnosis on the map."""

    name: str
    gap: Interval
    differential: Interval


class Frame(NamedTuple):
    """The ends of the axes: g from `left` to `right`, j from `low` to `high`."""

    left: float
    right: float
    low: float
    high: float


def frame_of(points: Sequence[Point], thresholds: Thresholds) -> Frame:
    """A frame with room for every point, the thresholds and the references."""
    ends: list[float] = []
    pairs = ((0, [p.gap for p in points], thresholds[:2]), (2, [p.differential for p in points], thresholds[2:4]))
    for at, values, limits in pairs:
        inside = [v for v in (*values, *limits) if 0 < v < math.inf]
        ends.append(max(LEAST, min([FRAME[at], *(v / 2 for v in inside)])))
        ends.append(min(MOST, max([FRAME[at + 1], *(2 * v for v in inside)])))
    return Frame(*ends)


def draw_map(ax: Axes, points: Sequence[Point], thresholds: Thresholds) -> None:
    """Regimes, references and diagnoses on `ax`; nothing is drawn for a number that is NaN, which its name says."""
    frame = frame_of(points, thresholds)
    _regimes(ax, frame, thresholds)
    for _, g, j in REFERENCES:
        ax.plot(g, j, "o", color=GREY, markersize=2.8, alpha=0.8, gid="reference")
    names = _Names(ax, frame, [(g, j) for _, g, j in REFERENCES])
    names.clear_of([(point.gap, point.differential) for point in points])
    for i, point in enumerate(points):
        color = INK if len(points) == 1 else COLORS[i % len(COLORS)]
        at = _cross(ax, point, frame, color)
        if at is not None:
            names.put(at, point.name, color=color, weight="bold", fontsize=9)
    each = NAMED if len(points) == 1 else 1
    for name, g, j in dict.fromkeys(one for p in points for one in nearest(p.gap, p.differential)[:each]):
        names.put((g, j), name, color="#444444", fontsize=TEXT)


def reference_map(references: Sequence[tuple[str, float, float]] = REFERENCES) -> Figure:
    """The map of reference diagnoses (name, g, j), each named at the side; those that are 0 are left out."""
    figure, (ax, names) = figures.new_figure(8.4, 5.4, columns=2, ratios=(5, 3))
    _regimes(ax, Frame(*FRAME), Thresholds())
    names.set(xlim=(0, 1), ylim=(0, 1))
    names.axis("off")
    shown = sorted((row for row in references if row[1] > 0 and row[2] > 0), key=lambda row: row[2])
    for (name, g, j), height in zip(shown, np.linspace(0.02, 0.98, len(shown)), strict=True):
        color = next((color for part, color in FAMILIES.items() if part in name), GREY)
        ax.plot(g, j, "o", color=color, markersize=4, gid="reference")
        names.text(0.02, height, name, fontsize=6.5, color=color, va="center")
        leader = ConnectionPatch((g, j), (0.01, height), "data", "data", axesA=ax, axesB=names)
        leader.set(color=color, linewidth=0.4, alpha=0.6)
        figure.add_artist(leader)
    return figure


def paths_map(paths: Mapping[str, Sequence[Point]], thresholds: Thresholds = Thresholds()) -> Figure:  # noqa: B008
    """The map of diagnoses that belong together, a path for each name: one net at several scales, say."""
    figure, (ax,) = figures.new_figure(8.4, 5.6)
    every = [point for points in paths.values() for point in points]
    frame = frame_of(every, thresholds)
    _regimes(ax, frame, thresholds)
    named: list[tuple[str, tuple[float, float], str]] = []
    drawn: list[tuple[tuple[float, float], tuple[float, float]]] = []  # lines that no name is to cover
    for (name, points), color in zip(paths.items(), COLORS, strict=False):
        placed = [(point, _cross(ax, point, frame, color)) for point in points]
        at = [(point, where) for point, where in placed if where is not None]
        ax.plot(*zip(*(where for _, where in at), strict=True), "-", color=color, linewidth=1, alpha=0.6, label=name)
        named += [(point.name, where, color) for point, where in at]
        drawn += [(one, other) for (_, one), (_, other) in pairwise(at)]
        for point, (g, j) in at:
            span, rise = _ends(point, frame)
            drawn += [((span[0], j), (span[1], j)), ((g, rise[0]), (g, rise[1]))]
    names = _Names(ax, frame, [between for ends in drawn for between in _along(*ends)])
    names.clear_of([(point.gap, point.differential) for point in every])
    for text, where, color in named:
        names.put(where, text, color=color, fontsize=8)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, 1.09), ncols=len(paths))
    return figure


def _regimes(ax: Axes, frame: Frame, thresholds: Thresholds) -> None:
    left, right, low, high = frame
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    ax.set(xlabel="gap g", ylabel="change j of the differential")
    ax.grid(visible=False)
    corners = (
        (thresholds.gap_lazy, thresholds.differential_lazy),
        (thresholds.gap_not_lazy, thresholds.differential_not_lazy),
        (right, high),
    )
    for name, (g, j) in reversed(list(zip(REGIMES, corners, strict=True))):
        ax.add_patch(Rectangle((left, low), g - left, j - low, facecolor=SHADES[name], linewidth=0, gid=name, zorder=0))
        ax.annotate(name, (left, j), (4, -4), textcoords="offset points", va="top", style="italic", fontsize=9)


def _cross(ax: Axes, point: Point, frame: Frame, color: str) -> tuple[float, float] | None:
    """The point with both intervals; where it is drawn."""
    if math.isnan(point.gap) or math.isnan(point.differential):
        ax.plot([], [], gid=f"none: {point.name}")
        return None
    g, x = _within(point.gap, frame.left, frame.right, "<>")
    j, y = _within(point.differential, frame.low, frame.high, "v^")
    span, rise = _ends(point, frame)
    ax.plot(span, [j, j], color=color, linewidth=1.8, solid_capstyle="butt", zorder=4, clip_on=False)
    ax.plot([g, g], rise, color=color, linewidth=1.8, solid_capstyle="butt", zorder=4, clip_on=False)
    ax.plot(
        *(g, j, x or y or "o"), color=color, mec="white", mew=0.8, markersize=8, zorder=5, clip_on=False, gid=point.name
    )
    return g, j


def _ends(point: Point, frame: Frame) -> tuple[list[float], list[float]]:
    """The ends of both intervals, in the frame."""
    span = [_within(v, frame.left, frame.right, "<>")[0] for v in (point.gap.low, point.gap.high)]
    return span, [_within(v, frame.low, frame.high, "v^")[0] for v in (point.differential.low, point.differential.high)]


def _along(one: tuple[float, float], other: tuple[float, float]) -> list[tuple[float, float]]:
    """Points on the straight line between two, on logarithmic axes."""
    g, j = (np.geomspace(a, b, 40).tolist() for a, b in zip(one, other, strict=True))
    return list(zip(g, j, strict=True))


def _within(value: float, low: float, high: float, outward: str) -> tuple[float, str]:
    if value <= low:
        return low, outward[0]
    return (high, outward[1]) if value >= high else (float(value), "")


class _Names:
    """Names beside points, where they cover no other name and few points, with a line to their own."""

    def __init__(self, ax: Axes, frame: Frame, points: Sequence[tuple[float, float]]) -> None:
        assert ax.figure is not None
        self.ax, self.frame = ax, frame
        # In points of text, nearly: the layout makes room for labels when it is drawn.
        self.width, self.height = (72 * float(side) for side in ax.bbox.size / ax.figure.dpi)  # type: ignore[union-attr]
        self.names: list[_Box] = []
        self.points = [_Box(x - 2, y - 2, x + 2, y + 2) for x, y in map(self._place, points)]

    def clear_of(self, points: Sequence[tuple[float, float]]) -> None:
        """Keep names off these points, too, where they are in the frame."""
        inside = [at for at in points if self.frame.left <= at[0] <= self.frame.right]
        inside = [at for at in inside if self.frame.low <= at[1] <= self.frame.high]
        self.names += [_Box(x - 12, y - 6, x + 12, y + 6) for x, y in map(self._place, inside)]

    def put(self, at: tuple[float, float], text: str, *, fontsize: float, **look: str) -> None:
        """Write a name at the offset that costs least."""
        x, y = self._place(at)
        length, half = (0.65 if fontsize > TEXT else 0.54) * fontsize * len(text), 0.75 * fontsize
        beside = (14, 48, -14 - length, -48 - length)
        offsets = [(dx, 14.0 * dy) for dy in range(-7, 8) for dx in (*beside, *([-length / 2] if dy else []))]

        def box(offset: tuple[float, float]) -> _Box:
            left, middle = x + offset[0], y + offset[1]
            return _Box(left, middle - half, left + length, middle + half)

        def cost(offset: tuple[float, float]) -> float:
            here = box(offset)
            out = here.left < 0 or here.right > self.width or here.low < 0 or here.high > self.height
            covered = sum(map(here.meets, self.points))
            away = math.hypot(max(offset[0], -offset[0] - length, 0), offset[1])
            return 10 * sum(map(here.meets, self.names)) + 10 * out + covered + away / 50

        best = min(offsets, key=cost)
        self.names.append(box(best))
        side = 0.0 if best[0] > 0 else 1.0 if best[0] < -length else 0.5
        self.ax.annotate(
            text,
            at,
            best,
            textcoords="offset points",
            va="center",
            fontsize=fontsize,
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "relpos": (side, 0.5), "shrinkB": 3},
            zorder=6,
            **look,
        )

    def _place(self, at: tuple[float, float]) -> tuple[float, float]:
        left, right, low, high = self.frame
        x, y = math.log(at[0] / left) / math.log(right / left), math.log(at[1] / low) / math.log(high / low)
        return self.width * x, self.height * y


class _Box(NamedTuple):
    left: float
    low: float
    right: float
    high: float

    def meets(self, other: "_Box") -> bool:
        """Whether the two overlap."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.high <= other.low or other.high <= self.low)
