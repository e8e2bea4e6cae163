"""Note, related work [1] (Chizat & Bach 2018): 1/m nets of many units reach the global minimum.

    lazyscope reproduce note-ref1 --size quick

Teacher-student with a teacher of 4 ReLU units: the least train loss is 0 at every width m >= 4, so that whatever a net
of 4 units is left with is a bad stationary point. Student h = (1/m) Σ a_i relu(b_i·x), that is alpha = 1/m, plain
initialisation, η = c/m on F_alpha, which moves every unit by steps of size one (the many-particle limit). More examples
than parameters at every width, so that memorising is no way to the minimum: the tangent kernel of the same nets, which
has the same number of parameters, leaves a residual. Settings are ours: the note states the theorem (§3.2, where
"global maximum" must read "minimum").

Expected at quick: 60 % of the nets of 4 units keep more than 1e-3 of the zero predictor's train loss, 2 % of those of 8
and none of 16 or 32, which end near 2e-5 and fall on as time^−1.4; the linearised nets end at 4e-3. The spread falls
with slope −0.61 +- 0.13. On two cores: tiny 10 s, quick 30 s, paper 25 min.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.models import center, two_layer
from lazyscope.papers.protocol import held_out
from lazyscope.papers.settings import FULL_BATCH, NO_STOP, ours
from lazyscope.problems import square_loss, teacher_student
from lazyscope.sweep import Progress, Store, sweep

CELL_VERSION = 1
TEACHER_WIDTH = 4
PARTICLE_STEP = 1.0  # c in η = c/m, a fifth of the largest stable step or less
SOLVED = 1e-3  # of the zero predictor's train loss
LIMIT_STEP = 100  # where nets of equal width are compared with each other: in the middle of training


@dataclass(frozen=True)
class Widths:
    """Widths of the student, on `n` points on the sphere of R^d, from `inits` initialisations each."""

    widths: tuple[int, ...]
    n: int
    d: int
    num_steps: int
    inits: int
    seeds: int


SIZES = {
    "tiny": Widths((4, 8, 16), n=100, d=3, num_steps=1000, inits=4, seeds=4),
    "quick": Widths((4, 8, 16, 32), n=300, d=4, num_steps=6000, inits=6, seeds=8),
    "paper": Widths((4, 8, 16, 32, 64, 128), n=1000, d=4, num_steps=50_000, inits=10, seeds=10),
}
SETTINGS = (
    FULL_BATCH,
    NO_STOP,
    ours("ReLU, two layers, alpha = 1/m, four units of a teacher", "the note has no experiment; settings are ours"),
)
CAPTION = (
    "Left, train loss of every net over that of the zero predictor against its width, one dot an initialisation. Nets "
    "as small as the teacher reach the global minimum, 0, or are stuck far above, as the draw decides; wide ones all "
    "approach it. Grey, what their tangent kernel could do with the same number of parameters: the minimum is reached "
    "by moving the units, not by counting them. Right, spread of the outputs over initialisations in the middle of "
    "training: it falls as m^(−1/2), the many-particle limit of one deterministic training."
)
DIMS = {"loss": ("init",), "half_loss": ("init",), "lazy_loss": ("init",)}


def over_width(key: Key[Array, ""], *, width: int, n: int, d: int, num_steps: int, inits: int) -> dict[str, Array]:
    """Nets of one width on one problem from several initialisations; losses are over the zero predictor's.

    `lazy_loss` is the train loss that the centred linearised model ends at; `spread` the standard deviation of
    held-out outputs over initialisations at `LIMIT_STEP`, over the norm of the targets.
    """
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(key_data, n=n, d=d, n_test=n, teacher_width=TEACHER_WIDTH)
    x_test, y_test = held_out(problem)
    model = two_layer(width, d)
    alpha, step_size = 1 / width, PARTICLE_STEP / width

    def trained(params0: PyTree) -> tuple[Array, Array]:
        run = gradient_descent(
            model.apply,
            params0,
            problem,
            alpha=alpha,
            step_size=step_size,
            num_steps=num_steps,
            record=(LIMIT_STEP, num_steps // 2, num_steps),
            observe=lambda params: model.apply(params, x_test) / width,
        )
        return run.train_loss, run.observed[0]

    def lazy(params0: PyTree) -> Array:
        apply = center(model.apply, params0)
        run = linearized_descent(apply, params0, problem, alpha=alpha, step_size=step_size, steps=[np.inf])
        return run.train_loss[-1]

    starts = jax.vmap(model.init)(jax.random.split(key_init, inits))
    losses, outputs = jax.vmap(trained)(starts)
    lazy_loss = jax.lax.map(lazy, starts)  # not vmap: a batch of eigh waits for ever where devices have one thread each
    zero = square_loss(jnp.zeros_like(problem.y), problem.y)
    return {
        "loss": losses[:, -1] / zero,
        "half_loss": losses[:, -2] / zero,
        "lazy_loss": lazy_loss / zero,
        "spread": jnp.sqrt(jnp.mean(jnp.var(outputs, axis=0, ddof=1)) / jnp.mean(y_test**2)),
    }


def compute(
    spec: Widths, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Nets at every width and seed."""
    return sweep(
        partial(over_width, n=spec.n, d=spec.d, num_steps=spec.num_steps, inits=spec.inits),
        {"width": spec.widths},
        static=["width"],
        key=key,
        seeds=spec.seeds,
        dims=DIMS,
        version=CELL_VERSION,
        store=store,
        progress=progress,
    )


