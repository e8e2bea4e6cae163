"""Patches of colour photographs that come with scikit-learn and matplotlib: real images that need no download.

Three photographs: a temple (`china.jpg`) and a flower (`flower.jpg`), CC BY 2.0 by D. Büchele and by vultilion, 427 x
640 pixels each, and a portrait before a flag (`grace_hopper.jpg`), public domain, 600 x 512. Each is averaged over
blocks of `block` x `block` pixels and cut from its upper left corner into a grid of 32 x 32 patches, which therefore
share no pixel; what is left over at the right and below is dropped. Blocks of 2 make 192 patches, blocks of 1 make 808.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from lazyscope.datasets.images import Images, normalized

PHOTOGRAPHS = ("china", "flower", "grace_hopper")
SIDE = 32
BRIGHTEST = 255


def photographs(*, block: int = 2, dtype: Any = jnp.float32) -> Images:
    """The patches `(n, 32, 32, 3)`, photograph by photograph and row by row, normalised by channel as CIFAR-10 is.

    All are for training and none is held out, since patches of one photograph resemble each other; the label is the
    place of the photograph in `PHOTOGRAPHS`. Other versions of the JPEG decoder may differ by a 255th in a pixel.

    Raises ValueError for blocks so large that a photograph has no patch left, and for a dtype that JAX would narrow.
    """
    read = [_pixels(name) for name in PHOTOGRAPHS]
    largest = min(min(pixels.shape[:2]) for pixels in read) // SIDE
    if not 1 <= block <= largest:
        raise ValueError(f"block must be 1 to {largest} pixels, got {block}: 2 makes 192 patches")
    patches = [_patches(pixels, block) for pixels in read]
    labels = np.repeat(np.arange(len(patches)), [len(part) for part in patches])
    pixels = np.concatenate(patches)
    # Sums over a block are whole numbers, as bytes are.
    return normalized((pixels, labels), (pixels[:0], labels[:0]), brightest=BRIGHTEST * block**2, dtype=dtype)


def _pixels(name: str) -> np.ndarray:
    """A photograph as bytes `(height, width, 3)`."""
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread
    from sklearn.datasets import load_sample_image

    file = f"{name}.jpg"
    return load_sample_image(file) if name in ("china", "flower") else imread(get_sample_data(file, asfileobj=False))


def _patches(pixels: np.ndarray, block: int) -> np.ndarray:
    """Sums over blocks, cut into a grid: `(rows·columns, 32, 32, 3)`."""
    step = SIDE * block
    rows, columns = (size // step for size in pixels.shape[:2])
    kept = pixels[: rows * step, : columns * step].astype(int)
    grid = kept.reshape(rows, SIDE, block, columns, SIDE, block, 3)
    return grid.sum((2, 5)).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
