"""The regime: two deciders, the gap g and the change j of the differential, against thresholds (docs/design.md).

kappa predicts, consequences decide: kappa, movement, gate stability and the global kernel cosine all call a plain
two-layer net at large tau lazy, whose linearisation ends thousands of times away from it.
"""

from typing import NamedTuple

from lazyscope.intervals import Interval

REGIMES = ("lazy", "mixed", "not lazy")
NEAR = 0.1  # a decider this close to a threshold, relative to it, is said to be near it


class Thresholds(NamedTuple):
    """`lazy`: g <= gap_lazy and j <= differential_lazy. `not lazy`: above either of the larger ones. Else `mixed`.

    Near its thresholds a gap at the same weights, of weights that were trained elsewhere, comes out smaller than the
    gap between two trained models, on the reference diagnoses (docs/normal.md) by `same_weights`: its thresholds are
    divided by that. Far from them, and with a large initial output, it is the larger of the two.
    """

    gap_lazy: float = 0.05
    gap_not_lazy: float = 0.15
    differential_lazy: float = 0.1
    differential_not_lazy: float = 0.5
    same_weights: float = 1.55

    @property
    def at_same_weights(self) -> "Thresholds":
        """The thresholds for a gap at the same weights."""
        return self._replace(
            gap_lazy=self.gap_lazy / self.same_weights,
            gap_not_lazy=self.gap_not_lazy / self.same_weights,
            same_weights=1.0,
        )

    def __str__(self) -> str:
        return (
            f"lazy: g <= {self.gap_lazy:.2g} and j <= {self.differential_lazy:.2g}; "
            f"not lazy: g > {self.gap_not_lazy:.2g} or j > {self.differential_not_lazy:.2g}; else mixed"
        )


def regime(gap: float, differential: float, thresholds: Thresholds = Thresholds()) -> str:  # noqa: B008
    """`lazy`, `mixed` or `not lazy`. A NaN in either decider is `not lazy`: nothing vouches for the linearisation."""
    if gap <= thresholds.gap_lazy and differential <= thresholds.differential_lazy:
        return "lazy"
    inside = gap <= thresholds.gap_not_lazy and differential <= thresholds.differential_not_lazy
    return "mixed" if inside else "not lazy"


def regimes(gap: Interval, differential: Interval, thresholds: Thresholds = Thresholds()) -> tuple[str, ...]:  # noqa: B008
    """Every regime that the intervals of the two deciders allow, the laziest first."""
    first, last = regime(gap.low, differential.low, thresholds), regime(gap.high, differential.high, thresholds)
    return REGIMES[REGIMES.index(first) : REGIMES.index(last) + 1]


def near(gap: float, differential: float, thresholds: Thresholds) -> tuple[str, ...]:
    """Which thresholds the deciders are within a tenth of, in words."""
    pairs = (("g", gap, thresholds[:2]), ("j", differential, thresholds[2:4]))
    return tuple(
        f"{name} = {value:.3g} is within 10 % of the threshold {limit:.2g}"
        for name, value, limits in pairs
        for limit in limits
        if abs(value - limit) <= NEAR * limit
    )
