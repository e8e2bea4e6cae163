"""Note, §1.1: whether Δ(F) >> Δ(Dh), or kappa << 1, tells at w0 that training will be lazy.

    lazyscope reproduce note-s1.1-regimes --size quick

The note calls a model lazy when it stays close to its linearisation until the end, and infers that from one step:
Δ(F) >> Δ(Dh), for the square loss kappa << 1. Here both are held against what training does, the gap g and the change
j of the differential (lazy is g <= 0.05 and j <= 0.1), over output scale alpha·tau², width and three starts: plain,
symmetrised, and plain with the output centred. "<< 1" is read as <= 0.1. Two-layer ReLU nets and teacher of note §4.1,
smaller (quick: n = 120, d = 12, m = 8 to 64, 300 steps), steps of η·λmax(K)/n = 0.85; sizes are ours.

Δ(F)/Δ(Dh) by the note's estimates is 2/kappa with ‖∇F‖ in place of ‖Dh‖‖h − y‖ (`exact` below).
"""

from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.kappa.training import OVER_SCALE, SHARES, STARTS, Nets
from lazyscope.papers.quantities import FIRST, LAST, LAZY, Quantity, at, log10, rank_correlation
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, ours
from lazyscope.papers.student import decades

SMALL_KAPPA, SAFE_KAPPA = 0.1, 0.001  # "<< 1", and where `lazyscope` advises to go
FLOOR = 1e-6  # smaller numbers are drawn here
NET = ("width", "start", "scale")
ZERO = ("symmetrised", "centred")  # starts with h(w0) = 0
COLORS = dict(zip(STARTS, (figures.BLUE, figures.ORANGE, figures.GREEN), strict=True))


@dataclass(frozen=True)
class Grid:
    """Nets and their widths."""

    nets: Nets
    widths: tuple[int, ...]


SCALES = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4)
SIZES = {
    "tiny": Size(Grid(Nets(30, 6, 16, (0.3, 3.0, 100.0), 100), (8, 16)), seeds=3),
    "quick": Size(Grid(Nets(120, 12, 64, SCALES, 300), (8, 24, 64)), seeds=5),
    "paper": Size(Grid(Nets(1000, 100, 200, (*decades(-1, 2, 0.25), 1e4), 5000), (10, 50, 200)), seeds=10),
}
STATED = (
    FULL_BATCH,
    NO_STOP,
    ours("teacher and nets of note §4.1, smaller", "three starts, several widths and many scales"),
)
CAPTION = (
    "Gap g (left) and change j of the differential (right) after training against kappa at w0; one dot a net: colour "
    "the start, size the width, over output scales alpha·tau² from 0.1 to 10^4 (what is below 10^-6 is drawn there). "
    "Lazy is below the line. Left of the dotted line kappa <= 0.1 calls a net lazy: what is above the line there is a "
    "false alarm. With h(w0) = 0 kappa orders nets well, and says lazy ten to fifty times too early; a plain net is "
    "never lazy: its kappa stops at kappa_inf while its gap grows with the scale."
)


def compute(settings: Grid, trials: Trials) -> xr.Dataset:
    """What is known at w0 and what training does, over (width, start, scale)."""
    axes = {"width": [float(width) for width in settings.widths], "start": list(range(len(STARTS)))}
    ds = trials.over(OVER_SCALE, axes, nets=settings.nets)
    return ds.assign_coords(start=list(STARTS), scale=list(settings.nets.scales), share=list(SHARES))


def lazy(ds: xr.Dataset) -> xr.DataArray:
    """Which nets train lazily."""
    return (ds.gap <= LAZY.gap_lazy) & (ds.change <= LAZY.differential_lazy)


def one_step(ds: xr.Dataset) -> xr.DataArray:
    """The measured Δ(Dh)/Δ(F) at the step of training."""
    return 1 / ds.advantage.isel(share=0)


def true_alarms(level: float, starts: tuple[str, ...] = STARTS) -> Quantity:
    """Share of the nets with kappa <= level that train lazily."""

    def share(ds: xr.Dataset) -> np.ndarray:
        chosen = ds.sel(start=list(starts))
        small = chosen.kappa <= level
        return ((small & lazy(chosen)).sum(NET) / small.sum(NET)).values

    return share


def misses(ds: xr.Dataset) -> np.ndarray:
    """Share of the nets that train lazily that have kappa > 0.1, per seed."""
    return ((lazy(ds) & (ds.kappa > SMALL_KAPPA)).sum(NET) / lazy(ds).sum(NET)).values


