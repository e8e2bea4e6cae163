"""What a module takes of a batch as a loader yields it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

Key = int | str


@dataclass(frozen=True)
class Taken:
    """The entries of a batch that a module takes: positions in a sequence or keys of a mapping, in `keys`.

    `structure` is that of `{key: entry}` and `names` are those of its leaves. `fixed` has the arguments that are no
    arrays, `left_out` the names of what is not taken, `positional` the keys of a mapping that are given by position. An
    array by itself is entry 0.
    """

    kind: str
    keys: tuple[Key, ...]
    structure: Any
    names: tuple[str, ...]
    fixed: dict[Key, Any]
    left_out: tuple[str, ...]
    positional: tuple[str, ...] = ()

    def arguments(self, leaves: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the named arguments of a call, from the leaves."""
        entries = self.fixed | jax.tree.unflatten(self.structure, leaves)
        positions = self.positional or sorted(key for key in entries if isinstance(key, int))
        return [entries[key] for key in positions], {k: v for k, v in entries.items() if k not in positions}

    def batch(self, leaves: Sequence[Any]) -> PyTree:
        """A batch of what is taken, as the caller has it."""
        entries = jax.tree.unflatten(self.structure, leaves)
        if self.kind == "array":
            return entries[0]
        return entries if self.kind == "mapping" else tuple(entries[key] for key in self.keys)

    def leaves(self, x: PyTree) -> list[Any]:
        """The leaves of a batch like that of the conversion; ValueError for one of other entries."""
        entries = self._entries(x)
        if entries is None or jax.tree.structure(entries) != self.structure:
            got = f"a {type(x).__name__}" + (f" of {', '.join(map(str, x))}" if isinstance(x, Mapping) else "")
            raise ValueError(
                f"inputs must have the entries of the batch at conversion, {', '.join(self.names)}, got {got}: pass "
                "what the same loader yields"
            )
        return jax.tree.leaves(entries)

    def without(self, unused: set[int]) -> "tuple[Taken, list[int]]":
        """The same without entries of which every leaf is unused, and which leaves are left."""
        entries = jax.tree.unflatten(self.structure, range(len(self.names)))
        gone = [key for key in self.keys if unused.issuperset(jax.tree.leaves(entries[key]))]
        keys = tuple(key for key in self.keys if key not in gone)
        kept, structure = jax.tree.flatten({key: entries[key] for key in keys})
        names, left_out = tuple(self.names[i] for i in kept), (*self.left_out, *map(_named, gone))
        return replace(self, keys=keys, structure=structure, names=names, left_out=left_out), kept

    def _entries(self, x: PyTree) -> dict[Key, Any] | None:
        if isinstance(x, Mapping):
            known = {*self.keys, *self.fixed, *self.left_out}
            return {k: x[k] for k in self.keys} if known >= x.keys() >= set(self.keys) else None
        if _is_sequence(x) and self.kind != "mapping":
            whole = len(x) == len(self.keys) + len(self.left_out)
            return {key: x[key if whole else i] for i, key in enumerate(self.keys)} if self._fits(x) else None
        return {self.keys[0]: x if hasattr(x, "shape") else np.asarray(x)} if len(self.keys) == 1 else None

    def _fits(self, x: Sequence[Any]) -> bool:
        return len(x) in (len(self.keys), len(self.keys) + len(self.left_out))


def taken(forward: Callable[..., Any], name: str, batch: Any) -> tuple[Taken, list[Any]]:
    """What `forward` takes of a batch, and the leaves of that; ValueError where that is nothing, or not clear."""
    parameters = list(inspect.signature(forward).parameters.values())
    if isinstance(batch, Mapping):
        known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        entries = {k: v for k, v in batch.items() if (anything or k in known) and (_is_setting(v) or _has_arrays(v))}
        if not any(map(_has_arrays, entries.values())):
            raise ValueError(
                f"from_torch needs a batch with entries that {name} takes, {', '.join(known) or 'none by name'}, got "
                f"{', '.join(map(str, batch))}: pass the entry itself, batch[...]"
            )
        return _made("mapping", entries, [str(key) for key in batch if key not in entries])
    if _is_sequence(batch):
        number = _positions(parameters, name, len(batch))
        entries = dict(enumerate(batch[:number]))
        return _made("sequence", entries, [_named(key) for key in range(number, len(batch))])
    return _made("array", {0: batch if hasattr(batch, "shape") else np.asarray(batch)}, [])


def taken_by_call(
    forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Taken, list[Any]]:
    """The same of the arguments of a call, all of which are taken."""
    if not kwargs:
        return _made("array" if len(args) == 1 and hasattr(args[0], "shape") else "sequence", dict(enumerate(args)), [])
    names = tuple(inspect.signature(forward).parameters)[: len(args)]
    found, leaves = _made("mapping", dict(zip(names, args, strict=True)) | dict(kwargs), [])
    return replace(found, positional=names), leaves


def _positions(parameters: list[inspect.Parameter], name: str, entries: int) -> int:
    """How many entries of a sequence are arguments."""
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return entries
    slots = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = max(1, sum(p.default is p.empty for p in slots))
    if needed < min(entries, len(slots)):
        raise ValueError(
            f"a batch must say what its entries are, got entry {needed} of {entries}, which could be a label or the "
            f"{slots[needed].name} of {name}: pass batch[:{needed}], or a mapping, {{{slots[0].name!r}: ...}}"
        )
    return min(needed, entries)


def _made(kind: str, entries: Mapping[Any, Any], left_out: Sequence[str]) -> tuple[Taken, list[Any]]:
    arrays = {key: entry for key, entry in entries.items() if _has_arrays(entry)}
    fixed = {key: entry for key, entry in entries.items() if key not in arrays}
    paths, structure = jax.tree_util.tree_flatten_with_path(arrays)
    names = tuple(_named(path[0].key) + jax.tree_util.keystr(path[1:]) for path, _ in paths)
    names = ("inputs",) if kind == "array" else names
    return Taken(kind, tuple(arrays), structure, names, fixed, tuple(left_out)), [leaf for _, leaf in paths]


def _named(key: Key) -> str:
    return f"entry {key}" if isinstance(key, int) else key


def _is_sequence(batch: Any) -> bool:
    """Whether these are the entries of a batch, and not numbers."""
    return isinstance(batch, list | tuple) and any(map(_has_arrays, batch))


def _is_setting(entry: Any) -> bool:
    return entry is None or isinstance(entry, bool | int | float | str)


def _has_arrays(entry: Any) -> bool:
    leaves = jax.tree.leaves(entry)
    return bool(leaves) and all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
