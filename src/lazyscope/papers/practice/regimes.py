"""Note, §5.3: are networks in practice lazy? Regimes of standard initialisations, widths, nets and optimisers.

    lazyscope reproduce note-s5.3 --size quick

The note says that the scales which make training lazy are not used in practice, and tabulates nothing. Here are kappa,
g, j and the regime of six initialisations (`networks.py` defines them) for an MLP, a conv net and an attention block on
handwritten digits, trained with SGD and with Adam. All settings are ours. kappa comes from one ascent, so it is a lower
bound.
"""

from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.diagnose import regime
from lazyscope.papers.figure import Figure, Size, Trials, side_by_side
from lazyscope.papers.practice.networks import INITIALISATIONS, NETS, OPTIMISERS, TRAINED, Practice
from lazyscope.papers.quantities import LAZY, Quantity, at
from lazyscope.papers.stated_settings import ours

COLORS = {"lazy": "#c6dbef", "mixed": "#fdd9b5", "not lazy": "#f4a582"}


@dataclass(frozen=True)
class Grid:
    """Which nets at which widths; every initialisation and both optimisers each."""

    settings: Practice
    nets: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def cases(self) -> list[tuple[str, int]]:
        """Every net at every width."""
        return [(net, width) for net in self.nets for width in self.widths]


TINY = Practice(n=48, n_test=32, batch=16, num_steps=30, norm_examples=16, kernel_examples=4)
SIZES = {
    "tiny": Size(Grid(TINY, ("MLP",), (16,)), seeds=3),
    "quick": Size(
        Grid(
            Practice(n=256, n_test=128, batch=48, num_steps=200, norm_examples=48, kernel_examples=4),
            tuple(NETS),
            (128,),
        ),
        seeds=3,
    ),
    "paper": Size(Grid(Practice(), tuple(NETS), (64, 128, 256, 512, 1024)), seeds=5),
}
STATED = (
    ours(
        "six initialisations of three nets on handwritten digits, SGD and Adam",
        "the note has no experiment; settings are ours",
        stand_in="on digits",
    ),
)
CAPTION = (
    "Regime (colour), gap g and change j of the differential of each initialisation, net and optimiser, medians over "
    "trials; lazy is g <= 0.05 and j <= 0.1. None of these combinations trains lazily: three small nets on handwritten "
    "digits (quick: width 128, 256 images, 200 steps; paper: 1000 and 1000; all ours). They stand for the "
    "initialisations of practice, not for its nets and data."
)


def compute(settings: Grid, trials: Trials) -> xr.Dataset:
    """Every cell over (case, initialisation, optimiser, seed); a case is a net at a width."""
    names = {"initialisations": INITIALISATIONS, "optimisers": OPTIMISERS}
    places = {"initialisation": range(len(INITIALISATIONS)), "optimiser": range(len(OPTIMISERS))}
    cases = {
        f"{net} {width}": trials.over(TRAINED, places, net=net, width=width, settings=settings.settings, **names)
        for net, width in settings.cases
    }
    return side_by_side("case", cases).assign_coords(
        initialisation=list(INITIALISATIONS),
        optimiser=list(OPTIMISERS),
        width=("case", [width for _, width in settings.cases]),
    )


def regimes(ds: xr.Dataset) -> xr.DataArray:
    """The regime of every cell, in words."""
    return xr.apply_ufunc(lambda g, j: regime(float(g), float(j), LAZY), ds.gap, ds.differential_change, vectorize=True)


def share(name: str) -> Quantity:
    """Share of (case, initialisation, optimiser) whose regime this is."""
    return at(lambda ds: (regimes(ds) == name).mean(["case", "initialisation", "optimiser"]))


def ntk_against_mup(ds: xr.Dataset) -> np.ndarray:
    """Mean over cases of log10 k under the NTK parametrisation minus that under muP, SGD, at the largest width."""
    widest = ds.isel(case=np.flatnonzero(ds.width.values == ds.width.values.max())).sel(optimiser="SGD")
    ratio = widest.kernel_change.sel(initialisation="NTK") / widest.kernel_change.sel(initialisation="muP")
    return np.log10(ratio).mean("case").values


CLAIMS = (
    Claim(
        sentence="In practical settings the scales that induce lazy training are generally not employed.",
        source="note §5.3",
        measure="share of initialisations, nets and optimisers that train lazily",
        quantity=share("lazy"),
        accepted=(-np.inf, 0.1),
        scale=Scale.SHARE,
        note="The note gives the CNNs of [2] as an example, with a large tau. They have the usual initialisation "
        "(Xavier); what is large there is the output scale alpha (chizat2019-fig3a, code of [2]).",
    ),
    Claim(
        sentence="Most of practice is far from lazy, not only on its edge.",
        source="ours, after note §5.3",
        measure="share of initialisations, nets and optimisers whose regime is `not lazy`",
        quantity=share("not lazy"),
        accepted=(0.5, np.inf),
        scale=Scale.SHARE,
    ),
    Claim(
        sentence="The NTK parametrisation moves the kernel less than muP, which learns features at every width.",
        source="ours, after Yang & Hu 2021",
        measure="mean log10 of k, the largest kernel change of a weight, NTK over muP, with SGD at the largest width",
        quantity=ntk_against_mup,
        accepted=(-np.inf, 0.0),
        note="At the width of quick the two differ little; at 1024 by the conv net alone (k 0.73 against 1.2).",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """One table of coloured squares an optimiser: g over j in each, medians over seeds."""
    cases, inits = list(ds.case.values), list(ds.initialisation.values)
    figure, axes = figures.new_figure(5.6 * len(OPTIMISERS), 1.2 + 0.62 * len(cases), columns=len(OPTIMISERS))
    middle = ds[["gap", "differential_change"]].median("seed")
    for ax, optimiser in zip(axes, OPTIMISERS, strict=True):
        ax.grid(False)
        for row, case in enumerate(cases):
            for column, init in enumerate(inits):
                one = middle.sel(case=case, initialisation=init, optimiser=optimiser)
                g, j = float(one.gap), float(one.differential_change)
                color = COLORS[regime(g, j, LAZY)]
                ax.add_patch(figures.square(column, row, color))
                ax.annotate(f"g {g:.2g}\nj {j:.2g}", (column, row), ha="center", va="center", fontsize=8)
        ax.set_xlim(-0.5, len(inits) - 0.5)
        ax.set_ylim(len(cases) - 0.5, -0.5)
        ax.set_xticks(range(len(inits)), [name.replace(" ", "\n") for name in inits], fontsize=8)
        ax.set_yticks(range(len(cases)), cases, fontsize=8)
        ax.tick_params(length=0)
        ax.set_title(f"trained with {optimiser}")
    present = [name for name in COLORS if (regimes(middle) == name).any()]
    figures.swatches(axes[-1], {name: COLORS[name] for name in present})
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Medians over seeds, one row per case, initialisation and optimiser."""
    names = ("kappa", "gap", "differential_change", "kernel_change", "movement", "accuracy", "linear_accuracy")
    rows = [["case", "initialisation", "optimiser", *names, "regime"]]
    middle = ds[list(names)].median("seed")
    for case in ds.case.values:
        for init in ds.initialisation.values:
            for optimiser in ds.optimiser.values:
                one = middle.sel(case=case, initialisation=init, optimiser=optimiser)
                verdict = regime(float(one.gap), float(one.differential_change), LAZY)
                rows.append([str(case), str(init), str(optimiser), *(f"{float(one[n]):.3g}" for n in names), verdict])
    return rows


S5_3 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
