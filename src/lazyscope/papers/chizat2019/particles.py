"""Units of a two-layer ReLU net in the plane as particles |a_i| b_i, and what Figures 1(a) and 1(b) share.

Their settings (illustration.jl): d = 2, 15 training points on the circle, 16 units in 8 pairs of equal b and opposite
a, b of unit length, a uniform on (0, 1), all weights times tau, 10^5 steps of 0.005 on R(h), three teacher units. The
committed value of tau is 0.2; its comment names 0.1 for Figure 1(a) and 2 for Figure 1(b). Data and teachers are drawn
anew for every trial.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lazyscope import figures, tree
from lazyscope.dynamics import default_record, gradient_descent
from lazyscope.models import Doubled, two_layer
from lazyscope.problems import Problem
from lazyscope.sweep import Progress, Store, sweep

CELL_VERSION = 1
DIMS = {
    "paths": ("step", "unit", "coordinate"),
    "teacher": ("teacher_unit", "coordinate"),
    "teacher_sign": ("teacher_unit",),
    "train_loss": ("step",),
}


@dataclass(frozen=True)
class Particles:
    """Settings of one panel."""

    tau: float
    num_steps: int
    step_size: float
    n: int
    width: int
    teacher_width: int
    seeds: int

    @property
    def record(self) -> tuple[int, ...]:
        """100 log-spaced steps, as drawn in the paper."""
        return default_record(self.num_steps, 100)


def sizes(tau: float) -> dict[str, Particles]:
    """The three sizes of a panel."""
    return {
        "tiny": Particles(tau, 2000, 0.05, 15, 16, 3, seeds=3),
        "quick": Particles(tau, 100_000, 0.005, 15, 16, 3, seeds=10),
        "paper": Particles(tau, 100_000, 0.005, 15, 16, 3, seeds=30),
    }


def train(key: Key[Array, ""], *, spec: Particles) -> dict[str, Array]:
    """One run: paths of the particles, the teacher, what moved, and where the mass points."""
    key_x, key_teacher, key_sign, key_a, key_b = jax.random.split(key, 5)

    def circle(key: Key[Array, ""], rows: int) -> Float[Array, "rows 2"]:
        v = jax.random.normal(key, (rows, 2))
        return v / jnp.linalg.norm(v, axis=1, keepdims=True)

    x = circle(key_x, spec.n)
    teacher = {
        "a": jax.random.rademacher(key_sign, (spec.teacher_width,), float),
        "b": circle(key_teacher, spec.teacher_width),
    }
    problem = Problem(x, two_layer(spec.teacher_width, 2).apply(teacher, x))
    half = spec.width // 2
    net = {"a": spec.tau * jax.random.uniform(key_a, (half,)), "b": spec.tau * circle(key_b, half)}
    params0 = Doubled(net, net)
    run = gradient_descent(
        two_layer(spec.width, 2).apply,
        params0,
        problem,
        step_size=spec.step_size,
        num_steps=spec.num_steps,
        record=spec.record,
        observe=particles,
    )
    last = particles(run.params)
    signs = jnp.sign(readout(run.params))
    mass = jnp.linalg.norm(last, axis=1)
    # Cosine to the nearest teacher direction of the particle's own sign; -1 where the teacher has none.
    cosines = (last / jnp.maximum(mass, 1e-300)[:, None]) @ teacher["b"].T
    own = jnp.where(signs[:, None] == teacher["a"][None, :], cosines, -1.0)
    start = particles(params0)
    return {
        "paths": run.observed,
        "sign": signs,
        "teacher": teacher["b"],
        "teacher_sign": teacher["a"],
        "train_loss": run.train_loss,
        "movement": tree.norm(tree.sub(run.params, params0)) / tree.norm(params0),
        "aligned_mass": jnp.sum(jnp.where(jnp.max(own, axis=1) > 0.95, mass, 0)) / jnp.sum(mass),
        "turn": jnp.sum(mass * jnp.arccos(_cosine(start, last))) / jnp.sum(mass),
    }


def particles(params: PyTree) -> Float[Array, "unit 2"]:
    """The points |a_i| b_i, first those of the plus half."""
    return jnp.abs(readout(params))[:, None] * jnp.concatenate([params.plus["b"], params.minus["b"]])


def readout(params: PyTree) -> Float[Array, " unit"]:
    """The signed readout weights of both halves."""
    return jnp.concatenate([params.plus["a"], -params.minus["a"]])


def _cosine(u: Array, v: Array) -> Array:
    sizes = jnp.maximum(jnp.linalg.norm(u, axis=1) * jnp.linalg.norm(v, axis=1), 1e-300)
    return jnp.clip(jnp.sum(u * v, axis=1) / sizes, -1, 1)


def compute(
    spec: Particles, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The runs of every trial."""
    ds = sweep(
        partial(train, spec=spec),
        {},
        key=key,
        seeds=spec.seeds,
        dims=DIMS | {"sign": ("unit",)},
        version=CELL_VERSION,
        store=store,
        progress=progress,
    )
    return ds.assign_coords(step=list(spec.record), tau=spec.tau)


def draw(ds: xr.Dataset) -> Figure:
    """The paths of two trials, the teacher as arrows."""
    figure, axes = figures.new_figure(8.6, 4.6, columns=2)
    for ax, seed in zip(axes, ds.seed.values[:2], strict=True):
        _panel(ax, ds.sel(seed=seed))
        ax.set_title(f"trial {seed}")
    return figure


def _panel(ax: Axes, one: xr.Dataset) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=figures.GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    for unit in one.unit.values if "unit" in one.coords else range(one.sizes["unit"]):
        x, y = one.paths.isel(unit=unit).transpose("coordinate", "step").values
        color = figures.ORANGE if float(one.sign.isel(unit=unit)) > 0 else figures.BLUE
        ax.plot(x, y, color=color, linewidth=1)
        ax.plot(x[-1], y[-1], "o", color=color, markersize=4)
        ax.plot(x[0], y[0], ".", color=figures.INK, markersize=2.5)
    for (x, y), sign in zip(one.teacher.values, one.teacher_sign.values, strict=True):
        color = figures.ORANGE if sign > 0 else figures.BLUE
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.8, "alpha": 0.45})
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("|a| b, first coordinate")
    ax.set_ylabel("|a| b, second coordinate")


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Train loss along training, mean over trials."""
    return figures.table({"train loss": ds.train_loss.isel(step=slice(None, None, 10))}, "step")
