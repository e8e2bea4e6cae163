"""What the outputs of a model must be before anything is made of them: real numbers, one row per example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lazyscope import examples
from lazyscope.door.program import outputs_of
from lazyscope.examples import Batch


def real(outputs: Any) -> Any:
    """The outputs; ValueError for anything but one array of real floats of 32 or 64 bits."""
    dtype = getattr(outputs, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = f"a {type(outputs).__name__} and no array" if dtype is None else dtype
        raise ValueError(f"outputs must be real floating-point numbers, got {got}: return the logits")
    if dtype.itemsize < 4:
        raise ValueError(
            f"outputs must be float32 or float64, got {dtype}, too few digits for differences: compute in float32"
        )
    return outputs


def real_outputs(apply: Callable, params: PyTree, x: Batch) -> jax.ShapeDtypeStruct:
    """Shape and type of the outputs, without evaluating them, if they are `real`."""
    return real(outputs_of(apply, params, x))


def checked_outputs(apply: Callable, params: PyTree, x: Batch) -> jax.ShapeDtypeStruct:
    """`real_outputs`; ValueError, too, where they do not have one row per example."""
    outputs = real_outputs(apply, params, x)
    n = examples.count(x)
    if outputs.ndim == 0 or outputs.shape[0] != n:
        raise ValueError(
            f"outputs must have one row per example, got shape {tuple(outputs.shape)} for {n} examples: return (n, ...)"
        )
    if outputs.size == 0:
        raise ValueError(f"outputs must have numbers in them, got none in shape {tuple(outputs.shape)}")
    return outputs
