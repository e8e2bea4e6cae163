"""What one gradient step changes, measured, and as the note's one-step argument has it (§1.1)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from lazyscope import passes, tree
from lazyscope.criterion.estimate import Estimate
from lazyscope.criterion.products import coarse_unit, normalized_outputs
from lazyscope.criterion.ratios import product, ratio
from lazyscope.criterion.start import Start, distance
from lazyscope.door import linearized
from lazyscope.examples import Batch
from lazyscope.krylov import lanczos
from lazyscope.models import Apply
from lazyscope.problems import Loss, square_loss

DIFFERENCE_STEPS = 24  # Lanczos steps for ‖Dh(w1) − Dh(w0)‖


class OneStep(NamedTuple):
    """Relative changes of the objective and of Dh in one gradient step, measured, and the note's approximations.

    Δ(F) = |F(w1) − F(w0)|/F(w0) ≈ η‖∇F‖²/F;  Δ(Dh) = ‖Dh(w1) − Dh(w0)‖/‖Dh(w0)‖, about η‖∇F‖‖D²h‖/‖Dh‖ at most.
    """

    step_size: float
    objective_change: float
    objective_approximation: float
    jacobian_change: float
    jacobian_approximation: float


def one_step(
    apply: Apply,
    loss: Loss,
    params: PyTree,
    data: tuple[Batch, Batch],
    alpha: float,
    step_size: float,
    hessian: Estimate,
    jacobian: Estimate,
    start: Start,
    residual: float,
) -> OneStep:
    """Measured and approximate changes for w1 = w0 − η∇F_alpha, whose length is (η/α)‖Dhᵀ∇R‖."""
    x, y = data
    slope, along = float(start.slope), start.along
    unit = coarse_unit(jacobian.value)
    unit_slope = coarse_unit(slope)
    apply = passes.in_blocks(apply, params, x)
    after = _step(apply, loss, params, x, y, alpha, step_size * unit * unit_slope / alpha, unit, unit_slope)
    if loss is square_loss:
        left = ratio(distance(after.outputs, y, alpha), residual)
        objective_change = abs(left * left - 1) if residual > 0 else 0.0
    else:
        before = float(start.loss)
        objective_change = ratio(abs(float(after.loss) - before), before)
    return OneStep(
        float(step_size),
        objective_change,
        # ‖∇F‖²/F = ‖Dhᵀ∇R‖²/R, and 2R/‖∇R‖ stands in for the residual.
        product(2 * (step_size * along) * along, ratio(slope, residual)),
        ratio(unit * math.sqrt(max(float(after.difference), 0.0)), jacobian.value),
        product((step_size * along) * slope / alpha, ratio(hessian.value, jacobian.value)),
    )


class _Stepped(NamedTuple):
    outputs: Array  # h(w1)
    loss: Array
    difference: Array  # ‖Dh(w1) − Dh(w0)‖² in squares of the unit


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    apply: Apply,
    loss: Loss,
    params: PyTree,
    x: Batch,
    y: Batch,
    alpha: float | Array,
    step: float | Array,
    unit: float | Array,
    unit_slope: float | Array,
) -> _Stepped:
    """w1 = w0 − step·(Dh/unit)ᵀ(∇R/unit_slope)."""
    f, w0 = normalized_outputs(apply, params, x)
    theta, merge = tree.split(params)
    _, unravel = ravel_pytree(theta)
    unit = jnp.asarray(unit, w0.dtype)

    def outputs(w: Array) -> Array:
        return apply(merge(unravel(w)), x)

    def loss_of(f: Array) -> Array:
        return loss(jnp.asarray(alpha, f.dtype) * f, y)

    h, pull = jax.vjp(outputs, w0)
    slope = jax.grad(lambda f: loss(f, y))(jnp.asarray(alpha, h.dtype) * h) / jnp.asarray(unit_slope, h.dtype)
    w1 = w0 - jnp.asarray(step, w0.dtype) * (pull(slope)[0] / unit)
    value, push0, pull0 = linearized(f, w0)
    _, push1, pull1 = linearized(f, w1)

    def product(z: Array) -> Array:
        v = (pull1(z) - pull0(z)) / unit
        return (push1(v) - push0(v)) / unit

    index = jnp.arange(value.size, dtype=value.dtype)
    values = lanczos(product, 1.0 + jnp.cos(index * index), depth=DIFFERENCE_STEPS).values
    after = outputs(w1)
    return _Stepped(after, loss_of(after), jnp.max(values))
