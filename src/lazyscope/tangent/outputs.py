"""Outputs that have a tangent kernel: real numbers, one row per example."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lazyscope import examples
from lazyscope.door import outputs_of
from lazyscope.examples import Batch
from lazyscope.models import Apply


def real_outputs(apply: Apply, params: PyTree, x: Batch) -> jax.ShapeDtypeStruct:
    """Shape and type of the outputs, without evaluating them; ValueError for anything but one array of real floats."""
    outputs: Any = outputs_of(apply, params, x)
    if not hasattr(outputs, "dtype") or not jnp.issubdtype(outputs.dtype, jnp.floating):
        got = getattr(outputs, "dtype", f"a {type(outputs).__name__} and no array")
        raise ValueError(f"outputs must be real floating-point numbers, got {got}: return the logits")
    return outputs


def checked_outputs(apply: Apply, params: PyTree, x: Batch) -> jax.ShapeDtypeStruct:
    """`real_outputs`; ValueError, too, where they do not have one row per example."""
    outputs = real_outputs(apply, params, x)
    n = examples.count(x)
    if outputs.ndim == 0 or outputs.shape[0] != n:
        raise ValueError(
            f"outputs must have one row per example, got shape {tuple(outputs.shape)} for {n} examples: return (n, ...)"
        )
    return outputs


def scalar_outputs(apply: Apply, params: PyTree, x: Batch) -> bool:
    """Whether the outputs on a batch have shape (n,)."""
    return len(outputs_of(apply, params, x).shape) == 1
