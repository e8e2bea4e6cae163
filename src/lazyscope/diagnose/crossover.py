"""`crossover`: the output scale at which training stops being lazy, by bisection."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Key

from lazyscope.diagnose.diagnosis import diagnose
from lazyscope.diagnose.regime import Thresholds
from lazyscope.diagnose.training import DEFAULT_STEPS
from lazyscope.problems import Case


class Crossover(NamedTuple):
    """alpha at which the deciders meet the lazy thresholds, within the bracket (low: not lazy, high: lazy)."""

    alpha: float
    low: float
    high: float
    evaluations: int


def crossover(
    case: Case,
    *,
    key: Key[Array, ""],
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    num_steps: int = DEFAULT_STEPS,
    tolerance: float = 0.02,
    largest: float = 1e9,
) -> Crossover:
    """The alpha above which `case` trains lazily: max(g/gap_lazy, k/kernel_lazy) = 1, to a relative `tolerance`.

    Starts at `case.alpha`, brackets by factors of 4, then bisects log alpha (Geiger et al. 2020 do so on the kernel
    change alone). Each evaluation trains the model and its linearisation, by `case.train` or by descent.

    Raises ValueError when the model is lazy at no alpha up to `largest` (center or double it), or at every alpha down
    to 1/`largest`.
    """

    def excess(alpha: float) -> float:
        found = diagnose(
            case.apply,
            case.params0,
            case.problem,
            train=case.train,
            alpha=alpha,
            key=key,
            thresholds=thresholds,
            num_steps=num_steps,
            with_kappa=False,
        )
        return max(found.gap / thresholds.gap_lazy, found.kernel_change / thresholds.kernel_lazy) - 1

    low, high, spent = _bracket(_tolerant(excess), case.alpha, largest)
    while high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _tolerant(excess)(middle) <= 0 else (middle, high)
        spent += 1
    return Crossover(math.sqrt(low * high), low, high, spent)


def _tolerant(excess: Callable[[float], float]) -> Callable[[float], float]:
    """A run that diverges at a small alpha is not lazy, and the search goes on."""

    def judged(alpha: float) -> float:
        try:
            return excess(alpha)
        except ValueError as error:
            if "diverged" in str(error):
                return math.inf
            raise

    return judged


def _bracket(excess: Callable[[float], float], start: float, largest: float) -> tuple[float, float, int]:
    alpha, lazy = start, excess(start) <= 0
    spent, factor = 1, 0.25 if lazy else 4.0
    while True:
        following = alpha * factor
        if not 1 / largest <= following <= largest:
            if lazy:
                raise ValueError(
                    f"a crossover needs a model that is not lazy at small alpha, got lazy at every alpha down to "
                    f"{alpha:.2g}: it is as good as linear, there is nothing to change"
                )
            raise ValueError(
                f"lazy at no alpha up to {alpha:.2g}: center or double the model first (h(w0) must vanish)"
            )
        spent += 1
        if (excess(following) <= 0) != lazy:
            return (following, alpha, spent) if lazy else (alpha, following, spent)
        alpha = following
