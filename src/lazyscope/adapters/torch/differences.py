"""The slope of a function of one number by differences, with an estimate of its error."""

from collections.abc import Callable

_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
_ROUNDING = 1e-14  # of a value, in float64, after the many sums that it is made of


def slope(values: Callable[[float], float], wanted: float) -> tuple[float, float]:
    """φ′(0) and how far off it may be: from the first step that is good enough, else from the best.

    Central differences of steps t and t/2 extrapolated (Richardson). The error is what that changes, what rounding may,
    and the part of φ(t) + φ(−t) − 2φ(0) that is linear in t: at a kink of φ it is as large as the kink.
    """
    centre, found = values(0.0), []
    for step in _STEPS:
        wide, narrow = (_differences(values, centre, t) for t in (step, step / 2))
        extrapolated = (4 * narrow[0] - wide[0]) / 3
        kink = abs(2 * narrow[1] - wide[1])
        error = abs(extrapolated - narrow[0]) + kink + _ROUNDING * abs(centre) / step
        found.append((error, extrapolated))
        if error <= wanted:
            break
    error, best = min(found)
    return best, error


def _differences(values: Callable[[float], float], centre: float, t: float) -> tuple[float, float]:
    """(φ(t) − φ(−t))/2t, and how the slopes of its two sides differ."""
    high, low = values(t), values(-t)
    return (high - low) / (2 * t), (high + low - 2 * centre) / t
