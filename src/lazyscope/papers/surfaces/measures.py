"""What note-fig2 measures and draws of a set of solutions: radii, bumps, depths and planes.

The note's plane: the first two principal components of solutions around their mean, in raw weights, from −3 std_1 to
+3 std_2 on both axes with the deviations of the 1/m solutions. Corrected: around a solution, in random directions
normalised filter by filter (Li et al. 2018).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree
from scipy import stats

from lazyscope import landscape
from lazyscope.papers.surfaces.solutions import Solutions, absorb, nets, orders_to_first, reorder
from lazyscope.papers.width.training import EXPONENTS, MEAN

RISE = 0.1  # of the zero predictor's loss: the level of the radius
REACH = 3.0  # half-length of the lines: filter-normalised, or in units of the rms weight
SPAN = 1.5  # half-width of the corrected planes


def measured(
    found: xr.Dataset, settings: Solutions, *, seed: int, loss: Callable[[PyTree], Array], key: Key[Array, ""]
) -> xr.Dataset:
    """Radii, bumps, depths and losses of one trial over (width, exponent); losses are over the zero predictor's.

    `radius` and `raw_radius` are means over pairs of solution and direction, `within` the rank correlation of the first
    with the solutions' test losses. `note_radius` and `note_depth` are read off the note's plane: the radius of a disc
    of the area where the loss is at most `RISE` above its lowest, and the mean loss at the rim minus the lowest.
    """
    names = ("radius", "raw_radius", "within", "mean_loss", "aligned_mean_loss", "solution_loss")
    names += ("note_radius", "note_depth")
    shape = (len(settings.widths), len(EXPONENTS))
    values = {name: np.empty(shape) for name in names}
    at = jax.jit(loss)
    for i, width in enumerate(settings.widths):
        points = {e: nets(found, width=width, exponent=e, seed=seed) for e in EXPONENTS}
        orders = orders_to_first(points[MEAN], width)
        for j, exponent in enumerate(EXPONENTS):
            raw = points[exponent]
            absorbed = [absorb(p, width, exponent) for p in raw]
            aligned = [reorder(p, order) for p, order in zip(absorbed, orders, strict=True)]
            losses = [float(at(p)) for p in absorbed]
            values["solution_loss"][i, j] = np.mean(losses)
            values["mean_loss"][i, j] = float(at(landscape.mean(absorbed)))
            values["aligned_mean_loss"][i, j] = float(at(landscape.mean(aligned)))
            normalised, plain = _radii(loss, at, raw, width, exponent, key)
            values["radius"][i, j], values["raw_radius"][i, j] = np.mean(normalised), np.mean(plain)
            values["within"][i, j] = np.corrcoef(stats.rankdata(normalised), stats.rankdata(losses))[0, 1]
            plane = note_plane(loss, points, width, exponent, settings.resolution)
            values["note_radius"][i, j], values["note_depth"][i, j] = read_off(plane)
    return xr.Dataset(
        {name: (("width", "exponent"), v) for name, v in values.items()},
        coords={"width": list(settings.widths), "exponent": list(EXPONENTS)},
    )


def _radii(
    loss: Callable[[PyTree], Array],
    at: Callable[[PyTree], Array],
    raw: list[PyTree],
    width: int,
    exponent: float,
    key: Key[Array, ""],
) -> tuple[list[float], list[float]]:
    """Filter-normalised radius, and radius in raw weights, for each pair of solution and direction."""
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
    return normalised, plain


def note_plane(
    loss: Callable[[PyTree], Array], points: dict[float, list[PyTree]], width: int, exponent: float, resolution: int
) -> landscape.Plane:
    """The note's plane: principal components of raw solutions around their mean, with its extents, from 1/m."""
    spread = np.sqrt(np.asarray(landscape.principal(points[MEAN]).variances))
    extent = (-3 * float(spread[0]), 3 * float(spread[1]))
    pca = landscape.principal(points[exponent])
    directions = tuple(absorb(d, width, exponent) for d in pca.directions)
    center = absorb(pca.center, width, exponent)
    return landscape.plane(loss, center, directions, extent=(extent, extent), resolution=resolution)


def read_off(plane: landscape.Plane) -> tuple[float, float]:
    """Radius of a disc of the area at most `RISE` above the lowest value, and the mean of the rim above that value."""
    values = np.asarray(plane.values)
    lowest = float(np.nanmin(values))
    rim = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    return landscape.sublevel_radius(plane, level=lowest + RISE), float(np.nanmean(rim)) - lowest


def surfaces(
    found: xr.Dataset, settings: Solutions, loss: Callable[[PyTree], Array], key: Key[Array, ""]
) -> xr.Dataset:
    """The planes of the first trial, by the note's protocol and corrected, with the solutions' shadows."""
    count = settings.resolution
    shape = (len(settings.widths), len(EXPONENTS), count, count)
    note, corrected = np.empty(shape), np.empty(shape)
    note_axis = np.empty((len(settings.widths), count))
    shadows = np.empty((len(settings.widths), len(EXPONENTS), settings.inits, 2))
    for i, width in enumerate(settings.widths):
        points = {e: nets(found, width=width, exponent=e, seed=0) for e in EXPONENTS}
        for j, exponent in enumerate(EXPONENTS):
            surface = note_plane(loss, points, width, exponent, count)
            note[i, j], note_axis[i] = surface.values, surface.x
            pca = landscape.principal(points[exponent])
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
        coords={"width": list(settings.widths), "exponent": list(EXPONENTS)},
    )
