"""A measured number with a 95 % interval over the examples that it was measured on.

Examples are the sampling unit: held-out examples are a sample of all inputs there might be, and what is measured on
them is the root of a ratio of sums, q = √(Σ_i a_i/Σ_i b_i), with a_i ≥ 0 and b_i ≥ 0 of example i. On the scale of
log q an example has the influence u_i = (a_i/mean a − b_i/mean b)/2, whose standard deviation over √n is the standard
error of log q (delta method). The interval is q·exp(± t·error) with Student's t; the degrees of freedom, 2n/(κ − 1) for
the kurtosis κ of the u_i and at most n − 1 (Satterthwaite 1946), are few where few examples carry most of the sum.
Whatever noise the a_i have of their own, that of random probes say, is in their scatter. What none of the examples met,
a gate that flips for one input in a thousand, is in no interval.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Interval(float):
    """A number that knows where it may lie: `value` is itself, `low` and `high` bound the 95 % interval."""

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> "Interval":
        """The number `value`, between `low` and `high`."""
        found = super().__new__(cls, value)
        found.low, found.high = float(low), float(high)
        return found

    @property
    def value(self) -> float:
        """The number as a plain float."""
        return float(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Interval, (self.value, self.low, self.high)

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.2g} to {self.high:.2g})"


def root_of_ratio(over: Float[np.ndarray, " n"], under: Float[np.ndarray, " n"]) -> Interval:
    """√(Σ over/Σ under) with its interval over the n examples; 0/0 is 0, and one example alone bounds nothing."""
    over, under = np.asarray(over, float), np.asarray(under, float)
    return from_influences(_root(over, under), relative(over) / 2 - relative(under) / 2)


def from_influences(value: float, influences: Float[np.ndarray, " n"]) -> Interval:
    """`value` with the interval that the influences of n examples on its logarithm give."""
    if value == 0 or not math.isfinite(value):
        return Interval(value, value, value)
    spread = reach(influences)
    factor = math.exp(spread) if spread < 700 else math.inf
    return Interval(value, value / factor, value * factor)


def reach(influences: Float[np.ndarray, " n"]) -> float:
    """How far a 95 % interval reaches to either side, for a mean with these influences of n examples."""
    n = len(influences)
    if n < 2:
        return math.inf
    centred = influences - np.mean(influences)
    square = float(np.mean(centred**2))
    if square == 0:
        return 0.0
    kurtosis = float(np.mean((centred**2 / square) ** 2))
    freedom = min(n - 1.0, max(1.0, 2 * n / (kurtosis - 1))) if kurtosis > 1 else n - 1.0
    return student(math.sqrt(square / (n - 1)), freedom)


def student(error: float, freedom: float) -> float:
    """Half a 95 % interval: the standard error times Student's t."""
    return error * float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _root(over: np.ndarray, under: np.ndarray) -> float:
    a, b = float(np.sum(over)), float(np.sum(under))
    if a == 0:
        return 0.0
    return math.sqrt(a / b) if b > 0 else math.inf


def relative(values: np.ndarray) -> np.ndarray:
    """Values over their mean; 0 where that is not positive."""
    mean = float(np.mean(values))
    return values / mean if mean > 0 else np.zeros_like(values)
