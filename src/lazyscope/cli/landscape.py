"""`lazyscope landscape`: the loss around the weights of a model."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli import process
from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_folder, check_seed, say

MOST_POINTS = 4001
AGAIN = "nothing is written, the same command starts anew; a lower --resolution is faster"
DIRECTIONS = ("random", "hessian", "kernel")


@dataclass
class Landscape:
    """Draw the loss around the weights of a model, on a plane of two directions.

    Names a case as `diagnose` does. Writes landscape.png, .svg and .nc into OUT. With --after the plane lies around
    those weights, and the initial weights are projected onto it, with their true loss and distance from the plane.

    Example: lazyscope landscape my_model.py:case --after trained.safetensors --directions hessian
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT."""
    after: Path | None = None
    """Weights (safetensors or npz) to take as centre instead of the initial ones."""
    ignore: tuple[str, ...] = ()
    """Names in the file of --after that are no parameters; * stands for anything: --ignore '*.running_mean'."""
    directions: str = "random"
    """random (normalised filter by filter), hessian or kernel (of largest curvature, of length 1)."""
    units: tuple[str, ...] = ()
    """NAME=AXIS for a parameter whose units lie along another axis than the first, for random directions. Parameters of
    one axis are taken for biases and kept fixed unless named here: --units a=0 for two_layer."""
    extent: float = 1.0
    """Half-width of the plane in units of the directions."""
    resolution: int = 51
    """Points a side."""
    out: Path = Path("lazyscope-landscape")
    """Folder for the picture and the data."""
    seed: int = 0
    """Seed of random directions."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> int:
        """Evaluate, draw, write and print the path of the picture."""
        if self.directions not in DIRECTIONS:
            raise InputError(f"--directions must be one of {', '.join(DIRECTIONS)}, got {self.directions!r}")
        check_seed(self.seed)
        if self.resolution > MOST_POINTS:
            raise InputError(f"--resolution must be at most {MOST_POINTS} points a side, got {self.resolution}")
        axes = dict(_unit_axis(text) for text in self.units)
        check_folder(self.out)
        process.prepare_jax()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope import figures
        from lazyscope.cli.interrupts import how_to_go_on
        from lazyscope.cli.loading import on_case
        from lazyscope.cli.terminal import progress_bar
        from lazyscope.store import export, provenance, write_atomic

        with progress_bar("", quiet=self.quiet) as heard, how_to_go_on(lambda: f"{heard}: {AGAIN}"):
            dataset = on_case(self.case, lambda case: self._evaluated(case, axes, heard))
        if int(dataset.attrs["gaps"]) == dataset.value.size:
            raise InputError("the loss must be finite somewhere on the plane, got NaN everywhere: lower --extent")
        picture = figures.landscape(dataset)
        settings = {"case": self.case, "directions": self.directions, "seed": str(self.seed)}
        export(dataset, self.out / "landscape.nc", attributes=settings | provenance())
        write_atomic(self.out / "landscape.svg", figures.to_svg(picture))
        write_atomic(self.out / "landscape.png", figures.to_png(picture))
        if dataset.attrs["gaps"]:
            say(f"{dataset.attrs['gaps']} of {dataset.value.size} points have no finite loss and are left blank")
        print(self.out / "landscape.png")
        return 0

    def _evaluated(self, case: Any, axes: dict[str, int], progress: Any) -> Any:
        import jax

        from lazyscope import landscape
        from lazyscope.cli.loading import weights

        def loss(params: Any) -> Any:
            return case.problem.loss(case.alpha * case.apply(params, case.problem.x), case.problem.y)

        center = case.params0 if self.after is None else weights(self.after, case.params0, self.ignore)
        key = jax.random.key(self.seed)
        chosen: dict[str, Callable[[], Any]] = {
            "random": lambda: landscape.filter_normalised(key, center, axes=axes),
            "hessian": lambda: landscape.hessian_directions(loss, center).directions,
            "kernel": lambda: landscape.kernel_directions(case.apply, center, case.problem.x).directions,
        }
        directions = chosen[self.directions]()
        grid = {"extent": self.extent, "resolution": self.resolution}
        surface = landscape.plane(loss, center, directions, progress=progress, **grid)
        points = {"center": center} | ({} if self.after is None else {"initial": case.params0})
        placed = landscape.project(list(points.values()), center, directions, function=loss)
        names = {"coordinates": ("point", "axis"), "values": "point", "shadows": "point", "off_plane": "point"}
        dataset = surface.to_xarray().assign_coords(point=list(points))
        return dataset.assign({name: (dims, jax.device_get(getattr(placed, name))) for name, dims in names.items()})


def _unit_axis(text: str) -> tuple[str, int]:
    name, _, axis = text.partition("=")
    if not name or re.fullmatch(r"-?[0-9]{1,9}", axis) is None:
        raise InputError(f"--units must be NAME=AXIS, got {text!r}: for example a=0")
    return name, int(axis)
