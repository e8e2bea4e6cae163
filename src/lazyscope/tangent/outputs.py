"""Outputs that have a tangent kernel: real numbers, one row per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lazyscope.models import Apply


def real_outputs(apply: Apply, params: PyTree, x: Array) -> jax.ShapeDtypeStruct:
    """Shape and type of the outputs, without evaluating them; ValueError for complex or integer outputs."""
    outputs = jax.eval_shape(apply, params, x)
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(f"outputs must be real floating-point numbers, got {outputs.dtype}: return the logits")
    return outputs


def checked_outputs(apply: Apply, params: PyTree, x: Array) -> jax.ShapeDtypeStruct:
    """`real_outputs`; ValueError, too, where they do not have one row per example."""
    outputs = real_outputs(apply, params, x)
    if outputs.ndim == 0 or outputs.shape[0] != x.shape[0]:
        raise ValueError(
            f"outputs must have one row per example, got shape {tuple(outputs.shape)} for {x.shape[0]} examples: "
            "return (n, ...)"
        )
    return outputs


def scalar_outputs(apply: Apply, params: PyTree, x: Array) -> bool:
    """Whether the outputs on a batch have shape (n,)."""
    return len(jax.eval_shape(apply, params, x).shape) == 1
