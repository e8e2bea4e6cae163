"""`lazyscope landscape`: the loss around the weights of a model."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli import process, programs
from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_folder, check_seed, say

MOST_POINTS = 4001
AGAIN = "nothing is written, the same command starts anew; a lower --resolution is faster"
NORMALISATION = {
    "random": "each filter of a direction has the length of the weights' filter, biases stay fixed (Li et al. 2018)",
    "hessian": "directions of length 1",
    "kernel": "directions of length 1",
    "path": "directions of length 1 at right angles, the first from the start to the trained end",
}
MARGIN = 0.25  # around the three points of a path, in units of what they span


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
    """random (normalised filter by filter), hessian or kernel (of largest curvature, of length 1), or path: the plane
    of the start, the trained end and the trained linearisation's end, as `diagnose` trains them."""
    units: tuple[str, ...] = ()
    """NAME=AXIS for a parameter whose units lie along another axis than the first, for random directions. Parameters of
    one axis are taken for biases and kept fixed unless named here: --units a=0 for two_layer."""
    extent: float | None = None
    """Half-width of the plane in units of the directions (default 1); with path the margin around the three points, in
    units of what they span (default .25)."""
    steps: int = 1500
    """Steps of our own descent for path, where the case brings no trainer."""
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
        if self.directions not in NORMALISATION:
            raise InputError(f"--directions must be one of {', '.join(NORMALISATION)}, got {self.directions!r}")
        if self.directions == "path" and self.after is not None:
            raise InputError(
                f"a path is trained from the start, got --after {self.after}: leave it out, or see `lazyscope line`"
            )
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")
        check_seed(self.seed)
        if self.resolution > MOST_POINTS:
            raise InputError(f"--resolution must be at most {MOST_POINTS} points a side, got {self.resolution}")
        axes = dict(_unit_axis(text) for text in self.units)
        check_folder(self.out)
        process.prepare_jax()
        programs.keep()
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
        settings["normalisation"] = NORMALISATION[self.directions]
        export(dataset, self.out / "landscape.nc", attributes=settings | provenance())
        write_atomic(self.out / "landscape.svg", figures.to_svg(picture))
        write_atomic(self.out / "landscape.png", figures.to_png(picture))
        if dataset.attrs["gaps"]:
            say(f"{dataset.attrs['gaps']} of {dataset.value.size} points have no finite loss and are left blank")
        if not self.quiet:
            say(f"{self.directions}: {NORMALISATION[self.directions]}")
        print(self.out / "landscape.png")
        return 0

    def _evaluated(self, case: Any, axes: dict[str, int], progress: Any) -> Any:
        import jax

        from lazyscope import landscape
        from lazyscope.cli.loading import in_jax, weights

        case = in_jax(case, progress)

        def loss(params: Any) -> Any:
            return case.problem.loss(case.alpha * case.apply(params, case.problem.x), case.problem.y)

        extent: Any = 1.0 if self.extent is None else self.extent
        if self.directions == "path":
            points, directions = self._path(case, progress)
            center = points["start"]
            extent = self._around(landscape.project(list(points.values()), center, directions).coordinates)
        else:
            center = case.params0 if self.after is None else weights(self.after, case.params0, self.ignore)
            points = {"center": center} | ({} if self.after is None else {"initial": case.params0})
            key = jax.random.key(self.seed)
            chosen: dict[str, Callable[[], Any]] = {
                "random": lambda: landscape.filter_normalised(key, center, axes=axes),
                "hessian": lambda: landscape.hessian_directions(loss, center).directions,
                "kernel": lambda: landscape.kernel_directions(case.apply, center, case.problem.x).directions,
            }
            directions = chosen[self.directions]()
        grid = {"extent": extent, "resolution": self.resolution}
        surface = landscape.plane(loss, center, directions, progress=progress, **grid)
        placed = landscape.project(list(points.values()), center, directions, function=loss)
        names = {"coordinates": ("point", "axis"), "values": "point", "shadows": "point", "off_plane": "point"}
        dataset = surface.to_xarray().assign_coords(point=list(points))
        return dataset.assign({name: (dims, jax.device_get(getattr(placed, name))) for name, dims in names.items()})

    def _path(self, case: Any, progress: Any) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Start, trained and linearised end, and the directions of their plane."""
        import jax

        from lazyscope import landscape
        from lazyscope.diagnose import ends

        options = {"train": case.train, "alpha": case.alpha, "num_steps": self.steps, "progress": progress}
        found = ends(case.apply, case.params0, case.problem, key=jax.random.key(self.seed), **options)
        try:
            frame = landscape.through(case.params0, found.trained, found.linearised)
        except ValueError as error:
            raise ValueError(
                f"a path needs a trained and a linearised end apart from each other and from the start: {error}"
            ) from error
        return {"start": case.params0, "trained": found.trained, "linearised": found.linearised}, frame.directions

    def _around(self, coordinates: Any) -> tuple[tuple[float, float], ...]:
        """The range of each coordinate with a margin, the same on all sides."""
        margin = MARGIN if self.extent is None else self.extent
        if not (margin > 0 and math.isfinite(margin)):
            raise InputError(f"--extent must be positive, got {margin:g}: .25 is usual for a path")
        low, high = coordinates.min(axis=0).tolist(), coordinates.max(axis=0).tolist()
        room = margin * max(b - a for a, b in zip(low, high, strict=True))
        return tuple((a - room, b + room) for a, b in zip(low, high, strict=True))


def _unit_axis(text: str) -> tuple[str, int]:
    name, _, axis = text.partition("=")
    if not name or re.fullmatch(r"-?[0-9]{1,9}", axis) is None:
        raise InputError(f"--units must be NAME=AXIS, got {text!r}: for example a=0")
    return name, int(axis)
