"""Note, §1.1: the criterion of two-layer nets against width, and against the output scale alpha.

    lazyscope reproduce note-s1.1 --size quick

E[kappa] is bounded by m^(-1/2) + 1/(m alpha(m)) up to constants, which the note leaves out: it falls as m^(-1/2) for
alpha = m^(-1/2), as m^(-1/4) for m^(-3/4) and not at all for 1/m. Plain initialisation, targets times 100 so that y
counts in the residual; with the teacher itself (`kappa_unit`) h(w0) dominates and kappa falls for 1/m, too. As printed,
with constant 1, the bound holds for the teacher and not for targets times 100: the second term is in proportion to ‖y‖.
Against alpha, kappa falls as 1/alpha only for a centred model; raw it tends to kappa_inf > 0.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.kappa.closed_form import OVER_WIDTH
from lazyscope.papers.quantities import LAST, Quantity, at, power
from lazyscope.papers.stated_settings import TRAINING, Setting, unused
from lazyscope.papers.student import Protocol, decades

EXPONENTS = (0.5, 0.75, 1.0)
NAMES = {0.5: "alpha = m^(−1/2)", 0.75: "alpha = m^(−3/4)", 1.0: "alpha = 1/m"}


@dataclass(frozen=True)
class Widths:
    """Widths and output scales at which kappa is evaluated, over independent teachers, data and initialisations."""

    protocol: Protocol
    widths: tuple[int, ...]
    alphas: tuple[float, ...]


FULL = Protocol(doubled=False, target_scale=100.0)
SIZES = {
    "tiny": Size(Widths(replace(FULL, n=60, n_test=1, d=10), (16, 64, 256), decades(-2, 4, 1)), seeds=6),
    "quick": Size(Widths(replace(FULL, n_test=1), (64, 128, 256, 512), decades(-2, 6, 0.5)), seeds=6),
    "paper": Size(
        Widths(replace(FULL, n_test=1), (64, 128, 256, 512, 1024, 2048, 4096), decades(-2, 6, 0.25)), seeds=10
    ),
}
STATED = (
    Setting(
        "protocol.target_scale", "not stated", "at unit targets the residual is not that of h(w0) and 1/m falls, too"
    ),
    *unused("protocol", "width", *TRAINING),
)
CAPTION = (
    "Left: kappa at initialisation against width for three output scales and targets times 100 (ours, as in the width "
    "experiments of chizat2019); the dashed lines have slopes −1/2, −1/4 and 0. Dotted, the teacher itself as target, "
    "where kappa falls for 1/m as well: h(w0) is most of the residual. Right: kappa against alpha, largest width. "
    "It falls for ever only when the output is centred; raw it stops at kappa_inf, which no output scale gets below by "
    "much."
)


def compute(settings: Widths, trials: Trials) -> xr.Dataset:
    """Kappa at every width, exponent and seed, and at every alpha."""
    ds = trials.over(
        OVER_WIDTH,
        {"width": settings.widths},
        protocol=settings.protocol,
        exponents=EXPONENTS,
        alphas=settings.alphas,
    )
    return ds.assign_coords(exponent=list(EXPONENTS), alpha=list(settings.alphas))


def bound_ratio(variable: str, exponents: tuple[float, ...]) -> Quantity:
    """Kappa over m^(-1/2) + 1/(m alpha(m)), per seed, at the width and exponent where its mean is largest."""

    def largest(ds: xr.Dataset) -> np.ndarray:
        chosen = ds.sel(exponent=list(exponents))
        bound = chosen.width**-0.5 + chosen.width ** (chosen.exponent - 1.0)
        cells = (chosen[variable] / bound).stack(cell=("width", "exponent"))
        return cells.isel(cell=int(cells.mean("seed").argmax("cell"))).values

    return largest


def largest_rise(ds: xr.Dataset) -> xr.DataArray:
    """Largest change of log10 kappa from one alpha to the next, raw output; negative where it always decreases."""
    return np.log10(ds.kappa_raw).diff("alpha").max("alpha")


def two_last_decades(ds: xr.Dataset) -> xr.DataArray:
    """Kappa with the raw output, over the last two decades of alpha."""
    return ds.kappa_raw.sel(alpha=ds.alpha >= ds.alpha.max() / 100)


def _slope_claim(exponent: float, sentence: str, low: float, high: float) -> Claim:
    return Claim(
        sentence=sentence,
        source="note §1.1, §4.7; chizat2019 §1.2",
        measure=f"slope of log kappa against log m, {NAMES[exponent]}, targets times 100",
        quantity=power("kappa", "width", exponent=exponent),
        accepted=(low, high),
    )


def _bound_claim(sentence: str, variable: str, exponents: tuple[float, ...]) -> Claim:
    targets = "targets times 100" if variable == "kappa" else "targets of the teacher"
    return Claim(
        sentence=f"{sentence} ({targets})",
        source="note §1.1, §4.7, as printed",
        measure=f"kappa over the bound, at the width and scale where its mean is largest, {targets}",
        quantity=bound_ratio(variable, exponents),
        accepted=(-np.inf, 1.0),
        note="The constant is missing: the second term is in proportion to ‖y‖, which the printed bound does not know."
        if variable == "kappa"
        else "",
    )


BOUND, SQRT_BOUND = "E[kappa] <= m^(−1/2) + 1/(m·alpha(m)).", "For alpha(m) = m^(−1/2): E[kappa] <= 2m^(−1/2)."
CLAIMS = (
    _slope_claim(0.5, "For alpha(m) = m^(−1/2) the criterion decreases as m^(−1/2).", -0.55, -0.45),
    _slope_claim(0.75, "For alpha(m) = m^(−3/4), m·alpha(m) -> ∞, it decreases as m^(−1/4).", -0.3, -0.2),
    _slope_claim(1.0, "For alpha(m) = 1/m it does not decrease.", -0.05, 0.05),
    Claim(
        sentence="For alpha(m) = 1/m it does not decrease (targets of the teacher).",
        source="note §1.1, §4.7; chizat2019 §1.2",
        measure=f"slope of log kappa against log m, {NAMES[1.0]}, targets of the teacher",
        quantity=power("kappa_unit", "width", exponent=1.0),
        accepted=(-0.05, 0.05),
        note="At these widths h(w0) is most of the residual, and its part of kappa falls as m^(−1/2) at any scale.",
    ),
    _bound_claim(BOUND, "kappa", EXPONENTS),
    _bound_claim(BOUND, "kappa_unit", EXPONENTS),
    _bound_claim(SQRT_BOUND, "kappa", (0.5,)),
    _bound_claim(SQRT_BOUND, "kappa_unit", (0.5,)),
    Claim(
        sentence="As alpha grows bigger the criterion decreases.",
        source="note §1.1, rescaled model",
        measure="largest change of log10 kappa from one alpha to the next, raw output; decreasing is below 0",
        quantity=at(largest_rise, width=LAST),
        accepted=(-np.inf, 0.0),
        note="Where ⟨h(w0), y⟩ > 0 kappa is least at a finite alpha, a few per cent below kappa_inf; elsewhere it "
        "decreases all the way to kappa_inf.",
    ),
    Claim(
        sentence="It decreases without limit, leading to a lazy training situation.",
        source="note §1.1, rescaled model",
        measure="slope of log kappa against log alpha over the last two decades, raw output",
        quantity=power(two_last_decades, "alpha", width=LAST),
        accepted=(-np.inf, -0.9),
        note="It needs h(w0) = 0: raw, kappa tends to kappa_inf = ‖h‖‖D²h‖/‖Dh‖² > 0. Nor do such nets become lazy "
        "themselves: note-s1.1-regimes.",
    ),
    Claim(
        sentence="With a centred output the criterion decreases as 1/alpha.",
        source="note §1.1 with h(w0) = 0",
        measure="slope of log kappa against log alpha, centred output",
        quantity=power("kappa_centred", "alpha", width=LAST),
        accepted=(-1.01, -0.99),
    ),
    Claim(
        sentence="What it tends to with the raw output is kappa_inf.",
        source="ours, on note §1.1",
        measure="kappa at the largest alpha over kappa_inf, minus 1",
        quantity=at(lambda ds: ds.kappa_raw.isel(alpha=-1) / ds.kappa_inf - 1, width=LAST),
        accepted=(-0.01, 0.01),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left kappa against width, right against alpha."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2, log="xy")
    for exponent, color in zip(EXPONENTS, (figures.BLUE, figures.GREEN, figures.ORANGE), strict=True):
        values = ds.kappa.sel(exponent=exponent)
        figures.curve(left, values, "width", label=NAMES[exponent], color=color, marker="o")
        figures.curve(left, ds.kappa_unit.sel(exponent=exponent), "width", label="", color=color, line=":")
        figures.guide(left, values, "width", exponent - 1, label="", color=color, end=0)
    figures.finish(left, x="width m", y="kappa")
    last = ds.isel(width=-1)
    figures.curve(right, last.kappa_raw, "alpha", label="raw output", color=figures.BLUE)
    figures.curve(right, last.kappa_centred, "alpha", label="centred output", color=figures.ORANGE)
    figures.levels(right, [figures.Level(last.kappa_inf, "kappa_inf", figures.GREY)])
    figures.finish(right, x="output scale alpha", y=f"kappa, width {int(ds.width[-1])}")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Kappa against width, means over seeds."""
    rows = {NAMES[e]: ds.kappa.sel(exponent=e) for e in EXPONENTS}
    unit = {f"{NAMES[e]}, teacher's targets": ds.kappa_unit.sel(exponent=e) for e in EXPONENTS}
    return figures.table(rows | unit, "width")


S1_1 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
