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
from lazyscope.progress import Progress, heard

STUCK, STALLED = 4, 0.9  # alphas in a row over which the excess has to fall to that part of itself


class Evaluation(NamedTuple):
    """What one alpha gave, and the bracket after it: 0 and inf where an end is not known yet.

    A run that diverged has g = j = inf. `left` is how many evaluations are to come, at least.
    """

    alpha: float
    gap: float
    differential: float
    lazy: bool
    low: float
    high: float
    left: int


class Crossover(NamedTuple):
    """alpha at which the deciders meet the lazy thresholds, within the bracket (low: not lazy, high: lazy)."""

    alpha: float
    low: float
    high: float
    evaluations: int
    history: tuple[Evaluation, ...] = ()


def crossover(
    case: Case,
    *,
    key: Key[Array, ""],
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    num_steps: int = DEFAULT_STEPS,
    tolerance: float = 0.02,
    largest: float = 1e9,
    between: tuple[float, float] | None = None,
    progress: Progress | None = None,
    evaluated: Callable[[Evaluation], None] | None = None,
) -> Crossover:
    """The alpha above which `case` trains lazily: max(g/gap_lazy, j/differential_lazy) = 1, to a relative `tolerance`.

    Starts at `case.alpha`, brackets by factors of 4, then bisects log alpha (Geiger et al. 2020 do so on the kernel
    change alone). Each evaluation trains the model and its linearisation, by `case.train` or by descent. The step of a
    trainer of one's own has to follow alpha: let it take a third argument, a `Scale`.

    With `between` = (low, high) the search goes on from that bracket, of an earlier search say, instead of looking for
    one: an end that stays an end is evaluated last. `evaluated` is called with each `Evaluation`, `progress` with how
    many of about how many are done (`lazyscope.progress`).

    Raises ValueError when the model is lazy at no alpha up to `largest`, or at every alpha down to 1/`largest`; where
    the excess does not fall with alpha, as soon as that is seen, with what it comes from: a step that does not follow
    alpha, or outputs that are not 0 at the start; and for a `between` that does not hold the crossover or is no pair
    0 < low < high.
    """
    if between is not None and not 0 < between[0] < between[1] < math.inf:
        raise ValueError(f"between must be a pair 0 < low < high, got {between}: the bracket of an earlier search")
    watch, key = _Watch(case), as_key("key", key)

    def measured(alpha: float) -> tuple[float, float]:
        try:
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
        except ValueError as error:
            if "diverged" in str(error):  # at a small alpha: not lazy, and the search goes on
                return math.inf, math.inf
            raise
        return float(found.gap), float(found.differential)

    search = _Search(measured, watch, thresholds, tolerance, evaluated, heard(progress), between)
    if between is None:
        search.bracket(case.alpha, largest)
    search.bisect()
    if between is not None:
        search.check_ends(between)
    low, high = search.low, search.high
    return Crossover(math.sqrt(low * high), low, high, len(search.history), tuple(search.history))


class _Search:
    """The bracket as it narrows, and what each alpha gave."""

    def __init__(
        self,
        measured: Callable[[float], tuple[float, float]],
        watch: "_Watch",
        thresholds: Thresholds,
        tolerance: float,
        evaluated: Callable[[Evaluation], None] | None,
        report: Progress,
        between: tuple[float, float] | None,
    ) -> None:
        self.measured, self.watch, self.thresholds = measured, watch, thresholds
        self.tolerance, self.evaluated, self.report = tolerance, evaluated, report
        self.low, self.high = between or (0.0, math.inf)
        self.history: list[Evaluation] = []
        self._tell()

    def lazy(self, alpha: float) -> bool:
        """Evaluate `alpha`, and narrow the bracket."""
        gap, differential = self.measured(alpha)
        above = max(gap / self.thresholds.gap_lazy, differential / self.thresholds.differential_lazy) - 1
        if math.isfinite(above) and not self._closed():  # within a bracket the search always ends
            self.watch.see(alpha, gap, differential, above)
        if above <= 0:
            self.high = min(self.high, alpha)
        else:
            self.low = max(self.low, alpha)
        self.history.append(
            Evaluation(alpha, gap, differential, above <= 0, self.low, self.high, self._left(len(self.history) + 1))
        )
        if self.evaluated is not None:
            self.evaluated(self.history[-1])
        self._tell()
        return above <= 0

    def bracket(self, start: float, largest: float) -> None:
        """Factors of 4 from `start` until one end is lazy and the other is not."""
        alpha, lazy = start, self.lazy(start)
        factor = 0.25 if lazy else 4.0
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
            if self.lazy(following) != lazy:
                return
            alpha = following

    def bisect(self) -> None:
        """Halve the bracket, on a logarithmic scale."""
        while self.high / self.low > 1 + self.tolerance:
            self.lazy(math.sqrt(self.low * self.high))

    def check_ends(self, between: tuple[float, float]) -> None:
        """ValueError where an end of `between` that is still one is not what it should be."""
        for end, now, lazy in zip(between, (self.low, self.high), (False, True), strict=True):
            if now == end and self.lazy(end) != lazy:
                raise ValueError(
                    f"between must hold the crossover, got {between[0]:g} and {between[1]:g} with training "
                    f"{'lazy' if not lazy else 'not lazy'} at {end:g}: leave it out to look for a bracket"
                )

    def _left(self, done: int) -> int:
        """Evaluations to come after `done`, if the next one already closes a bracket."""
        apart = self.high / self.low if self._closed() else 4.0
        halvings = (
            math.ceil(math.log2(math.log(apart) / math.log1p(self.tolerance))) if apart > 1 + self.tolerance else 0
        )
        return halvings if self._closed() else halvings + (1 if done else 2)

    def _closed(self) -> bool:
        return self.low > 0 and self.high < math.inf

    def _tell(self) -> None:
        done = len(self.history)
        self.report(done, done + self._left(done), "evaluations")


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