def farthest_from_one(ds: xr.Dataset) -> xr.DataArray:
    """Over all nets the ratio of the measured change of F to its estimate that is farthest from 1."""
    nets = ds.objective_ratio.stack(net=NET)
    return nets.isel(net=abs(np.log(nets)).argmax("net"))


def approximation(ds: xr.Dataset) -> np.ndarray:
    """‖∇F‖ over ‖Dh‖‖h − y‖, geometric mean over nets, per seed."""
    return np.exp(np.log(ds.kappa / ds.exact).mean(NET)).values


def end_gap(*starts: str) -> Quantity:
    """log10 of the largest g over widths and starts at the largest output scale."""
    return log10(at(lambda ds: ds.gap.sel(start=list(starts)).max(["width", "start"]), scale=LAST))


def largest_change(share: int) -> Quantity:
    """log10 of the largest measured Δ(Dh) over its bound, over all nets."""
    return log10(at(lambda ds: ds.differential_ratio.isel(share=share).max(NET)))


SEEN = "ranges were set after runs of two seeds on larger nets."
LOGARITHM = "taken as a logarithm after a first look: the ratio itself varied too much between seeds to be decided."


def _claim(
    sentence: str,
    measure: str,
    quantity: Quantity,
    accepted: tuple[float, float],
    note: str = "",
    source: str = "note §1.1",
    scale: Scale = Scale.REAL,
    every_seed: bool = False,
    moved: str = SEEN,
) -> Claim:
    return Claim(sentence, source, measure, quantity, accepted, {}, note, scale, every_seed, moved)


