"""How far do four starts of the search for ‖D²h‖ agree on a large model, and what does more of it buy?

    python benchmarks/search.py                       the models of 5 million weights of diagnose.py
    python benchmarks/search.py --only bert-5 --steps 3 6 --rounds 1

Four starts from the kernel's top directions, all climbed evenly (`criterion` climbs the highest), with so many products
in the first climb, twice as many in the next and four times as many from then on. After each climb: the best value, how
far below it the lowest start is, and what the four climbs took, in gradients of the loss (processor seconds of all
threads). Models take turns, and each round draws its random vectors anew. Goal: within 1 % in 100 gradients.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from diagnose import CASES
from measure import ROUNDS, Ratio, conclude, seconds

CLIMBS, STARTS = 4, 4
GOAL, MOST = 0.01, 100


class Climbed(NamedTuple):
    """After so many climbs of each start: gradients spent, the highest value, how far below it the lowest start is."""

    gradients: float
    best: float
    below: float


class Search:
    """A model, and what one gradient of its loss takes."""

    def __init__(self, name: str) -> None:
        from lazyscope.diagnose.costs import gradient_seconds
        from lazyscope.door.program import program
        from lazyscope.krylov import by_calls

        make, millions = CASES[name]
        model, self.params, problem = make(millions)
        self.apply, self.x = program(model, self.params, problem.x), problem.x
        self.by_calls = by_calls(self.apply, self.params, self.x)
        self.gradient, _ = gradient_seconds(self.apply, self.params, problem)

    def curve(self, steps: int, seed: int) -> Iterator[Climbed]:
        """The four starts after each of their climbs."""
        import jax
        import numpy as np

        from lazyscope import tree
        from lazyscope.criterion import QUICK
        from lazyscope.criterion.ascent import Ascent, Moves
        from lazyscope.criterion.budget import Counter
        from lazyscope.criterion.jacobian import jacobian_norm
        from lazyscope.criterion.products import num_parameters, parameter_dtype

        given = self.apply, self.params, self.x
        budget = QUICK._replace(kernel_starts=STARTS)
        _, kernel, right = jacobian_norm(*given, key=jax.random.key(seed), budget=budget)
        size, dtype = num_parameters(self.params), parameter_dtype(self.params)
        moves = Moves(*given, np.random.default_rng(seed), size, dtype, self.by_calls)
        count, spent = Counter(10**6, 0), 0.0
        ascents = [Ascent(z, u, 0.0) for z, u in zip(kernel, right, strict=True)]
        moves.climb(ascents[0]._replace(u=tree.copy(right[0])), steps, count)  # compiles, and gives up the copy
        for _ in range(CLIMBS):
            for i in range(STARTS):
                ascents[i], took = _timed(lambda i=i: moves.climb(ascents[i], steps, count))
                spent += took / self.gradient
            values = np.array([ascent.value for ascent in ascents])
            yield Climbed(spent, float(values.max()), float(1 - values.min() / values.max()))


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    found: list[Any] = []
    took = seconds(lambda: found.append(function()), time.process_time)
    return found[0], took


def rows_of(name: str, label: str, rounds: list[Climbed]) -> list[Ratio]:
    """What the rounds found after so many climbs; the goal is that of climbs within 100 gradients."""

    def row(words: str, values: list[float], goal: float | None = None) -> Ratio:
        return Ratio(name, f"{label}: {words}", min(values), statistics.median(values), max(values), goal, at_most=True)

    spent = [one.gradients for one in rounds]
    goal = GOAL if statistics.median(spent) <= MOST else None
    return [
        row("gradients", spent),
        row("best ‖D²h‖", [one.best for one in rounds]),
        row("lowest start below it", [one.below for one in rounds], goal),
    ]


def main() -> int:
    """Print the table and keep it; returns the number of goals missed."""
    import jax

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", default=[name for name in CASES if name.endswith("-5")], choices=list(CASES)
    )
    parser.add_argument("--steps", nargs="*", type=int, default=[3, 6])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    found: dict[tuple[str, int, int], list[Climbed]] = defaultdict(list)
    with jax.default_matmul_precision("highest"):
        searches = {name: Search(name) for name in asked.only}
        for seed in range(1, asked.rounds + 1):
            for name, search in searches.items():
                for steps in asked.steps:
                    for climb, one in enumerate(search.curve(steps, seed), 1):
                        found[name, steps, climb].append(one)
                        print(name, steps, seed, climb, one, flush=True)
    cases = sorted(found, key=lambda case: (asked.only.index(case[0]), *case[1:]))
    rows = [
        row
        for name, steps, climb in cases
        for row in rows_of(name, f"{steps} steps a climb, climb {climb}", found[name, steps, climb])
    ]
    return conclude("search", rows)


if __name__ == "__main__":
    sys.exit(main() > 0)
