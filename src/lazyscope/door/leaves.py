"""What a parameter is, decided once for all functions.

Real arrays of float32 or float64, and Python floats, are parameters. Arrays of integers and booleans and random keys
travel along as arrays. All else (Python integers, booleans, strings, callables, any object) may steer the model: it is
held fixed, as a node of the pytree without leaves, so that compiled code meets nothing but arrays and `apply` is given
what the caller passed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lazyscope import tree


class Fixed:
    """A leaf that is no array: equal by value and type, by identity where values cannot be compared."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fixed):
            return False
        if self.value is other.value:
            return True
        return type(self.value) is type(other.value) and _hashable(self.value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value) if _hashable(self.value) else id(self.value)

    def __repr__(self) -> str:
        return f"Fixed({self.value!r})"


jax.tree_util.register_pytree_node(Fixed, lambda fixed: ((), fixed), lambda fixed, _: fixed)


def sealed(params: PyTree) -> PyTree:
    """`params` with what is no array held fixed; ValueError for parameters in fewer than 32 bits.

    Complex ones are refused by `tree.split`. A tree of arrays comes back as it is.
    """
    leaves, structure = jax.tree.flatten(params)
    kept = [_kept(leaf) for leaf in leaves]
    if all(new is old for new, old in zip(kept, leaves, strict=True)):
        return params
    return jax.tree.unflatten(structure, kept)


def unsealed(value: PyTree) -> PyTree:
    """The pytree with what was held fixed back in its place; without such nodes it comes back as it is."""
    nodes, structure = jax.tree.flatten(value, is_leaf=_is_fixed)
    if not any(map(_is_fixed, nodes)):
        return value
    return jax.tree.unflatten(structure, [node.value if _is_fixed(node) else node for node in nodes])


def without_scalars(params: PyTree) -> PyTree:
    """Integers and booleans that are arrays of no axes held fixed, too: for models in which they steer Python."""
    return jax.tree.map(lambda leaf: Fixed(np.asarray(leaf)[()]) if _steering(leaf) else leaf, params)


def as_type(params: PyTree, dtype: Any) -> PyTree:
    """All parameters in one type."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if tree.is_parameter(leaf) and leaf.dtype != dtype else leaf, params
    )


def as_came(params: PyTree, dtypes: Sequence[Any]) -> PyTree:
    """The parameters as their owner knows them: of these types, with what was held fixed back in its place."""
    leaves, structure = jax.tree.flatten(params)
    remaining = iter(dtypes)
    return unsealed(jax.tree.unflatten(structure, [_cast(leaf, remaining) for leaf in leaves]))


def types(params: PyTree) -> tuple[Any, ...]:
    """The type of each parameter."""
    return tuple(jax.dtypes.result_type(leaf) for leaf in jax.tree.leaves(params) if tree.is_parameter(leaf))


def concrete(*values: PyTree) -> bool:
    """Whether no transformation of JAX is at work, on any of the arrays or around this call."""
    return not any(is_traced(leaf) for leaf in (*jax.tree.leaves(values), jnp.zeros(())))


def is_traced(leaf: Any) -> bool:
    """Whether an array stands for values that are not known yet."""
    return isinstance(leaf, jax.Array) and not hasattr(leaf, "copy_to_host_async")


def callable_of(function: Any) -> Any:
    """`function` (or an optimizer), or where it cannot be hashed a callable that is equal to itself alone."""
    return function if _hashable(function) else Unhashable(function)


class Seen:
    """A caller's function of parameters, given them as the caller knows them (`as_came`)."""

    __slots__ = ("__weakref__", "dtypes", "function")

    def __init__(self, function: Callable, dtypes: tuple[Any, ...]) -> None:
        self.function = callable_of(function)
        self.dtypes = dtypes

    def __call__(self, params: PyTree, *args: Any) -> Any:
        """Call the function."""
        return self.function(as_came(params, self.dtypes), *args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and (other.function, other.dtypes) == (self.function, self.dtypes)

    def __hash__(self) -> int:
        return hash((self.function, self.dtypes))


class Unhashable:
    """A callable without a hash of its own, equal where it is the same object."""

    __slots__ = ("__weakref__", "function")

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable) and other.function is self.function

    def __hash__(self) -> int:
        return id(self.function)


def _kept(leaf: Any) -> Any:
    if isinstance(leaf, float) and not isinstance(leaf, np.generic):
        return jnp.asarray(leaf)
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        if type(leaf).__module__.partition(".")[0] == "torch" and hasattr(leaf, "detach"):
            raise ValueError(
                "parameters must be arrays of JAX or NumPy, got a tensor of PyTorch: convert the module with "
                "lazyscope.adapters.from_torch"
            )
        return Fixed(leaf)
    tree.check_sharding("params", leaf)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        if leaf.dtype.itemsize < 4:
            raise ValueError(
                f"parameters must be float32 or float64, got {leaf.dtype}, too few digits for differences: cast them, "
                'jax.tree.map(lambda leaf: leaf.astype("float32"), params), and the inputs'
            )
    elif not isinstance(leaf, jax.Array) and (
        leaf.dtype.kind not in "biuc" or (leaf.ndim == 0 and leaf.dtype.kind != "c")
    ):
        return Fixed(np.asarray(leaf)[()] if leaf.ndim == 0 else leaf)
    return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)  # a copy: JAX would share the memory where it can


def _steering(leaf: Any) -> bool:
    return (
        isinstance(leaf, jax.Array)
        and leaf.ndim == 0
        and not is_traced(leaf)
        and (jnp.issubdtype(leaf.dtype, jnp.integer) or jnp.issubdtype(leaf.dtype, jnp.bool_))
    )


def _cast(leaf: Any, dtypes: Iterator[Any]) -> Any:
    if not tree.is_parameter(leaf):
        return leaf
    dtype = next(dtypes)
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)


def _is_fixed(node: Any) -> bool:
    return isinstance(node, Fixed)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
