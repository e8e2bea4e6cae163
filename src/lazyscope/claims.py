"""A sentence of a paper, a quantity that decides it, and what was measured.

A claim holds when the confidence interval of its quantity lies inside `accepted`, fails when the two are disjoint, and
is inconclusive otherwise: a threshold inside the interval, fewer than three seeds, or a value that is not finite.

Intervals are Student's t on the mean over seeds. A quantity that cannot leave a range (a ratio of lengths, a share, a
correlation) has its interval on a scale without ends, `Scale`: the logarithm, the logit, Fisher's z. Mean and interval
are put back, so they stay in the range, and are those of the median of a distribution that is symmetric on that scale.
A value at an end has no place on such a scale: then the interval is Student's, cut at the ends, which loses no
coverage, since the mean cannot lie beyond them. So is that of a gap or distance that is 0 where the sentence is exact
(`SIZE`): logarithms of what is nearly 0 scatter by decades that say nothing of the sentence.

A sentence about every case, such as a bound, is refuted by one that violates it: its claim has `every_seed`, and is
judged by all values in place of an interval of their mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import xarray as xr
from scipy import special, stats

CONFIDENCE = 0.95
MINIMUM_SEEDS = 3


class Outcome(Enum):
    """What a measurement says of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"


HOLDS, FAILS, INCONCLUSIVE = Outcome


class Scale(Enum):
    """The values a quantity can have, and the scale on which its interval is taken."""

    REAL = "any number, as it is"
    RATIO = ">= 0, on the logarithmic scale"
    SIZE = ">= 0, as it is"
    SHARE = "0 to 1, on the logit scale"
    CORRELATION = "-1 to 1, by Fisher's z"

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value."""
        return _SCALES[self][0]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values put on the scale without ends; the ends themselves go to infinity."""
        with np.errstate(divide="ignore"):
            return _SCALES[self][1](np.clip(values, *self.ends))

    def back(self, values: np.ndarray) -> np.ndarray:
        """What `spread` undoes."""
        return _SCALES[self][2](values)


