"""Where training starts: the outputs, the loss and its gradient."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import passes, tree
from lazyscope.door import checked_outputs
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Loss


class Start(NamedTuple):
    """The model at its initial parameters."""

    outputs: Array  # h, without alpha
    loss: Array
    slope: Array  # ‖∇R‖ in function space
    direction: Array  # ∇R/‖∇R‖ as one vector; 0 for ∇R = 0
    along: float = math.nan  # ‖Dhᵀ∇R‖/‖∇R‖, at most ‖Dh‖; 0 for ∇R = 0


@partial(jax.jit, static_argnums=0)
def start(loss: Loss, outputs: Array, y: Batch, alpha: float | Array) -> Start:
    """Loss and its gradient at the outputs h; `along` is not known yet."""
    scale = jnp.asarray(alpha, outputs.dtype)
    value, slope = jax.value_and_grad(loss)(scale * outputs, y)
    # ∂R/∂f_i is 1/n of the function-space gradient, whose norm is again a mean over examples.
    unit, root = tree.unit(slope), jnp.sqrt(jnp.asarray(outputs.shape[0], slope.dtype))
    size = tree.norm(slope / unit)
    direction = slope.reshape(-1) / unit / jnp.where(size > 0, size, 1)
    return Start(outputs, value, unit * root * size, direction)


def check_outputs(apply: Apply, params: PyTree, x: Batch) -> Array:
    """The outputs, or a ValueError where they are not finite real floats with one row per example."""
    checked_outputs(apply, params, x)
    outputs = passes.outputs(apply, params, x)
    bad = int(np.sum(~np.isfinite(np.asarray(outputs))))
    if bad:
        raise ValueError(f"outputs must be finite, got {bad} NaN or infinite values: lower the scale of the weights")
    return outputs


def distance(outputs: Array, y: Array, alpha: float) -> float:
    """‖αh − y‖ in function space, in double precision."""
    return tree.host_norm(float(alpha) * np.asarray(outputs, float) - np.asarray(y, float)) / math.sqrt(len(outputs))
