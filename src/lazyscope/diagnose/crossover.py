"""`crossover`: the output scale at which training stops being lazy, by bisection."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Key

from lazyscope import passes
from lazyscope.diagnose.advice import LARGE_START, start_share
from lazyscope.diagnose.regime import Thresholds
from lazyscope.diagnose.training import DEFAULT_STEPS, takes_scale
from lazyscope.diagnose.verdict import diagnose
from lazyscope.door import as_key
from lazyscope.problems import Case

STUCK, STALLED = 4, 0.9  # alphas in a row over which the excess has to fall to that part of itself


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
    """The alpha above which `case` trains lazily: max(g/gap_lazy, j/differential_lazy) = 1, to a relative `tolerance`.

    Starts at `case.alpha`, brackets by factors of 4, then bisects log alpha (Geiger et al. 2020 do so on the kernel
    change alone). Each evaluation trains the model and its linearisation, by `case.train` or by descent. The step of a
    trainer of one's own has to follow alpha: let it take a third argument, a `Scale`.

    Raises ValueError when the model is lazy at no alpha up to `largest`, or at every alpha down to 1/`largest`; and
    where the excess does not fall with alpha, as soon as that is seen, with what it comes from: a step that does not
    follow alpha, or outputs that are not 0 at the start.
    """
    tell, key = _Watch(case), as_key("key", key)

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
        above = max(found.gap / thresholds.gap_lazy, found.differential / thresholds.differential_lazy) - 1
        tell.see(alpha, found.gap, found.differential, above)
        return above

    low, high, spent = _bracket(_tolerant(excess), case.alpha, largest)
    while high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _tolerant(excess)(middle) <= 0 else (middle, high)
        spent += 1
    return Crossover(math.sqrt(low * high), low, high, spent)


class _Watch:
    """Sees whether the search gets anywhere, and says why not: what was measured at three alphas in a row."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.seen: list[tuple[float, float, float, float]] = []

    def see(self, alpha: float, gap: float, differential: float, above: float) -> None:
        """ValueError once neither g nor j fell over three rising alphas that are not lazy."""
        if self.seen and alpha <= self.seen[-1][0]:
            self.seen.clear()
        self.seen.append((alpha, gap, differential, above))
        last = self.seen[-STUCK:]
        if len(last) < STUCK or min(one[3] for one in last) <= 0 or last[-1][3] < STALLED * last[0][3]:
            return
        alphas, gaps, changes = (", ".join(f"{one[i]:.3g}" for one in last) for i in range(3))
        raise ValueError(
            f"a crossover needs g and j that fall with alpha, got g = {gaps} and j = {changes} at alpha = {alphas}: "
            f"{self._cause(alpha)}"
        )

    def _cause(self, alpha: float) -> str:
        case = self.case
        x = case.problem.x if case.problem.x_test is None else case.problem.x_test
        y = case.problem.y if case.problem.y_test is None else case.problem.y_test
        outputs = passes.outputs(case.apply, case.params0, x)
        if start_share(case.problem, jnp.asarray(alpha, outputs.dtype) * outputs, y) > LARGE_START:
            return "the outputs are not 0 at the start, center or double the model first"
        if case.train is not None and not takes_scale(case.train):
            return (
                "the step of your trainer does not follow alpha, let it be train(apply, params0, scale) and multiply "
                "its learning rate by scale.sgd = 1/alpha² for SGD, by scale.adam = 1/alpha for Adam"
            )
        return "the training may be too short, or its step may not follow alpha"


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
