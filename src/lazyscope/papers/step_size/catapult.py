"""Lewkowycz et al. 2020, "The large learning rate phase": between 2/λ0 and 4/λ0 the loss rises before it falls.

    lazyscope reproduce lewkowycz2020 --size quick

Full-batch descent on the square loss, λ0 = λmax(K(w0))/n for the net alpha·h with alpha = m^(−1/2). Below η = 2/λ0 the
net trains lazily. Between 2/λ0 and 4/λ0 the top direction of the kernel is unstable: the loss grows until the curvature
has fallen below 2/η, then converges, having left the linearisation (the catapult). Above 4/λ0 a linear two-layer net
diverges; of ReLU nets they say that about 12/λ0 is the end. For one example x and the target 0 the linear net is a map
of two numbers, which is a test here. 10 Gaussian examples of 10 features, targets ±1; settings are ours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import DIVERGED, gradient_descent
from lazyscope.models import Model, two_layer, two_layer_linear
from lazyscope.papers.figure import Cell, Figure, Size, Trials, prefixed
from lazyscope.papers.quantities import Quantity, at, log10, power
from lazyscope.problems import Problem
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue


@dataclass(frozen=True)
class Steps:
    """Steps η·λ0 at every width, for `num_steps` steps."""

    rates: tuple[float, ...]
    widths: tuple[int, ...]
    n: int
    d: int
    num_steps: int


RATES = (0.5, 1.0, 1.5, 1.9, 2.2, 2.5, 3.0, 3.5, 3.8, 4.2, 4.5, 5.0, 6.0, 8.0, 10.0, 11.0, 12.0, 13.0, 14.0, 16.0)
SIZES = {
    "tiny": Size(Steps((1.0, 1.8, 2.5, 3.5, 5.0, 16.0), (64, 256), n=5, d=5, num_steps=200), seeds=4),
    "quick": Size(Steps(RATES, (128, 512, 2048), n=10, d=10, num_steps=400), seeds=6),
    "paper": Size(Steps(RATES, (128, 512, 2048, 8192), n=10, d=10, num_steps=2000), seeds=20),
}
CAPTION = (
    "Left, linear two-layer net of the largest width against the step: the highest train loss on the way and the last, "
    "over the first, and the curvature η·λmax at the end. Between 2 and 4 the loss first rises, and the net ends where "
    "the step is stable; beyond, it diverges. Right, the same of a ReLU net, which at two layers survives no further."
)


def drawn(key: Key[Array, ""], n: int, d: int) -> tuple[Problem, Key[Array, ""]]:
    """Gaussian examples, random signs as targets, and the key of the initialisation."""
    key_x, key_y, key_init = jax.random.split(key, 3)
    return Problem(jax.random.normal(key_x, (n, d)), jax.random.rademacher(key_y, (n,), float)), key_init


def follow(
    model: Model, params0: dict[str, Array], problem: Problem, *, rate: Array, num_steps: int
) -> dict[str, Array]:
    """Descent with η = rate/λ0 on F_alpha, alpha = m^(−1/2): highest and last loss, and curvatures.

    η·λmax(K)/n does not depend on alpha, which F_alpha divides by.
    """
    alpha = params0["b"].shape[0] ** -0.5
    start = largest_eigenvalue(model.apply, params0, problem.x)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=alpha,
        step_size=rate / start,
        num_steps=num_steps,
        record=range(num_steps + 1),  # every step: the highest loss may last one
    )
    end = largest_eigenvalue(model.apply, run.params, problem.x)
    return {
        "peak": jnp.nanmax(run.train_loss) / run.train_loss[0],
        "last": run.train_loss[-1] / run.train_loss[0],
        "curvature": rate * end / start,
        "diverged": run.status.code == DIVERGED,
    }


@stored_as("lazyscope.papers.later.lewkowycz2020.over_rate")
def over_rate(
    key: Key[Array, ""], *, rate: Array, width: int, relu: bool, n: int, d: int, num_steps: int
) -> dict[str, Array]:
    """`follow` of the linear or the ReLU two-layer net of this width, plain initialisation."""
    problem, key_init = drawn(key, n, d)
    model = two_layer(width, d) if relu else two_layer_linear(width, d)
    return follow(model, model.init(key_init), problem, rate=rate, num_steps=num_steps)


OVER_RATE = Cell(over_rate, 1, static=("width",))


def compute(settings: Steps, trials: Trials) -> xr.Dataset:
    """Runs at every step, width and seed of the linear net, and of the ReLU net of largest width (`relu_*`)."""

    def runs(widths: tuple[int, ...], relu: bool) -> xr.Dataset:
        axes = {"width": widths, "rate": settings.rates}
        return trials.over(OVER_RATE, axes, relu=relu, n=settings.n, d=settings.d, num_steps=settings.num_steps)

    relu = runs(settings.widths[-1:], True).isel(width=0, drop=True)
    return xr.merge([runs(settings.widths, False), prefixed(relu, "relu_")], join="exact")


LAZY, CATAPULT, BEYOND = (0.0, 2.0), (2.0, 4.0), (4.0, np.inf)  # of η·λ0


def inside(ds: xr.Dataset, variable: str, window: tuple[float, float]) -> xr.DataArray:
    """A variable of the widest net at the rates inside `window`, the 10 % next to its ends left out."""
    rates = (ds.rate > 1.1 * window[0]) & (ds.rate < 0.9 * window[1])
    return ds[variable].isel(width=-1).sel(rate=rates)


def largest(variable: str, window: tuple[float, float]) -> Quantity:
    """The largest value over the window, widest linear net."""
    return at(lambda ds: inside(ds, variable, window).max("rate"))


def lazy_curvature(ds: xr.Dataset) -> xr.DataArray:
    """Largest |λmax at the end/λ0 − 1| below 2/λ0."""
    return abs(inside(ds, "curvature", LAZY) / ds.rate - 1).max("rate")


def relu_limit(ds: xr.Dataset) -> np.ndarray:
    """Largest η·λ0 below the first rate at which the ReLU net diverges."""
    survives = ~ds.relu_diverged.transpose("rate", "seed").values
    counts = np.where(survives.all(0), survives.shape[0], survives.argmin(0))
    return ds.rate.values[counts - 1]


SOURCE = "Lewkowycz et al. 2020, §1.1"
CLAIMS = (
    Claim(
        sentence="Below η = 2/λ0 the loss does not rise.",
        source=SOURCE + " (lazy phase)",
        measure="largest log10 of the highest train loss over the first, η·λ0 < 1.8, widest linear net",
        quantity=log10(largest("peak", LAZY)),
        accepted=(-np.inf, 1e-9),
        every_seed=True,
    ),
    Claim(
        sentence="There the curvature stays where it was.",
        source=SOURCE + " (lazy phase)",
        measure="largest |λmax(K_T)/λmax(K_0) − 1|, η·λ0 < 1.8, widest linear net",
        quantity=at(lazy_curvature),
        accepted=(-np.inf, 0.1),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="Between 2/λ0 and 4/λ0 the loss first rises.",
        source=SOURCE + " (catapult phase)",
        measure="least log10 of the highest train loss over the first, 2.2 < η·λ0 < 3.6, widest linear net",
        quantity=log10(at(lambda ds: inside(ds, "peak", CATAPULT).min("rate"))),
        accepted=(np.log10(2), np.inf),
    ),
    Claim(
        sentence="It then falls, below where it started.",
        source=SOURCE + " (catapult phase)",
        measure="largest log10 of the last train loss over the first, 2.2 < η·λ0 < 3.6, widest linear net",
        quantity=log10(largest("last", CATAPULT)),
        accepted=(-np.inf, 0.0),
    ),
    Claim(
        sentence="The curvature ends below 2/η.",
        source=SOURCE + " (catapult phase)",
        measure="largest η·λmax(K_T)/n, 2.2 < η·λ0 < 3.6, widest linear net",
        quantity=largest("curvature", CATAPULT),
        accepted=(-np.inf, 2.0),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="The loss rises to a height proportional to the width.",
        source="Lewkowycz et al. 2020, §2",
        measure="slope of log (highest over first train loss) against log m at η·λ0 = 3",
        quantity=power(lambda ds: ds.peak.sel(rate=3.0, method="nearest"), "width"),
        accepted=(0.8, 1.2),
        note="1.0 on average, with a wide interval: the height also depends on how deep the curvature has to fall, by "
        "chance, at each width.",
    ),
    Claim(
        sentence="Above 4/λ0 training diverges.",
        source=SOURCE + " (divergent phase)",
        measure="share of steps with η·λ0 > 4.4 at which the widest linear net diverges",
        quantity=at(lambda ds: inside(ds, "diverged", BEYOND).mean("rate")),
        accepted=(0.95, np.inf),
        scale=Scale.SHARE,
        note="The edge of one example is blurred by ten: one run in six survives at 4.5, none from 5 on.",
    ),
    Claim(
        sentence="ReLU nets converge up to about 12/λ0.",
        source="Lewkowycz et al. 2020, §1.1",
        measure="largest η·λ0 below the first at which the ReLU net diverges",
        quantity=relu_limit,
        accepted=(10.0, 14.0),
        scale=Scale.RATIO,
        note="Not two layers of this width on ten examples: they diverge where the linear net does, near 4/λ0.",
    ),
)


LINES = (
    ("peak", "highest train loss over the first", figures.ORANGE, "^"),
    ("last", "last train loss over the first", figures.BLUE, "o"),
    ("curvature", "curvature at the end, η·λmax(K_T)/n", figures.GREEN, "s"),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the linear net of the largest width, right the ReLU net."""
    figure, axes = figures.new_figure(11, 4.4, columns=2, log="y")
    widest = ds.isel(width=-1)
    for ax, prefix, title in zip(axes, ("", "relu_"), ("linear net", "ReLU net"), strict=True):
        diverged = widest[f"{prefix}diverged"]
        for name, label, color, marker in LINES:
            values = widest[prefix + name].clip(1e-8)  # what is 0 to rounding is drawn here
            figures.curve(ax, values.where(~diverged.any("seed")), "rate", label=label, color=color, marker=marker)
        for edge in (2, 4):
            ax.axvline(edge, color=figures.GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.axhline(2, color=figures.GREEN, linewidth=0.8, linestyle=":")
        ax.set_title(f"{title}, width {int(ds.width[-1])}")
        ax.set_xlim(0, 6)
        ax.set_ylim(1e-13, 1e5)
        some = ds.rate.values[diverged.any("seed").values]
        if some.size:
            ax.axvspan(some[0], 6, facecolor="none", edgecolor=figures.GREY, hatch="///", linewidth=0, alpha=0.6)
            ax.plot([], [], "s", color="none", markeredgecolor=figures.GREY, label="hatched: some or all diverge")
        figures.finish(ax, x="step η·λ0", y="ratio", legend="lower left")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Linear net of the largest width and ReLU net against the step, means over seeds."""
    widest = ds.isel(width=-1)
    names = ("peak", "last", "curvature", "diverged")
    rows = {name: widest[name] for name in names} | {f"ReLU: {name}": widest[f"relu_{name}"] for name in names}
    return figures.table(rows, "rate")


LEWKOWYCZ2020 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers)