RANK = "Spearman correlation over width, start and output scale of {} with {}"
CLAIMS = (
    _claim(
        "Δ(F) ≈ η‖∇F‖²/F.",
        "measured over estimate at the step of training, the net farthest from 1",
        at(farthest_from_one, share=FIRST),
        (0.9, 1.1),
        note="A first-order estimate: half of η·λmax is missing, and steps that train fast have η·λmax near 1.",
    ),
    _claim(
        "Δ(F) ≈ η‖∇F‖²/F for small steps.",
        "measured over estimate at a thousandth of the step, the net farthest from 1",
        at(farthest_from_one, share=LAST),
        (0.99, 1.01),
    ),
    _claim(
        "Δ(Dh) <= η‖∇F‖‖D²h‖/‖Dh‖.",
        "log10 of measured over bound at the step of training, largest over nets; operator norms",
        largest_change(0),
        (-np.inf, 0.0),
        every_seed=True,
        moved=LOGARITHM,
        note="Dh of a ReLU net jumps where a gate flips, which D²h does not see.",
    ),
    _claim(
        "Δ(Dh) <= η‖∇F‖‖D²h‖/‖Dh‖ for small steps.",
        "log10 of measured over bound at a thousandth of the step, largest over nets; operator norms",
        largest_change(1),
        (-np.inf, 0.0),
        every_seed=True,
        moved=LOGARITHM,
    ),
    _claim(
        "‖∇F‖ ≈ ‖Dh‖‖h − y‖ (printed ‖ΔF‖).",
        "the one over the other, which is kappa over kappa without this approximation; geometric mean over nets",
        approximation,
        (0.8, 1.0),
        note="It is an upper bound, attained where the residual lies along the top direction of the kernel. So kappa "
        "comes out too small, by this factor.",
    ),
    _claim(
        "Δ(F) >> Δ(Dh) in one step tells lazy training from other (measured changes).",
        RANK.format("the measured Δ(Dh)/Δ(F)", "g"),
        rank_correlation(one_step, "gap"),
        (0.7, np.inf),
        scale=Scale.CORRELATION,
    ),
    _claim(
        "kappa << 1 tells lazy training from other: it predicts the gap.",
        RANK.format("kappa", "g"),
        rank_correlation("kappa", "gap"),
        (0.7, np.inf),
        scale=Scale.CORRELATION,
    ),
    _claim(
        "kappa << 1 tells lazy training from other: it predicts the change of Dh.",
        RANK.format("kappa", "j"),
        rank_correlation("kappa", "change"),
        (0.7, np.inf),
        scale=Scale.CORRELATION,
    ),
    _claim(
        "With h(w0) = 0 kappa predicts the gap.",
        RANK.format("kappa", "g") + ", symmetrised and centred nets",
        rank_correlation("kappa", "gap", start=list(ZERO)),
        (0.7, np.inf),
        source="ours, on note §1.1",
        scale=Scale.CORRELATION,
    ),
    _claim(
        "For plain nets alone kappa predicts the gap.",
        RANK.format("kappa", "g") + ", plain nets",
        rank_correlation("kappa", "gap", start="plain"),
        (0.7, np.inf),
        source="ours, on note §1.1",
        note="Scale and width act against each other: a wider plain net has a smaller kappa and a larger gap.",
        scale=Scale.CORRELATION,
    ),
    _claim(
        "A net with kappa <= 0.1 trains lazily.",
        "share of the nets with kappa <= 0.1 that have g <= 0.05 and j <= 0.1",
        true_alarms(SMALL_KAPPA),
        (0.9, np.inf),
        note="False alarms: every plain net with kappa below 0.1, and symmetrised or centred ones at alpha·tau² of 0.1 "
        "to 10, the narrow ones longest.",
        scale=Scale.SHARE,
    ),
    _claim(
        "A net with h(w0) = 0 and kappa <= 0.1 trains lazily.",
        "the same share among symmetrised and centred nets",
        true_alarms(SMALL_KAPPA, ZERO),
        (0.9, np.inf),
        source="ours, on note §1.1",
        scale=Scale.SHARE,
    ),
    _claim(
        "A net with h(w0) = 0 and kappa <= 0.001 trains lazily.",
        "share of the symmetrised and centred nets with kappa <= 0.001 that have g <= 0.05 and j <= 0.1",
        true_alarms(SAFE_KAPPA, ZERO),
        (0.9, np.inf),
        source="ours: the level that lazyscope advises",
        scale=Scale.SHARE,
    ),
    _claim(
        "A net that trains lazily has kappa << 1.",
        "share of the nets with g <= 0.05 and j <= 0.1 that have kappa > 0.1: misses",
        misses,
        (-np.inf, 0.1),
        scale=Scale.SHARE,
    ),
    _claim(
        "As alpha grows bigger the criterion decreases, leading to a lazy training situation (raw output).",
        "log10 of g at the largest alpha·tau², plain nets, largest over widths",
        end_gap("plain"),
        (-np.inf, float(np.log10(LAZY.gap_lazy))),
        note="g grows in proportion to alpha·tau²: the initial output has to be unlearnt.",
    ),
    _claim(
        "As alpha grows bigger with h(w0) = 0, training becomes lazy.",
        "log10 of g at the largest alpha·tau², symmetrised and centred nets, largest over widths",
        end_gap(*ZERO),
        (-np.inf, float(np.log10(LAZY.gap_lazy))),
        source="note §1.1 with h(w0) = 0",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Scatter of kappa against g and against j."""
    figure, axes = figures.new_figure(11, 4.6, columns=2, log="xy")
    for ax, after, level, label in (
        (axes[0], "gap", LAZY.gap_lazy, "gap g"),
        (axes[1], "change", LAZY.differential_lazy, "change j of Dh"),
    ):
        for start in STARTS:
            for size, width in enumerate(ds.width.values):
                one = ds.sel(start=start, width=width)
                name = f"{start}, m = {width:g}"
                style = {"markersize": 3 + 1.5 * size, "mfc": "none", "color": COLORS[start], "alpha": 0.7}
                heights = np.maximum(one[after].values.ravel(), FLOOR)
                ax.plot(one.kappa.values.ravel(), heights, "o", label=name, **style)
        ax.axhline(level, color=figures.INK, linewidth=0.8)
        ax.axvline(SMALL_KAPPA, color=figures.INK, linewidth=0.8, linestyle=":")
        figures.finish(ax, x="kappa at w0", y=label, legend="upper left")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Medians over seeds for every net, and how often it trains lazily."""
    rows = [["start", "width", "alpha·tau²", "kappa", "exact", "Δ(F)/Δ(Dh)", "g", "j", "lazy"]]
    middle, share = ds.median("seed"), lazy(ds).mean("seed")
    for start in STARTS:
        for width in ds.width.values:
            for scale in ds.scale.values:
                net = {"start": start, "width": width, "scale": scale}
                one = middle.sel(net)
                values = (one.kappa, one.exact, one.advantage.isel(share=0), one.gap, one.change, share.sel(net))
                rows.append([start, f"{width:g}", f"{scale:g}", *(f"{float(v):.3g}" for v in values)])
    return rows


S1_1_REGIMES = Figure(
    caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED
)
