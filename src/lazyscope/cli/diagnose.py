"""`lazyscope diagnose`: how lazily a model trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli import process
from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_seed


@dataclass
class Diagnose:
    """Tell how lazily a model trains, why, and what to change.

    Names a built-in case (two-layer-symmetrised, two-layer-plain, two-layer-rich), or FILE.py:OBJECT, where OBJECT is a
    lazyscope.Case or a function that returns one. This runs FILE.py: only name files you trust.

    A Case can bring its own trainer, train(apply, params0) or train(apply, params0, scale), whose learning rate has to
    follow alpha: times scale.sgd = 1/alpha² for SGD, times scale.adam = 1/alpha for Adam.

    Example: lazyscope diagnose my_model.py:case --after trained.safetensors
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT."""
    after: Path | None = None
    """Weights of a finished training (safetensors or npz): they are judged instead of a training run of ours."""
    ignore: tuple[str, ...] = ()
    """Names in the file of --after that are no parameters; * stands for anything: --ignore '*.running_mean'."""
    json: bool = False
    """Print one JSON object instead of the table."""
    steps: int = 1500
    """Steps of our own descent, where the case brings no trainer and --after no weights."""
    seed: int = 0
    """Seed of the searches for norms."""

    def run(self) -> int:
        """Print the diagnosis."""
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")
        check_seed(self.seed)
        process.prepare_jax()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope.cli.loading import on_case

        print(on_case(self.case, self._diagnosed))
        return 0

    def _diagnosed(self, case: Any) -> str:
        import json

        import jax

        from lazyscope.cli.loading import weights
        from lazyscope.diagnose import diagnose

        after = None if self.after is None else weights(self.after, case.params0, self.ignore)
        found = diagnose(
            case.apply,
            case.params0,
            case.problem,
            params=after,
            train=case.train if after is None else None,
            alpha=case.alpha,
            gates=case.gates,
            num_steps=self.steps,
            key=jax.random.key(self.seed),
        )
        return json.dumps(found.as_dict(), allow_nan=False) if self.json else str(found)
