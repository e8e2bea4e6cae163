"""Quotients and products of norms in double precision, with their limits."""

import math


def ratio(a: float, b: float) -> float:
    """a/b with 0 wherever a is 0, else inf where b is 0."""
    if a == 0:
        return 0.0
    return a / b if b > 0 else math.inf


def product(a: float, b: float) -> float:
    """a·b, 0 wherever a or b is 0."""
    return 0.0 if a == 0 or b == 0 else a * b
