"""A sentence of a paper, a quantity that decides it, and what was measured.

A claim holds when the confidence interval of its quantity lies inside `accepted`, fails when the two are disjoint, and
is inconclusive otherwise: a threshold inside the interval, fewer than three seeds, or a value that is not finite.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import xarray as xr
from scipy import stats

CONFIDENCE = 0.95
MINIMUM_SEEDS = 3


class Outcome(Enum):
    """What a measurement says of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper.

    `quantity(dataset)` is one number per seed; `accepted` is the interval of values for which the sentence is true,
    `(-inf, inf)` ends allowed; `measure` says the quantity in words with its unit. `expected` gives the outcome
    expected at each size, None where unknown. `note` says what was measured instead, where the sentence fails.
    """

    sentence: str
    source: str
    measure: str
    quantity: Callable[[xr.Dataset], np.ndarray]
    accepted: tuple[float, float]
    expected: dict[str, Outcome | None] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim with its measurement: mean over seeds, Student-t interval, outcome, and the reason in words."""

    claim: Claim
    mean: float
    low: float
    high: float
    seeds: int
    outcome: Outcome
    reason: str


def evaluate(claim: Claim, dataset: xr.Dataset) -> Finding:
    """Measure a claim on a Dataset with a `seed` dimension (Student t, 95 %, one value per seed)."""
    values = np.asarray(claim.quantity(dataset), float).reshape(-1)
    low_ok, high_ok = claim.accepted
    if not np.all(np.isfinite(values)):
        count = int(np.sum(~np.isfinite(values)))
        return _finding(claim, values, np.nan, np.nan, Outcome.INCONCLUSIVE, f"{count} seeds gave no finite value")
    if values.size < MINIMUM_SEEDS:
        reason = f"{values.size} seeds, an interval needs {MINIMUM_SEEDS}"
        return _finding(claim, values, np.nan, np.nan, Outcome.INCONCLUSIVE, reason)
    low, high = interval(values)
    if low_ok <= low and high <= high_ok:
        return _finding(claim, values, low, high, Outcome.HOLDS, "the interval lies inside the accepted range")
    if high < low_ok or low > high_ok:
        return _finding(claim, values, low, high, Outcome.FAILS, "the interval lies outside the accepted range")
    return _finding(claim, values, low, high, Outcome.INCONCLUSIVE, "the interval crosses the threshold")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Two-sided Student-t confidence interval of the mean of at least two values."""
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, values.size - 1) * np.std(values, ddof=1) / np.sqrt(values.size)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def threshold_text(accepted: tuple[float, float]) -> str:
    """The accepted range as a condition: `> 1`, `< 0.02` or `0.9 to 1.1`."""
    low, high = accepted
    if np.isinf(high):
        return f">= {low:g}"
    return f"<= {high:g}" if np.isinf(low) else f"{low:g} to {high:g}"


def _finding(claim: Claim, values: np.ndarray, low: float, high: float, outcome: Outcome, reason: str) -> Finding:
    mean = float(np.mean(values)) if values.size else float("nan")
    return Finding(claim, mean, float(low), float(high), values.size, outcome, reason)
