"""Chizat et al. 2019, Figure 3b: stability of activations against the output scale alpha.

    lazyscope reproduce chizat2019-fig3b --size quick

The share of gates (signs of a ReLU, places of a maximum) that are after training as they were at w0, over held-out
images and units of a layer. The runs are those of Figure 3a and come from the store where that was computed. The
printed lists of the authors' code are sums over 100 test batches; these are shares.

quick 41 s on two idle cores, nothing after Figure 3a. Expected (3 trials): at alpha = 1 between 0.40 in the last and
0.94 in the first layer; at alpha = 20 between 0.83 and 0.995; all of them at 1e7.
"""

import matplotlib
import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.image_nets.training import RUNS, STATED, at_every_scale, nets
from lazyscope.papers.quantities import FIRST, LAST, at

CAPTION = (
    "Share of ReLU signs and pooling choices that training leaves as they were at the start, on held-out images, one "
    "curve a layer from the first (dark) to the last (light). The larger alpha, the fewer gates flip; deeper layers "
    "flip more."
)


def least_stable(ds: xr.Dataset) -> xr.DataArray:
    """The least share of unchanged gates over layers."""
    return nets(ds).stability.min("layer")


def fall(ds: xr.Dataset) -> xr.DataArray:
    """The largest fall of the mean stability from one alpha to the next, as a negative number; rises count as 0."""
    return nets(ds).stability.mean("layer").diff("alpha").clip(max=0).min("alpha")


def depth(ds: xr.Dataset) -> xr.DataArray:
    """Mean stability of the first half of the layers minus that of the second."""
    stability, half = ds.stability, ds.sizes["layer"] // 2
    return stability.isel(layer=slice(half)).mean("layer") - stability.isel(layer=slice(half, None)).mean("layer")


SOURCE = "Chizat et al. 2019, §3.2, Figure 3b"
CLAIMS = (
    Claim(
        sentence="In the lazy regime activations do not change.",
        source=SOURCE,
        measure="least share of unchanged gates over layers at the largest alpha",
        quantity=at(least_stable, alpha=LAST),
        accepted=(0.99, np.inf),
        scale=Scale.SHARE,
    ),
    Claim(
        sentence="Away from it they do.",
        source=SOURCE,
        measure="least share of unchanged gates over layers at the smallest alpha",
        quantity=at(least_stable, alpha=FIRST),
        accepted=(-np.inf, 0.9),
        scale=Scale.SHARE,
    ),
    Claim(
        sentence="Stability increases with alpha.",
        source=SOURCE,
        measure="largest fall of the mean share from one alpha to the next (0: it never falls)",
        quantity=at(fall),
        accepted=(-0.01, np.inf),
    ),
    Claim(
        sentence="Deeper layers change more.",
        source="ours, on Figure 3b",
        measure="mean share in the first half of the layers minus the second half, at the smallest alpha",
        quantity=at(depth, alpha=FIRST),
        accepted=(0.0, np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """One curve a layer."""
    figure, (ax,) = figures.new_figure(log="x")
    shares = nets(ds).stability
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, shares.sizes["layer"]))
    for i, colour in enumerate(colours):
        name = {0: "first layer", shares.sizes["layer"] - 1: "last layer"}.get(i)
        mean = shares.isel(layer=i).mean("seed")
        ax.plot(shares.alpha, mean, "o-", color=colour, markersize=3.5, linewidth=1.4, label=name)
    figures.finish(ax, x="output scale alpha", y="share of unchanged gates", legend="lower right")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Share of unchanged gates by alpha, in all layers together and by layer."""
    shares = nets(ds).stability
    rows = {"mean": shares.mean("layer")} | {
        f"layer {i + 1}": shares.isel(layer=i) for i in range(shares.sizes["layer"])
    }
    return figures.table(rows, "alpha")


FIG3B = Figure(
    caption=CAPTION, sizes=RUNS, compute=at_every_scale, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED
)
