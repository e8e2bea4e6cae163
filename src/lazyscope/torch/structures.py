"""Tensors in what modules are given and give: containers, and records that PyTorch does not look into."""

import copy
from collections.abc import Callable
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a value."""
    return [leaf for leaf in _flat(value)[0] if isinstance(leaf, Tensor)]


def tensors_mapped(function: Callable[[list[Tensor]], list[Tensor]], value: Any) -> Any:
    """The value with all its tensors replaced, at once. ValueError where an object holds some and is no record."""
    leaves, rebuilt = _flat(value)
    at = [n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for leaf in leaves:
        if not isinstance(leaf, Tensor | type) and tensors_of(list(getattr(leaf, "__dict__", {}).values())):
            raise ValueError(
                "the outputs to be linearised must be tensors, or tuples, dicts or dataclasses of them, got a "
                f"{type(leaf).__name__}: return the tensors in it"
            )
    for n, tensor in zip(at, function([leaves[n] for n in at]), strict=True):
        leaves[n] = tensor
    return rebuilt(leaves)


def is_filled_cache(value: Any) -> bool:
    """Whether these are keys and values of an earlier call, as decoders take them."""
    length = getattr(value, "get_seq_length", None)
    return bool(length()) if callable(length) else isinstance(value, tuple | list) and bool(tensors_of(value))


def _flat(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Leaves, and what makes the value of others."""
    leaves, form = _pytree.tree_flatten(value)
    records = {n: _flat(dict(vars(leaf))) for n, leaf in enumerate(leaves) if _is_record(leaf)}
    flat = [inner for n, leaf in enumerate(leaves) for inner in (records[n][0] if n in records else [leaf])]

    def rebuilt(others: list[Any]) -> Any:
        rest, made = iter(others), []
        for n, leaf in enumerate(leaves):
            if n not in records:
                made.append(next(rest))
                continue
            held, again = records[n]
            made.append(copy.copy(leaf))
            vars(made[-1]).update(again([next(rest) for _ in held]))
        return _pytree.tree_unflatten(made, form)

    return flat, rebuilt


def _is_record(leaf: Any) -> bool:
    return (
        hasattr(leaf, "__dict__")
        and not isinstance(leaf, type)
        and (is_dataclass(leaf) or isinstance(leaf, SimpleNamespace))
    )
