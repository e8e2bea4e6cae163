"""Batches of examples: one array, or a pytree of arrays that share their first axis.

Whatever a caller has at hand (lists of numbers, NumPy, data frames, tensors of PyTorch) becomes arrays of JAX once,
where it has one meaning; the other functions count, take and cut examples of any such batch alike.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import tree

Batch = PyTree
"""An array `(n, ...)`, or a pytree of such arrays with one n."""


def as_batch(name: str, value: Any) -> Batch:
    """`value` as arrays of JAX with one number of examples; ValueError, naming it, where that has no one meaning.

    Lists and tuples of numbers are arrays; dicts and tuples of arrays are batches of several inputs. A list of arrays
    could be either and is refused. What the caller could change in place is copied.
    """
    batch = value if _is_jax(value) else _converted(name, value)
    for leaf in jax.tree.leaves(batch):
        tree.check_sharding(name, leaf)
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(batch)) or "no array"
        raise ValueError(
            f"{name} must be an array, or arrays, whose first axis counts examples, got {shapes}: "
            "pass (n, ...), for one example (1, ...)"
        )
    return batch


def count(x: Batch) -> int:
    """The number of examples n."""
    return jax.tree.leaves(x)[0].shape[0]


def take(x: Batch, chosen: Any) -> Batch:
    """The examples at the indices `chosen`, or those of a slice."""
    return jax.tree.map(lambda leaf: leaf[chosen], x)


def first(x: Batch, number: int) -> Batch:
    """The first `number` examples."""
    return take(x, slice(number))


def alone(example: PyTree) -> Batch:
    """One example, without the axis that counts examples, as a batch of one."""
    return jax.tree.map(lambda leaf: leaf[None], example)


def blocks(x: Batch, size: int) -> tuple[Batch, int]:
    """The batch cut to blocks `(count, size, ...)`, and their number.

    Filled up by repeats of the last example: any value would do, but this one is sure to be a valid input.
    """
    n = count(x)
    number = -(-n // size)
    chosen = jnp.minimum(jnp.arange(number * size), n - 1)
    return jax.tree.map(lambda leaf: leaf[chosen].reshape(number, size, *leaf.shape[1:]), x), number


def shapes(x: Batch) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """The structure of a batch and the shapes of an example: equal for batches that one model takes."""
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple(tuple(leaf.shape[1:]) for leaf in leaves)


def _converted(name: str, value: Any) -> Batch:
    if isinstance(value, list | tuple) and (not value or all(_is_number(inner) for inner in _flat(value))):
        return _array(name, value)
    if isinstance(value, list):
        raise ValueError(
            f"{name} must be one array or a dict or tuple of arrays, got a list of {type(value[0]).__name__}: "
            "stack its examples (np.stack), or make several inputs a tuple"
        )
    if not jax.tree_util.all_leaves([value]):
        inner, structure = jax.tree.flatten(value, is_leaf=lambda node: node is not value)
        return jax.tree.unflatten(structure, [_converted(f"{name}[{i}]", part) for i, part in enumerate(inner)])
    if isinstance(value, Mapping):
        return {key: _converted(f"{name}[{key!r}]", part) for key, part in value.items()}
    return _array(name, value)


def _array(name: str, value: Any) -> Array:
    if _is_jax(value):
        return value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj().resolve_neg()
    try:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} must be numbers in an array, got a {type(value).__name__} that is none ({reason}): "
            "make every example as long as the others, of numbers"
        ) from None
    if array.dtype.kind not in "biufcV" or (array.dtype.kind == "V" and array.dtype.names is not None):
        raise ValueError(f"{name} must be numbers in an array, got entries of type {array.dtype}: encode them first")
    return jnp.array(array)  # a copy: JAX would share the memory where it can


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for inner in value for leaf in _flat(inner)]


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | np.generic)


def _is_jax(value: Any) -> bool:
    return isinstance(value, jax.Array)
