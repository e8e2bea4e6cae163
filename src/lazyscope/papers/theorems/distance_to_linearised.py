"""Chizat et al. 2019, Theorem 2.2: how far a flow strays from w0 and from its linearisation as alpha grows.

    lazyscope reproduce chizat2019-thm2.2 --size quick

For h(w0) = 0 and a fixed horizon the suprema over time of ‖w − w0‖, ‖w − w̄‖ and ‖αh(w) − αh̄(w̄)‖ are O(1/α), O(1/α²)
and O(1/α). Doubling is another device than centring: its pairs cancel the second-order term of the outputs, so that the
last slope is −2. ReLU is outside the theorem: Dh jumps where a gate flips, and the slope of the gap is anything while
gates still flip. The integrator resolves such kinks at rtol 1e-6 there, 1e-10 elsewhere. Data, net and horizon are
ours; the theorem gives none.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.figure
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.quantities import Quantity, at, farthest, power, slopes
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.flows import Net, draw_power, horizons

ACTIVATIONS = {"tanh": jnp.tanh, "softplus": jax.nn.softplus, "relu": jax.nn.relu}
FEW = ("tanh, centred", "tanh, doubled", "relu, centred")  # one compiled program a net


@dataclass(frozen=True)
class Horizon:
    """Data, width, values of alpha and the horizon in flow time; `few` leaves out softplus and the doubled ReLU net."""

    n: int
    d: int
    width: int
    alphas: tuple[float, ...]
    horizon: float
    few: bool = False

    def nets(self) -> dict[str, Net]:
        """The nets by name."""
        made = {
            f"{name}, {device}": Net(self.n, self.d, self.width, activation=activation, doubled=device == "doubled")
            for device in ("centred", "doubled")
            for name, activation in ACTIVATIONS.items()
        }
        return {name: made[name] for name in FEW} if self.few else made


SIZES = {
    "tiny": Size(Horizon(8, 3, 8, (16.0, 64.0, 256.0), horizon=5.0, few=True), seeds=3),
    "quick": Size(Horizon(20, 5, 30, (2.0, 8.0, 32.0, 128.0, 512.0), horizon=20.0, few=True), seeds=5),
    "paper": Size(Horizon(20, 5, 30, tuple(2.0**k for k in range(2, 11)), horizon=20.0), seeds=10),
}
STATED = (ours("tanh, two layers, teacher-student"),)
CAPTION = (
    "Largest distance over time of the flow from w0 (blue), and from the linearised flow in parameters (orange) and in "
    "outputs (green), against the output scale alpha. Centred smooth nets follow the theorem's slopes −1, −2, −1; "
    "doubled ones gain an order in the outputs. ReLU nets do so only where no gate flips any more: crosses count the "
    "(example, unit) pairs that flip."
)


def compute(settings: Horizon, trials: Trials) -> xr.Dataset:
    """The three suprema, their bounds and the flipped gates for every net, alpha and seed."""
    return horizons(settings.nets(), settings.alphas, settings.horizon, trials)


def slope(variable: str, target: float, device: str = "centred") -> Quantity:
    """The slope of `variable` that is farthest from `target` over the smooth nets of a device."""

    def smooth(ds: xr.Dataset) -> xr.DataArray:
        names = [name for name in ds.net.values if name.endswith(device) and not name.startswith("relu")]
        return ds[variable].sel(net=names)

    return lambda ds: farthest(slopes(smooth(ds), "alpha"), target)


FAR = "slope of log {} against log alpha, centred smooth nets, the one farthest from {}"
CLAIMS = (
    Claim(
        sentence="sup ‖w_α(t) − w0‖ = O(1/α) for h(w0) = 0 and a fixed horizon.",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("sup ‖w − w0‖", -1),
        quantity=slope("moved", -1),
        accepted=(-1.05, -0.95),
    ),
    Claim(
        sentence="sup ‖w_α(t) − w̄_α(t)‖ = O(1/α²).",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("sup ‖w − w̄‖", -2),
        quantity=slope("weight_gap", -2),
        accepted=(-2.1, -1.9),
    ),
    Claim(
        sentence="sup ‖αh(w_α(t)) − αh̄(w̄_α(t))‖ = O(1/α).",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("the output gap", -1),
        quantity=slope("output_gap", -1),
        accepted=(-1.05, -0.95),
    ),
    Claim(
        sentence="sup ‖w_α(t) − w0‖ <= (1/α) √(T R(αh(w0))).",
        source="chizat2019 Theorem 2.2, proof",
        measure="largest sup ‖w − w0‖ over this bound, all nets and alpha",
        quantity=at(lambda ds: (ds.moved / ds.moved_bound).max(("net", "alpha"))),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="Doubling gains an order over centring: the output gap of smooth doubled nets is O(1/α²).",
        source="ours, on chizat2019 §2.1",
        measure="slope of log output gap against log alpha, doubled smooth nets, the one farthest from −2",
        quantity=slope("output_gap", -2, device="doubled"),
        accepted=(-2.1, -1.9),
        note="w − w̄ is O(1/α²) for both devices; in a doubled net its image under Dh(w0) cancels to the next order.",
    ),
    Claim(
        sentence="The output gap is O(1/α) for ReLU nets, too.",
        source="ours: Theorem 2.2 asks for a locally Lipschitz Dh",
        measure="slope of log output gap against log alpha, centred ReLU net",
        quantity=power("output_gap", "alpha", net="relu, centred"),
        accepted=(-1.2, -0.8),
        note="While gates flip, no power of alpha describes the gap.",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """One panel a device for tanh, one for the centred ReLU net."""
    figure, axes = figures.new_figure(12.5, 4.3, columns=3, log="xy", base=2)
    curves = (
        ("moved", "sup ‖w − w0‖", figures.BLUE, "o"),
        ("weight_gap", "sup ‖w − w̄‖", figures.ORANGE, "s"),
        ("output_gap", "sup ‖αh(w) − αh̄(w̄)‖", figures.GREEN, "^"),
    )
    for ax, name in zip(axes, ("tanh, centred", "tanh, doubled", "relu, centred"), strict=True):
        one = ds.sel(net=name)
        for variable, label, color, marker in curves:
            draw_power(ax, one[variable], label=label, color=color, marker=marker)
        ax.set_title(name)
        ax.set_ylim(bottom=ax.get_ylim()[0] / 30)  # room for the legend
        figures.finish(ax, x="output scale alpha", y="supremum over time", legend="lower left")
        if name.startswith("relu"):
            twin = ax.twinx()
            twin.plot(one.alpha.values, one.flipped.mean("seed").values, "x", color=figures.PURPLE)
            twin.set_ylabel("gates that flip (mean over seeds)", color=figures.PURPLE)
            twin.grid(visible=False)
            twin.set_ylim(bottom=0)
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Fitted slopes, flipped gates and integrator steps, one row per net, means over seeds."""
    header = [
        "net",
        "slope ‖w − w0‖",
        "slope ‖w − w̄‖",
        "slope gap",
        "flipped, first alpha",
        "last alpha",
        "steps",
        "rejected",
    ]
    rows = [header]
    for name in ds.net.values:
        one = ds.sel(net=name)
        fitted = [float(slopes(one[v], "alpha").mean()) for v in ("moved", "weight_gap", "output_gap")]
        counts = [float(one.flipped.isel(alpha=i).mean()) for i in (0, -1)] + [
            float(one[v].mean()) for v in ("steps", "rejected")
        ]
        rows.append([str(name), *(f"{v:.3f}" for v in fitted), *(f"{v:.4g}" for v in counts)])
    return rows


THM2_2 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
