"""What a sweep is asked for: points, seeds and a key, each checked before anything is computed."""

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope.sweep.cells import Function, name_of

SEED = "seed"


def points(axes: Mapping[str, Any], static: Sequence[str], *, compiled: bool) -> dict[str, list[Any]]:
    """The values of every axis as a list of Python values.

    Raises ValueError for an axis that is no list, is empty, repeats a value or is called "seed"; for values that cannot
    be traced unless the axis is static; for values that cannot label a coordinate; and for a static name that is no
    axis.
    """
    if isinstance(static, str):
        raise ValueError(f"static must be a list of axes, got {static!r}: write ({static!r},)")
    unknown = [name for name in static if name not in axes]
    if unknown:
        raise ValueError(f"static names must be axes, got {unknown}: the axes are {list(axes)}")
    if SEED in axes:
        raise ValueError("axes must have names of their own, got 'seed': give seeds=..., or call the axis another name")
    return {
        name: _checked(name, _plain(name, axis, name in static), compiled and name not in static)
        for name, axis in axes.items()
    }


def _plain(name: str, axis: Any, static: bool) -> list[Any]:
    # Python numbers of one type: the type of a cell's inputs must not depend on which other cells run beside it.
    if isinstance(axis, np.ndarray | jax.Array):
        if axis.ndim != 1:
            raise ValueError(f"axis {name!r} must be a list of values, got shape {axis.shape}: flatten it")
        axis = np.asarray(axis).tolist()
    if isinstance(axis, str | bytes | Mapping) or not hasattr(axis, "__iter__"):
        raise ValueError(f"axis {name!r} must be a list of values, got {axis!r}: write [...] around them")
    values = [_scalar(value) for value in axis]
    if not static and any(isinstance(value, float) for value in values):
        return [float(value) if isinstance(value, int | float) else value for value in values]
    return values


def _scalar(value: Any) -> Any:
    array = isinstance(value, np.generic | np.ndarray | jax.Array)
    return value.item() if array and value.ndim == 0 else value


def _checked(name: str, values: list[Any], traced: bool) -> list[Any]:
    if not values:
        raise ValueError(f"axis {name!r} is empty: give it at least one value")
    try:
        repeated = len(set(values)) < len(values)
    except TypeError:
        raise ValueError(
            f"axis {name!r} must have values that can be compared, got {_short(values[0])}: sweep over numbers or "
            "names and look the rest up in the function"
        ) from None
    if repeated:
        raise ValueError(f"axis {name!r} repeats a value: {_short(values)}")
    if traced and not all(isinstance(value, bool | int | float | complex) for value in values):
        raise ValueError(
            f"axis {name!r} must have numbers, got {_short(values)}: name it in static=(...), for values that reach "
            "the function as they are"
        )
    if traced and all(isinstance(value, int) for value in values):
        limits = jnp.iinfo(jnp.result_type(int))
        if min(values) < limits.min or max(values) > limits.max:
            raise ValueError(
                f"axis {name!r} must have integers that fit {jnp.result_type(int)}, got {_short(values)}: turn on "
                "jax_enable_x64, or write them as floats"
            )
    _check_labels(name, values)
    return values


def _check_labels(name: str, values: list[Any]) -> None:
    try:
        kept = xr.Dataset(coords={name: values})[name].values.tolist() == values
    except (ValueError, TypeError):
        kept = False
    if not kept and not any(value != value for value in values):
        raise ValueError(
            f"axis {name!r} must have values that can label a coordinate, all numbers or all strings, got "
            f"{_short(values)}: sweep over names and look the values up in the function"
        )


def seed_list(seeds: Any) -> list[int]:
    """The seeds. Raises ValueError for none, and for seeds that repeat or do not fit 32 bits."""
    try:
        found = list(range(operator.index(seeds)))
    except TypeError:
        found = None
    if found is None:
        try:
            found = [operator.index(_scalar(seed)) for seed in seeds]
        except TypeError:
            raise ValueError(f"seeds must be a whole number or a list of them, got {seeds!r}: 10, say") from None
    if not found:
        raise ValueError(f"a sweep needs at least one seed, got seeds={seeds}")
    if len(set(found)) < len(found) or min(found) < 0 or max(found) >= 2**32:
        raise ValueError(f"seeds must differ and lie in [0, 2^32), got {found}: drop the others")
    return found


def root_key(key: Any) -> Key[Array, ""]:
    """One key, committed to no device; arrays of `jax.random.PRNGKey` are taken for what they are.

    Raises ValueError for anything else.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        kind, words = str(jax.random.key_impl(key)), jax.random.key_data(key)
    elif isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim == 1:
        kind, words = None, key
    else:
        got = f"an array of shape {key.shape}" if isinstance(key, jax.Array | np.ndarray) else _short(key)
        raise ValueError(f"key must be one random key, got {got}: pass jax.random.key(0)")
    try:
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(words)), impl=kind)
    except (TypeError, ValueError):
        raise ValueError(f"key must be one random key, got {len(words)} words: pass jax.random.key(0)") from None


def check_call(function: Function, names: Sequence[str]) -> None:
    """Raise ValueError for a function that cannot be called with a key and these coordinates."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # nobody can say
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"a cell function must take a key and then {', '.join(names) or 'nothing'} by name, got "
            f"{name_of(function)}{signature} ({error}): name axes and arguments alike"
        ) from None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
