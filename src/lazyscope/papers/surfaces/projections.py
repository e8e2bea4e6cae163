"""Note, Figure 6: solutions at 1/√m projected onto the landscape of 1/m, by the note's protocol and by a corrected one.

    lazyscope reproduce note-fig6 --size quick

The note (its code): the plane of the first two principal components of 8 solutions at 1/m, from shared initial draws;
solutions at m^(-1/2) are projected onto it and drawn at the height of their own loss under their own output scale. They
land near the middle, where the surface has its bump, from which the note concludes that they converge there.

Corrected: hidden units are first brought into the order of the first 1/m solution (the m^(-1/2) net from the same draw
takes the same order); every point comes with the share of its distance that the plane shows, its true loss under both
scales and the loss of its shadow, and is compared with random points as far from the centre.

Shares its cells with note-fig2. Quick has n = 500, d = 50, 6 draws and 1500 steps.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree
from matplotlib.ticker import LogLocator

from lazyscope import figures, landscape
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Trials
from lazyscope.papers.quantities import LAST, Quantity, at, log10_ratio
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP
from lazyscope.papers.surfaces import panels
from lazyscope.papers.surfaces.solutions import (
    SIZES,
    SIZES_OF_NOTE,
    Solutions,
    absorb,
    nets,
    orders_to_first,
    relative_test_loss,
    reorder,
    solutions,
)
from lazyscope.papers.width.training import MEAN, SQRT

VERSIONS = ("note", "aligned")
RANDOM_POINTS = 16  # per solution, at its distance from the centre
STATED = (FULL_BATCH, NO_STOP, *SIZES_OF_NOTE)
CAPTION = (
    "Test loss of alpha = 1/m over that of the zero predictor (colour, log10) on the plane of the 1/m solutions "
    "(circles), with the solutions at m^(−1/2) (crosses) projected onto it; largest width, first trial. Left, the "
    "note's protocol; middle, after the hidden units are put into one order. Right: what the surface shows at a "
    "solution's shadow against the loss the solution has, at its own output scale. On the line the "
    "picture would tell the truth."
)


def compute(settings: Solutions, trials: Trials) -> xr.Dataset:
    """Where the m^(-1/2) solutions lie on the plane of 1/m, for every width and seed; the plane for the first seed."""
    found, key = solutions(settings, trials), trials.key
    cells, drawn = [], xr.Dataset()
    for seed in found.seed.values.tolist():
        loss = relative_test_loss(key, seed, settings)
        measured, planes = _placed(found, settings, seed=seed, loss=loss, key=jax.random.fold_in(key, seed))
        cells.append(measured)
        drawn = planes if planes is not None else drawn
    measured = cast(xr.Dataset, xr.concat(cells, dim=xr.Variable("seed", found.seed.values)))
    return xr.merge([measured, drawn, found.kernel_time], join="exact")


def _placed(
    found: xr.Dataset, settings: Solutions, *, seed: int, loss: Callable[[PyTree], Array], key: Key[Array, ""]
) -> tuple[xr.Dataset, xr.Dataset | None]:
    at = jax.jit(loss)
    rows: dict[str, np.ndarray] = {}
    planes = None
    for i, width in enumerate(settings.widths):
        points = {e: nets(found, width=width, exponent=e, seed=seed) for e in (MEAN, SQRT)}
        orders = orders_to_first(points[MEAN], width)
        for v, version in enumerate(VERSIONS):
            placed = {
                e: [reorder(p, o) for p, o in zip(nets_, orders, strict=True)] if version == "aligned" else nets_
                for e, nets_ in points.items()
            }
            pca = landscape.principal(placed[MEAN])
            values, kept = _measures(pca, placed, at, width, key)
            for name, value in values.items():
                rows.setdefault(name, np.empty((len(settings.widths), len(VERSIONS))))[i, v] = value
            if seed == 0 and width == settings.widths[-1]:
                planes = _drawn(planes, version, pca, kept, loss, width, settings.resolution)
    variables = {name: (("width", "version"), value) for name, value in rows.items()}
    return xr.Dataset(variables, coords={"width": list(settings.widths), "version": list(VERSIONS)}), planes


def _measures(
    pca: landscape.Principal,
    placed: dict[float, list[PyTree]],
    at: Callable[[PyTree], Array],
    width: int,
    key: Key[Array, ""],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers of one cell, and per solution (x, y), the surface at the shadow and the true loss at its own scale."""

    def loss(params: PyTree, exponent: float = MEAN) -> float:
        return float(at(absorb(params, width, exponent)))

    def on_plane(coordinates: np.ndarray) -> PyTree:
        s, t = coordinates
        return jax.tree.map(lambda c, u, v: c + s * u + t * v, pca.center, *pca.directions)

    where = {e: landscape.project(points, pca.center, pca.directions) for e, points in placed.items()}
    flat = {e: np.asarray(found.coordinates) for e, found in where.items()}
    radii = {e: np.linalg.norm(f, axis=1) for e, f in flat.items()}
    shadows = {e: np.array([loss(on_plane(row)) for row in f]) for e, f in flat.items()}
    own = {e: np.array([loss(p, e) for p in points]) for e, points in placed.items()}
    angles = np.arange(RANDOM_POINTS) * 2 * np.pi / RANDOM_POINTS
    ring = [loss(on_plane(r * np.array([np.cos(a), np.sin(a)]))) for r in radii[SQRT] for a in angles]
    distances = np.sqrt(radii[SQRT] ** 2 + np.asarray(where[SQRT].off_plane) ** 2)
    around = [
        loss(_step(pca.center, k, r)) for r, k in zip(distances, jax.random.split(key, len(distances)), strict=True)
    ]
    numbers = {
        "distance_ratio": radii[SQRT].mean() / radii[MEAN].mean(),
        "in_plane": float(np.mean(where[SQRT].in_plane)),
        "in_plane_mean": float(np.mean(where[MEAN].in_plane)),
        "shadow_loss": shadows[SQRT].mean(),
        "mean_shadow_loss": shadows[MEAN].mean(),
        "ring_loss": np.mean(ring),
        "true_loss": float(np.mean([loss(p) for p in placed[SQRT]])),
        "around_loss": float(np.mean(around)),
        "own_loss": own[SQRT].mean(),
        "middle_loss": loss(pca.center),
        "mean_solution_loss": own[MEAN].mean(),
    }
    kept = {
        name: np.column_stack([flat[e], shadows[e], own[e]])
        for name, e in (("mean_points", MEAN), ("sqrt_points", SQRT))
    }
    return numbers, kept


