"""Note, related work [1] (Chizat & Bach 2018): 1/m nets of many units reach the global minimum.

    lazyscope reproduce note-ref1 --size quick

Teacher-student with a teacher of 4 ReLU units: the least train loss is 0 at every width m >= 4, so that whatever a net
of 4 units is left with is a bad stationary point. Student h = (1/m) Σ a_i relu(b_i·x), that is alpha = 1/m, plain
initialisation, η = c/m on F_alpha, which moves every unit by steps of size one (the many-particle limit). More examples
than parameters at every width, so that memorising is no way to the minimum: the tangent kernel of the same nets, which
has the same number of parameters, leaves a residual. Settings are ours: the note states the theorem (§3.2, where
"global maximum" must read "minimum").
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.models import center, two_layer
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.quantities import LAST, at, log10, log10_ratio, power
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, ours
from lazyscope.papers.student import held_out
from lazyscope.problems import square_loss, teacher_student
from lazyscope.store import stored_as

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


SIZES = {
    "tiny": Size(Widths((4, 8, 16), n=100, d=3, num_steps=1000, inits=4), seeds=4),
    "quick": Size(Widths((4, 8, 16, 32), n=300, d=4, num_steps=6000, inits=6), seeds=8),
    "paper": Size(Widths((4, 8, 16, 32, 64, 128), n=1000, d=4, num_steps=50_000, inits=10), seeds=10),
}
STATED = (
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


@stored_as("lazyscope.papers.note.ref1.over_width")
def from_several_starts(
    key: Key[Array, ""], *, width: int, n: int, d: int, num_steps: int, inits: int
) -> dict[str, Array]:
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


CELL = Cell(from_several_starts, 1, dict.fromkeys(("loss", "half_loss", "lazy_loss"), ("init",)), static=("width",))


def compute(settings: Widths, trials: Trials) -> xr.Dataset:
    """Nets at every width and seed."""
    return trials.over(
        CELL,
        {"width": settings.widths},
        n=settings.n,
        d=settings.d,
        num_steps=settings.num_steps,
        inits=settings.inits,
    )


def largest_loss(ds: xr.Dataset) -> xr.DataArray:
    """The largest train loss over initialisations."""
    return ds.loss.max("init")


def late_slope(ds: xr.Dataset) -> xr.DataArray:
    """Largest slope of log loss against log steps over the second half of the steps."""
    return (np.log2(ds.loss) - np.log2(ds.half_loss)).max("init")


def stuck_share(ds: xr.Dataset) -> xr.DataArray:
    """Share of initialisations that leave more than `SOLVED`."""
    return (ds.loss > SOLVED).mean("init")


SOURCE = "note §3.2 on [1] (Chizat & Bach 2018)"
CLAIMS = (
    Claim(
        sentence="With many units the gradient flow of a 1/m net converges to a global minimum, whatever the draw.",
        source=SOURCE,
        measure="log10 of the largest train loss of the widest nets over that of the zero predictor",
        quantity=log10(at(largest_loss, width=LAST)),
        accepted=(-np.inf, np.log10(SOLVED)),
        every_seed=True,
    ),
    Claim(
        sentence="It does not stop on the way there.",
        source=SOURCE,
        measure="largest slope of log train loss against log steps over the second half, widest nets",
        quantity=at(late_slope, width=LAST),
        accepted=(-np.inf, -0.5),
        note="The loss falls as a power of the time: the theorem gives no rate.",
    ),
    Claim(
        sentence="A net with a finite number of units may converge to a local minimum.",
        source="note §3.2 on [1]",
        measure="share of nets as small as the teacher that keep more than 1e-3 of the zero predictor's train loss",
        quantity=at(stuck_share, width=TEACHER_WIDTH),
        accepted=(0.1, np.inf),
        scale=Scale.SHARE,
    ),
    Claim(
        sentence="As m grows the training of 1/m nets tends to that of one distribution of units.",
        source="ours, after [1]",
        measure="slope of log spread of the outputs over initialisations against log m, in the middle of training",
        quantity=power("spread", "width", width=slice(2 * TEACHER_WIDTH, None)),
        accepted=(-0.6, -0.4),
        note="Steeper at these widths: a few narrow nets that are still far from the target carry the spread at m = 8.",
    ),
    Claim(
        sentence="Lazy training of the same nets does not reach the minimum.",
        source="ours, after note §3.2",
        measure="log10 of the least train loss that their linearisations end at over the largest of the nets",
        quantity=log10_ratio(at(lambda ds: ds.lazy_loss.min("init"), width=LAST), at(largest_loss, width=LAST)),
        accepted=(1.0, np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left train losses against width, right the spread over initialisations."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2, log="xy", base=2)
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
    figures.guide(right, ds.spread, "width", -0.5, label="slope −1/2")
    figures.finish(right, x="width m", y="spread of outputs over initialisations, over ‖y‖")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Share of nets stuck, median losses and spread against width."""
    rows = {
        "stuck": stuck_share(ds),
        "median loss": ds.loss.median("init"),
        "largest loss": largest_loss(ds),
        "linearised": ds.lazy_loss.median("init"),
        "spread": ds.spread,
    }
    return figures.table(rows, "width")


REF1 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
