"""What claims measure, as functions of a Dataset with one number per seed.

Values are those of a variable, or of a function of the Dataset. `where` selects by axis: a label, a slice of labels
(both ends included), or FIRST and LAST along the axis.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from lazyscope.diagnose import Thresholds

LAZY = Thresholds()  # when training counts as lazy
Values = str | Callable[[xr.Dataset], xr.DataArray]
Quantity = Callable[[xr.Dataset], np.ndarray]


class End(Enum):
    """A place on an axis, whatever its labels."""

    FIRST = 0
    LAST = -1


FIRST, LAST = End


def select(ds: xr.Dataset, values: Values, **where: Any) -> xr.DataArray:
    """The values at some labels and places."""
    array = ds[values] if isinstance(values, str) else values(ds)
    places = {axis: place.value for axis, place in where.items() if isinstance(place, End)}
    return array.sel({axis: label for axis, label in where.items() if axis not in places}).isel(places)


def at(values: Values, **where: Any) -> Quantity:
    """Values at one point of their axes."""
    return lambda ds: select(ds, values, **where).transpose("seed").values


def power(values: Values, axis: str, **where: Any) -> Quantity:
    """The power of `axis` with which values grow: the least-squares slope of their log against that of the axis."""

    def slope(ds: xr.Dataset) -> np.ndarray:
        found = select(ds, values, **where).transpose(axis, "seed")
        return np.polyfit(np.log(found[axis].values), np.log(found.values), 1)[0]

    return slope


def rank_correlation(values: Values, axis: str, **where: Any) -> Quantity:
    """Spearman's correlation of values with an axis."""

    def correlation(ds: xr.Dataset) -> np.ndarray:
        found = select(ds, values, **where).transpose("seed", axis)
        return np.array([stats.spearmanr(found[axis].values, one)[0] for one in found.values])

    return correlation


def log10(quantity: Quantity) -> Quantity:
    """Decades of a quantity."""
    return lambda ds: np.log10(quantity(ds))


def log10_ratio(above: Quantity, below: Quantity) -> Quantity:
    """Decades between two quantities, paired by seed."""
    return lambda ds: np.log10(above(ds) / below(ds))


def difference(one: Quantity, other: Quantity) -> Quantity:
    """One quantity minus another, paired by seed."""
    return lambda ds: one(ds) - other(ds)
