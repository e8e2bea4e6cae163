"""Note, §3.1: the generalised setting, with its bound corrected, and what it says of held-out points.

    lazyscope reproduce note-s3.1 --size quick

As printed, the bound's numerator misses "αh(" and its denominator divides by ‖(w0) − y‖; what holds is
‖αh(w) − αh̄(w̄)‖/‖αh(w0) − y‖ <= K² Lip(Dh)‖αh(w0) − y‖/(α Lip(h)²). Outside the training set (chizat2019, appendix A)

    sup_x |αh(w, x) − αh̄(w̄, x)| <= α M1 ‖w − w̄‖ + ½ α M2 ‖w − w0‖²,

M1 and M2 the largest slope and curvature in w at the points looked at: O(1/α), since ‖w − w̄‖ = O(1/α²) and ‖w − w0‖ =
O(1/α). Two-layer tanh nets; data, net and horizon are ours. Shares its cells with chizat2019-thm2.2 and -thm2.3. No
convexity of R is needed: a logistic and a non-convex loss beside the square one. The assumption of a locally Lipschitz
Dh is broken by the note's own ReLU student, whose Dh jumps where gates flip: ‖Dh(w0 + δu) − Dh(w0)‖ goes as √δ.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.quantities import LAST, at, farthest, power, slopes
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.assumptions import STARTS, Starts, independences, smoothnesses
from lazyscope.papers.theorems.flows import BOUNDS, Bounds, Net, bounds, draw_bound, draw_power, growth, horizons
from lazyscope.papers.theorems.losses import LOSSES, Losses, general_losses


@dataclass(frozen=True)
class Generalised:
    """A tanh net over a fixed horizon at several alpha, the finite bound's settings, other losses and starts."""

    n: int
    d: int
    width: int
    alphas: tuple[float, ...]
    horizon: float
    bounds: Bounds
    losses: Losses
    starts: Starts


def at_size(size: str, n: int, d: int, width: int, alphas: tuple[float, ...], horizon: float) -> Size[Generalised]:
    """What is shared with the other figures on the theorems is theirs at the same size."""
    shared = BOUNDS[size].settings, LOSSES[size], STARTS[size]
    return Size(Generalised(n, d, width, alphas, horizon, *shared), BOUNDS[size].seeds)


SIZES = {
    "tiny": at_size("tiny", 8, 3, 8, (16.0, 64.0, 256.0), horizon=5.0),
    "quick": at_size("quick", 20, 5, 30, (2.0, 8.0, 32.0, 128.0, 512.0), horizon=20.0),
    "paper": at_size("paper", 20, 5, 30, tuple(2.0**k for k in range(2, 11)), horizon=20.0),
}
STATED = (ours("tanh, two layers, centred or doubled, teacher-student; quadratic maps for the bound"),)
CAPTION = (
    "Left: largest distance over time between flow and linearised flow against alpha, in parameters and in outputs at "
    "the held-out point where they differ most. Right: the relative gap on the training set after K iterations for a "
    "quadratic map, whose constants are known, with the corrected bound dashed."
)


def compute(settings: Generalised, trials: Trials) -> xr.Dataset:
    """Suprema against alpha for a centred and a doubled net; the finite bound under `bound_alpha`.

    Other losses under (`general`, `loss_alpha`), linearised flows at several alpha under `output`, and how smooth Dh is
    under (`activation`, `shift`).
    """
    net = Net(settings.n, settings.d, settings.width)
    nets = {"tanh, centred": net, "tanh, doubled": replace(net, doubled=True)}
    parts = [
        horizons(nets, settings.alphas, settings.horizon, trials),
        bounds(settings.bounds, trials).rename(alpha="bound_alpha"),
        general_losses(settings.losses, trials),
        independences(settings.starts, trials),
        smoothnesses(settings.starts, trials),
    ]
    return xr.merge(parts, join="exact")


def _finite(ds: xr.Dataset) -> xr.Dataset:
    return ds[["gap", "bound", "confined"]].rename(bound_alpha="alpha")


def _loss_claim(general: str, what: str) -> Claim:
    return Claim(
        sentence=f"Disregarding the convexity of R, a large α leads to lazy training ({what}).",
        source="note §3.1",
        measure="slope of log sup ‖w − w̄‖ over a fixed horizon against log alpha, centred tanh net",
        quantity=power("loss_apart", "loss_alpha", general=general),
        accepted=(-2.1, -1.9),
    )


def _smooth_claim(activation: str, sentence: str, note: str = "") -> Claim:
    return Claim(
        sentence=sentence,
        source="note §3",
        measure=f"slope of log ‖Dh(w0 + δu) − Dh(w0)‖ against log δ, {activation}; Lipschitz is 1",
        quantity=power("differential_change", "shift", activation=activation),
        accepted=(0.9, 1.1),
        note=note,
    )


