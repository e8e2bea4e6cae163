"""Note, Figure 2: loss landscapes of two-layer nets at several widths, by the note's protocol and by a corrected one.

    lazyscope reproduce note-fig2 --size quick

The note (its code): 8 nets per width from shared initial draws, plane of the first two principal components of their
final weights around the mean, from −3 std_1 to +3 std_2 on both axes (an axis mix-up), test loss times 0.1; the
m^(−1/2) surfaces reuse the span of 1/m. The mean of independent solutions lies between permutations, and raw weights
have other units at each output scale: alpha·h has second derivatives proportional to alpha² in them.

Corrected: around a solution, in random directions normalised filter by filter (Li et al. 2018), so that distance 1
perturbs every unit by its own norm at any width and scale. Radius: the distance at which the test loss has risen by a
tenth of that of the zero predictor, mean over `init` pairs of solution and direction, both ways along a line.

Quick has n = 500, d = 50, 6 draws and 1500 steps. On two cores: tiny 15 s, quick 45 s, paper about 2 h.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree
from matplotlib.figure import Figure
from scipy import stats

from lazyscope import figures, landscape
from lazyscope.claims import Claim, Outcome
from lazyscope.papers import landscape_panels
from lazyscope.papers.settings import FULL_BATCH, NO_STOP
from lazyscope.papers.solutions import (
    SIZES,
    Solutions,
    absorb,
    nets,
    orders_to_first,
    relative_test_loss,
    reorder,
    solutions,
)
from lazyscope.papers.widths import EXPONENTS, MEAN, NAMES, SQRT
from lazyscope.sweep import Progress, Store

__all__ = ["CAPTION", "CLAIMS", "SIZES", "compute", "draw", "interactive", "numbers"]

RISE = 0.1  # of the zero predictor's loss: the level of the radius
REACH = 3.0  # half-length of the lines: filter-normalised, or in units of the rms weight
SPAN = 1.5  # half-width of the corrected planes
SETTINGS = (FULL_BATCH, NO_STOP)
CAPTION = (
    "Test loss over that of the zero predictor (colour, log10) on planes of weight space, first trial. Upper half, the "
    "note's protocol: principal components of independent solutions around their mean, raw weights; crosses are the "
    "solutions' shadows. Lower half, corrected: around one solution, directions normalised unit by unit, one unit of "
    "distance for all panels. The bump in the middle of the upper panels is the mean of nets whose units are in "
    "different orders."
)


def compute(
    spec: Solutions, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Radii and bumps for every width, output scale and seed; surfaces for the first seed."""
    found = solutions(spec, key=key, store=store, progress=progress)
    cells = [
        _measured(found, spec, seed=seed, loss=relative_test_loss(key, seed, spec), key=jax.random.fold_in(key, seed))
        for seed in found.seed.values.tolist()
    ]
    measured = cast(xr.Dataset, xr.concat(cells, dim=xr.Variable("seed", found.seed.values)))
    drawn = _surfaces(found, spec, relative_test_loss(key, 0, spec), jax.random.fold_in(key, 0))
    kept = found[["test_loss", "kernel_time"]].mean("init")
    return xr.merge([measured, drawn, kept], join="exact")


def _measured(
    found: xr.Dataset, spec: Solutions, *, seed: int, loss: Callable[[PyTree], Array], key: Key[Array, ""]
) -> xr.Dataset:
    names = ("radius", "raw_radius", "mean_loss", "aligned_mean_loss", "solution_loss")
    shape = (len(spec.widths), len(EXPONENTS))
    values = {name: np.empty(shape) for name in names}
    at = jax.jit(loss)
    for i, width in enumerate(spec.widths):
        points = {e: nets(found, width=width, exponent=e, seed=seed) for e in EXPONENTS}
        orders = orders_to_first(points[MEAN], width)
        for j, exponent in enumerate(EXPONENTS):
            raw = points[exponent]
            absorbed = [absorb(p, width, exponent) for p in raw]
            aligned = [reorder(p, order) for p, order in zip(absorbed, orders, strict=True)]
            values["solution_loss"][i, j] = np.mean([float(at(p)) for p in absorbed])
            values["mean_loss"][i, j] = float(at(landscape.mean(absorbed)))
            values["aligned_mean_loss"][i, j] = float(at(landscape.mean(aligned)))
            values["radius"][i, j], values["raw_radius"][i, j] = _radii(loss, at, raw, width, exponent, key)
    return xr.Dataset(
        {name: (("width", "exponent"), v) for name, v in values.items()},
        coords={"width": list(spec.widths), "exponent": list(EXPONENTS)},
    )


def _radii(
    loss: Callable[[PyTree], Array],
    at: Callable[[PyTree], Array],
    raw: list[PyTree],
    width: int,
    exponent: float,
    key: Key[Array, ""],
) -> tuple[float, float]:
    """Filter-normalised radius, and radius in raw weights, each a mean over pairs of solution and direction."""
    normalised, plain = [], []
    for point, draw_key in zip(raw, jax.random.split(key, len(raw)), strict=True):
        center = absorb(point, width, exponent)
        level = float(at(center)) + RISE
        (direction,) = landscape.filter_normalised(draw_key, center, axes={"a": 0}, count=1)
        surface = landscape.line(loss, center, direction, extent=REACH, resolution=121)
        normalised.append(landscape.sublevel_radius(surface, level=level))
        drawn = {name: jnp.where(leaf == 0, 0, jax.random.normal(draw_key, leaf.shape)) for name, leaf in point.items()}
        size = float(jnp.sqrt(jnp.mean(point["b"][:width] ** 2)))
        surface = landscape.line(loss, center, absorb(drawn, width, exponent), extent=REACH * size, resolution=121)
        plain.append(landscape.sublevel_radius(surface, level=level))
    return float(np.mean(normalised)), float(np.mean(plain))