def _step(center: PyTree, key: Key[Array, ""], distance: float) -> PyTree:
    """A point at `distance` from the centre in a random direction of the units that are not padding."""
    drawn = {name: jnp.where(leaf == 0, 0, jax.random.normal(key, leaf.shape)) for name, leaf in center.items()}
    size = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in drawn.values())))
    return {name: leaf + distance / size * drawn[name] for name, leaf in center.items()}


def _drawn(
    planes: xr.Dataset | None,
    version: str,
    pca: landscape.Principal,
    kept: dict[str, np.ndarray],
    loss: Callable[[PyTree], Array],
    width: int,
    resolution: int,
) -> xr.Dataset:
    far = max(float(np.abs(points[:, :2]).max()) for points in kept.values())
    extent = max(2 * float(np.sqrt(pca.variances[0])), 1.1 * far)
    directions = tuple(absorb(d, width, MEAN) for d in pca.directions)
    surface = landscape.plane(loss, absorb(pca.center, width, MEAN), directions, extent=extent, resolution=resolution)
    new = xr.Dataset(
        {
            f"{version}_surface": (("row", "column"), np.asarray(surface.values)),
            f"{version}_axis": ("row", np.asarray(surface.x)),
        }
        | {f"{version}_{name}": (("point", "quantity"), value) for name, value in kept.items()},
    )
    return new if planes is None else xr.merge([planes, new], join="exact")


def widest(name: str, version: str) -> Quantity:
    """A number at the largest width."""
    return at(name, width=LAST, version=version)


def _claim(
    sentence: str,
    source: str,
    measure: str,
    quantity: Quantity,
    accepted: tuple[float, float],
    note: str = "",
    scale: Scale = Scale.REAL,
) -> Claim:
    return Claim(sentence, source, f"{measure}, largest width", quantity, accepted, note=note, scale=scale)


