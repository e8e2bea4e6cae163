"""Images with labels, and the normalisation that training images decide."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Images(NamedTuple):
    """Training and held-out images `(n, height, width, channels)` with labels from 0 to 9.

    `mean` and `deviation`, one a channel, are those of the training pixels in [0, 1]; images are centred and scaled by
    them, so that noise of the same pixel range can be normalised alike (`uniform_noise`).
    """

    train_x: Float[Array, "n h w c"]
    train_y: Int[Array, " n"]
    test_x: Float[Array, "n_test h w c"]
    test_y: Int[Array, " n_test"]
    mean: Float[np.ndarray, " c"]
    deviation: Float[np.ndarray, " c"]


def normalized(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, brightest: int, dtype: Any
) -> Images:
    """Images from whole-numbered pixels in [0, `brightest`] and labels; raises ValueError for a type JAX would narrow.

    A channel that never varies is centred and left at its scale.
    """
    wanted = jnp.dtype(dtype)
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            f"images of type {wanted} need 64-bit numbers in JAX, which are off: "
            'add `jax.config.update("jax_enable_x64", True)`, or take dtype=jnp.float32'
        )
    scaled = [part[0].astype(np.float64) / brightest for part in (train, test)]
    mean, deviation = scaled[0].mean((0, 1, 2)), scaled[0].std((0, 1, 2))
    deviation = np.where(deviation > 0, deviation, 1.0)
    train_x, test_x = (jnp.asarray((pixels - mean) / deviation, wanted) for pixels in scaled)
    train_y, test_y = (jnp.asarray(part[1], jnp.int32) for part in (train, test))
    return Images(train_x, train_y, test_x, test_y, mean, deviation)
