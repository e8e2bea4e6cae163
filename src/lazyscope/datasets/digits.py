"""Handwritten digits, which come with scikit-learn: real data that needs no download."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from lazyscope.datasets.images import Images, normalized
from lazyscope.problems import Problem

CLASSES = 10
SPLIT = 1500


def digits(key: Key[Array, ""], *, n: int, n_test: int, classes: tuple[int, ...] = tuple(range(CLASSES))) -> Problem:
    """Handwritten digits with one-hot targets for the square loss, split at random (scikit-learn's `load_digits`).

    Images `(n, 8, 8, 1)`, centred and scaled by the mean and standard deviation of all pixels of the data; targets
    `(n, len(classes))`. The 1797 examples come with scikit-learn, nothing is downloaded. Raises ValueError for more
    examples than there are and for classes that are not among 0 to 9.
    """
    images, labels = _digits()
    if not classes or not set(classes) <= set(range(CLASSES)) or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be different digits from 0 to 9, got {classes}: name at least one")
    chosen = np.flatnonzero(np.isin(labels, classes))
    if n < 1 or n_test < 1 or n + n_test > len(chosen):
        raise ValueError(
            f"n and n_test must be at least 1 and together at most {len(chosen)}, got {n} and {n_test}: take fewer"
        )
    places = np.searchsorted(np.sort(classes), labels[chosen])
    order = jax.random.permutation(key, len(chosen))[: n + n_test]
    x = jnp.asarray(images[chosen], float)[order]
    y = jax.nn.one_hot(jnp.asarray(places), len(classes), dtype=x.dtype)[order]
    return Problem(x[:n], y[:n], x[n:], y[n:])


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    return ((images - images.mean()) / images.std()).reshape(-1, 8, 8, 1), labels


def digit_images(*, dtype: Any = jnp.float32) -> Images:
    """The same digits as 32 x 32 images of three equal channels: real data for nets that are made for CIFAR-10.

    Each pixel is repeated 4 x 4 times. The first 1500 examples in scikit-learn's order are for training, the other 297
    are held out. Raises ValueError for a dtype that JAX would narrow.
    """
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = pixels.reshape(-1, 8, 8, 1).repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return normalized((images[:SPLIT], labels[:SPLIT]), (images[SPLIT:], labels[SPLIT:]), brightest=16, dtype=dtype)
