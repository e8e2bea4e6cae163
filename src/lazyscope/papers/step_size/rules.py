"""Step sizes against tau, as the papers choose them.

The papers' scripts call `stepsize` what is η on F_alpha here; the two agree for the code of Chizat et al. 2019.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from lazyscope.store import stored_as

StepRule = Callable[[Array], Array]


@stored_as("lazyscope.papers.protocol.chizat_step_size")
def chizat_step_size(tau: Array) -> Array:
    """η = min(10, 0.1/tau²) (Chizat et al. 2019, test_vs_scale). Constant in v = w/tau units but for the cap."""
    return jnp.minimum(10.0, 0.1 / tau**2)


@stored_as("lazyscope.papers.protocol.fixed_step_size")
def fixed_step_size(tau: Array) -> Array:
    """η = 0.005 whatever tau (note §5.1)."""
    return jnp.full_like(tau, 0.005)


@stored_as("lazyscope.papers.protocol.power_step_size")
def power_step_size(tau: Array, *, power: float, at_one: float = 0.1) -> Array:
    """η = at_one·tau^power: with power > 0 smaller steps for smaller tau, which note §5.1 proposes to try."""
    return at_one * tau**power