CLAIMS = (
    _claim(
        "On the plane of 1/m the 1/√m solutions lie at the bump in the middle.",
        "note §4.7, Figure 6",
        "distance of their shadows from the centre over that of the 1/m solutions' shadows",
        widest("distance_ratio", "note"),
        (-np.inf, 0.5),
        scale=Scale.RATIO,
    ),
    _claim(
        "The plane shows where they are.",
        "note §4.7, Figure 6",
        "share of their squared distance from the centre that lies in the plane",
        widest("in_plane", "note"),
        (0.5, np.inf),
        scale=Scale.SHARE,
    ),
    _claim(
        "There the loss of 1/m is higher than where the 1/m solutions converge.",
        "note §4.7, Figure 6",
        "log10 of the 1/m loss at their shadows over that at the shadows of the 1/m solutions",
        log10_ratio(widest("shadow_loss", "note"), widest("mean_shadow_loss", "note")),
        (0.05, np.inf),
    ),
    _claim(
        "That says something of where they are, more than that they are near the middle.",
        "ours, on note §4.7",
        "log10 of the 1/m loss at their shadows over that at points of the plane as far from its centre",
        log10_ratio(widest("shadow_loss", "note"), widest("ring_loss", "note")),
        (0.05, np.inf),
    ),
    _claim(
        "Where they really are the loss of 1/m is higher than elsewhere.",
        "ours, on note §4.7",
        "log10 of the 1/m loss of their weights over that of random weights as far from the centre",
        log10_ratio(widest("true_loss", "note"), widest("around_loss", "note")),
        (0.05, np.inf),
        note="With these weights 1/m puts out 1/√m of what they were trained for: about the zero predictor's loss.",
    ),
    _claim(
        "The surface at their shadows is the loss they converge to.",
        "ours, on note §4.7 (what is drawn)",
        "log10 of their own test loss over the surface at their shadows",
        log10_ratio(widest("own_loss", "note"), widest("shadow_loss", "note")),
        (-0.1, 0.1),
    ),
    _claim(
        "They lie at a bump still when hidden units are put into one order.",
        "ours, on note §4.7",
        "log10 of the 1/m loss in the middle of the aligned plane over the mean loss of the 1/m solutions",
        log10_ratio(widest("middle_loss", "aligned"), widest("mean_solution_loss", "aligned")),
        (np.log10(2), np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left and middle the planes with both kinds of solutions, right shadow against true loss."""
    figure, axes = figures.new_figure(13, 4.4, columns=3, log=("", "", "xy"))
    titles = {"note": "note: units as trained", "aligned": "corrected: units in one order"}
    for ax, version in zip(axes, VERSIONS, strict=False):
        axis = ds[f"{version}_axis"].values
        panels.contours(ax, axis, ds[f"{version}_surface"].values)
        for name, marker, label in (("mean", "o", "1/m"), ("sqrt", "x", "m^(−1/2), shadows")):
            points = ds[f"{version}_{name}_points"].values
            ax.plot(points[:, 0], points[:, 1], marker, color="white", mfc="none", ms=6, label=label)
        ax.set_title(titles[version])
        ax.set_xlabel("first principal component")
        ax.legend(fontsize=8, loc="lower left", labelcolor="white", frameon=False)
    axes[0].set_ylabel("second principal component")
    figure.colorbar(panels.color_scale(), ax=axes[1], label="log10 of 1/m loss over zero's")
    ax = axes[2]
    for version, fill in zip(VERSIONS, (True, False), strict=True):
        for name, color, label in (("mean", figures.BLUE, "1/m"), ("sqrt", figures.ORANGE, "m^(−1/2)")):
            points = ds[f"{version}_{name}_points"].values
            inside = color if fill else "none"
            ax.plot(points[:, 2], points[:, 3], "o", ms=5, color=color, mfc=inside, label=f"{label}, {version}")
    both = [
        f(limits)
        for f, limits in ((min, (ax.get_xlim()[0], ax.get_ylim()[0])), (max, (ax.get_xlim()[1], ax.get_ylim()[1])))
    ]
    ax.plot(both, both, color=figures.INK, linewidth=0.8)
    ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # all digits have no room
    figures.finish(ax, x="surface at the shadow, over zero's loss", y="true test loss at own scale, over zero's")
    return figure


def interactive(ds: xr.Dataset) -> dict[str, object]:
    """Both surfaces in three dimensions, with the shadows and the true losses above them."""
    chosen = {}
    for version, name in (("aligned", "corrected: units in one order"), ("note", "the note's protocol")):
        points = {}
        for kind, label in (("mean", "1/m"), ("sqrt", "m^(−1/2)")):
            x, y, shadow, true = ds[f"{version}_{kind}_points"].values.T
            points[f"{label}, shadow"] = np.column_stack([x, y, np.log10(shadow)])
            points[f"{label}, true loss"] = np.column_stack([x, y, np.log10(true)])
        chosen[name] = panels.Surface(ds[f"{version}_axis"].values, ds[f"{version}_surface"].values, points)
    return panels.choose_surface(chosen)


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Shares and losses by width, means over seeds, both versions."""
    labels = {
        "in_plane": "share in the plane",
        "distance_ratio": "distance ratio",
        "shadow_loss": "1/m loss at shadows",
        "ring_loss": "on the ring",
        "true_loss": "1/m loss of the weights",
        "around_loss": "of random weights",
        "own_loss": "own loss",
        "middle_loss": "1/m loss in the middle",
        "mean_solution_loss": "of 1/m solutions",
    }
    rows = {f"{label}, {v}": ds[name].sel(version=v) for v in VERSIONS for name, label in labels.items()}
    return figures.table(rows, "width")


FIG6 = Figure(
    caption=CAPTION,
    sizes=SIZES,
    compute=compute,
    claims=CLAIMS,
    draw=draw,
    numbers=numbers,
    stated=STATED,
    interactive=interactive,
)
