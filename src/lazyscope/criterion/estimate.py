"""A norm that was found by iterating, with what is known of its error."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A norm with what is known of its error: `value` lies within about `error` of it where `converged` says so."""

    value: float
    error: float
    products: int
    converged: bool

    def __str__(self) -> str:
        mark = "" if self.converged else ", not converged"
        return f"{self.value:.6g} ± {self.error:.1g} ({self.products} products{mark})"


@dataclass(frozen=True)
class Search(Estimate):
    """The best of several ascents: a lower bound.

    `error` is the last gain of the best ascent, and `converged` says that it had settled: neither limits the distance
    to the global maximum. `starts` ascents were made, `agree` of them ended within 1 % of the best, and `spread` is
    how far below the best, relative to it, the lowest ended.
    """

    starts: int = 0
    agree: int = 0
    spread: float = 0.0

    def __str__(self) -> str:
        mark = "settled" if self.converged else "still climbing"
        return (
            f">= {self.value:.6g} ({self.agree} of {self.starts} starts agree within 1 %, spread {self.spread:.1%}, "
            f"{mark}, {self.products} products)"
        )
