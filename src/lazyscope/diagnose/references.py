"""The reference diagnoses: what (g, j) models of known kind have, and between which of them another one lies.

Measured by `examples/normal_values.py`; docs/normal.md shows them with their settings.
"""

import math

REFERENCES: tuple[tuple[str, float, float], ...] = ()


def placed(gap: float, differential: float) -> str:
    """Between which two reference diagnoses (g, j) lies, in words: the nearest on a logarithmic scale."""
    if not (gap > 0 and differential > 0 and math.isfinite(gap) and math.isfinite(differential)):
        return ""

    def far(reference: tuple[str, float, float]) -> float:
        return math.hypot(math.log(gap / reference[1]), math.log(differential / reference[2]))

    nearest = sorted(REFERENCES, key=far)[:2]
    return " and ".join(f"{name} (g {g:.2g}, j {j:.2g})" for name, g, j in nearest)
