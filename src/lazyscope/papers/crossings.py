"""Where a surface over tau and alpha crosses a level, column by column, and the slope of that line."""

import numpy as np
from scipy.interpolate import PchipInterpolator


def crossings(
    values: np.ndarray, log_tau: np.ndarray, log_alpha: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """(log tau, log alpha) where `values` (tau, alpha) first cross `level` as alpha falls, by monotone cubics.

    On the columns that do, above cells that are not finite; three NaN each where fewer than three columns do.
    """
    found = []
    for t, column in zip(log_tau, values, strict=True):
        finite = np.isfinite(column)
        first = np.flatnonzero(~finite)[-1] + 1 if not finite.all() else 0  # only what lies above diverged cells
        if column.size - first < 2 or column[-1] < level:
            continue
        roots = PchipInterpolator(log_alpha[first:], column[first:]).solve(level, extrapolate=False)
        if roots.size:
            found.append((t, roots[-1]))
    if len(found) < 3:
        return np.full(3, np.nan), np.full(3, np.nan)
    taus, alphas = np.transpose(found)
    return taus, alphas


def slope(line: tuple[np.ndarray, np.ndarray]) -> float:
    """Slope of log alpha against log tau along a line of crossings; NaN where there are too few."""
    taus, alphas = line
    return float("nan") if np.isnan(taus).any() else float(np.polyfit(taus, alphas, 1)[0])
