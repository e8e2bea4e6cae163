"""Flows of small nets beside their linearisations: over a fixed horizon, and after K iterations.

The models vanish at w0, by centring, h − h(w0), or by doubling. The two are not the same device: the pairs of a doubled
net move oppositely in a and alike in b, so that the second-order term of its outputs cancels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree
from matplotlib.axes import Axes

from lazyscope import figures, tree
from lazyscope.dynamics import gradient_flow, kernel_flow
from lazyscope.models import Apply, Doubled, center, two_layer
from lazyscope.papers.figure import Cell, Size, Trials, side_by_side
from lazyscope.papers.quantities import farthest, slopes
from lazyscope.papers.student import decades, held_out
from lazyscope.problems import Problem, square_loss, teacher_student
from lazyscope.store import stored_as
from lazyscope.tangent import jacobian, largest_eigenvalue

# sup |φ''| of the smooth activations, both with |φ'| <= 1; tanh'' is largest where tanh² = 1/3.
CURVATURE = {jnp.tanh: 4 / 3**1.5, jax.nn.softplus: 0.25}

Lipschitz = Callable[[Array], tuple[Array, Array]]


@stored_as("lazyscope.papers.flow_cells.Net")
@dataclass(frozen=True)
class Net:
    """A two-layer net without scale, N(0, 1) weights, and its teacher-student data on the sphere of R^d."""

    n: int
    d: int
    width: int
    n_test: int = 50
    activation: Callable[[Array], Array] = jnp.tanh
    doubled: bool = False
    centred: bool = True


class Start(NamedTuple):
    """A model at w0 with its problem. `lipschitz(r)` bounds (Lip(h), Lip(Dh)) on the ball of radius r around w0."""

    apply: Apply
    params0: PyTree
    problem: Problem
    lipschitz: Lipschitz


@stored_as("lazyscope.papers.flow_cells.net_start")
def net_start(key: Key[Array, ""], *, net: Net) -> Start:
    """The net at its initialisation, with bounds for smooth activations and inputs of norm 1.

    D²h couples only the weights of one unit: Lip(Dh) <= max_i ‖[[0, 1], [1, c(|a_i| + r)]]‖ with c = sup |φ''|. ‖Dh‖ on
    the ball is at most ‖Dh(w0)‖ + r Lip(Dh).
    """
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(key_data, n=net.n, d=net.d, n_test=net.n_test)
    model = two_layer(net.width, net.d, net.activation)
    params0 = model.init(key_init, doubled=net.doubled)
    apply = center(model.apply, params0) if net.centred and not net.doubled else model.apply
    readout = jnp.max(jnp.abs(params0.plus["a"] if isinstance(params0, Doubled) else params0["a"]))
    curvature = CURVATURE.get(net.activation, jnp.nan)
    slope = jnp.sqrt(largest_eigenvalue(apply, params0, problem.x))

    def lipschitz(radius: Array) -> tuple[Array, Array]:
        diagonal = curvature * (readout + radius)
        lip = 0.5 * (diagonal + jnp.sqrt(diagonal**2 + 4))
        return slope + radius * lip, lip

    return Start(apply, params0, problem, lipschitz)


@stored_as("lazyscope.papers.flow_cells.quadratic_start")
def quadratic_start(key: Key[Array, ""], *, n: int, p: int, aligned: bool = False) -> Start:
    """A quadratic map h(w) = B w + s wᵀM w at w0 = 0 whose two Lipschitz constants are known exactly.

    The top singular vectors of B are along s and along the top eigenvector q of M, so that ‖Dh‖ on the ball is largest
    at r·q: Lip(h) = ‖B‖ + r Lip(Dh), Lip(Dh) = 2‖s‖‖M‖, in function space. Needs n >= p.
    """
    keys = jax.random.split(key, 5)
    left = jnp.linalg.qr(jax.random.normal(keys[0], (n, p)))[0]
    right = jnp.linalg.qr(jax.random.normal(keys[1], (p, p)))[0]
    values = jnp.sort(jax.random.uniform(keys[2], (p,), minval=0.1, maxval=1.0))[::-1]
    bend = jnp.sort(jax.random.uniform(keys[3], (p,), minval=-0.9, maxval=1.0))[::-1].at[0].set(1.0)
    b, m = jnp.sqrt(n) * (left * values[None]) @ right.T, (right * bend[None]) @ right.T
    s = jnp.sqrt(n) * left[:, 0]

    def apply(w: Float[Array, " p"], x: Float[Array, "n q"]) -> Float[Array, " n"]:
        return x[:, 1:] @ w + x[:, 0] * (w @ m @ w)

    y = s if aligned else jax.random.normal(keys[4], (n,))
    problem = Problem(jnp.concatenate([s[:, None], b], axis=1), y)
    return Start(apply, jnp.zeros(p), problem, lambda radius: (values[0] + 2 * radius, jnp.full((), 2.0)))


@stored_as("lazyscope.papers.flow_cells.fixed_horizon")
def fixed_horizon(
    key: Key[Array, ""], *, alpha: Array, net: Net, horizon: float, records: int, rtol: float
) -> dict[str, Array]:
    """Suprema over [0, horizon] of what separates the flow from w0 and from the linearised flow, and their bounds."""
    apply, params0, problem, lipschitz = net_start(key, net=net)
    x_test, y_test = held_out(problem)
    times = horizon * jnp.arange(1.0, records + 1.0) / records
    gates = two_layer(net.width, net.d).gates
    if gates is None:
        raise ValueError("a two-layer ReLU net has gates")

    def observe(params: PyTree) -> tuple[PyTree, Array, Array, PyTree]:
        # The signs of the hidden units, whatever the activation: gates for ReLU.
        return params, apply(params, problem.x), apply(params, x_test), gates(params, problem.x)

    settings = {"alpha": alpha, "rtol": rtol, "atol": rtol / 100, "observe": observe}
    run = gradient_flow(apply, params0, problem, times=times, **settings)
    params, outputs, outputs_test, pattern = run.observed
    # The eigendecomposition does not depend on the time, so that mapping over it costs nothing.
    linear = jax.vmap(lambda t: kernel_flow(apply, params0, problem, alpha=alpha, times=t[None]))(times)
    moved = jax.vmap(distance, in_axes=(0, None))(params, params0)
    apart = jax.vmap(distance)(params, linear.params)
    gap = jnp.linalg.norm(alpha * outputs - linear.observed[0][:, 0], axis=1) / jnp.sqrt(net.n)
    gap_test = jnp.max(jnp.abs(alpha * outputs_test - linear.observed[1][:, 0]), axis=1)
    slope_test = jnp.sqrt(jnp.max(jnp.sum(jacobian(apply, params0, x_test) ** 2, axis=(1, 2))))
    lip_test = lipschitz(jnp.max(moved))[1]
    pairs = zip(jax.tree.leaves(pattern), jax.tree.leaves(gates(params0, problem.x)), strict=True)
    flipped = sum(jnp.sum(jnp.any(now != then[None], axis=0)) for now, then in pairs)
    return {
        "moved": jnp.max(moved),
        "weight_gap": jnp.max(apart),
        "output_gap": jnp.max(gap),
        "test_gap": jnp.max(gap_test),
        "moved_bound": jnp.sqrt(horizon * square_loss(alpha * apply(params0, problem.x), problem.y)) / alpha,
        "test_ratio": jnp.max(gap_test / (alpha * (slope_test * apart + 0.5 * lip_test * moved**2))),
        "flipped": jnp.asarray(flipped),
        "test_loss": square_loss(alpha * outputs_test[-1], y_test),
        "linear_test_loss": linear.test_loss[-1, 0],
        "train_loss": run.train_loss[-1],
        "steps": run.details.steps,
        "rejected": run.details.rejected,
    }


HORIZON = Cell(fixed_horizon, 2)


def horizons(nets: dict[str, Net], alphas: tuple[float, ...], horizon: float, trials: Trials) -> xr.Dataset:
    """`fixed_horizon` for every net and alpha; ReLU at a looser tolerance, since its kinks stall a tight one."""
    parts = {}
    for name, net in nets.items():
        rtol = 1e-6 if net.activation is jax.nn.relu else 1e-10
        parts[name] = trials.over(HORIZON, {"alpha": alphas}, net=net, horizon=horizon, records=32, rtol=rtol)
    return side_by_side("net", parts)


@stored_as("lazyscope.papers.flow_cells.finite_bound")
def finite_bound(
    key: Key[Array, ""], *, alpha: Array, start: Callable[[Key[Array, ""]], Start], iterations: tuple[float, ...]
) -> dict[str, Array]:
    """The relative gap at T = K/Lip(h)² for every K, and its bound K² Lip(Dh)‖αh(w0) − y‖/(α Lip(h)²).

    Lip(h) and Lip(Dh) are those of the smallest ball that the theorem allows, α r Lip(h) = K‖αh(w0) − y‖.
    """
    apply, params0, problem, lipschitz = start(key)
    k = jnp.asarray(iterations)
    residual = jnp.sqrt(2 * square_loss(alpha * apply(params0, problem.x), problem.y))

    def halve(interval: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = interval
        middle = 0.5 * (low + high)
        inside = middle * lipschitz(middle)[0] < k * residual / alpha
        return (jnp.where(inside, middle, low), jnp.where(inside, high, middle)), None

    widest = k * residual / (alpha * lipschitz(jnp.zeros(()))[0])
    (_, radius), _ = jax.lax.scan(halve, (jnp.zeros_like(k), widest), length=60)
    lip, lip_derivative = lipschitz(radius)
    times = k / lip**2

    def observe(params: PyTree) -> tuple[Array, PyTree]:
        return apply(params, problem.x), params

    run = gradient_flow(apply, params0, problem, alpha=alpha, times=times, observe=observe, rtol=1e-10, atol=1e-13)
    outputs, params = run.observed
    linear = kernel_flow(apply, params0, problem, alpha=alpha, times=times)
    return {
        "gap": jnp.linalg.norm(alpha * outputs - linear.observed[0], axis=1)
        / (jnp.sqrt(problem.num_examples) * residual),
        "bound": k**2 * lip_derivative * residual / (alpha * lip**2),
        "confined": jax.vmap(distance, in_axes=(0, None))(params, params0) / radius,
    }


FINITE_BOUND = Cell(finite_bound, 2, dict.fromkeys(("gap", "bound", "confined"), ("K",)))


@dataclass(frozen=True)
class Bounds:
    """A quadratic map of n examples and p parameters, a tanh net on as many examples, and where they are compared."""

    n: int
    p: int
    d: int
    width: int
    alphas: tuple[float, ...]
    iterations: tuple[float, ...]

    def starts(self) -> dict[str, Callable[[Key[Array, ""]], Start]]:
        """The models by name."""
        return {
            "quadratic": partial(quadratic_start, n=self.n, p=self.p),
            "quadratic, aligned": partial(quadratic_start, n=self.n, p=self.p, aligned=True),
            "tanh net": partial(net_start, net=Net(self.n, self.d, self.width, centred=False)),
        }


BOUNDS = {
    "tiny": Size(Bounds(8, 4, 3, 6, (1.0, 100.0), (0.001, 0.01, 1.0)), seeds=3),
    "quick": Size(
        Bounds(20, 12, 5, 30, (1.0, 10.0, 100.0), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)), seeds=5
    ),
    "paper": Size(Bounds(20, 12, 5, 30, decades(-1, 3, 1), decades(-3, 1.5, 0.25)), seeds=10),
}


def bounds(settings: Bounds, trials: Trials) -> xr.Dataset:
    """`finite_bound` for every model and alpha."""
    iterations = settings.iterations
    parts = {
        name: trials.over(FINITE_BOUND, {"alpha": settings.alphas}, start=start, iterations=iterations)
        for name, start in settings.starts().items()
    }
    return side_by_side("model", parts).assign_coords(K=list(iterations))


def growth(ds: xr.Dataset) -> np.ndarray:
    """Slope of log gap against log K for K <= 0.01, per seed the one farthest from 2 over models and alpha."""
    return farthest(slopes(ds.gap.sel(K=slice(None, 0.0101)), "K"), 2.0)


def draw_bound(ax: Axes, ds: xr.Dataset) -> None:
    """Gap and bound of one model against K, at three alphas."""
    shown = ds.alpha.values[:: max(1, (ds.sizes["alpha"] - 1) // 2)]
    for alpha, color in zip(shown, (figures.BLUE, figures.ORANGE, figures.GREEN), strict=False):
        one = ds.sel(alpha=alpha)
        figures.curve(ax, one.gap, "K", label=f"gap, alpha = {alpha:g}", color=color, marker="o")
        ax.plot(one.K.values, one.bound.mean("seed").values, "--", color=color, linewidth=1.2)
    ax.plot([], [], "--", color=figures.GREY, label="bound")
    figures.finish(ax, x="K", y="gap relative to the initial residual")


def draw_power(
    ax: Axes,
    values: xr.DataArray,
    *,
    label: str,
    color: str,
    line: str = "-",
    marker: str = "o",
    fitted: slice = slice(None),
) -> None:
    """What grows as a power of alpha, with the power over the `fitted` alphas in its label."""
    value = float(slopes(values.sel(alpha=fitted), "alpha").mean())
    figures.curve(ax, values, "alpha", label=f"{label}: slope {value:.2f}", color=color, line=line, marker=marker)


def distance(params: PyTree, other: PyTree) -> Float[Array, ""]:
    """‖params − other‖."""
    return tree.norm(tree.sub(params, other))