CLAIMS = (
    _smooth_claim(
        "ReLU",
        "The main assumption, a locally Lipschitz differential, is met by the note's student (ReLU).",
        "Dh jumps where a gate flips: δ must be small enough for many to flip, which a net this small does not show in "
        "every draw. The theorems speak of smooth activations.",
    ),
    _smooth_claim("tanh", "It is met by the nets of these theorems here (tanh)."),
    Claim(
        sentence="Setting h(w0) = 0 makes the linearised flow independent of α.",
        source="note §3",
        measure="largest difference of αh̄ between three α at one time, relative to its size",
        quantity=at("flow_apart", output="centred"),
        accepted=(-np.inf, 1e-9),
        scale=Scale.SIZE,
        note="Of the outputs αh̄ and of α(w̄ − w0); w̄ itself moves in proportion to 1/α.",
    ),
    Claim(
        sentence="Without h(w0) = 0 it depends on α.",
        source="ours, on note §3",
        measure="largest difference of αh̄ between three α at one time, relative to its size, raw output",
        quantity=at("flow_apart", output="raw"),
        accepted=(0.1, np.inf),
        scale=Scale.RATIO,
    ),
    _loss_claim("non-convex", "a loss that is not convex"),
    _loss_claim("logistic", "logistic loss"),
    Claim(
        sentence="‖w_α(T) − w̄_α(T)‖ = O(1/α²) for h(w0) = 0.",
        source="note §3.1",
        measure="slope of log sup ‖w − w̄‖ against log alpha, the one farthest from −2 over centred and doubled",
        quantity=lambda ds: farthest(slopes(ds.weight_gap, "alpha"), -2),
        accepted=(-2.1, -1.9),
    ),
    Claim(
        sentence="The model generalises as the linearised model beyond the training set.",
        source="note §3.1",
        measure="largest |held-out loss over that of the linearised flow − 1| at the largest alpha",
        quantity=at(lambda ds: abs(ds.test_loss / ds.linear_test_loss - 1).max("net"), alpha=LAST),
        accepted=(-np.inf, 0.01),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="On held-out points the outputs of flow and linearised flow differ by O(1/α).",
        source="note §3.1; chizat2019 Proposition A.1, fixed horizon",
        measure="slope of log of the largest difference over points and time against log alpha, centred",
        quantity=power("test_gap", "alpha", net="tanh, centred"),
        accepted=(-1.05, -0.95),
        note="The doubled net's falls as 1/α²: its pairs cancel the second-order term at every point.",
    ),
    Claim(
        sentence="That difference is at most α M1 ‖w − w̄‖ + ½ α M2 ‖w − w0‖².",
        source="chizat2019 Proposition A.1",
        measure="largest difference over this bound, over points, time, alpha and nets",
        quantity=at(lambda ds: ds.test_ratio.max(("net", "alpha"))),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="After K iterations the relative gap is at most K² Lip(Dh)‖αh(w0) − y‖/(α Lip(h)²).",
        source="note §3.1, corrected",
        measure="largest measured gap over bound, quadratic maps and a tanh net, over alpha and K",
        quantity=at(lambda ds: (ds.gap / ds.bound).max(("model", "bound_alpha", "K"))),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="The relative gap between the gradient flow of the model and its linearisation grows as K².",
        source="note §3.1",
        measure="slope of log gap against log K for K <= 0.01, the one farthest from 2 over models and alpha",
        quantity=lambda ds: growth(_finite(ds)),
        accepted=(1.8, 2.2),
        note="For K of order 1 and more both flows settle and the gap saturates: the K² is that of the bound alone.",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Distances against alpha, and gap and bound of the quadratic map against K."""
    figure, (left, right) = figures.new_figure(11, 4.4, columns=2, log=("y", "xy"))
    left.set_xscale("log", base=2)
    for device, line in (("centred", "-"), ("doubled", "--")):
        one = ds.sel(net=f"tanh, {device}")
        for variable, label, color in (
            ("weight_gap", "sup ‖w − w̄‖", figures.ORANGE),
            ("test_gap", "sup over held-out points", figures.GREEN),
        ):
            draw_power(left, one[variable], label=f"{label}, {device}", color=color, line=line)
    figures.finish(left, x="output scale alpha", y="largest difference over time", legend="lower left")
    draw_bound(right, _finite(ds).sel(model="quadratic"))
    right.set_title("quadratic map, training set")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Distances against alpha for the centred net, means over seeds."""
    one = ds.sel(net="tanh, centred")
    return figures.table(
        {
            "sup ‖w − w̄‖": one.weight_gap,
            "held-out gap": one.test_gap,
            "over its bound": one.test_ratio,
            "held-out loss": one.test_loss,
            "linearised": one.linear_test_loss,
        },
        "alpha",
    )


S3_1 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