_Map = Callable[[np.ndarray], np.ndarray]
_SCALES: dict[Scale, tuple[tuple[float, float], _Map, _Map]] = {
    Scale.REAL: ((-np.inf, np.inf), np.asarray, np.asarray),
    Scale.RATIO: ((0.0, np.inf), np.log, np.exp),
    Scale.SIZE: ((0.0, np.inf), np.asarray, np.asarray),
    Scale.SHARE: ((0.0, 1.0), special.logit, special.expit),
    Scale.CORRELATION: ((-1.0, 1.0), np.arctanh, np.tanh),
}


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper.

    `quantity(dataset)` is one number per seed; `accepted` is the interval of values for which the sentence is true,
    `(-inf, inf)` ends allowed; `measure` says the quantity in words with its unit. `scale` says which values it can
    have; `every_seed` that the sentence is about every case, so that one seed outside refutes it. `expected` gives the
    outcome expected at each size, as far as it is known. `note` says what was measured instead, where the sentence
    fails. `moved` says what was changed after a first look at the numbers: a threshold, or the quantity itself.
    """

    sentence: str
    source: str
    measure: str
    quantity: Callable[[xr.Dataset], np.ndarray]
    accepted: tuple[float, float]
    expected: Mapping[str, Outcome] = field(default_factory=dict)
    note: str = ""
    scale: Scale = Scale.REAL
    every_seed: bool = False
    moved: str = ""

    def __post_init__(self) -> None:
        low, high = self.accepted
        if not low < high:
            raise ValueError(f"accepted must be a range, least value first, got {self.accepted} for {self.sentence!r}")
        if unknown := [outcome for outcome in self.expected.values() if not isinstance(outcome, Outcome)]:
            raise ValueError(
                f"expected must have outcomes (claims.HOLDS, FAILS or INCONCLUSIVE) by size, got {unknown[0]!r} for "
                f"{self.sentence!r}"
            )


@dataclass(frozen=True)
class Finding:
    """A claim with its measurement: mean over seeds, interval, outcome, and the reason in words.

    With `every_seed` the interval is the range of the values. `p` is 1 less the largest confidence at which the
    interval would give the same outcome, 1 where that is inconclusive and NaN where none was taken.
    """

    claim: Claim
    mean: float
    low: float
    high: float
    seeds: int
    outcome: Outcome
    reason: str
    p: float


def evaluate(claim: Claim, dataset: xr.Dataset) -> Finding:
    """Measure a claim on a Dataset with a `seed` dimension (95 %, one value per seed).

    A seed may be left out, where it has no value. Raises ValueError for more values than seeds, and for one that the
    claim's scale does not have.
    """
    values = np.asarray(claim.quantity(dataset), float).reshape(-1)
    if values.size > dataset.sizes.get("seed", values.size):
        raise ValueError(
            f"the quantity of a claim must be at most one number a seed, got {values.size} numbers for "
            f"{dataset.sizes['seed']} seeds of {claim.sentence!r}: reduce the other axes"
        )
    if not np.all(np.isfinite(values)):
        count = int(np.sum(~np.isfinite(values)))
        return _unmeasured(claim, values, f"{count} seeds gave no finite value")
    least, largest = claim.scale.ends
    if np.any((values < least) | (values > largest)):
        raise ValueError(
            f"the quantity of a claim must be {claim.scale.value}, got {values.min():g} to {values.max():g} for "
            f"{claim.sentence!r}: give the claim another scale"
        )
    if claim.every_seed:
        return _in_every_seed(claim, values)
    if values.size < MINIMUM_SEEDS:
        return _unmeasured(claim, values, f"{values.size} seeds, an interval needs {MINIMUM_SEEDS}")
    return _on_average(claim, values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Two-sided Student-t confidence interval of the mean of at least two values."""
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, values.size - 1) * _error(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def threshold_text(accepted: tuple[float, float]) -> str:
    """The accepted range as a condition: `> 1`, `< 0.02` or `0.9 to 1.1`."""
    low, high = accepted
    if np.isinf(high):
        return f">= {low:g}"
    return f"<= {high:g}" if np.isinf(low) else f"{low:g} to {high:g}"


def corrected(p: Sequence[float]) -> np.ndarray:
    """Which outcomes stay when all are to be right together with 95 % (Holm 1979), whatever their dependence.

    The k-th smallest of N values of p stays while it and all before it are at most 0.05/(N + 1 − k).
    """
    order = np.argsort(p)
    enough = np.asarray(p)[order] <= (1 - CONFIDENCE) / np.arange(len(p), 0, -1)
    stays = np.zeros(len(p), bool)
    stays[order[np.logical_and.accumulate(enough)]] = True
    return stays


def _on_average(claim: Claim, values: np.ndarray) -> Finding:
    ends = np.array(claim.scale.ends)
    inner = bool(np.all(np.isfinite(claim.scale.spread(values))))
    scale = claim.scale if inner else Scale.REAL
    spread = scale.spread(values)
    measured = scale.back(np.array([*interval(spread), np.mean(spread)]))
    low, high, mean = (float(value) for value in np.clip(measured, *ends))
    wanted = np.clip(np.array(claim.accepted), *ends)
    wanted = np.where(wanted == ends, (-np.inf, np.inf), wanted)  # an end of the values is no threshold
    outcome, reason = _judged(low, high, wanted)
    p = 1.0
    # Values that all are the same end of their range have no spread to judge chance by.
    if outcome is not Outcome.INCONCLUSIVE and (inner or np.ptp(values) > 0):
        thresholds = scale.spread(wanted[np.isfinite(wanted)])
        nearest = np.min(np.abs(np.mean(spread) - thresholds), initial=np.inf)
        p = float(2 * stats.t.sf(nearest / max(_error(spread), np.finfo(float).tiny), values.size - 1))
    return Finding(claim, mean, low, high, values.size, outcome, reason, p)


def _judged(low: float, high: float, wanted: np.ndarray) -> tuple[Outcome, str]:
    if wanted[0] <= low and high <= wanted[1]:
        return Outcome.HOLDS, "the interval lies inside the accepted range"
    if high < wanted[0] or low > wanted[1]:
        return Outcome.FAILS, "the interval lies outside the accepted range"
    return Outcome.INCONCLUSIVE, "the interval crosses the threshold"


def _in_every_seed(claim: Claim, values: np.ndarray) -> Finding:
    low, high = float(values.min()), float(values.max())
    outside = int(np.sum((values < claim.accepted[0]) | (values > claim.accepted[1])))
    if outside:
        outcome, reason = Outcome.FAILS, f"{outside} of {values.size} seeds lie outside the accepted range"
    elif values.size < MINIMUM_SEEDS:
        return _unmeasured(claim, values, f"{values.size} seeds, none outside; {MINIMUM_SEEDS} are asked for")
    else:
        # So many of all draws can violate it and n seeds still show none, once in twenty times.
        unseen = 1 - (1 - CONFIDENCE) ** (1 / values.size)
        reason = f"every seed lies inside the accepted range, which leaves room for {unseen:.0%} of draws outside"
        outcome = Outcome.HOLDS
    return Finding(claim, float(np.mean(values)), low, high, values.size, outcome, reason, float("nan"))


def _unmeasured(claim: Claim, values: np.ndarray, reason: str) -> Finding:
    mean = float(np.mean(values)) if values.size else float("nan")
    nan = float("nan")
    return Finding(claim, mean, nan, nan, values.size, Outcome.INCONCLUSIVE, reason, 1.0)


def _error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(values.size))
