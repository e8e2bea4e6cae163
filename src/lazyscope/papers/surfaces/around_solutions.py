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

Quick has n = 500, d = 50, 6 draws and 1500 steps.
"""

from typing import cast

import jax
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Trials
from lazyscope.papers.quantities import FIRST, LAST, Quantity, at, log10_ratio, power, rank_correlation
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP
from lazyscope.papers.surfaces import panels
from lazyscope.papers.surfaces.measures import measured, surfaces
from lazyscope.papers.surfaces.solutions import SIZES, SIZES_OF_NOTE, Solutions, relative_test_loss, solutions
from lazyscope.papers.width.training import EXPONENTS, MEAN, NAMES, SQRT

STATED = (FULL_BATCH, NO_STOP, *SIZES_OF_NOTE)
CAPTION = (
    "Test loss over that of the zero predictor (colour, log10) on planes of weight space, first trial. Upper half, the "
    "note's protocol: principal components of independent solutions around their mean, raw weights; crosses are the "
    "solutions' shadows. Lower half, corrected: around one solution, directions normalised unit by unit, one unit of "
    "distance for all panels: the two halves are in different units. The bump in the middle of the upper panels is the "
    "mean of nets whose units are in different orders."
)


def compute(settings: Solutions, trials: Trials) -> xr.Dataset:
    """Radii and bumps for every width, output scale and seed; surfaces for the first seed."""
    found, key = solutions(settings, trials), trials.key
    cells = [
        measured(
            found,
            settings,
            seed=seed,
            loss=relative_test_loss(key, seed, settings),
            key=jax.random.fold_in(key, seed),
        )
        for seed in found.seed.values.tolist()
    ]
    of_seeds = cast(xr.Dataset, xr.concat(cells, dim=xr.Variable("seed", found.seed.values)))
    drawn = surfaces(found, settings, relative_test_loss(key, 0, settings), jax.random.fold_in(key, 0))
    kept = found[["test_loss", "kernel_time"]].mean("init")
    return xr.merge([of_seeds, drawn, kept], join="exact")


def growth(variable: str, exponent: float) -> Quantity:
    """log10 of a radius or depth at the largest width over that at the smallest."""
    return log10_ratio(at(variable, exponent=exponent, width=LAST), at(variable, exponent=exponent, width=FIRST))


def mean_over_sqrt(variable: str) -> Quantity:
    """log10 of a radius at 1/m over that at m^(-1/2), mean over widths."""

    def decades(ds: xr.Dataset) -> np.ndarray:
        ratio = ds[variable].sel(exponent=MEAN) / ds[variable].sel(exponent=SQRT)
        return xr.apply_ufunc(np.log10, ratio).mean("width").values

    return decades


def at_small_width(variable: str) -> Quantity:
    """log10 of a radius or depth at m^(-1/2) over that at 1/m, smallest width."""
    return log10_ratio(at(variable, exponent=SQRT, width=FIRST), at(variable, exponent=MEAN, width=FIRST))


def bump(variable: str) -> Quantity:
    """log10 of the loss of a mean net over the mean loss of the nets, at 1/m and the largest width."""
    widest = {"exponent": MEAN, "width": LAST}
    return log10_ratio(at(variable, **widest), at("solution_loss", **widest))


def bump_difference(ds: xr.Dataset) -> np.ndarray:
    """The same at 1/m minus at m^(-1/2), mean over widths."""
    bumps = np.log10(ds.mean_loss / ds.solution_loss).mean("width")
    return (bumps.sel(exponent=MEAN) - bumps.sel(exponent=SQRT)).values


WIDER = np.log10(1.2)
RAW_PLANE = "on the note's plane, raw weights"
CLAIMS = (
    Claim(
        "For 1/m the landscape is wide under different values of m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at the largest width over that at the smallest, 1/m, {RAW_PLANE}",
        growth("note_radius", MEAN),
        (-0.15, np.inf),
        note="Raw lengths grow as √m by themselves: by 0.60 from m = 8 to 128.",
    ),
    Claim(
        "For 1/m the landscape is wide under different values of m.",
        "note §4.7, Figure 2; in a unit common to all widths (ours)",
        "log10 of the filter-normalised radius at the largest width over that at the smallest, 1/m",
        growth("radius", MEAN),
        (-0.15, 0.15),
    ),
    Claim(
        "For 1/√m it is narrow for small m, narrower than 1/m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at m^(−1/2) over that at 1/m, smallest width, {RAW_PLANE}",
        at_small_width("note_radius"),
        (-np.inf, -WIDER),
        note="In raw weights the curvature of alpha·h goes as alpha².",
    ),
    Claim(
        "For 1/√m it is deep for small m, deeper than 1/m (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the depth (rim minus lowest) at m^(−1/2) over that at 1/m, smallest width, {RAW_PLANE}",
        at_small_width("note_depth"),
        (0.0, np.inf),
        note="The rim lies at the same distance in raw weights and the loss there goes as alpha².",
    ),
    Claim(
        "For 1/√m the depth grows as m grows (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the depth at the largest width over that at the smallest, m^(−1/2), {RAW_PLANE}",
        growth("note_depth", SQRT),
        (0.0, np.inf),
    ),
    Claim(
        "For 1/√m the solutions lie deeper as m grows.",
        "ours, on note §4.7",
        "log10 of the zero predictor's loss over the solutions', m^(−1/2): largest width minus smallest",
        log10_ratio(at("solution_loss", exponent=SQRT, width=FIRST), at("solution_loss", exponent=SQRT, width=LAST)),
        (0.0, np.inf),
    ),
    Claim(
        "For 1/√m it becomes wider at the bottom as m grows (the note's plane).",
        "note §4.7, Figure 2",
        f"log10 of the radius at the largest width over that at the smallest, m^(−1/2), {RAW_PLANE}",
        growth("note_radius", SQRT),
        (WIDER, np.inf),
        note="Raw lengths grow as √m by themselves: by 0.60 from m = 8 to 128.",
    ),
    Claim(
        "For 1/√m it is narrow for small m and becomes wider as m grows.",
        "note §4.7, Figure 2; in a unit common to all widths (ours)",
        "log10 of the filter-normalised radius at the largest width over that at the smallest, m^(−1/2)",
        growth("radius", SQRT),
        (WIDER, np.inf),
    ),
    Claim(
        "The landscape of 1/m is wider than that of 1/√m (raw weights, the note's unit).",
        "note §4.7, Figure 2",
        "log10 of the radius in raw weights at 1/m over that at m^(−1/2), mean over widths",
        mean_over_sqrt("raw_radius"),
        (WIDER, np.inf),
        note="In raw weights the curvature of alpha·h goes as alpha², so this is mostly a choice of unit.",
    ),
    Claim(
        "It is wider in a unit common to both scales, too.",
        "ours, on note §4.7",
        "log10 of the filter-normalised radius at 1/m over that at m^(−1/2), mean over widths",
        mean_over_sqrt("radius"),
        (WIDER, np.inf),
    ),
    Claim(
        "At large m there is a bump in the middle of the landscape of 1/m.",
        "note §4.7, Figure 2",
        "log10 of the test loss of the mean of the solutions over their mean loss, 1/m, largest width",
        bump("mean_loss"),
        (np.log10(2), np.inf),
    ),
    Claim(
        "The bump appears as m increases.",
        "note §4.7, Figure 2",
        "slope of log10 (test loss of the mean of the solutions over their mean loss) against log10 m, 1/m",
        power(lambda ds: ds.mean_loss / ds.solution_loss, "width", exponent=MEAN),
        (0.0, np.inf),
        note="It is there at every width, as the mean of nets whose units are in different orders.",
    ),
    Claim(
        "The bump is one of 1/m: it is smaller for 1/√m.",
        "note §4.7, Figure 2",
        "the same number at 1/m minus that at m^(−1/2), mean over widths",
        bump_difference,
        (0.0, np.inf),
    ),
    Claim(
        "The bump is one of the landscape: it stays when hidden units are put into the same order.",
        "ours, on note §4.7",
        "log10 of the test loss of the mean over the solutions' after permutation alignment, 1/m, largest width",
        bump("aligned_mean_loss"),
        (np.log10(2), np.inf),
    ),
    Claim(
        "A wider loss landscape leads to a better generalisation (over widths and scales).",
        "note §4.7",
        "Spearman correlation of filter-normalised radius and test loss over widths and scales",
        rank_correlation("radius", "solution_loss"),
        (-np.inf, -0.5),
        note="Six cells that differ in width, output scale and, twentyfold, in kernel_time, none at its end.",
        scale=Scale.CORRELATION,
    ),
    Claim(
        "A wider loss landscape leads to a better generalisation (one width and scale).",
        "note §4.7",
        "Spearman correlation of a solution's radius with its test loss over draws, mean over widths and scales",
        at(lambda ds: ds.within.mean(["width", "exponent"])),
        (-np.inf, -0.5),
        note="Solutions of one problem from different draws, trained alike.",
        scale=Scale.CORRELATION,
    ),
)


def interactive(ds: xr.Dataset) -> dict[str, object]:
    """All surfaces in three dimensions, one chosen at a time."""
    return panels.choose_surface(
        {
            f"{version}, {NAMES[e]}, m = {width}": panels.Surface(
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


FIG2 = Figure(
    caption=CAPTION,
    sizes=SIZES,
    compute=compute,
    claims=CLAIMS,
    draw=panels.surfaces,
    numbers=numbers,
    stated=STATED,
    interactive=interactive,
)
