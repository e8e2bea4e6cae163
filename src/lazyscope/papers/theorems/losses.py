"""Flows of small tanh nets under losses other than the square one: what convexity R needs for which claim.

Losses are means over examples of a function of f and y; residuals are r = f − y.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Float, Key

from lazyscope.dynamics import gradient_flow
from lazyscope.linearize import linearize
from lazyscope.papers.figure import Cell, Trials, prefixed, side_by_side
from lazyscope.papers.theorems.assumptions import Shape
from lazyscope.papers.theorems.flows import Net, distance, net_start
from lazyscope.problems import Loss, square_loss
from lazyscope.store import stored_as
from lazyscope.tangent import tangent_kernel


@stored_as("lazyscope.papers.loss_cells.strong_loss")
def strong_loss(outputs: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean of ½r² + log cosh r: not quadratic, 1-strongly convex and 2-smooth."""
    r = outputs - y
    return jnp.mean(0.5 * r**2 + 0.5 * jnp.log1p(jnp.sinh(r) ** 2))  # log cosh r with all its digits near 0


@stored_as("lazyscope.papers.loss_cells.logistic_loss")
def logistic_loss(outputs: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean of log(1 + exp(−f)) for y > 0 and log(1 + exp(f)) else: strictly convex, not strongly, no minimiser."""
    return jnp.mean(jax.nn.softplus(-jnp.where(y > 0, outputs, -outputs)))


@stored_as("lazyscope.papers.loss_cells.quartic_loss")
def quartic_loss(outputs: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean of ¼r⁴: strictly convex, not strongly, with a minimiser."""
    return jnp.mean((outputs - y) ** 4) / 4


@stored_as("lazyscope.papers.loss_cells.cauchy_loss")
def cauchy_loss(outputs: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean of ½ log(1 + (r/s)²), s = 0.1: smooth and not convex where |r| > s, as most residuals are at the start."""
    return 0.5 * jnp.mean(jnp.log1p(((outputs - y) / 0.1) ** 2)) * 0.01


GENERAL: dict[str, Loss] = {"logistic": logistic_loss, "non-convex": cauchy_loss}
CONVEX: dict[str, Loss] = {
    "square": square_loss,
    "strongly convex": strong_loss,
    "logistic": logistic_loss,
    "quartic": quartic_loss,
}


@stored_as("lazyscope.papers.loss_cells.Losses")
@dataclass(frozen=True)
class Losses:
    """A centred net over a fixed horizon at several alpha, and an over-parameterised one until late."""

    net: Shape
    alphas: tuple[float, ...]
    horizon: float
    over: Shape
    units: float

    def times(self) -> Array:
        """Recorded times of the second in units of 1/λmin."""
        return self.units * jnp.arange(1.0, 25.0) / 24


LOSSES = {
    "tiny": Losses(Shape(8, 3, 8), (16.0, 256.0), 5.0, Shape(6, 6, 24), 10.0),
    "quick": Losses(Shape(20, 5, 30), (8.0, 64.0, 512.0), 20.0, Shape(20, 20, 100), 8.0),
    "paper": Losses(Shape(20, 5, 30), tuple(2.0**k for k in range(2, 11)), 20.0, Shape(20, 20, 100), 8.0),
}


@stored_as("lazyscope.papers.loss_cells.fixed_horizon")
def fixed_horizon(key: Key[Array, ""], *, alpha: Array, loss: Loss, net: Net, horizon: float) -> dict[str, Array]:
    """Suprema over [0, horizon] of ‖w − w0‖ and ‖w − w̄‖, and the least of the start's curvature of R."""
    apply, params0, problem, _ = net_start(key, net=net)
    problem = replace(problem, loss=loss)
    settings = {"alpha": alpha, "times": horizon * jnp.arange(1.0, 17.0) / 16, "rtol": 1e-9, "atol": 1e-11}
    settings["observe"] = lambda params: params
    run = gradient_flow(apply, params0, problem, **settings)
    linear = gradient_flow(linearize(apply, params0), params0, problem, **settings)
    curvature = jnp.diagonal(jax.hessian(lambda f: net.n * loss(f, problem.y))(alpha * apply(params0, problem.x)))
    return {
        "moved": jnp.max(jax.vmap(distance, in_axes=(0, None))(run.observed, params0)),
        "apart": jnp.max(jax.vmap(distance)(run.observed, linear.observed)),
        "curvature": jnp.min(curvature),
    }


@stored_as("lazyscope.papers.loss_cells.decay")
def decay(key: Key[Array, ""], *, loss: Loss, spec: Losses) -> dict[str, Array]:
    """Loss of the linearised flow over its start, at `times` in units of 1/λmin of K(w0)/n; its minimum is 0."""
    apply, params0, problem, _ = net_start(key, net=spec.over.net())
    problem = replace(problem, loss=loss)
    low = jnp.linalg.eigvalsh(tangent_kernel(apply, params0, problem.x) / spec.over.n)[0]
    flat = linearize(apply, params0)
    run = gradient_flow(flat, params0, problem, times=spec.times() / low, rtol=1e-11, atol=1e-14)
    return {"loss_left": run.train_loss / loss(jnp.zeros(spec.over.n), problem.y)}


GENERAL_LOSS = Cell(fixed_horizon, 2)
CONVEX_LOSS = Cell(decay, 2, {"loss_left": ("loss_unit",)})


def general_losses(settings: Losses, trials: Trials) -> xr.Dataset:
    """`fixed_horizon` over (general, loss_alpha), named `loss_*`, one label a loss."""
    net, horizon = settings.net.net(), settings.horizon
    parts = {
        name: trials.over(GENERAL_LOSS, {"alpha": settings.alphas}, loss=loss, net=net, horizon=horizon)
        for name, loss in GENERAL.items()
    }
    return prefixed(side_by_side("general", parts), "loss_", "alpha")


def convex_losses(settings: Losses, trials: Trials) -> xr.Dataset:
    """`decay` of every convex loss, over (convex, loss_unit)."""
    shared = replace(settings, alphas=())  # what decides a cell's numbers
    parts = {name: trials.over(CONVEX_LOSS, {}, loss=loss, spec=shared) for name, loss in CONVEX.items()}
    return side_by_side("convex", parts).assign_coords(loss_unit=[float(t) for t in settings.times()])