def worst_of_widest(ds: xr.Dataset) -> np.ndarray:
    """log10 of the largest relative train loss over initialisations at the largest width."""
    return np.log10(ds.loss.isel(width=-1).max("init").values)


def late_slope(ds: xr.Dataset) -> np.ndarray:
    """Largest slope of log loss against log steps over the second half of the steps, at the largest width."""
    last = ds.isel(width=-1)
    return (np.log2(last.loss) - np.log2(last.half_loss)).max("init").values


def stuck_share(ds: xr.Dataset) -> np.ndarray:
    """Share of initialisations that leave more than `SOLVED` at the teacher's own width."""
    return (ds.loss.sel(width=TEACHER_WIDTH) > SOLVED).mean("init").values


def spread_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of log spread against log width, from twice the teacher's width on."""
    wide = ds.spread.sel(width=ds.width >= 2 * TEACHER_WIDTH).transpose("width", "seed")
    return np.polyfit(np.log(wide.width.values), np.log(wide.values), 1)[0]


def lazy_left(ds: xr.Dataset) -> np.ndarray:
    """log10 of the smallest train loss of the linearised models over the largest of the nets, at the largest width."""
    last = ds.isel(width=-1)
    return np.log10((last.lazy_loss.min("init") / last.loss.max("init")).values)


SOURCE = "note §3.2 on [1] (Chizat & Bach 2018)"
CLAIMS = (
    Claim(
        sentence="With many units the gradient flow of a 1/m net converges to a global minimum, whatever the draw.",
        source=SOURCE,
        measure="log10 of the largest train loss of the widest nets over that of the zero predictor",
        quantity=worst_of_widest,
        accepted=(-np.inf, np.log10(SOLVED)),
        every_seed=True,
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": None},
    ),
    Claim(
        sentence="It does not stop on the way there.",
        source=SOURCE,
        measure="largest slope of log train loss against log steps over the second half, widest nets",
        quantity=late_slope,
        accepted=(-np.inf, -0.5),
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": None},
        note="The loss falls as a power of the time: the theorem gives no rate.",
    ),
    Claim(
        sentence="A net with a finite number of units may converge to a local minimum.",
        source="note §3.2 on [1]",
        measure="share of nets as small as the teacher that keep more than 1e-3 of the zero predictor's train loss",
        quantity=stuck_share,
        accepted=(0.1, np.inf),
        scale=Scale.SHARE,
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": None},
    ),
    Claim(
        sentence="As m grows the training of 1/m nets tends to that of one distribution of units.",
        source="ours, after [1]",
        measure="slope of log spread of the outputs over initialisations against log m, in the middle of training",
        quantity=spread_slope,
        accepted=(-0.6, -0.4),
        expected={"tiny": None, "quick": Outcome.INCONCLUSIVE, "paper": None},
        note="Steeper at these widths: a few narrow nets that are still far from the target carry the spread at m = 8.",
    ),
    Claim(
        sentence="Lazy training of the same nets does not reach the minimum.",
        source="ours, after note §3.2",
        measure="log10 of the least train loss that their linearisations end at over the largest of the nets",
        quantity=lazy_left,
        accepted=(1.0, np.inf),
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": None},
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Left train losses against width, right the spread over initialisations."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
    floor = 1e-12  # what is solved to rounding is drawn here
    jitter = np.geomspace(0.85, 1 / 0.85, ds.sizes["seed"] * ds.sizes["init"])
    for variable, color, label in (("lazy_loss", figures.GREY, "linearised, t = ∞"), ("loss", figures.BLUE, "net")):
        for width in ds.width.values:
            losses = np.maximum(ds[variable].sel(width=width).values.ravel(), floor)
            name = label if width == ds.width.values[0] else None
            left.plot(width * jitter, losses, "o", color=color, alpha=0.45, markersize=3.5, label=name)
    left.axhline(SOLVED, color=figures.INK, linewidth=0.8)
    below = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 8}
    left.annotate("solved", (1.0, SOLVED), (0, -2), xycoords=("axes fraction", "data"), **below)
    figures.finish(left, x="width m", y="train loss over the zero predictor's", legend="lower right")
    figures.curve(right, ds.spread, "width", label=f"after {LIMIT_STEP} steps", color=figures.BLUE, marker="o")
    guide = float(ds.spread.isel(width=-1).mean()) * (ds.width / ds.width[-1]) ** -0.5
    right.plot(ds.width, guide, color=figures.GREY, linewidth=1, linestyle=(0, (4, 3)), label="slope −1/2")
    figures.finish(right, x="width m", y="spread of outputs over initialisations, over ‖y‖")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Share of nets stuck, median losses and spread against width."""
    rows = {
        "stuck": (ds.loss > SOLVED).mean("init"),
        "median loss": ds.loss.median("init"),
        "largest loss": ds.loss.max("init"),
        "linearised": ds.lazy_loss.median("init"),
        "spread": ds.spread,
    }
    return figures.table(rows, "width")
