"""A figure with other settings than its own: `--set width=16`."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def varied(settings: T, changes: Mapping[str, str]) -> T:
    """`settings` with the leaves that `changes` names put to what is written there.

    A leaf is named as on the page, fields joined by dots (`protocol.width`), or by its last part where no other ends
    so. Numbers, words, yes and no, and tuples of them with commas can be varied. ValueError, in one line, for a name
    that is none of these or that means several, and for a text that is no value of the leaf's type.
    """
    for name, text in changes.items():
        leaves = _leaves(settings)
        meant = [path for path in leaves if path == name or path.endswith(f".{name}")]
        if len(meant) != 1 and name not in leaves:
            raise ValueError(
                f"a setting must be one of {', '.join(meant or leaves)}, got {name!r}: write it as it stands there"
            )
        path = name if name in leaves else meant[0]
        settings = _put(settings, path.split("."), _value(path, text, leaves[path]))
    return settings


def label(name: str, changes: Mapping[str, str]) -> str:
    """The name of a varied figure, on the page and on disk."""
    words = [name, *(part for change in changes.items() for part in change)]
    return "-".join(re.sub(r"[^\w.-]+", "-", word).strip("-") for word in words)


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not is_dataclass(value):
        return {path: value}
    return {
        leaf: of
        for field in fields(value)
        for leaf, of in _leaves(getattr(value, field.name), f"{path}.{field.name}" if path else field.name).items()
    }


def _put(settings: Any, path: list[str], value: Any) -> Any:
    first, *rest = path
    return replace(settings, **{first: _put(getattr(settings, first), rest, value) if rest else value})


def _value(path: str, text: str, now: Any) -> Any:
    if isinstance(now, tuple) and now:
        return tuple(_value(path, part.strip(), now[0]) for part in text.split(","))
    if isinstance(now, bool) and text in ("yes", "no"):
        return text == "yes"
    try:
        if isinstance(now, str) or (isinstance(now, int | float) and not isinstance(now, bool)):
            return type(now)(text)
    except ValueError:
        pass
    raise ValueError(f"{path} must be {_kind(now)}, got {text!r}: it is {now!r} in this figure")


def _kind(now: Any) -> str:
    kinds = {bool: "yes or no", int: "a whole number", float: "a number"}
    return kinds.get(type(now), "left as it is, it is no number, word, yes or no")
