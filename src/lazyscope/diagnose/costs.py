"""What each part of a diagnosis costs: processor time, with and without that of compiling, in gradients of the loss.

The parts are those that a diagnosis reports as it goes (`lazyscope.progress`). Processor time is that of all threads,
and what else the machine does is not in it; on a card it is wall time, since what that does is no processor's.
Compiling is lowering and XLA or, where JAX has a persistent cache, loading from there. Tracing is Python's and counts
as computing.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from lazyscope import passes, tree
from lazyscope.examples import count, first
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem
from lazyscope.progress import Progress, silent

_LOWERED, _COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
_GRADIENTS = 3  # of which the fastest counts
BEFORE = "preparing"  # what is done before the first part


class Cost(NamedTuple):
    """Seconds of a part beside compiling, as multiples of a gradient (`gradients`), and of compiling."""

    part: str
    seconds: float
    gradients: float
    compiling: float
    programs: int


class Costs(NamedTuple):
    """The parts in their order, and what one gradient of the loss on the training data takes and takes to compile.

    Above a million parameters `gradient` is the unit to think in; a small model's is mostly dispatch.
    """

    parts: tuple[Cost, ...]
    gradient: float
    gradient_compiling: float

    @property
    def gradients(self) -> float:
        """All parts together, in gradients."""
        return sum(cost.gradients for cost in self.parts)

    @property
    def compiling(self) -> float:
        """All parts together, in compilations of the gradient; NaN where that was compiled before."""
        return sum(cost.compiling for cost in self.parts) / (self.gradient_compiling or math.nan)

    def lines(self) -> tuple[str, ...]:
        """A line a part, and one for all."""
        each = [
            f"{cost.part}: {cost.gradients:.1f} gradients, {cost.compiling:.1f} s compiling {cost.programs} programs"
            for cost in self.parts
        ]
        one = f"of {self.gradient:.3g} s, which takes {self.gradient_compiling:.1f} s to compile"
        return (*each, f"in all {self.gradients:.1f} gradients {one}, and {self.compiling:.1f} times that compiling")


class Meter:
    """A `Progress` that hands on what it hears, and takes the time when a part begins: at 0, or one of `named`."""

    def __init__(self, report: Progress, named: Collection[str] = ()) -> None:
        self.report, self.named, self.part = report, named, BEFORE
        self.found: dict[str, list[float]] = {}
        self.last = self.since = _now()
        self.compiling, self.programs = 0.0, 0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Where `done` is 0, or another part is named, that has begun."""
        if what != self.part and (done == 0 or (what in self.named and done < total)):
            self.close()
            self.part = what
        self.report(done, total, what)

    def close(self) -> None:
        """The part that is going on ends here."""
        now = _now()
        spent = self.found.setdefault(self.part, [0.0, 0.0, 0])
        for i, more in enumerate((now - self.last - self.compiling, self.compiling, self.programs)):
            spent[i] += more
        self.last, self.compiling, self.programs = now, 0.0, 0

    def hear(self, event: str, duration_secs: float, **_: Any) -> None:
        """JAX has traced, lowered or compiled a program: each of these begins where the one before ended."""
        del duration_secs  # of the wall clock
        now = _now()
        if event in (_LOWERED, _COMPILED):
            self.compiling += now - self.since
            self.programs += event == _COMPILED
        self.since = now

    def costs(self, gradient: float, gradient_compiling: float) -> Costs:
        """What was found, in gradients that take so long."""
        parts = [
            Cost(part, seconds, seconds / gradient, compiling, int(programs))
            for part, (seconds, compiling, programs) in self.found.items()
            if seconds or programs
        ]
        return Costs(tuple(parts), gradient, gradient_compiling)


@contextmanager
def metered(report: Progress, named: Collection[str] = ()) -> Iterator[Meter]:
    """A meter that hears of compilations as long as the context lasts."""
    meter = Meter(report, named)
    jax.monitoring.register_event_duration_secs_listener(meter.hear)
    try:
        yield meter
    finally:
        jax.monitoring.unregister_event_duration_listener(meter.hear)
        meter.close()


def gradient_seconds(apply: Apply, params: PyTree, problem: Problem) -> tuple[float, float]:
    """Seconds of a gradient of the loss on the training data, and of compiling it.

    That of one block of examples, times their number, where they do not fit one pass (`lazyscope.passes`).
    """
    size, x, y = passes.block_size(apply, params, problem.x), problem.x, problem.y
    if size < count(x):
        x, y = first(x, size), first(y, size)
    with metered(silent) as meter:
        took = [_time(partial(_gradient, apply, problem.loss, params, x, y)) for _ in range(1 + _GRADIENTS)]
        compiling = meter.compiling
    return min(took[1:]) * count(problem.x) / size, compiling


def _now() -> float:
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def _time(function: Callable[[], Any]) -> float:
    began = _now()
    jax.block_until_ready(function())
    return _now() - began


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(apply: Apply, loss: Loss, params: PyTree, x: PyTree, y: PyTree) -> list[Array]:
    theta, merge = tree.split(params)
    return jax.grad(lambda th: loss(apply(merge(th), x), y))(theta)
