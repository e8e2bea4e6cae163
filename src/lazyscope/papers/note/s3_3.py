"""Note, §3.3: the criterion against the initialisation scale tau, plain and symmetrised.

    lazyscope reproduce note-s3.3 --size quick

For plain initialisation kappa tends to kappa_inf > 0 as tau grows: a plateau of the criterion, not of the test loss,
and no sign of lazy training (note-fig3). For symmetrised initialisation it has no plateau, kappa = tau^-2 kappa(1).
Expected at (n, d, m) = (1000, 100, 50): plain 18 at tau = 0.01, 0.22 at 0.1, 0.082 at 0.3, 0.074 from 1 on; symmetrised
18, 0.18, 0.020, 1.8e-3 at 1 and 1.8e-7 at 100. On two cores: tiny 5 s, quick 15 s, paper 30 s.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome
from lazyscope.papers.kappa_cells import CELL_VERSION, over_plane
from lazyscope.papers.protocol import Protocol, decades
from lazyscope.papers.settings import TRAINING, Setting, unused
from lazyscope.sweep import Progress, Store, sweep


@dataclass(frozen=True)
class Scales:
    """Values of tau and alpha at which kappa is evaluated, over independent teachers, data and initialisations."""

    protocol: Protocol
    taus: tuple[float, ...]
    alphas: tuple[float, ...]
    seeds: int


FULL = Protocol(n_test=1)
SMALL = replace(FULL, n=60, d=10, width=16)
SIZES = {
    "tiny": Scales(SMALL, decades(-2, 4, 1), (1.0,), seeds=3),
    "quick": Scales(FULL, decades(-2, 4, 0.5), (1.0,), seeds=5),
    "paper": Scales(FULL, decades(-2.2, 6, 0.2), (1.0,), seeds=10),
}
SETTINGS = (Setting("protocol.doubled", run="yes; no"), *unused("protocol", *TRAINING))
CAPTION = (
    "kappa at initialisation against tau. Plain (blue), it stops falling at kappa_inf, the level at which the residual "
    "is the initial output itself. Symmetrised (orange), it falls as tau^−2 for ever: there is no plateau of the "
    "criterion, and where the test loss of symmetrised nets is flat, kappa is still falling."
)


def compute(
    spec: Scales, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Kappa at every tau, alpha and seed, plain (`kappa`, `kappa_inf`) and symmetrised (`symmetrised_*`)."""
    both = xr.Dataset()
    for prefix, doubled in (("", False), ("symmetrised_", True)):
        ds = sweep(
            partial(over_plane, alphas=spec.alphas, protocol=replace(spec.protocol, doubled=doubled)),
            {"tau": spec.taus},
            key=key,
            seeds=spec.seeds,
            dims={"kappa": ("alpha",)},
            version=CELL_VERSION,
            store=store,
            progress=progress,
        )
        renamed = ds.assign_coords(alpha=list(spec.alphas)).rename({v: prefix + str(v) for v in ds.data_vars})
        both = both.merge(renamed, join="exact")
    return both


def plateau(ds: xr.Dataset) -> np.ndarray:
    """Plain kappa at the largest tau over kappa at tau = 10, minus 1."""
    values = ds.kappa.isel(alpha=0)
    return (values.isel(tau=-1) / values.sel(tau=10.0) - 1).values


def limit(ds: xr.Dataset) -> np.ndarray:
    """Plain kappa at the largest tau over kappa_inf, minus 1."""
    last = ds.isel(tau=-1, alpha=0)
    return (last.kappa / last.kappa_inf - 1).values


def symmetrised_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of log kappa against log tau, symmetrised, over all tau."""
    values = ds.symmetrised_kappa.isel(alpha=0).transpose("tau", "seed").values
    return np.polyfit(np.log(ds.tau.values), np.log(values), 1)[0]


def symmetrised_plateau(ds: xr.Dataset) -> np.ndarray:
    """log10 of symmetrised kappa at tau = 10 over that at tau = 1."""
    values = ds.symmetrised_kappa.isel(alpha=0)
    return np.log10((values.sel(tau=10.0) / values.sel(tau=1.0)).values)


EXPECTED: dict[str, Outcome | None] = {"tiny": Outcome.HOLDS, "quick": Outcome.HOLDS, "paper": Outcome.HOLDS}
CLAIMS = (
    Claim(
        sentence="For non-symmetrised initialisation the criterion stabilises as tau increases.",
        source="note §3.3, appendix A",
        measure="kappa at the largest tau over kappa at tau = 10, minus 1",
        quantity=plateau,
        accepted=(-0.05, 0.05),
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": Outcome.HOLDS},
        note="A constant kappa_inf > 0 is no entry into the lazy regime: see note-fig3.",
    ),
    Claim(
        sentence="There kappa ≈ ‖h(w')‖ ‖D²h(w')‖ / ‖Dh(w')‖².",
        source="note §3.3",
        measure="kappa at the largest tau over kappa_inf, minus 1",
        quantity=limit,
        accepted=(-0.01, 0.01),
        expected=EXPECTED,
    ),
    Claim(
        sentence="For symmetrised initialisation the plateau of the criterion occurs earlier as tau increases.",
        source="note §3.3",
        measure="log10 of kappa at tau = 10 over kappa at tau = 1; a plateau is 0",
        quantity=symmetrised_plateau,
        accepted=(-0.1, 0.1),
        expected={"tiny": Outcome.FAILS, "quick": Outcome.FAILS, "paper": Outcome.FAILS},
        note="There is none: with h(w0) = 0 kappa is ‖y‖‖D²h‖/‖Dh‖² and falls as tau^−q. Only the test loss is flat.",
    ),
    Claim(
        sentence="For symmetrised initialisation the criterion falls as tau^−q, q = 2.",
        source="ours, from note appendix A",
        measure="slope of log kappa against log tau",
        quantity=symmetrised_slope,
        accepted=(-2.01, -1.99),
        expected=EXPECTED,
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Kappa against tau, plain and symmetrised."""
    figure, (ax,) = figures.new_figure(7.2, 4.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    one = ds.isel(alpha=0)
    figures.curve(ax, one.kappa, "tau", label="plain", color=figures.BLUE, marker="o")
    figures.curve(ax, one.symmetrised_kappa, "tau", label="symmetrised", color=figures.ORANGE, marker="s")
    figures.levels(ax, [figures.Level(one.kappa_inf.isel(tau=-1), "kappa_inf", figures.GREY)])
    figures.finish(ax, x="initialisation scale tau", y="kappa")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Kappa against tau, means over seeds."""
    one = ds.isel(alpha=0)
    return figures.table({"plain": one.kappa, "symmetrised": one.symmetrised_kappa}, "tau")
