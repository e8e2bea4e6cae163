"""Outputs at positions of tokens that are padding: they are no outputs of the model's, whatever they are."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.converted import Converted
from lazyscope.examples import Batch
from lazyscope.problems import IGNORED, Problem, token_cross_entropy

MASK = "attention_mask"


Counts = Callable[[Array], Array]
"""Which positions (n, t) are none of padding, by the attention mask."""


class WithoutPadding:
    """The model with 0 for what it gives at padding, so that no difference of outputs or derivatives counts there."""

    def __init__(self, apply: Converted, counts: Counts) -> None:
        self.apply, self.counts = apply, counts

    def __call__(self, params: PyTree, x: dict[str, Array]) -> Array:
        """Outputs (n, t, v)."""
        outputs = self.apply(params, x)
        return jnp.where(self.counts(x[MASK])[..., None], outputs, jnp.zeros((), outputs.dtype))


def padding(problem: Problem, shape: tuple[int, ...]) -> Counts | None:
    """What tells padding, where no label counts, in examples of tokens with outputs of this shape; None without any."""
    pairs = [(x, y) for x, y in ((problem.x, problem.y), (problem.x_test, problem.y_test)) if x is not None]
    masks: list[Any] = [x.get(MASK) if isinstance(x, dict) else None for x, _ in pairs]
    if problem.loss is not token_cross_entropy or any(mask is None or mask.shape[1:] != shape[:1] for mask in masks):
        return None
    for counts in (tokens, _tokens_and_the_one_before):
        kept = [np.asarray(counts(mask)) for mask in masks]
        uncounted = all(np.all(np.asarray(y)[~keep] == IGNORED) for keep, (_, y) in zip(kept, pairs, strict=True))
        if uncounted and not all(keep.all() for keep in kept):
            return counts
    return None


def is_padded(x: Batch, shape: tuple[int, ...]) -> bool:
    """Whether examples are tokens with padding, of which each has a row in outputs of this shape."""
    mask = x.get(MASK) if isinstance(x, dict) else None
    return mask is not None and len(shape) == 2 and mask.shape[1:] == shape[:1] and not bool(tokens(mask).all())


def tokens(mask: Array) -> Array:
    """The positions of tokens."""
    return jnp.asarray(mask) != 0


def _tokens_and_the_one_before(mask: Array) -> Array:
    """With padding on the left the one before the first token predicts it."""
    real = tokens(mask)
    return real | jnp.pad(real[:, 1:], ((0, 0), (0, 1)))
