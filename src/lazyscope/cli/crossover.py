"""`lazyscope crossover`: the output scale above which a model trains lazily."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lazyscope.cli import process, programs
from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_seed

COLUMNS = 28  # of the drawn bracket


@dataclass
class Crossover:
    """Find the output scale alpha above which a model trains lazily, and below which it does not.

    Names a case as `diagnose` does. Each evaluation trains the model and its linearisation, by the case's own trainer
    (whose step must follow alpha: train(apply, params0, scale)) or by descent, and measures g and j. First alpha goes
    by factors of 4 until the crossover is bracketed, then the bracket is halved, on a logarithmic scale.

    Example: lazyscope crossover my_model.py:case --center
    Example: lazyscope crossover my_model.py:case --between 2 8     go on from a bracket
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT."""
    between: tuple[float, float] | None = None
    """LOW HIGH, the bracket of an earlier search: not lazy at LOW, lazy at HIGH."""
    center: tyro.conf.FlagCreatePairsOff[bool] = False
    """Subtract the outputs at the start: what is scaled is h(w) − h(w0). Without it they must be 0."""
    tolerance: float = 0.02
    """How far apart the ends of the bracket may be, relative to alpha."""
    steps: int = 1500
    """Steps of our own descent, where the case brings no trainer."""
    json: bool = False
    """Print one JSON object, with every evaluation, instead of the table."""
    quiet: bool = False
    """Show no progress."""
    seed: int = 0
    """Seed of the search for norms."""

    def run(self) -> int:
        """Print every evaluation with the bracket after it, and the crossover."""
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")
        if not (self.tolerance > 0 and math.isfinite(self.tolerance)):
            raise InputError(f"--tolerance must be positive, got {self.tolerance:g}: .02 is usual")
        if self.between is not None and not 0 < self.between[0] < self.between[1] < math.inf:
            raise InputError(f"--between must be LOW HIGH with 0 < LOW < HIGH, got {self.between}")
        check_seed(self.seed)
        process.prepare_jax()
        programs.keep()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope.cli.interrupts import how_to_go_on
        from lazyscope.cli.loading import in_jax, on_case
        from lazyscope.cli.terminal import progress_bar
        from lazyscope.diagnose import crossover

        seen: list[Any] = []
        with progress_bar("", quiet=self.quiet) as heard, how_to_go_on(lambda: self._so_far(seen)):

            def progress(done: int, total: int, what: str) -> None:
                heard(done, total, f"{_ends(seen[-1])} {drawn(seen, seen[-1])} {what}" if seen else what)

            def found(case: Any) -> Any:
                key, case = jax.random.key(self.seed), self._centred(in_jax(case, progress))
                options = {"num_steps": self.steps, "tolerance": self.tolerance, "between": self.between}
                return crossover(case, key=key, progress=progress, evaluated=seen.append, **options)

            try:
                result = on_case(self.case, found)
            except InputError as error:
                raise InputError(str(error).replace("center or double the model first", "add --center")) from error
        self._print(result)
        return 0

    def _centred(self, case: Any) -> Any:
        from dataclasses import replace

        from lazyscope.models import center

        return replace(case, apply=center(case.apply, case.params0)) if self.center else case

    def _print(self, found: Any) -> None:
        import json

        if self.json:
            history = [{name: _plain(value) for name, value in one._asdict().items()} for one in found.history]
            print(json.dumps(found._asdict() | {"history": history}, allow_nan=False))
            return
        from lazyscope.cli import tables

        rows = [
            (f"{one.alpha:.4g}", f"{one.gap:.3g}", f"{one.differential:.3g}", "lazy" if one.lazy else "not lazy")
            for one in found.history
        ]
        tables.print_table(
            ("alpha", "g", "j", "training", "bracket"),
            [(*row, drawn(found.history, one)) for row, one in zip(rows, found.history, strict=True)],
            title=f"Output scales of {self.case}",
            numbers=("alpha", "g", "j"),
        )
        told = f"alpha = {found.alpha:.4g}: training is lazy from {found.high:.4g} on, and not up to {found.low:.4g}"
        print(tables.wrapped(told, ""))

    def _so_far(self, seen: Sequence[Any]) -> str:
        """What is known, and the option with which the search goes on from there."""
        if not seen:
            return "no alpha is evaluated yet, the same command starts anew; fewer --steps are faster"
        low, high = seen[-1].low, seen[-1].high
        if low > 0 and high < math.inf:
            return (
                f"{_ends(seen[-1])} after {len(seen)} evaluations: --between {low:.10g} {high:.10g} goes on from there"
            )
        return f"{_ends(seen[-1])} after {len(seen)} evaluations: the same command starts anew"


def drawn(history: Sequence[Any], now: Any) -> str:
    """The bracket after the evaluation `now` as =, and its alpha as x, on a logarithmic axis over all of `history`."""
    alphas = [one.alpha for one in history]
    low, high = math.log(min(alphas)), math.log(max(alphas))

    def place(alpha: float) -> int:
        at = min(max(math.log(alpha), low), high) if 0 < alpha < math.inf else (low if alpha == 0 else high)
        return round((COLUMNS - 1) * (at - low) / (high - low)) if high > low else 0

    first, last, here = place(now.low), place(now.high), place(now.alpha)
    line = ["=" if first <= i <= last else "-" for i in range(COLUMNS)]
    line[here] = "x"
    return "".join(line)


def _ends(one: Any) -> str:
    if one.low == 0:
        return f"below {one.high:.4g}"
    return f"above {one.low:.4g}" if one.high == math.inf else f"{one.low:.4g} to {one.high:.4g}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
