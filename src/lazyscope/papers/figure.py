"""A figure as a value: what is computed at each size, what the papers claim of it, and how it is shown."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import matplotlib.figure
import xarray as xr
from jaxtyping import Array, Key

from lazyscope.claims import Claim
from lazyscope.papers.registry import SIZES
from lazyscope.papers.stated_settings import Setting
from lazyscope.sweep import Progress, Store, sweep

Settings = TypeVar("Settings")


class Cell(NamedTuple):
    """A function of (key, **coordinates, **settings) and what a sweep must know of it.

    Stores know its numbers by `version`: raise it when they change. `dims` names the extra axes of results; coordinates
    in `static` reach it as Python values; one that is not `compiled` drives compiled steps from a Python loop.
    """

    function: Callable[..., Mapping[str, Any]]
    version: int
    dims: Mapping[str, tuple[str, ...]] = {}
    static: tuple[str, ...] = ()
    compiled: bool = True


@dataclass(frozen=True)
class Size(Generic[Settings]):
    """What is computed at one size, and for how many seeds: they are no settings, more of them are no other run."""

    settings: Settings
    seeds: int


@dataclass(frozen=True)
class Trials:
    """The seeds of a figure, and where its cells are computed and kept: the same for all its sweeps."""

    key: Key[Array, ""]
    seeds: int
    store: Store | None = None
    executor: Executor | None = None
    progress: Progress | None = None
    data: Path | None = None  # folder with CIFAR-10
    checkpoints: Path | None = None  # folder for the states of long runs

    def over(
        self,
        cell: Cell,
        axes: Mapping[str, Sequence[Any]],
        *,
        local: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> xr.Dataset:
        """The cell at every combination of `axes` and every seed, by `lazyscope.sweep`, which says what `local` is."""
        return sweep(
            partial(cell.function, **settings) if settings else cell.function,
            axes,
            key=self.key,
            seeds=self.seeds,
            static=cell.static,
            dims=cell.dims,
            version=cell.version,
            store=self.store,
            executor=self.executor,
            progress=self.progress,
            compiled=cell.compiled,
            local=local,
        )


@dataclass(frozen=True, kw_only=True)
class Figure(Generic[Settings]):
    """One figure, theorem or sentence of a paper, computed anew.

    `compute(settings, trials)` gives the Dataset that claims, picture and table are made of. `stated` is what the paper
    says of the settings; `interactive(dataset)` a plotly figure as plain data.
    """

    caption: str
    sizes: Mapping[str, Size[Settings]]
    compute: Callable[[Settings, Trials], xr.Dataset]
    claims: tuple[Claim, ...]
    draw: Callable[[xr.Dataset], matplotlib.figure.Figure]
    numbers: Callable[[xr.Dataset], list[list[str]]]
    stated: tuple[Setting, ...] = ()
    interactive: Callable[[xr.Dataset], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not self.sizes or not set(self.sizes) <= set(SIZES):
            found = ", ".join(self.sizes) or "none"
            raise ValueError(f"the sizes of a figure must be any of {', '.join(SIZES)}, got {found}")


def prefixed(ds: xr.Dataset, prefix: str, *axes: str) -> xr.Dataset:
    """The same results beside others: every variable under `prefix` + its name, and each of `axes` too."""
    return ds.rename({name: f"{prefix}{name}" for name in (*ds.data_vars, *axes)})


def side_by_side(axis: str, parts: Mapping[Any, xr.Dataset], join: Any = "exact") -> xr.Dataset:
    """Results of one kind along a new axis, which has the names of the parts as labels."""
    return xr.concat(list(parts.values()), xr.Variable(axis, list(parts)), join=join)
