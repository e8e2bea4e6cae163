"""Geiger et al. 2020: the output scale at which training stops being lazy falls with width as m^(−1/2).

    lazyscope reproduce geiger2020 --size quick

They train alpha·h with h in NTK parametrisation, h = (1/√m) Σ_i a_i φ(b_i·x), standard normal weights, and find the
crossover by bisection on the change of the kernel Dh Dhᵀ. Here it is `lazyscope.crossover`, on the change j of Dh
itself and on the gap g as well: the smallest alpha at which g <= 0.05 and j <= 0.1. Theirs subtracts the initial
output; ours is doubled, which makes it 0 as well and leaves one compiled program for every trial of a width. Both
changes depend on alpha·√m alone to leading order, so the law is the same. Settings are ours; the law is in their
abstract.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.diagnose import crossover
from lazyscope.models import two_layer
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.quantities import LAZY, power
from lazyscope.problems import Case, teacher_student


@dataclass(frozen=True)
class Net:
    """The problem, the steps of descent at half the stability limit, and how finely alpha is bisected."""

    n: int
    d: int
    num_steps: int
    tolerance: float


@dataclass(frozen=True)
class Widths:
    """Nets of several widths."""

    widths: tuple[int, ...]
    net: Net


SIZES = {
    "tiny": Size(Widths((16, 64), Net(n=16, d=4, num_steps=60, tolerance=0.2)), seeds=3),
    "quick": Size(Widths((128, 512, 2048), Net(n=40, d=8, num_steps=300, tolerance=0.05)), seeds=3),
    "paper": Size(Widths((32, 64, 128, 256, 512, 1024), Net(n=100, d=10, num_steps=1500, tolerance=0.02)), seeds=10),
}
CAPTION = (
    "The output scale above which training is lazy, against width, in NTK parametrisation, with the fitted power law. "
    "A wider net is lazy at a smaller scale: width and output scale act through alpha·√m alone."
)


def at_crossover(key: Key[Array, ""], *, width: int, net: Net) -> dict[str, float]:
    """The crossover of one net in NTK parametrisation, h over √width: √width times what `crossover` finds."""
    key_data, key_init, key_norm = jax.random.split(key, 3)
    problem = teacher_student(key_data, n=net.n, d=net.d, n_test=net.n)
    model = two_layer(width, net.d, jnp.tanh)
    # On the unit sphere b·x has variance 1, so that units are neither linear nor saturated.
    case = Case(model.apply, model.init(key_init, doubled=True), problem, alpha=float(width) ** -0.5)
    found = crossover(case, key=key_norm, num_steps=net.num_steps, tolerance=net.tolerance)
    return {"alpha": found.alpha * float(np.sqrt(width))}


CROSSOVER = Cell(at_crossover, 1, compiled=False)  # a bisection is no fixed program


def compute(settings: Widths, trials: Trials) -> xr.Dataset:
    """The crossover alpha* over width and seed."""
    return trials.over(CROSSOVER, {"width": settings.widths}, net=settings.net)


SLOPE = power("alpha", "width")
CLAIMS = (
    Claim(
        sentence="The crossover between lazy and feature training lies at alpha* ~ width^(−1/2).",
        source="Geiger et al. 2020, abstract",
        measure="slope of log alpha* against log width",
        quantity=SLOPE,
        accepted=(-0.6, -0.4),
        note="The slope is −0.500, −0.48 from 128 to 512 and −0.52 from 512 to 2048; the ±0.103 that three trials "
        "leave is a little more than the range allows.",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """The crossover against width with the fitted power."""
    figure, (ax,) = figures.new_figure(6.4, 4.2, log="xy", base=2)
    label = f"alpha*: g <= {LAZY.gap_lazy} and j <= {LAZY.differential_lazy}"
    figures.curve(ax, ds.alpha, "width", label=label, color=figures.BLUE, marker="o")
    mean = float(SLOPE(ds).mean())
    centre = np.exp(np.log(ds.alpha).mean())
    middle = np.exp(np.log(ds.width).mean())
    law = float(centre) * (ds.width / float(middle)) ** mean
    ax.plot(ds.width, law, "--", color=figures.ORANGE, label=f"width^{mean:.2f}")
    figures.finish(ax, x="width m", y="output scale alpha*")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """The crossover against width, means over seeds."""
    return figures.table({"alpha*": ds.alpha}, "width")


GEIGER2020 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers)
