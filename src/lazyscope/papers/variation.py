"""A figure with other settings than its own: `--set width=16`."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

from lazyscope.papers.stated_settings import in_words, leaves, named_parts

T = TypeVar("T")
LONGEST = 160  # bytes of a figure's name on disk, endings not in it
VARIED = " --set "  # in the names under which stores have cells of varied figures


def varied(settings: T, changes: Mapping[str, str]) -> T:
    """`settings` with the leaves that `changes` names put to what is written there.

    A leaf is named as on the page, fields joined by dots (`protocol.width`), or by its last part where no other ends
    so. Numbers, words, yes and no, and tuples of them with commas can be varied. ValueError, in one line, for a name
    that is none of these or that means several, for two that mean one, and for a text that is no value of its type.
    """
    put: dict[str, str] = {}
    for name, text in changes.items():
        known = leaves(settings)
        meant = [path for path in known if path == name or path.endswith(f".{name}")]
        if len(meant) != 1 and name not in known:
            raise ValueError(
                f"a setting must be one of {', '.join(meant or known)}, got {name!r}: write it as it stands there"
            )
        path = name if name in known else meant[0]
        if put.setdefault(path, name) != name:
            raise ValueError(f"a setting must be given once, got {path} as {put[path]} and as {name}: leave one out")
        settings = _put(settings, path, _value(path, text, known[path]))
    return settings


def label(name: str, changes: Mapping[str, str]) -> str:
    """The name of a varied figure, on the page and on disk; where it is too long for a file, cut, with a digest."""
    words = [name, *(part for change in changes.items() for part in change)]
    said = "-".join(re.sub(r"[^\w.+-]+", "-", word) for word in words)
    if len(said.encode()) <= LONGEST:
        return said
    short = said.encode()[: LONGEST - 13].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def in_store(name: str, changes: Mapping[str, str]) -> str:
    """What a store calls a figure, and a varied one."""
    return name + "".join(f"{VARIED}{setting}={value}" for setting, value in changes.items())


def _put(settings: Any, path: str, value: Any) -> Any:
    parts = named_parts(settings)
    name = next(name for name in parts if f"{path}.".startswith(f"{name}."))
    parts[name] = value if name == path else _put(parts[name], path.removeprefix(f"{name}."), value)
    if is_dataclass(settings):
        return replace(settings, **{name: parts[name]})  # type: ignore[type-var]
    return settings._replace(**parts) if hasattr(settings, "_replace") else tuple(parts.items())


def _value(path: str, text: str, now: Any) -> Any:
    if isinstance(now, tuple) and now:
        return tuple(_value(path, part.strip(), now[0]) for part in text.split(","))
    if isinstance(now, bool) and text in ("yes", "no"):
        return text == "yes"
    try:
        if isinstance(now, str) or (isinstance(now, int | float) and not isinstance(now, bool)):
            value = type(now)(text)
            if isinstance(value, str) or math.isfinite(value):
                return value
    except ValueError:
        pass
    raise ValueError(f"{path} must be {_kind(now)}, got {text!r}: it is {in_words(now)} in this figure")


def _kind(now: Any) -> str:
    kinds = {bool: "yes or no", int: "a whole number", float: "a finite number"}
    return kinds.get(type(now), "left as it is, it is no number, word, yes or no")
