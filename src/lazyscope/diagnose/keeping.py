"""Dataclasses and named tuples of numbers and words as plain JSON, and back to the last bit.

JSON has no infinity and no NaN: they are the words "inf", "-inf" and "nan". An `Interval` is its value, low and high.
"""

import math
import types
import typing
from typing import Any

import numpy as np

from lazyscope.intervals import Interval

_NOT_FINITE = ("inf", "-inf", "nan")


def to_plain(value: Any) -> Any:
    """What JSON holds exactly. TypeError for anything else than numbers, words and what is made of them."""
    if isinstance(value, Interval):
        return [_number(part) for part in (value.value, value.low, value.high)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {str(name): to_plain(inner) for name, inner in value.items()}
    if _names(type(value)):
        return {name: to_plain(getattr(value, name)) for name in _names(type(value))}
    if isinstance(value, tuple | list):
        return [to_plain(inner) for inner in value]
    raise TypeError(f"a diagnosis holds numbers and words, got {type(value).__name__}")


def from_plain(kind: Any, value: Any) -> Any:
    """The value of type `kind`, an annotation, that `to_plain` made `value` of. ValueError where it is no such."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # one and the same from Python 3.14 on
        if value is None and types.NoneType in inner:
            return None
        (some,) = (one for one in inner if one is not types.NoneType)
        return from_plain(some, value)
    if origin is tuple:
        return tuple(_each(inner, _a(list, value)))
    if origin is dict:
        return {name: from_plain(inner[1], one) for name, one in _a(dict, value).items()}
    if kind is Interval:
        return Interval(*_each((float,) * 3, _a(list, value)))
    if kind is float:
        return _float(value)
    if kind in (int, str, bool):
        return _a(kind, value)
    names = _names(kind)
    if not names or set(_a(dict, value)) != set(names):
        raise ValueError(f"{kind.__name__} needs {', '.join(names)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], value[name]) for name in names})


def _each(kinds: tuple[Any, ...], values: list[Any]) -> list[Any]:
    if kinds[-1:] == (...,):
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise ValueError(f"{len(kinds)} values are expected, got {len(values)}")
    return [from_plain(kind, value) for kind, value in zip(kinds, values, strict=True)]


def _names(kind: type) -> tuple[str, ...]:
    return getattr(kind, "_fields", None) or tuple(getattr(kind, "__dataclass_fields__", ()))


def _number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else repr(float(value))


def _float(value: Any) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a number is expected, got {type(value).__name__}")
    return float(value)


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{kind.__name__} is expected, got {type(value).__name__}")
    return value
