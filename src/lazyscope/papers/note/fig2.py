"""Note, Figure 2: loss landscapes of two-layer nets at several widths, by the note's protocol and by a corrected one.

    lazyscope reproduce note-fig2 --size quick

The note (its code): 8 nets per width from shared initial draws, plane of the first two principal components of their
final weights around the mean, from −3 std_1 to +3 std_2 on both axes (an axis mix-up), test loss times 0.1; the
m^(−1/2) surfaces reuse the span of 1/m. The mean of independent solutions lies between permutations, and raw weights
have other units at each output scale: alpha·h has second derivatives proportional to alpha² in them.

Corrected: around a solution, in random directions normalised filter by filter (Li et al. 2018), so that distance 1
perturbs every unit by its own norm at any width and scale. What the note says of Figure 2 is measured on
its own plane, too (`note_radius`, `note_depth`). Radius: the distance at which the test loss has risen by a
tenth of that of the zero predictor, mean over `init` pairs of solution and direction, both ways along a line.

Quick has n = 500, d = 50, 6 draws and 1500 steps. On two cores: tiny 15 s, quick 45 s, paper about 2 h.
"""

from collections.abc import Callable
from typing import cast

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure
from scipy import stats

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers import landscape_panels
from lazyscope.papers.landscape_cells import measured, surfaces
from lazyscope.papers.settings import FULL_BATCH, NO_STOP
from lazyscope.papers.solutions import SIZES, SIZES_OF_NOTE, Solutions, relative_test_loss, solutions
from lazyscope.papers.width.training import EXPONENTS, MEAN, NAMES, SQRT
from lazyscope.sweep import Progress, Store

__all__ = ["CAPTION", "CLAIMS", "SIZES", "compute", "draw", "interactive", "numbers"]

SETTINGS = (FULL_BATCH, NO_STOP, *SIZES_OF_NOTE)
CAPTION = (
    "Test loss over that of the zero predictor (colour, log10) on planes of weight space, first trial. Upper half, the "
    "note's protocol: principal components of independent solutions around their mean, raw weights; crosses are the "
    "solutions' shadows. Lower half, corrected: around one solution, directions normalised unit by unit, one unit of "
    "distance for all panels: the two halves are in different units. The bump in the middle of the upper panels is the "
    "mean of nets whose units are in different orders."
)


