"""What a sweep is made of: cells, and where finished ones are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Key

Function = Callable[..., Mapping[str, Any]]  # arrays, or what becomes one


class Cell(NamedTuple):
    """One point of the grid."""

    coords: tuple[tuple[str, Any], ...]
    seed: int


@runtime_checkable
class View(Protocol):
    """Where the finished cells of one function are kept, whatever the medium."""

    def done(self, cells: Sequence[Cell], *, origin: Mapping[str, str] | None = None) -> Sequence[bool]:
        """Which cells are already there, whole; `origin` is what differs where another process computes the others."""
        ...

    def write(
        self, cells: Sequence[Cell], results: Mapping[str, np.ndarray], *, origin: Mapping[str, str] | None = None
    ) -> None:
        """Keep a chunk: each array has one row per cell; `origin` is what differs where another process computed it."""
        ...

    def read(self, cells: Sequence[Cell]) -> Mapping[str, np.ndarray]:
        """All results, one row per cell, in the order asked for."""
        ...


@runtime_checkable
class Store(Protocol):
    """Where the finished cells of many functions are kept; what tells one from another is the store's to decide."""

    def view(self, function: Function, *, version: int, key: Key[Array, ""], static: Sequence[str] = ()) -> View:
        """The cells of `function` at this version with this root key."""
        ...


@dataclass
class Memory:
    """Where cells are kept without a store: as long as the call lasts."""

    rows: dict[Cell, dict[str, np.ndarray]]

    def done(self, cells: Sequence[Cell], *, origin: Mapping[str, str] | None = None) -> list[bool]:
        """Which cells are already there."""
        del origin
        return [cell in self.rows for cell in cells]

    def write(
        self, cells: Sequence[Cell], results: Mapping[str, np.ndarray], *, origin: Mapping[str, str] | None = None
    ) -> None:
        """Keep a chunk."""
        del origin
        for i, cell in enumerate(cells):
            self.rows[cell] = {name: np.asarray(value[i]) for name, value in results.items()}

    def read(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """All results, stacked in the order asked for."""
        rows = [self.rows[cell] for cell in cells]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def name_of(function: Function) -> str:
    """What a message calls a function."""
    inner: object = function
    while isinstance(inner, partial):
        inner = inner.func
    return getattr(inner, "__qualname__", type(inner).__name__)
