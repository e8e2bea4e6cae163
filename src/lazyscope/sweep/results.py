"""What a cell gives: named arrays, known from a trace or the first cell and checked before the others are computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Key

from lazyscope.sweep.axes import SEED
from lazyscope.sweep.cells import Cell, Function, name_of

One = Callable[[Array, dict[str, Array]], dict[str, Array]]
Shapes = dict[str, tuple[int, ...]]


class CellError(ValueError):
    """A function whose results no sweep can keep."""


class Traced(NamedTuple):
    """A cell as a function of its key and its traced coordinates, and what it gives."""

    one: One
    shapes: dict[str, jax.ShapeDtypeStruct]


def traced(function: Function, fixed: Mapping[str, Any], example: Cell, key: Key[Array, ""]) -> Traced:
    """`function` with static coordinates, traced once.

    Raises CellError where it returns no dict of arrays, or needs a coordinate as a Python value; whatever else it
    raises is its own.
    """
    values = {name: jnp.asarray(np.array([value]))[0] for name, value in example.coords if name not in fixed}
    one = _one(function, fixed)
    try:
        closed, shapes = jax.make_jaxpr(one, return_shape=True)(key, values)
    except CellError:
        raise
    except Exception as error:
        needed = _needed(function, fixed, dict(example.coords), key, values)
        if not needed:
            raise
        use = "sets a shape" if "Shapes must be" in str(error) else "is used as a Python value"
        names = ", ".join(map(repr, needed))
        axis = f"axis {names} {use}, so it" if len(needed) == 1 else f"each of axes {names} {use}, so they"
        raise CellError(f"{axis} must be static: sweep(..., static={(*fixed, *needed)!r})") from error
    committed = any(isinstance(value, jax.Array) and value.committed for value in closed.consts)
    return Traced(_anywhere(closed, list(shapes)) if committed else one, shapes)


def _one(function: Function, fixed: Mapping[str, Any]) -> One:
    return lambda key, values: arrays(function, function(key, **fixed, **values), jnp.asarray)


def _needed(
    function: Function, fixed: Mapping[str, Any], coords: dict[str, Any], key: Key[Array, ""], values: dict[str, Any]
) -> list[str]:
    """The traced coordinates that the function can be traced without: one of them, or all."""
    for names in (*([name] for name in values), list(values)):
        rest = {name: value for name, value in values.items() if name not in names}
        try:
            jax.eval_shape(_one(function, {**fixed, **{name: coords[name] for name in names}}), key, rest)
        except Exception:  # then these are not what it lacks
            continue
        return names
    return []


def _anywhere(closed: ClosedJaxpr, names: list[str]) -> One:
    """The same program where arrays that a user put on one device are on any: a sweep runs on all of them."""
    run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, [_uncommitted(value) for value in closed.consts]))
    return lambda key, values: dict(zip(sorted(names), run(key, *jax.tree.leaves(values)), strict=True))


def _uncommitted(value: Any) -> Any:
    if not isinstance(value, jax.Array):
        return value
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        words = jnp.asarray(np.asarray(jax.random.key_data(value)))
        return jax.random.wrap_key_data(words, impl=str(jax.random.key_impl(value)))
    return jnp.asarray(np.asarray(value))


def arrays(function: Function, results: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """What a cell returned, converted to arrays. Raises CellError unless it is a dict of arrays of numbers."""
    if not isinstance(results, Mapping) or not results:
        got = "an empty one" if isinstance(results, Mapping) else _kind(results)
        raise CellError(
            f'a cell must return a dict of named arrays, got {got} from {name_of(function)}: return {{"value": ...}}'
        )
    found = {}
    for name, value in results.items():
        if not isinstance(name, str):
            raise CellError(f"results must have names, got {name!r} from {name_of(function)}: use strings")
        try:
            found[name] = convert(value)
        except (TypeError, ValueError):
            found[name] = None
        if found[name] is None or not _numbers(found[name].dtype):
            raise CellError(
                f"results must be arrays of numbers, got {_kind(value)} for {name!r} from {name_of(function)}: "
                "give every array a name of its own"
            )
    return found


def _numbers(dtype: Any) -> bool:
    return not jnp.issubdtype(dtype, jax.dtypes.extended) and dtype.kind not in "OUSM"


def _kind(value: Any) -> str:
    if not isinstance(value, jax.Array):
        return type(value).__name__
    return "a random key" if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else "an array"


def shapes_of(rows: Mapping[str, np.ndarray]) -> Shapes:
    """The shapes of the results of one cell, from arrays with one row per cell."""
    return {name: value.shape[1:] for name, value in rows.items()}


@dataclass
class Expected:
    """What every cell of a sweep gives: the same names and shapes, with dimensions that `dims` names."""

    axes: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    dims: Mapping[str, Sequence[str]]
    shapes: Shapes | None = None

    def check(self, shapes: Shapes, where: str = "another cell") -> None:
        """Raise CellError for results that do not fit those known before, or the first for what cannot be labelled."""
        if self.shapes is None:
            self._check_labels(shapes)
            self.shapes = dict(shapes)
        if self.shapes != shapes:
            raise CellError(
                f"all cells of a sweep need the same results, got {_said(self.shapes)} and {_said(shapes)} in {where}: "
                "pad them to one shape, or raise the function's version where a store has older ones"
            )

    def _check_labels(self, shapes: Shapes) -> None:
        sizes = {name: len(values) for name, values in self.axes.items()} | {SEED: len(self.seeds)}
        known = dict(sizes)
        if taken := [name for name in shapes if name in sizes]:
            raise CellError(f"results must not be called like an axis or 'seed', got {taken[0]!r}: rename the result")
        if unknown := [name for name in self.dims if name not in shapes]:
            raise CellError(f"dims must name results, got {unknown[0]!r}: the results are {list(shapes)}")
        for name, shape in shapes.items():
            extra = self.dims.get(name, ())
            if isinstance(extra, str):
                raise CellError(f"dims must give lists of names, got {extra!r} for {name!r}: write ({extra!r},)")
            if len(extra) != len(shape):
                raise CellError(
                    f"result {name!r} has {len(shape)} axes of its own, but dims names {list(extra)}: "
                    f"pass dims={{{name!r}: (...)}} with one name per axis"
                )
            for dim, size in zip(extra, shape, strict=True):
                if dim in sizes or dim in shapes or list(extra).count(dim) > 1:
                    raise CellError(
                        f"dims must be names of their own, got {dim!r} for {name!r}: call that axis another name"
                    )
                if known.setdefault(dim, size) != size:
                    raise CellError(
                        f"dims of one name must be of one size, got {dim!r} of {known[dim]} and of {size} in {name!r}: "
                        "call one of them another name"
                    )


def _said(shapes: Shapes) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