def compute(
    spec: Solutions, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Radii and bumps for every width, output scale and seed; surfaces for the first seed."""
    found = solutions(spec, key=key, store=store, progress=progress)
    cells = [
        measured(found, spec, seed=seed, loss=relative_test_loss(key, seed, spec), key=jax.random.fold_in(key, seed))
        for seed in found.seed.values.tolist()
    ]
    trials = cast(xr.Dataset, xr.concat(cells, dim=xr.Variable("seed", found.seed.values)))
    drawn = surfaces(found, spec, relative_test_loss(key, 0, spec), jax.random.fold_in(key, 0))
    kept = found[["test_loss", "kernel_time"]].mean("init")
    return xr.merge([trials, drawn, kept], join="exact")


def growth(ds: xr.Dataset, exponent: float, variable: str = "radius") -> np.ndarray:
    """log10 of a radius or depth at the largest width over that at the smallest."""
    values = ds[variable].sel(exponent=exponent)
    return np.log10((values.isel(width=-1) / values.isel(width=0)).values)


def mean_over_sqrt(ds: xr.Dataset, variable: str) -> np.ndarray:
    """log10 of the radius at 1/m over that at m^(-1/2), mean over widths."""
    ratio = ds[variable].sel(exponent=MEAN) / ds[variable].sel(exponent=SQRT)
    return xr.apply_ufunc(np.log10, ratio).mean("width").values


def at_small_width(ds: xr.Dataset, variable: str) -> np.ndarray:
    """log10 of a radius or depth at m^(-1/2) over that at 1/m, smallest width."""
    first = ds[variable].isel(width=0)
    return np.log10((first.sel(exponent=SQRT) / first.sel(exponent=MEAN)).values)


def bumps(ds: xr.Dataset, variable: str = "mean_loss") -> xr.DataArray:
    """log10 of the loss of the mean net over the mean loss of the nets."""
    return xr.apply_ufunc(np.log10, ds[variable] / ds.solution_loss)


def bump(ds: xr.Dataset, variable: str) -> np.ndarray:
    """The bump at 1/m and the largest width."""
    return bumps(ds, variable).isel(width=-1).sel(exponent=MEAN).values


def bump_trend(ds: xr.Dataset) -> np.ndarray:
    """Slope of the bump at 1/m against log10 m."""
    values = bumps(ds).sel(exponent=MEAN).transpose("width", "seed").values
    return np.polyfit(np.log10(ds.width.values), values, 1)[0]


def bump_difference(ds: xr.Dataset) -> np.ndarray:
    """The bump at 1/m minus that at m^(-1/2), mean over widths."""
    values = bumps(ds).mean("width")
    return (values.sel(exponent=MEAN) - values.sel(exponent=SQRT)).values


def lower(ds: xr.Dataset) -> np.ndarray:
    """log10 of (zero predictor's loss over the solutions') at m^(-1/2): largest width minus smallest."""
    values = np.log10(ds.solution_loss.sel(exponent=SQRT))
    return (values.isel(width=0) - values.isel(width=-1)).values


def wide_generalises(ds: xr.Dataset) -> np.ndarray:
    """Spearman correlation of radius and test loss over widths and output scales, per seed."""
    rows = ds[["radius", "solution_loss"]].stack(cell=("width", "exponent")).transpose("seed", "cell")
    pairs = zip(rows.radius.values, rows.solution_loss.values, strict=True)
    return np.array([stats.spearmanr(radius, loss)[0] for radius, loss in pairs])


def _claim(
    sentence: str,
    source: str,
    measure: str,
    quantity: Callable[[xr.Dataset], np.ndarray],
    accepted: tuple[float, float],
    quick: Outcome | None = None,
    note: str = "",
    scale: Scale = Scale.REAL,
) -> Claim:
    expected = {"tiny": None, "quick": quick, "paper": None}
    return Claim(sentence, source, measure, quantity, accepted, expected, note, scale=scale)


WIDER = np.log10(1.2)
RAW_PLANE = "on the note's plane, raw weights"
CLAIMS = (
    _claim(
        "For 1/m the landscape is wide under different values of m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at the largest width over that at the smallest, 1/m, {RAW_PLANE}",
        lambda ds: growth(ds, MEAN, "note_radius"),
        (-0.15, np.inf),
        note="Raw lengths grow as √m by themselves: by 0.60 from m = 8 to 128.",
    ),
    _claim(
        "For 1/m the landscape is wide under different values of m.",
        "note §4.7, Figure 2; in a unit common to all widths (ours)",
        "log10 of the filter-normalised radius at the largest width over that at the smallest, 1/m",
        lambda ds: growth(ds, MEAN),
        (-0.15, 0.15),
        Outcome.INCONCLUSIVE,
    ),
    _claim(
        "For 1/√m it is narrow for small m, narrower than 1/m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at m^(−1/2) over that at 1/m, smallest width, {RAW_PLANE}",
        lambda ds: at_small_width(ds, "note_radius"),
        (-np.inf, -WIDER),
        note="In raw weights the curvature of alpha·h goes as alpha².",
    ),
    _claim(
        "For 1/√m it is deep for small m, deeper than 1/m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the depth (rim minus lowest) at m^(−1/2) over that at 1/m, smallest width, {RAW_PLANE}",
        lambda ds: at_small_width(ds, "note_depth"),
        (0.0, np.inf),
        note="The rim lies at the same distance in raw weights and the loss there goes as alpha².",
    ),
    _claim(
        "For 1/√m the depth grows as m grows (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the depth at the largest width over that at the smallest, m^(−1/2), {RAW_PLANE}",
        lambda ds: growth(ds, SQRT, "note_depth"),
        (0.0, np.inf),
    ),
    _claim(
        "For 1/√m the solutions lie deeper as m grows.",
        "ours, on note §4.7",
        "log10 of the zero predictor's loss over the solutions', m^(−1/2): largest width minus smallest",
        lower,
        (0.0, np.inf),
    ),
    _claim(
        "For 1/√m it becomes wider at the bottom as m grows (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at the largest width over that at the smallest, m^(−1/2), {RAW_PLANE}",
        lambda ds: growth(ds, SQRT, "note_radius"),
        (WIDER, np.inf),
        note="Raw lengths grow as √m by themselves: by 0.60 from m = 8 to 128.",
    ),
    _claim(
        "For 1/√m it is narrow for small m and becomes wider as m grows.",
        "note §4.7, Figure 2; in a unit common to all widths (ours)",
        "log10 of the filter-normalised radius at the largest width over that at the smallest, m^(−1/2)",
        lambda ds: growth(ds, SQRT),
        (WIDER, np.inf),
        Outcome.HOLDS,
    ),
    _claim(
        "The landscape of 1/m is wider than that of 1/√m (raw weights, the note's unit).",
        "note §4.7, Figure 2",
        "log10 of the radius in raw weights at 1/m over that at m^(−1/2), mean over widths",
        lambda ds: mean_over_sqrt(ds, "raw_radius"),
        (WIDER, np.inf),
        Outcome.HOLDS,
        note="In raw weights the curvature of alpha·h goes as alpha², so this is mostly a choice of unit.",
    ),
    _claim(
        "It is wider in a unit common to both scales, too.",
        "ours, on note §4.7",
        "log10 of the filter-normalised radius at 1/m over that at m^(−1/2), mean over widths",
        lambda ds: mean_over_sqrt(ds, "radius"),
        (WIDER, np.inf),
        Outcome.FAILS,
    ),
    _claim(
        "At large m there is a bump in the middle of the landscape of 1/m.",
        "note §4.7, Figure 2",
        "log10 of the test loss of the mean of the solutions over their mean loss, 1/m, largest width",
        lambda ds: bump(ds, "mean_loss"),
        (np.log10(2), np.inf),
        Outcome.HOLDS,
    ),
    _claim(
        "The bump appears as m increases.",
        "note §4.7, Figure 2",
        "slope of log10 (test loss of the mean of the solutions over their mean loss) against log10 m, 1/m",
        bump_trend,
        (0.0, np.inf),
        note="It is there at every width, as the mean of nets whose units are in different orders.",
    ),
    _claim(
        "The bump is one of 1/m: it is smaller for 1/√m.",
        "note §4.7, Figure 2",
        "the same number at 1/m minus that at m^(−1/2), mean over widths",
        bump_difference,
        (0.0, np.inf),
    ),
    _claim(
        "The bump is one of the landscape: it stays when hidden units are put into the same order.",
        "ours, on note §4.7",
        "log10 of the test loss of the mean over the solutions' after permutation alignment, 1/m, largest width",
        lambda ds: bump(ds, "aligned_mean_loss"),
        (np.log10(2), np.inf),
        Outcome.FAILS,
    ),
    _claim(
        "A wider loss landscape leads to a better generalisation (over widths and scales).",
        "note §4.7",
        "Spearman correlation of filter-normalised radius and test loss over widths and scales",
        wide_generalises,
        (-np.inf, -0.5),
        Outcome.FAILS,
        note="Six cells that differ in width, output scale and, twentyfold, in kernel_time, none at its end.",
        scale=Scale.CORRELATION,
    ),
    _claim(
        "A wider loss landscape leads to a better generalisation (one width and scale).",
        "note §4.7",
        "Spearman correlation of a solution's radius with its test loss over draws, mean over widths and scales",
        lambda ds: ds.within.mean(["width", "exponent"]).values,
        (-np.inf, -0.5),
        note="Solutions of one problem from different draws, trained alike.",
        scale=Scale.CORRELATION,
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Four rows of planes: both scales by the note's protocol, both corrected; one column a width."""
    return landscape_panels.surfaces(ds)


def interactive(ds: xr.Dataset) -> dict[str, object]:
    """All surfaces in three dimensions, one chosen at a time."""
    return landscape_panels.choose_surface(
        {
            f"{version}, {NAMES[e]}, m = {width}": landscape_panels.Surface(
                axis, ds[f"{kind}_surface"].sel(width=width, exponent=e).values
            )
            for version, kind in (("corrected", "corrected"), ("the note's protocol", "note"))
            for e in EXPONENTS
            for width in ds.width.values
            for axis in [(ds.note_axis.sel(width=width) if kind == "note" else ds.corrected_axis).values]
        }
    )


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Radii, bumps and losses, means over seeds."""
    rows: dict[str, xr.DataArray] = {}
    for exponent in EXPONENTS:
        one, name = ds.sel(exponent=exponent), NAMES[exponent].removeprefix("alpha = ")
        rows |= {
            f"{name}: radius": one.radius,
            f"{name}: raw radius": one.raw_radius,
            f"{name}: radius on the note's plane": one.note_radius,
            f"{name}: depth there": one.note_depth,
            f"{name}: loss / zero": one.solution_loss,
            f"{name}: of the mean": one.mean_loss,
            f"{name}: of the aligned mean": one.aligned_mean_loss,
            f"{name}: kernel_time": one.kernel_time,
        }
    return figures.table(rows, "width")
