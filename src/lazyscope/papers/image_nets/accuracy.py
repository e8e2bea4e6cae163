"""Chizat et al. 2019, Figure 3a: accuracy of an image net against its output scale alpha.

    lazyscope reproduce chizat2019-fig3a --size quick

Three nets: the one trained, alpha·(h(w) − h(w0)); the *frozen-activation* net, the same trained weights under the
activation pattern of w0; and the *linearised* net, the first-order Taylor expansion at w0, trained by itself. The
second is what the authors' code calls lazy; it equals the third only where no gate has flipped. Training and its
settings: `training.py`. float32 throughout, exact at alpha = 1e7 (differences are propagated layer by layer).

quick uses the digits that come with scikit-learn as 32 x 32 images, VGG-11 and ResNet-18 at 1/8 of their width, 512
training images, four epochs; Figure 3b and Table 1 come from the same runs. paper: VGG-11 at full width, CIFAR-10
(`--data DIR`), 100 epochs; not run here, a GPU's work. Settings of the paper that no code confirms are ours: learning
rates (`training.py`), three trials.
"""

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.image_nets.training import CLASSES, RUNS, SPLITS, STATED, at_every_scale, not_linearised
from lazyscope.papers.quantities import LAST, Quantity, at

CAPTION = (
    "Accuracy on held-out images (solid) and training images (dotted) against the output scale alpha, at equal numbers "
    "of epochs, one panel a net; bands: one standard deviation over trials. At large alpha the net ends where its "
    "linearisation ends; where it does better it has left it, and its weights under the initial activation pattern are "
    "no model of it."
)


def lazy_loss_of_accuracy(split: str) -> Quantity:
    """Best accuracy over alpha minus that at the largest alpha, of the net that loses least."""

    def lost(ds: xr.Dataset) -> xr.DataArray:
        accuracy = not_linearised(ds).accuracy
        return (accuracy.max("alpha") - accuracy.isel(alpha=-1)).min("net")

    return at(lost, split=split)


def overfitting(ds: xr.Dataset) -> xr.DataArray:
    """Training minus held-out accuracy, linearised less net at the smallest alpha, of the net where it is most."""
    drop = ds.accuracy.sel(split="train") - ds.accuracy.sel(split="test")
    return (drop.sel(alpha=np.inf) - drop.isel(alpha=0)).max("net")


def frozen_is_another(ds: xr.Dataset) -> xr.DataArray:
    """|Accuracy of the frozen-activation net − that of the linearised net| at the smallest alpha, least over nets."""
    return abs(ds.frozen_accuracy.isel(alpha=0) - ds.accuracy.sel(alpha=np.inf)).min("net")


CLAIMS = (
    Claim(
        sentence="Performance on held-out images degrades in the lazy regime.",
        source="Chizat et al. 2019, §3.2, Figure 3a",
        measure="best held-out accuracy over alpha minus that at the largest alpha, least over nets",
        quantity=lazy_loss_of_accuracy("test"),
        accepted=(0.05, np.inf),
        scale=Scale.RATIO,
    ),
    Claim(
        sentence="The lazy model does not fit the training images as well either.",
        source="Chizat et al. 2019, §3.2",
        measure="best training accuracy over alpha minus that at the largest alpha, least over nets",
        quantity=lazy_loss_of_accuracy("train"),
        accepted=(0.05, np.inf),
        scale=Scale.RATIO,
        note="At quick size ResNet-18 fits 512 images best where it is lazy: it has been trained too little elsewhere.",
    ),
    Claim(
        sentence="At large alpha the net is its linearisation.",
        source="Chizat et al. 2019, §3.2; note §5.3",
        measure="‖f − f_lin‖/‖f_lin‖ on held-out images at the largest alpha, both trained; largest over nets",
        quantity=at(lambda ds: not_linearised(ds).gap.max("net"), alpha=LAST),
        accepted=(-np.inf, 0.05),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="The linearised model overfits less than the net.",
        source="Chizat et al. 2019, §3.2 (no overfitting in the lazy regime)",
        measure="training minus held-out accuracy, linearised net less net at the smallest alpha, largest over nets",
        quantity=at(overfitting),
        accepted=(-np.inf, 0.0),
        note="At quick size 512 images are easily fitted; the paper's 50 000 are not fitted by its linearised nets.",
    ),
    Claim(
        sentence="Current weights under the initial activation pattern are not the linearised model.",
        source="ours, on their code's measure",
        measure="|held-out accuracy, frozen activations − linearised|, at the smallest alpha, least over nets",
        quantity=at(frozen_is_another, split="test"),
        accepted=(0.05, np.inf),
        scale=Scale.RATIO,
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Accuracies against alpha, one panel a net; the linearised net as a level."""
    figure, axes = figures.new_figure(5.75 * ds.sizes["net"], 4.2, columns=ds.sizes["net"], log="x")
    kinds = (("accuracy", "net", figures.BLUE, "o"), ("frozen_accuracy", "activations frozen", figures.GREEN, "s"))
    for ax, net in zip(axes, ds.net.values, strict=True):
        ax.set_ylim(0, 1.02)
        scales, line = not_linearised(ds).sel(net=net), ds.accuracy.sel(net=net, alpha=np.inf)
        for split, images, style in (("test", "held-out", "-"), ("train", "training", ":")):
            for name, label, color, marker in kinds:
                values = scales[name].sel(split=split)
                figures.curve(ax, values, "alpha", label=f"{label}, {images}", color=color, line=style, marker=marker)
            level = float(line.sel(split=split).mean())
            ax.axhline(level, color=figures.ORANGE, linestyle=style, label=f"linearised, {images}")
        ax.axhline(1 / CLASSES, color=figures.GREY, linewidth=1, linestyle=":", label="chance")
        ax.set_title(net)
        figures.finish(ax, x="output scale alpha", y="accuracy", legend="lower center")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Accuracies, losses and the gap to the linearised net by net and alpha (inf: the linearised net itself)."""
    rows = {}
    for net in ds.net.values:
        one = ds.sel(net=net)
        for split in SPLITS:
            rows |= {
                f"{net}, {split} accuracy": one.accuracy.sel(split=split),
                f"{net}, {split} accuracy, frozen activations": one.frozen_accuracy.sel(split=split),
                f"{net}, {split} loss": one.loss.sel(split=split),
            }
        rows[f"{net}, gap to linearised"] = one.gap
    return figures.table(rows, "alpha")


FIG3A = Figure(
    caption=CAPTION, sizes=RUNS, compute=at_every_scale, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED
)
