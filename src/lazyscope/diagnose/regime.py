"""The regime: two deciders, the gap g and the kernel change k, against one set of thresholds (docs/design.md).

kappa predicts, consequences decide: kappa, movement, gate stability and the global kernel cosine all call a plain
two-layer net at large tau lazy, whose linearisation ends thousands of times away from it.
"""

from typing import NamedTuple


class Thresholds(NamedTuple):
    """`lazy`: g <= gap_lazy and k <= kernel_lazy. `not lazy`: g > gap_not_lazy or k > kernel_not_lazy. Else `mixed`."""

    gap_lazy: float = 0.05
    gap_not_lazy: float = 0.15
    kernel_lazy: float = 0.1
    kernel_not_lazy: float = 0.5

    def __str__(self) -> str:
        return (
            f"lazy: g <= {self.gap_lazy:g} and k <= {self.kernel_lazy:g}; "
            f"not lazy: g > {self.gap_not_lazy:g} or k > {self.kernel_not_lazy:g}; else mixed"
        )


def regime(gap: float, kernel_change: float, thresholds: Thresholds = Thresholds()) -> str:  # noqa: B008
    """`lazy`, `mixed` or `not lazy`. A NaN in either decider is `not lazy`: nothing vouches for the linearisation."""
    if gap <= thresholds.gap_lazy and kernel_change <= thresholds.kernel_lazy:
        return "lazy"
    inside = gap <= thresholds.gap_not_lazy and kernel_change <= thresholds.kernel_not_lazy
    return "mixed" if inside else "not lazy"
