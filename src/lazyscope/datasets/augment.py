"""Random crops and flips: what changes an image and not its label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def crop_and_flip(key: Key[Array, ""], x: Float[Array, "n h w c"], *, padding: int = 4) -> Float[Array, "n h w c"]:
    """Each image shifted at random by up to `padding` pixels either way, zeros moving in, and flipped with chance ½.

    The augmentation of CIFAR-10 training (He et al. 2016, §4.2): pad, crop to the old size, mirror left to right. Can
    be jitted. Raises ValueError for a negative padding.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}: 4 is usual for 32 x 32 images")
    n, height, width, channels = x.shape
    key_rows, key_columns, key_flip = jax.random.split(key, 3)
    rows, columns = (jax.random.randint(k, (n,), 0, 2 * padding + 1) for k in (key_rows, key_columns))
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(image: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), (height, width, channels))

    cropped = jax.vmap(crop)(padded, rows, columns)
    flipped = jax.random.bernoulli(key_flip, 0.5, (n, 1, 1, 1))
    return jnp.where(flipped, cropped[:, :, ::-1], cropped)
