"""Outputs at positions of tokens that are padding: they are no outputs of the model's, whatever they are."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.converted import Converted
from lazyscope.examples import Batch
from lazyscope.problems import IGNORED, Problem, token_cross_entropy

MASK = "attention_mask"


class WithoutPadding:
    """The model with 0 for what it gives at padding, so that no difference of outputs or derivatives counts there."""

    def __init__(self, apply: Converted) -> None:
        self.apply = apply

    def __call__(self, params: PyTree, x: dict[str, Array]) -> Array:
        """Outputs (n, t, v)."""
        outputs = self.apply(params, x)
        return jnp.where(_counts(x[MASK])[..., None], outputs, jnp.zeros((), outputs.dtype))


def has_padding(problem: Problem, shape: tuple[int, ...]) -> bool:
    """Whether examples, of outputs of this shape, are tokens with padding whose labels do not count."""
    pairs = [(x, y) for x, y in ((problem.x, problem.y), (problem.x_test, problem.y_test)) if x is not None]
    masks: list[Any] = [x.get(MASK) if isinstance(x, dict) else None for x, _ in pairs]
    if problem.loss is not token_cross_entropy or any(mask is None or mask.shape[1:] != shape[:1] for mask in masks):
        return False
    kept = [np.asarray(_counts(mask)) for mask in masks]
    uncounted = [np.all(np.asarray(y)[~keep] == IGNORED) for keep, (_, y) in zip(kept, pairs, strict=True)]
    return not all(keep.all() for keep in kept) and all(uncounted)


def is_padded(x: Batch, shape: tuple[int, ...]) -> bool:
    """Whether examples are tokens with padding, of which each has a row in outputs of this shape."""
    mask = x.get(MASK) if isinstance(x, dict) else None
    return mask is not None and len(shape) == 2 and mask.shape[1:] == shape[:1] and not bool(_counts(mask).all())


def _counts(mask: Array) -> Array:
    """Positions of tokens and, with padding on the left, the one that predicts the first of them."""
    real = jnp.asarray(mask) != 0
    return real | jnp.pad(real[:, 1:], ((0, 0), (0, 1)))
