"""Chizat et al. 2019, Figure 3b: stability of activations against the output scale alpha.

    lazyscope reproduce chizat2019-fig3b --size quick

The share of gates (signs of a ReLU, places of a maximum) that are after training as they were at w0, over held-out
images and units of a layer. The runs are those of Figure 3a and come from the store where that was computed. The
printed lists of the authors' code are sums over 100 test batches; these are shares.

quick 41 s on two idle cores, nothing after Figure 3a. Expected (3 trials): at alpha = 1 between 0.40 in the last and
0.94 in the first layer; at alpha = 20 between 0.83 and 0.995; all of them at 1e7.
"""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers.chizat2019 import deep_cells
from lazyscope.papers.chizat2019.deep_cells import Runs

SIZES: dict[str, Runs] = deep_cells.SIZES
SETTINGS = deep_cells.SETTINGS
CAPTION = (
    "Share of ReLU signs and pooling choices that training leaves as they were at the start, on held-out images, one "
    "curve a layer from the first (dark) to the last (light). The larger alpha, the fewer gates flip; deeper layers "
    "flip more."
)
compute = deep_cells.compute


def _scales(ds: xr.Dataset) -> xr.Dataset:
    return ds.sel(alpha=np.isfinite(ds.alpha))


def least_stable(ds: xr.Dataset, place: int) -> np.ndarray:
    """The least stability over layers at one alpha."""
    return _scales(ds).stability.isel(alpha=place).min("layer").values


def rise(ds: xr.Dataset) -> np.ndarray:
    """The largest fall of the mean stability from one alpha to the next, as a negative number; rises count as 0."""
    return np.minimum(_scales(ds).stability.mean("layer").diff("alpha"), 0).min("alpha").values


def depth(ds: xr.Dataset) -> np.ndarray:
    """Mean stability of the first half of the layers minus that of the second, at the smallest alpha."""
    at = _scales(ds).stability.isel(alpha=0)
    half = at.sizes["layer"] // 2
    return (at.isel(layer=slice(half)).mean("layer") - at.isel(layer=slice(half, None)).mean("layer")).values


def _claim(
    sentence: str,
    measure: str,
    quantity: object,
    accepted: tuple[float, float],
    source: str,
    scale: Scale = Scale.REAL,
) -> Claim:
    expected = {"tiny": None, "quick": Outcome.HOLDS, "paper": None}
    return Claim(sentence, source, measure, quantity, accepted, expected, scale=scale)  # type: ignore[arg-type]


_SOURCE = "Chizat et al. 2019, §3.2, Figure 3b"
CLAIMS = (
    _claim(
        "In the lazy regime activations do not change.",
        "least share of unchanged gates over layers at the largest alpha",
        lambda ds: least_stable(ds, -1),
        (0.99, np.inf),
        _SOURCE,
        Scale.SHARE,
    ),
    _claim(
        "Away from it they do.",
        "least share of unchanged gates over layers at the smallest alpha",
        lambda ds: least_stable(ds, 0),
        (-np.inf, 0.9),
        _SOURCE,
        Scale.SHARE,
    ),
    _claim(
        "Stability increases with alpha.",
        "largest fall of the mean share from one alpha to the next (0: it never falls)",
        rise,
        (-0.01, np.inf),
        _SOURCE,
    ),
    _claim(
        "Deeper layers change more.",
        "mean share in the first half of the layers minus the second half, at the smallest alpha",
        depth,
        (0.0, np.inf),
        "ours, on Figure 3b",
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """One curve a layer."""
    figure, (ax,) = figures.new_figure()
    ax.set_xscale("log")
    shares = _scales(ds).stability
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, shares.sizes["layer"]))
    for i, colour in enumerate(colours):
        name = {0: "first layer", shares.sizes["layer"] - 1: "last layer"}.get(i)
        mean = shares.isel(layer=i).mean("seed")
        ax.plot(shares.alpha, mean, "o-", color=colour, markersize=3.5, linewidth=1.4, label=name)
    figures.finish(ax, x="output scale alpha", y="share of unchanged gates", legend="lower right")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Share of unchanged gates by alpha, in all layers together and by layer."""
    shares = _scales(ds).stability
    rows = {"mean": shares.mean("layer")} | {
        f"layer {i + 1}": shares.isel(layer=i) for i in range(shares.sizes["layer"])
    }
    return figures.table(rows, "alpha")
