"""Where flows of small two-layer nets converge and how fast, over- and under-parameterised.

Square loss: smooth and strongly convex with condition number 1, so that in the theorems of Chizat et al. 2019 rates are
those of the tangent kernel alone. Times are counted in units of 1/λ, λ the smallest eigenvalue of K(w0)/n that is
resolved: the slowest direction of the linearised flow decays by e in one unit.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.axes import Axes

from lazyscope import figures
from lazyscope.dynamics import gradient_flow, kernel_flow
from lazyscope.models import center, two_layer
from lazyscope.papers.figure import Cell, Size, Trials
from lazyscope.papers.theorems.flows import Net, distance, net_start
from lazyscope.problems import square_loss, teacher_student


@dataclass(frozen=True)
class Convergence:
    """A centred two-layer tanh net, the values of alpha, and the last time in units of 1/λ."""

    n: int
    d: int
    width: int
    alphas: tuple[float, ...]
    units: float

    def net(self) -> Net:
        """The net with its data."""
        return Net(self.n, self.d, self.width, n_test=1)


OVER = {
    "tiny": Size(Convergence(6, 6, 24, (1.0, 100.0, 1000.0, 10_000.0), units=10.0), seeds=3),
    "quick": Size(Convergence(20, 20, 100, (1.0, 100.0, 1000.0, 10_000.0), units=12.0), seeds=5),
    "paper": Size(Convergence(20, 20, 100, (1.0, 10.0, 100.0, 316.0, 1000.0, 3160.0, 10_000.0), units=12.0), seeds=10),
}
UNDER = {
    "tiny": Size(Convergence(20, 3, 2, (1.0, 100.0, 1000.0), units=10.0), seeds=3),
    "quick": Size(Convergence(60, 5, 2, (1.0, 3.0, 10.0, 100.0, 1000.0), units=10.0), seeds=5),
    "paper": Size(Convergence(60, 5, 2, (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0, 10_000.0), units=12.0), seeds=10),
}


def recorded(units: float) -> Array:
    """Recorded times in units of 1/λ."""
    return units * jnp.arange(1.0, 41.0) / 40


def over_parameterised(key: Key[Array, ""], *, alpha: Array, net: Net, units: float) -> dict[str, Array]:
    """The flow of a net whose Dh(w0) is onto, beside its linearisation, with the constants of Theorem 2.4.

    C0 = s³/(32‖Dh‖Lip(Dh)) with s² = λ, for alpha > ‖y‖/C0; Lip(Dh) is its bound on the ball of radius s/(2 Lip(Dh)).
    """
    apply, params0, problem, lipschitz = net_start(key, net=net)
    at_start = kernel_flow(apply, params0, problem, times=[0.0]).details
    low, top = at_start.eigenvalues[0], at_start.eigenvalues[-1]
    s, norm_y = jnp.sqrt(low), jnp.sqrt(2 * square_loss(jnp.zeros_like(problem.y), problem.y))
    lip = lipschitz(s / (2 * lipschitz(jnp.zeros(()))[1]))[1]
    times = recorded(units) / low
    settings = {"alpha": alpha, "observe": lambda params: (params, apply(params, problem.x))}
    run = gradient_flow(apply, params0, problem, times=times, rtol=1e-9, atol=1e-12, **settings)
    params, outputs = run.observed
    linear = jax.vmap(lambda t: kernel_flow(apply, params0, problem, alpha=alpha, times=t[None]))(times)
    moved = jax.vmap(distance, in_axes=(0, None))(params, params0)
    residual, linear_residual = jnp.sqrt(2 * run.train_loss) / norm_y, jnp.sqrt(2 * linear.train_loss[:, 0]) / norm_y
    return {
        "residual": residual,
        "linear_residual": linear_residual,
        "slowest": low,
        "condition": top / low,
        "threshold": norm_y * 32 * jnp.sqrt(top) * lip / s**3,
        "moved": jnp.max(moved),
        "moved_bound": 8 * jnp.sqrt(top) * norm_y / (alpha * low),
        "weight_gap": jnp.max(jax.vmap(distance)(params, linear.params)),
        "output_gap": jnp.max(jnp.linalg.norm(alpha * outputs - linear.observed[0][:, 0], axis=1)) / jnp.sqrt(net.n),
        "steps": run.details.steps,
        "rejected": run.details.rejected,
    }


def under_parameterised(key: Key[Array, ""], *, alpha: Array, net: Net, units: float) -> dict[str, Array]:
    """The flow of a net with fewer parameters than examples; only its hidden weights move, readouts stay ±1.

    (A readout that moves, too, makes directions so slow that no flow gets to their end.) `projection_loss` is the loss
    of the projection of y on the range of Dh(w0), where the linearised flow ends. `gradient` is ‖∇F‖ over its value at
    w0; `convexity` the smallest over the largest eigenvalue of the Hessian of F at the end.
    """
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(key_data, n=net.n, d=net.d, n_test=net.n_test)
    model = two_layer(net.width, net.d, net.activation)
    signs = jnp.where(jnp.arange(net.width) % 2 == 0, 1.0, -1.0)
    params0 = jax.random.normal(key_init, (net.width, net.d))
    apply = center(lambda b, x: model.apply({"a": signs, "b": b}, x), params0)
    limit = kernel_flow(apply, params0, problem, alpha=alpha, times=[jnp.inf])
    rank, values = limit.details.rank, limit.details.eigenvalues
    low = values[values.size - rank]

    def loss(u: Array) -> Array:
        return square_loss(alpha * apply(params0 + u.reshape(params0.shape) / alpha, problem.x), problem.y)

    def moved(params: Array) -> Array:
        return alpha * (params - params0).reshape(-1)

    start = jnp.linalg.norm(jax.grad(loss)(moved(params0)))
    settings = {"alpha": alpha, "rtol": 1e-9, "atol": 1e-12}
    run = gradient_flow(apply, params0, problem, times=recorded(units) / low, observe=moved, **settings)
    gradient = jax.vmap(lambda u: jnp.linalg.norm(jax.grad(loss)(u)))(run.observed)
    curvature = jnp.linalg.eigvalsh(jax.hessian(loss)(run.observed[-1]))
    return {
        "train_loss": run.train_loss,
        "gradient": gradient / start,
        "convexity": curvature[0] / curvature[-1],
        "projection_loss": limit.train_loss[0],
        "start_loss": loss(moved(params0)),
        "slowest": low,
        "rank": rank,
        "parameters": jnp.asarray(params0.size),
        "steps": run.details.steps,
        "rejected": run.details.rejected,
    }


OVER_PARAMETERISED = Cell(over_parameterised, 2, dict.fromkeys(("residual", "linear_residual"), ("unit",)))
UNDER_PARAMETERISED = Cell(under_parameterised, 1, dict.fromkeys(("train_loss", "gradient"), ("unit",)))


def over(settings: Convergence, trials: Trials) -> xr.Dataset:
    """`over_parameterised` at every alpha: residuals, suprema, constants and the least alpha of the theorem."""
    return _at_every_alpha(OVER_PARAMETERISED, settings, trials)


def under(settings: Convergence, trials: Trials) -> xr.Dataset:
    """`under_parameterised` at every alpha: losses, gradients and curvature along the flow."""
    return _at_every_alpha(UNDER_PARAMETERISED, settings, trials)


def _at_every_alpha(cell: Cell, settings: Convergence, trials: Trials) -> xr.Dataset:
    ds = trials.over(cell, {"alpha": settings.alphas}, net=settings.net(), units=settings.units)
    return ds.assign_coords(unit=np.asarray(recorded(settings.units)))


def late_rate(values: xr.DataArray, first: float = 0.6) -> xr.DataArray:
    """Decay rate −d log(values)/d(unit) over the units after `first` of the last, least squares."""
    late = values.sel(unit=values.unit >= first * float(values.unit[-1]))
    return -late.copy(data=np.log(late.values)).polyfit("unit", 1).polyfit_coefficients.sel(degree=1)


def rate_at_largest_alpha(ds: xr.Dataset) -> np.ndarray:
    """Late decay rate of ‖∇F‖ in units of λ at the largest alpha."""
    return late_rate(ds.gradient.isel(alpha=-1)).values


def excess(ds: xr.Dataset) -> np.ndarray:
    """Train loss at the end over the loss of the projection on the range of Dh(w0), minus 1, at the largest alpha."""
    last = ds.isel(alpha=-1)
    return (last.train_loss.isel(unit=-1) / last.projection_loss - 1).values


def left_over(ds: xr.Dataset) -> np.ndarray:
    """Train loss at the end over that at the start, at the largest alpha."""
    last = ds.isel(alpha=-1)
    return (last.train_loss.isel(unit=-1) / last.start_loss).values


def draw_residual(ax: Axes, ds: xr.Dataset) -> None:
    """Residual of over-parameterised flows against time, the linearised flow's, and the guarantee of Theorem 2.4."""
    shown = [ds.alpha.values[0], ds.alpha.values[1], ds.alpha.values[-1]]
    for alpha, color, line in zip(shown, (figures.ORANGE, figures.GREEN, figures.BLUE), ("-", "--", ":"), strict=True):
        text = f"flow, alpha = {alpha:g}"
        figures.curve(ax, ds.residual.sel(alpha=alpha), "unit", label=text, color=color, line=line)
    linear = ds.linear_residual.isel(alpha=-1).mean("seed")
    ax.plot(ds.unit.values[::3], linear.values[::3], "x", color=figures.INK, label="linearised flow")
    ax.plot(ds.unit.values, np.exp(-ds.unit.values / 4), color=figures.GREY, label="guarantee, exp(−t λmin/4)")
    figures.finish(ax, x="time in units of 1/λmin", y="‖αh − y‖ / ‖αh(w0) − y‖", legend="lower left")


def draw_end_loss(ax: Axes, ds: xr.Dataset) -> None:
    """Distance of the end loss of under-parameterised flows from the projection's, against alpha."""
    above = abs(ds.train_loss.isel(unit=-1) / ds.projection_loss - 1)
    figures.curve(ax, above, "alpha", label="flow, at the end", color=figures.BLUE, marker="o")
    figures.guide(ax, above, "alpha", -1, label="slope −1")
    figures.finish(ax, x="output scale alpha", y="|train loss / loss of the projection − 1|", legend="lower left")
