"""Chizat et al. 2019, Figure 3b: stability of activations against the output scale alpha.

    lazyscope reproduce chizat2019-fig3b --size quick

The share of gates (signs of a ReLU, places of a maximum) that are after training as they were at w0, over held-out
images and units of a layer. The runs are those of Figure 3a and come from the store where that was computed. The
printed lists of the authors' code are sums over 100 test batches; these are shares.
"""

import matplotlib
import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.image_nets.training import RUNS, STATED, at_every_scale, not_linearised
from lazyscope.papers.quantities import FIRST, LAST, at

CAPTION = (
    "Share of ReLU signs and pooling choices that training leaves as they were at the start, on held-out images, one "
    "panel a net and one curve a layer from the first (dark) to the last (light). The larger alpha, the fewer gates "
    "flip; deeper layers flip more."
)


def least_stable(ds: xr.Dataset) -> xr.DataArray:
    """The least share of unchanged gates over layers, by net."""
    return not_linearised(ds).stability.min("layer")


def fall(ds: xr.Dataset) -> xr.DataArray:
    """The largest fall of the mean stability from one alpha to the next, as a negative number; rises count as 0."""
    return not_linearised(ds).stability.mean("layer").diff("alpha").clip(max=0).min(["alpha", "net"])


def depth(ds: xr.Dataset) -> xr.DataArray:
    """Mean stability of the first half of a net's layers minus that of the second, least over nets."""
    halves = xr.where(ds.layer <= ds.stability.count("layer") // 2, 1, -1)
    first, second = (ds.stability.where(halves == half).mean("layer") for half in (1, -1))
    return (first - second).min("net")


SOURCE = "Chizat et al. 2019, §3.2, Figure 3b"
CLAIMS = (
    Claim(
        sentence="In the lazy regime activations do not change.",
        source=SOURCE,
        measure="least share of unchanged gates over layers and nets at the largest alpha",
        quantity=at(lambda ds: least_stable(ds).min("net"), alpha=LAST),
        accepted=(0.99, np.inf),
        scale=Scale.SHARE,
    ),
    Claim(
        sentence="Away from it they do.",
        source=SOURCE,
        measure="least share of unchanged gates over layers at the smallest alpha, largest over nets",
        quantity=at(lambda ds: least_stable(ds).max("net"), alpha=FIRST),
        accepted=(-np.inf, 0.9),
        scale=Scale.SHARE,
        note="After 64 steps ResNet-18 has .86 of the gates of its last layer still, VGG-11 .40.",
    ),
    Claim(
        sentence="Stability increases with alpha.",
        source=SOURCE,
        measure="largest fall of the mean share from one alpha to the next over nets (0: it never falls)",
        quantity=at(fall),
        accepted=(-0.01, np.inf),
    ),
    Claim(
        sentence="Deeper layers change more.",
        source="ours, on Figure 3b",
        measure="mean share in the first half of the layers minus the second, at the smallest alpha, least over nets",
        quantity=at(depth, alpha=FIRST),
        accepted=(0.0, np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """One panel a net, one curve a layer."""
    figure, axes = figures.new_figure(5.2 * ds.sizes["net"] + 2.0, columns=ds.sizes["net"], log="x")
    for ax, net in zip(axes, ds.net.values, strict=True):
        shares = _shares(ds, net)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, shares.sizes["layer"]))
        for i, colour in enumerate(colours):
            name = {0: "first layer", shares.sizes["layer"] - 1: "last layer"}.get(i)
            mean = shares.isel(layer=i).mean("seed")
            ax.plot(shares.alpha, mean, "o-", color=colour, markersize=3.5, linewidth=1.4, label=name)
        ax.set_title(net)
        figures.finish(ax, x="output scale alpha", y="share of unchanged gates", legend="lower right")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Share of unchanged gates by alpha, in all layers of a net together and by layer."""
    rows = {}
    for net in ds.net.values:
        shares = _shares(ds, net)
        rows[f"{net}, mean"] = shares.mean("layer")
        rows |= {f"{net}, layer {layer}": shares.sel(layer=layer) for layer in shares.layer.values}
    return figures.table(rows, "alpha")


def _shares(ds: xr.Dataset, net: str) -> xr.DataArray:
    return not_linearised(ds).stability.sel(net=net).dropna("layer", how="all")


FIG3B = Figure(
    caption=CAPTION, sizes=RUNS, compute=at_every_scale, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED
)
