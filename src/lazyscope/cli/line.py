"""`lazyscope line`: the loss on the straight line between two checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli import process, programs
from lazyscope.cli.arguments import InputError
from lazyscope.cli.landscape import MOST_POINTS
from lazyscope.cli.process import check_folder

AGAIN = "nothing is written, the same command starts anew; a lower --resolution is faster"


@dataclass
class Line:
    """Draw the loss on the straight line between two checkpoints, and say how high the barrier between them is.

    Names a case as `diagnose` does. The line is w(s) = (1 − s)·BEFORE + s·AFTER in the weights as they are: nothing is
    normalised, and hidden units are not matched. The barrier is the most that the loss rises above its straight
    interpolation between the ends. Writes line.png, .svg and .nc into OUT.

    Example: lazyscope line my_model.py:case one.safetensors other.safetensors
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT."""
    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE")]
    """Weights at one end (safetensors, npz, a folder); `start` for those of the case."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER")]
    """Weights at the other end."""
    ignore: tuple[str, ...] = ()
    """Names in the files that are no parameters; * stands for anything: --ignore '*.running_mean'."""
    held_out: bool = False
    """The loss on the held-out examples of the case instead of the training examples."""
    resolution: int = 51
    """Points on the line."""
    out: Path = Path("lazyscope-line")
    """Folder for the picture and the data."""
    json: bool = False
    """Print one JSON object instead of the sentence."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> int:
        """Evaluate, draw, write and print the barrier."""
        if not 3 <= self.resolution <= MOST_POINTS:
            raise InputError(f"--resolution must be from 3 to {MOST_POINTS} points, got {self.resolution}")
        check_folder(self.out)
        process.prepare_jax()
        programs.keep()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope import figures, landscape
        from lazyscope.cli.interrupts import how_to_go_on
        from lazyscope.cli.loading import on_case
        from lazyscope.cli.terminal import progress_bar
        from lazyscope.store import export, provenance, write_atomic

        with progress_bar("", quiet=self.quiet) as heard, how_to_go_on(lambda: f"{heard}: {AGAIN}"):
            line, found = on_case(self.case, lambda case: self._evaluated(case, landscape, heard))
        dataset = line.to_xarray()
        told = {"barrier": found.height, "at": found.at, "loss_before": float(line.values[0])}
        told |= {
            "loss_after": float(line.values[-1]),
            "loss_at_barrier": float(dataset.value.sel(x=found.at, method="nearest")),
        }
        settings = {"case": self.case, "before": str(self.before), "after": str(self.after), "normalisation": "none"}
        export(dataset, self.out / "line.nc", attributes=settings | {k: str(v) for k, v in told.items()} | provenance())
        picture = figures.loss_line(dataset, height=found.height, at=found.at)
        write_atomic(self.out / "line.svg", figures.to_svg(picture))
        write_atomic(self.out / "line.png", figures.to_png(picture))
        self._print(told)
        return 0

    def _evaluated(self, case: Any, landscape: Any, progress: Any) -> Any:
        from lazyscope.cli.loading import in_jax, weights

        case = in_jax(case, progress)
        problem = case.problem
        if self.held_out and problem.x_test is None:
            raise InputError("--held-out needs a case with held-out examples, got none: build the Problem with x_test")
        x, y = (problem.x_test, problem.y_test) if self.held_out else (problem.x, problem.y)

        def loss(params: Any) -> Any:
            return problem.loss(case.alpha * case.apply(params, x), y)

        ends = [
            case.params0 if str(path) == "start" else weights(path, case.params0, self.ignore)
            for path in (self.before, self.after)
        ]
        center, (direction,) = landscape.between(*ends)
        options = {"extent": (0.0, 1.0), "resolution": self.resolution, "progress": progress}
        line = landscape.line(loss, center, direction, **options)
        return line, landscape.barrier(line)

    def _print(self, told: dict[str, float]) -> None:
        import json

        from lazyscope.cli.tables import wrapped

        picture = self.out / "line.png"
        if self.json:
            print(json.dumps(told | {"normalisation": "none", "picture": str(picture)}, allow_nan=False))
            return
        where = f" at s = {told['at']:.3g}, where the loss is {told['loss_at_barrier']:.4g}" if told["barrier"] else ""
        ends = f"loss {told['loss_before']:.4g} at {self.before} and {told['loss_after']:.4g} at {self.after}"
        print(wrapped(f"barrier {told['barrier']:.4g}{where}; {ends}; weights as they are, nothing is normalised", ""))
        print(picture)
