"""The tangent kernel of the two-layer ReLU net at infinite width."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyscope import tree
from lazyscope.door import entrance


@entrance
def infinite_width_kernel(
    x: Float[Array, "n d"], x2: Float[Array, "n2 d"] | None = None, *, tau: float | Array = 1.0
) -> Float[Array, "n n2"]:
    """E[K]/m of the two-layer ReLU net Σ_i a_i relu(b_i·x) with m units of independent N(0, tau²) weights.

    The mean contribution of one unit, and the limit of K/m, approached as m^(−1/2). With θ the angle between x and x'
    (arc-cosine kernels of order 1 and 0, Cho & Saul 2009):

        E[K]/m = tau² [ ‖x‖‖x'‖ (sin θ + (π − θ) cos θ) + x·x' (π − θ) ] / 2π,

    the first term from a, the second from b. A doubled net of m units has the same mean per unit, from m/2 distinct
    units: the net of width m/2 deviates from its mean as much. The output scale alpha is not part of the model; with
    alpha(m) = m^(−1/2) this is the kernel of alpha·h.
    """
    other = x if x2 is None else x2
    lengths, directions = _polar(x)
    other_lengths, other_directions = _polar(other)

    def row(direction: Array) -> Array:
        # arccos of the inner product loses half the digits near θ = 0, where the order-0 kernel has a kink.
        apart = jnp.linalg.norm(direction[None] - other_directions, axis=1)
        along = jnp.linalg.norm(direction[None] + other_directions, axis=1)
        return 2 * jnp.arctan2(apart, along)

    theta = jax.lax.map(row, directions)
    norms = lengths[:, None] * other_lengths[None]
    return tau**2 * norms * (jnp.sin(theta) + 2 * (jnp.pi - theta) * jnp.cos(theta)) / (2 * jnp.pi)


def _polar(x: Array) -> tuple[Array, Array]:
    lengths = jax.vmap(tree.norm)(x)
    return lengths, x / jnp.where(lengths > 0, lengths, 1)[:, None]
