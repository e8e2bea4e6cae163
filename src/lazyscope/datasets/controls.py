"""Images that keep some properties of given ones and lose the others: to tell which of them a measurement depends on.

| | colours of an image | covariance of pixels | which pixels are near |
|---|---|---|---|
| `shuffled_pixels`, one order | kept | kept, in another order | lost |
| `shuffled_pixels`, an order an image | kept | lost | lost |
| `gaussian_images` | lost | kept | kept |
| `uniform_noise` | lost | lost | lost |
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


def shuffled_pixels(
    key: Key[Array, ""], x: Float[Array, "n h w c"], *, one_order: bool = True
) -> Float[Array, "n h w c"]:
    """Each image with its pixels in another order, channels together; one order for all images, or one for each.

    An image keeps its colours and how often it has each. With one order the covariance of any two pixels is that of two
    others before, so that a fully connected net at a random start cannot tell; a convolutional one can.
    """
    n, height, width, channels = x.shape
    count = height * width
    if one_order:
        orders = jnp.broadcast_to(jax.random.permutation(key, count), (n, count))
    else:
        orders = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, n))
    flat = x.reshape(n, count, channels)
    return jnp.take_along_axis(flat, orders[:, :, None], axis=1).reshape(x.shape)


def gaussian_images(key: Key[Array, ""], x: Float[Array, "m h w c"], *, n: int) -> Float[Array, "n h w c"]:
    """`n` Gaussian images whose mean and covariance over all pixels and channels are those of the images `x`.

    So the mean power spectrum is that of `x`, too. A draw is mean + Σ_i z_i (x_i − mean)/√m with independent normal z,
    which has this covariance exactly, whether or not it has full rank.
    """
    mean = x.mean(0, keepdims=True)
    z = jax.random.normal(key, (n, len(x)), x.dtype) / np.sqrt(len(x)).astype(x.dtype)
    return mean + jnp.tensordot(z, x - mean, axes=1)


def uniform_noise(
    key: Key[Array, ""],
    shape: Sequence[int],
    *,
    mean: Float[np.ndarray, " c"],
    deviation: Float[np.ndarray, " c"],
    dtype: jnp.dtype | type = jnp.float32,
) -> Float[Array, "n h w c"]:
    """Images `(n, h, w, c)` of independent pixels, uniform on 0, 1, …, 255, normalised as `Images` of that mean are.

    What Chizat et al. 2019 (their kernel spectra) mean by random images; their code's noise does not reach the
    kernel with current versions of torchvision.
    """
    pixels = jax.random.randint(key, tuple(shape), 0, 256).astype(dtype) / 255
    channels = (1, 1, 1, -1)
    return (pixels - jnp.asarray(mean, dtype).reshape(channels)) / jnp.asarray(deviation, dtype).reshape(channels)
