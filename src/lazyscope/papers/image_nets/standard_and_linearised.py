"""Chizat et al. 2019, Table 1: accuracy of wide image nets, standard and linearised.

    lazyscope reproduce chizat2019-table1 --size quick

VGG-11 and ResNet-18 without batch norm, trained at alpha = 1 and as their Taylor linearisations (alpha = inf), as in
Figure 3a (`training.py`). The paper's nets are eight times as wide as these; its numbers are drawn beside ours and
are known from the paper alone: with CIFAR-10, other widths and two orders of magnitude more training they are not what
a quick run should give. Which of two nets is better is what both can say.

quick: both at 1/8 of their width on the digits, from the runs of Figure 3a where those are in the store. tiny: a net of
three convolutions. paper: both nets at width factor 8 on CIFAR-10 (`--data DIR`), not run here.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size, Trials, side_by_side
from lazyscope.papers.image_nets.training import PAPER, QUICK_NETS, TINY, Deep, trainings
from lazyscope.papers.quantities import at
from lazyscope.papers.stated_settings import Setting
from lazyscope.vision import resnet18

PUBLISHED = {
    ("VGG-11", "linearised"): (61.0, 61.7),
    ("VGG-11", "standard"): (99.9, 89.7),
    ("ResNet-18", "linearised"): (55.0, 56.7),
    ("ResNet-18", "standard"): (99.4, 91.0),
}
"""Per cent on training and test images, widths times 8 (Chizat et al. 2019, Table 1; not checked by any run here)."""

MODES = {"standard": 1.0, "linearised": np.inf}


@dataclass(frozen=True)
class Table:
    """Nets by name with their trainings."""

    nets: tuple[tuple[str, Deep], ...]


WIDE = replace(PAPER, factor=8)
SIZES = {
    "tiny": Size(Table((("VGG-11", TINY),)), seeds=3),
    "quick": Size(Table(QUICK_NETS), seeds=3),
    "paper": Size(Table((("VGG-11", WIDE), ("ResNet-18", replace(WIDE, net=resnet18)))), seeds=3),
}
STATED = (
    Setting("nets.VGG-11.cifar", "yes", "digits where CIFAR-10 is not at hand", stand_in="on digits"),
    Setting("nets.VGG-11.factor", "8", "time"),
    Setting("nets.VGG-11.epochs", "100", "time"),
    Setting("nets.VGG-11.batch", "128", "few images"),
)
CAPTION = (
    "Accuracy on training and held-out images of nets trained as they are and as their linearisations; bars are means "
    "over trials with one standard deviation, crosses the paper's numbers for CIFAR-10 and nets of eight times the "
    "width."
)


def compute(settings: Table, trials: Trials) -> xr.Dataset:
    """Accuracies by net, mode and split."""
    nets = {name: trainings(deep, tuple(MODES.values()), trials)[["accuracy"]] for name, deep in settings.nets}
    return side_by_side("net", nets).rename(alpha="mode").assign_coords(mode=list(MODES))


def standard_is_better(ds: xr.Dataset) -> xr.DataArray:
    """Accuracy, standard minus linearised, the least over nets."""
    return (ds.accuracy.sel(mode="standard") - ds.accuracy.sel(mode="linearised")).min("net")


CLAIMS = (
    Claim(
        sentence="Standard training is better on held-out images than training the linearisation.",
        source="Chizat et al. 2019, Table 1",
        measure="held-out accuracy, standard (alpha = 1) minus linearised, least over nets",
        quantity=at(standard_is_better, split="test"),
        accepted=(0.0, np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Bars for ours, crosses for the paper's."""
    figure, axes = figures.new_figure(9.5, 4.0, columns=2)
    for ax, split, title in zip(axes, ("train", "test"), ("training images", "held-out images"), strict=True):
        for i, ((net, mode), published) in enumerate(PUBLISHED.items()):
            label = "the paper's, CIFAR-10, 8 x width" if i == 0 else None
            ax.plot(i, published[split == "test"], "x", color=figures.INK, label=label)
            if net not in ds.net.values:
                continue
            values = 100 * ds.accuracy.sel(net=net, mode=mode, split=split)
            colour = figures.BLUE if mode == "standard" else figures.ORANGE
            ax.bar(i, float(values.mean()), yerr=float(values.std("seed", ddof=1)), color=colour, alpha=0.75)
        ax.set_xticks(range(len(PUBLISHED)), [f"{net}\n{mode}" for net, mode in PUBLISHED], fontsize=8)
        ax.set_ylim(0, 115)
        figures.finish(ax, x="", y=f"per cent right, {title}", legend="upper left")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Per cent right, ours (means over trials) and the paper's."""
    rows = [["net", "training", "train", "test", "paper, train", "paper, test"]]
    for (net, mode), published in PUBLISHED.items():
        if net not in ds.net.values:
            rows.append([net, mode, "not run", "not run", *(f"{value:.1f}" for value in published)])
            continue
        ours = [
            f"{100 * float(ds.accuracy.sel(net=net, mode=mode, split=split).mean()):.1f}" for split in ds.split.values
        ]
        rows.append([net, mode, *ours, *(f"{value:.1f}" for value in published)])
    return rows


TABLE1 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