def _surfaces(found: xr.Dataset, spec: Solutions, loss: Callable[[PyTree], Array], key: Key[Array, ""]) -> xr.Dataset:
    count = spec.resolution
    shape = (len(spec.widths), len(EXPONENTS), count, count)
    note, corrected = np.empty(shape), np.empty(shape)
    note_axis = np.empty((len(spec.widths), count))
    shadows = np.empty((len(spec.widths), len(EXPONENTS), spec.inits, 2))
    for i, width in enumerate(spec.widths):
        points = {e: nets(found, width=width, exponent=e, seed=0) for e in EXPONENTS}
        spread = np.sqrt(np.asarray(landscape.principal(points[MEAN]).variances))
        extent = (-3 * float(spread[0]), 3 * float(spread[1]))
        for j, exponent in enumerate(EXPONENTS):
            pca = landscape.principal(points[exponent])
            center = absorb(pca.center, width, exponent)
            directions = tuple(absorb(d, width, exponent) for d in pca.directions)
            surface = landscape.plane(loss, center, directions, extent=(extent, extent), resolution=count)
            note[i, j], note_axis[i] = surface.values, surface.x
            shadows[i, j] = landscape.project(points[exponent], pca.center, pca.directions).coordinates
            solution = absorb(points[exponent][0], width, exponent)
            directions = landscape.filter_normalised(key, solution, axes={"a": 0})
            surface = landscape.plane(loss, solution, directions, extent=SPAN, resolution=count)
            corrected[i, j] = surface.values
    grid = ("width", "exponent", "row", "column")
    return xr.Dataset(
        {
            "note_surface": (grid, note),
            "note_axis": (("width", "row"), note_axis),
            "note_points": (("width", "exponent", "point", "axis"), shadows),
            "corrected_surface": (grid, corrected),
            "corrected_axis": ("row", np.linspace(-SPAN, SPAN, count)),
        },
        coords={"width": list(spec.widths), "exponent": list(EXPONENTS)},
    )


def growth(ds: xr.Dataset, exponent: float) -> np.ndarray:
    """log10 of the filter-normalised radius at the largest width over that at the smallest."""
    radius = ds.radius.sel(exponent=exponent)
    return np.log10((radius.isel(width=-1) / radius.isel(width=0)).values)


def mean_over_sqrt(ds: xr.Dataset, variable: str) -> np.ndarray:
    """log10 of the radius at 1/m over that at m^(-1/2), mean over widths."""
    ratio = ds[variable].sel(exponent=MEAN) / ds[variable].sel(exponent=SQRT)
    return xr.apply_ufunc(np.log10, ratio).mean("width").values


def bump(ds: xr.Dataset, variable: str) -> np.ndarray:
    """log10 of the loss of the mean net over the mean loss of the nets, at 1/m and the largest width."""
    last = ds.isel(width=-1).sel(exponent=MEAN)
    return np.log10((last[variable] / last.solution_loss).values)


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
) -> Claim:
    expected = {"tiny": None, "quick": quick, "paper": None}
    return Claim(sentence, source, measure, quantity, accepted, expected, note)


WIDER = np.log10(1.2)
CLAIMS = (
    _claim(
        "For 1/m the landscape is wide under different values of m.",
        "note §4.7, Figure 2",
        "log10 of the filter-normalised radius at the largest width over that at the smallest, 1/m",
        lambda ds: growth(ds, MEAN),
        (-0.15, 0.15),
        Outcome.INCONCLUSIVE,
    ),
    _claim(
        "For 1/√m it is narrow for small m and becomes wider as m grows.",
        "note §4.7, Figure 2",
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
        "As m increases a bump appears in the middle of the landscape of 1/m.",
        "note §4.7, Figure 2",
        "log10 of the test loss of the mean of the solutions over their mean loss, 1/m, largest width",
        lambda ds: bump(ds, "mean_loss"),
        (np.log10(2), np.inf),
        Outcome.HOLDS,
    ),
    _claim(
        "The bump is one of the landscape: it stays when hidden units are put into the same order.",
        "ours, on note §4.7",
        "the same after permutation alignment to the first solution",
        lambda ds: bump(ds, "aligned_mean_loss"),
        (np.log10(2), np.inf),
        Outcome.FAILS,
    ),
    _claim(
        "A wider loss landscape leads to a better generalisation.",
        "note §4.7",
        "Spearman correlation of filter-normalised radius and test loss over widths and scales",
        wide_generalises,
        (-np.inf, -0.5),
        Outcome.FAILS,
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
            f"{name}: loss / zero": one.solution_loss,
            f"{name}: of the mean": one.mean_loss,
            f"{name}: of the aligned mean": one.aligned_mean_loss,
            f"{name}: kernel_time": one.kernel_time,
        }
    return figures.table(rows, "width")
