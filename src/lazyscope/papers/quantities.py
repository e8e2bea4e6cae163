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
    """The power of `axis` with which values grow."""
    return lambda ds: slopes(select(ds, values, **where), axis).transpose("seed").values


def slopes(values: xr.DataArray, axis: str) -> xr.DataArray:
    """Least-squares slope of the log of values against that of an axis, for all that lies along the other axes.

    NaN where a value is not positive. ValueError for fewer than two places on the axis, or one that is not positive.
    """
    along = values[axis].values
    if along.size < 2 or not np.all(along > 0):
        raise ValueError(f"a slope must have two positive places on {axis} or more, got {along.tolist()}")
    size = np.where(values.values > 0, values.values, np.nan)
    logarithm = values.copy(data=np.log(size)).assign_coords({axis: np.log(along)})
    return logarithm.polyfit(axis, 1, skipna=False).polyfit_coefficients.sel(degree=1, drop=True)


def farthest(values: xr.DataArray, target: float) -> np.ndarray:
    """Per seed, the value farthest from `target` over all other axes."""
    flat = values.transpose("seed", ...).values.reshape(values.sizes["seed"], -1)
    return flat[np.arange(len(flat)), np.abs(flat - target).argmax(axis=1)]


def rank_correlation(one: Values, other: Values, **where: Any) -> Quantity:
    """Spearman's correlation of two values, or of one with an axis, over all axes but that of seeds."""

    def correlation(ds: xr.Dataset) -> np.ndarray:
        pair = xr.broadcast(*(select(ds, values, **where) for values in (one, other)))
        rows = zip(*(values.transpose("seed", ...).values for values in pair), strict=True)
        return np.array([stats.spearmanr(x.ravel(), y.ravel())[0] for x, y in rows])

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
