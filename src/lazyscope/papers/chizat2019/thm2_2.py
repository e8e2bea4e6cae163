"""Chizat et al. 2019, Theorem 2.2: how far a flow strays from w0 and from its linearisation as alpha grows.

    lazyscope reproduce chizat2019-thm2.2 --size quick

For h(w0) = 0 and a fixed horizon the suprema over time of ‖w − w0‖, ‖w − w̄‖ and ‖αh(w) − αh̄(w̄)‖ are O(1/α), O(1/α²)
and O(1/α). Expected at quick: slopes −1.000, −2.001, −0.989 with tanh and centring. Doubling is another device: its
pairs cancel the second-order term of the outputs, so that the last slope is −2. ReLU is outside the theorem: Dh jumps
where a gate flips, and the slope of the gap is anything while gates still flip. The integrator resolves such kinks at
rtol 1e-6 there, 1e-10 elsewhere. Data, net and horizon are ours; the theorem gives none.
On two cores: tiny 20 s, quick 25 s, paper 2 min.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers.flow_cells import Net, farthest, horizons, slopes
from lazyscope.papers.settings import ours
from lazyscope.sweep import Progress, Store

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
    seeds: int
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
    "tiny": Horizon(8, 3, 8, (16.0, 64.0, 256.0), horizon=5.0, seeds=3, few=True),
    "quick": Horizon(20, 5, 30, (2.0, 8.0, 32.0, 128.0, 512.0), horizon=20.0, seeds=5, few=True),
    "paper": Horizon(20, 5, 30, tuple(2.0**k for k in range(2, 11)), horizon=20.0, seeds=10),
}
SETTINGS = (ours("tanh, two layers, teacher-student"),)
CAPTION = (
    "Largest distance over time of the flow from w0 (blue), and from the linearised flow in parameters (orange) and in "
    "outputs (green), against the output scale alpha. Centred smooth nets follow the theorem's slopes −1, −2, −1; "
    "doubled ones gain an order in the outputs. ReLU nets do so only where no gate flips any more: crosses count the "
    "(example, unit) pairs that flip."
)


def compute(
    spec: Horizon, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The three suprema, their bounds and the flipped gates for every net, alpha and seed."""
    return horizons(
        spec.nets(), spec.alphas, horizon=spec.horizon, key=key, seeds=spec.seeds, store=store, progress=progress
    )


def _of(values: xr.DataArray, activation: str, device: str) -> xr.DataArray:
    """The nets of a device, ReLU or (for "smooth") the others."""
    relu = activation == "relu"
    names = [n for n in values.net.values if n.endswith(device) and n.startswith("relu") == relu]
    return values.sel(net=names)


def slope(variable: str, target: float, activation: str = "smooth", device: str = "centred"):
    """The quantity: per seed, the slope of `variable` that is farthest from `target` over the nets chosen."""

    def quantity(ds: xr.Dataset) -> np.ndarray:
        return farthest(slopes(_of(ds[variable], activation, device)), target)

    return quantity


def worst_moved_bound(ds: xr.Dataset) -> np.ndarray:
    """Largest sup ‖w − w0‖ over its bound, all nets and alpha."""
    return (ds.moved / ds.moved_bound).max(("net", "alpha")).values


def relu_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of the centred ReLU net's output gap."""
    return slopes(ds.output_gap.sel(net="relu, centred")).values


HOLDS: dict[str, Outcome | None] = dict.fromkeys(SIZES, Outcome.HOLDS)
FAR = "slope of log {} against log alpha, centred smooth nets, the one farthest from {}"
CLAIMS = (
    Claim(
        sentence="sup ‖w_α(t) − w0‖ = O(1/α) for h(w0) = 0 and a fixed horizon.",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("sup ‖w − w0‖", -1),
        quantity=slope("moved", -1),
        accepted=(-1.05, -0.95),
        expected=HOLDS,
    ),
    Claim(
        sentence="sup ‖w_α(t) − w̄_α(t)‖ = O(1/α²).",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("sup ‖w − w̄‖", -2),
        quantity=slope("weight_gap", -2),
        accepted=(-2.1, -1.9),
        expected=HOLDS,
    ),
    Claim(
        sentence="sup ‖αh(w_α(t)) − αh̄(w̄_α(t))‖ = O(1/α).",
        source="chizat2019 Theorem 2.2",
        measure=FAR.format("the output gap", -1),
        quantity=slope("output_gap", -1),
        accepted=(-1.05, -0.95),
        expected=HOLDS,
    ),
    Claim(
        sentence="sup ‖w_α(t) − w0‖ <= (1/α) √(T R(αh(w0))).",
        source="chizat2019 Theorem 2.2, proof",
        measure="largest sup ‖w − w0‖ over this bound, all nets and alpha",
        quantity=worst_moved_bound,
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
        expected=HOLDS,
    ),
    Claim(
        sentence="Doubling gains an order over centring: the output gap of smooth doubled nets is O(1/α²).",
        source="ours, on chizat2019 §2.1",
        measure="slope of log output gap against log alpha, doubled smooth nets, the one farthest from −2",
        quantity=slope("output_gap", -2, device="doubled"),
        accepted=(-2.1, -1.9),
        expected=HOLDS,
        note="w − w̄ is O(1/α²) for both devices; in a doubled net its image under Dh(w0) cancels to the next order.",
    ),
    Claim(
        sentence="The output gap is O(1/α) for ReLU nets, too.",
        source="ours: Theorem 2.2 asks for a locally Lipschitz Dh",
        measure="slope of log output gap against log alpha, centred ReLU net",
        quantity=relu_slope,
        accepted=(-1.2, -0.8),
        expected={"tiny": None, "quick": Outcome.INCONCLUSIVE, "paper": None},
        note="While gates flip, no power of alpha describes the gap.",
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """One panel a device for tanh, one for the centred ReLU net."""
    figure, axes = figures.new_figure(12.5, 4.3, columns=3)
    curves = (
        ("moved", "sup ‖w − w0‖", figures.BLUE, "o"),
        ("weight_gap", "sup ‖w − w̄‖", figures.ORANGE, "s"),
        ("output_gap", "sup ‖αh(w) − αh̄(w̄)‖", figures.GREEN, "^"),
    )
    for ax, name in zip(axes, ("tanh, centred", "tanh, doubled", "relu, centred"), strict=True):
        one = ds.sel(net=name)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        for variable, label, color, marker in curves:
            value = float(slopes(one[variable]).mean())
            figures.curve(ax, one[variable], "alpha", label=f"{label}: slope {value:.2f}", color=color, marker=marker)
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
        fitted = [float(slopes(one[v]).mean()) for v in ("moved", "weight_gap", "output_gap")]
        counts = [float(one.flipped.isel(alpha=i).mean()) for i in (0, -1)] + [
            float(one[v].mean()) for v in ("steps", "rejected")
        ]
        rows.append([str(name), *(f"{v:.3f}" for v in fitted), *(f"{v:.4g}" for v in counts)])
    return rows
