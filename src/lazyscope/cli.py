"""The command line. Nothing heavy is imported before it is needed, so that `--help` answers at once."""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.arguments import InputError, parse, terminated_as_interrupted
from lazyscope.papers import FIGURES, SIZES

MOST_SEEDS = 1_000_000
MOST_POINTS = 4001
EXAMPLES = """How lazily does a model train? Reproduce two papers on lazy training, figure by figure and claim by claim.

Examples:
  lazyscope list                                   what can be reproduced, and how long it takes
  lazyscope reproduce                              every figure at quick size, page in ./lazyscope-out
  lazyscope reproduce note-fig4 --size paper       one figure with the paper's full settings
  lazyscope reproduce note-fig4 --seeds 10 --check exit status 1 if an outcome is not the expected one
  lazyscope reproduce --size paper --workers 16    in 16 processes; --dask tcp://HOST:8786 on a cluster
  lazyscope diagnose my_model.py:case              how lazily your own model trains, and what to change
  lazyscope landscape my_model.py:case             the loss around its weights, as picture and data
  lazyscope report lazyscope-out                   make the page again from what is there
  lazyscope --version                              which version this is
  lazyscope store status lazyscope-out             which cells are kept; `check` verifies them, `export` writes them out
"""


@dataclass
class Reproduce:
    """Compute figures, judge their claims and write the page.

    Finished cells are kept in OUT/store: after an interruption, or with more seeds, the same command computes only what
    is not there yet.

    Example: lazyscope reproduce note-fig4 --size quick --out results
    """

    figures: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FIGURE ...]")] = ()
    """Names from `lazyscope list`; none means all."""
    size: str = "quick"
    """tiny (seconds, for tests), quick (under a minute a figure) or paper (the full specification)."""
    out: Path = Path("lazyscope-out")
    """Folder for the page, the pictures and the data."""
    seeds: int | None = None
    """Number of independent trials; default: the figure's own number at this size."""
    check: bool = False
    """Exit with status 1 when an outcome differs from the one expected at this size."""
    json: bool = False
    """Print one JSON object with every claim and the path of the page instead of tables."""
    quiet: bool = False
    """Print nothing but the path of the page, and no progress."""
    data: Path | None = None
    """Folder with CIFAR-10 (cifar-10-binary.tar.gz, or what it unpacks to); some figures need it at paper size."""
    workers: int | None = None
    """Compute in this many processes, each with one thread; default: in this one, a thread per core. The bits agree."""
    dask: str | None = None
    """Compute on the cluster of the Dask scheduler at this address, such as tcp://10.0.0.1:8786."""

    def run(self) -> int:
        """Reproduce the figures one after the other; the page is there after the first."""
        names = self._validated()
        _prepare_jax()
        from lazyscope.executors import OnWorkers
        from lazyscope.papers.reproduce import reproduce, unexpected
        from lazyscope.report import write_page
        from lazyscope.store import Store
        from lazyscope.terminal import print_findings, progress_bar

        surprises, items, page = [], [], None
        with self._executor() as executor, Store(self.out / "store", notify=_say) as own:
            kept = own if executor is None else OnWorkers(own, executor)
            for name in names:
                with nullcontext() if self.quiet else progress_bar(name) as progress:
                    item, findings = reproduce(
                        name,
                        size=self.size,
                        seeds=self.seeds,
                        out=self.out,
                        store=kept,
                        progress=progress,
                        data=self.data,
                    )
                surprises += unexpected(findings, self.size)
                first, page = page is None, write_page(self.out)
                items.append(item)
                if not (self.json or self.quiet):
                    print_findings(item)
                if first and len(names) > 1 and not self.quiet:
                    _say(f"the page is there and grows with every figure: {page}")
        print(_as_json(items, page) if self.json else page)
        if self.check and surprises:
            for finding in surprises:
                print(f"unexpected: {finding.claim.sentence} ({finding.outcome.value})", file=sys.stderr)
            return 1
        return 0

    def _validated(self) -> list[str]:
        for name in self.figures:
            if name not in FIGURES:
                close = get_close_matches(name, FIGURES, n=1)
                hint = f"did you mean {close[0]}?" if close else "`lazyscope list` shows them"
                raise InputError(f"a figure must be one of the {len(FIGURES)} known names, got {name!r}: {hint}")
        if self.size not in SIZES:
            close = get_close_matches(self.size, SIZES, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise InputError(f"--size must be one of {', '.join(SIZES)}, got {self.size!r}{hint}")
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"--seeds must be at least 1, got {self.seeds}: an interval needs 3")
        if self.seeds is not None and self.seeds > MOST_SEEDS:
            raise InputError(f"--seeds must be at most {MOST_SEEDS}, got {self.seeds}: an interval needs 3")
        _check_folder(self.out)
        names = list(self.figures) or list(FIGURES)
        self._check_data([name for name in names if self.size in FIGURES[name].cifar10])
        self._check_workers()
        return names

    def _check_workers(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(
                f"--workers must be at least 1, got {self.workers}: leave it out to compute in one process"
            )
        if self.workers is not None and self.dask is not None:
            raise InputError("cells are computed in one place, got --workers and --dask: name one of them")
        if self.dask is None:
            return
        from lazyscope.executors import check_address

        check_address(self.dask)
        if importlib.util.find_spec("distributed") is None:
            raise InputError("--dask needs the package distributed, which is missing: pip install 'lazyscope[cluster]'")

    def _executor(self) -> AbstractContextManager[Any]:
        from lazyscope import executors

        if self.workers is not None:
            return executors.local(self.workers)
        return nullcontext() if self.dask is None else executors.dask(self.dask)

    def _check_data(self, need: list[str]) -> None:
        if self.data is None and need:
            raise InputError(
                f"at --size {self.size} CIFAR-10 is needed by {', '.join(need)}, got no --data: name the folder with "
                "cifar-10-binary.tar.gz (from https://www.cs.toronto.edu/~kriz/cifar.html), or name other figures"
            )
        if self.data is not None and not self.data.is_dir():
            raise InputError(f"--data must be a folder with CIFAR-10, got {str(self.data)!r}: it does not exist")


@dataclass
class Diagnose:
    """Tell how lazily a model trains, why, and what to change.

    Names a built-in case (two-layer-symmetrised, two-layer-plain, two-layer-rich), or FILE.py:OBJECT, where OBJECT is a
    lazyscope.Case or a function that returns one. This runs FILE.py: only name files you trust.

    Example: lazyscope diagnose my_model.py:case --after trained.safetensors
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT."""
    after: Path | None = None
    """Weights of a finished training (safetensors or npz): they are judged instead of a training run of ours."""
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
        _check_seed(self.seed)
        _prepare_jax()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope.loading import blame, load_case

        try:
            text = self._diagnosed(load_case(self.case))
        except Exception as error:
            theirs = blame(error, self.case)
            if theirs is not None:
                raise InputError(f"the case must run, got an error in it: {theirs}") from error
            if isinstance(error, ValueError | FileNotFoundError):
                raise InputError(str(error).splitlines()[0]) from error
            raise
        print(text)
        return 0

    def _diagnosed(self, case: Any) -> str:
        import json

        import jax

        from lazyscope.adapters import load_checkpoint
        from lazyscope.diagnose import diagnose

        after = None if self.after is None else load_checkpoint(self.after, case.params0)
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
        return json.dumps(found.as_dict(), allow_nan=False, ensure_ascii=False) if self.json else str(found)


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

    def run(self) -> int:
        """Evaluate, draw, write and print the path of the picture."""
        if self.directions not in DIRECTIONS:
            raise InputError(f"--directions must be one of {', '.join(DIRECTIONS)}, got {self.directions!r}")
        _check_seed(self.seed)
        if self.resolution > MOST_POINTS:
            raise InputError(f"--resolution must be at most {MOST_POINTS} points a side, got {self.resolution}")
        axes = dict(_unit_axis(text) for text in self.units)
        _check_folder(self.out)
        _prepare_jax()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope import figures
        from lazyscope.loading import blame, load_case
        from lazyscope.store import export, provenance, write_atomic

        try:
            dataset = self._evaluated(load_case(self.case), axes)
        except Exception as error:
            theirs = blame(error, self.case)
            if theirs is not None:
                raise InputError(f"the case must run, got an error in it: {theirs}") from error
            if isinstance(error, ValueError | FileNotFoundError):
                raise InputError(str(error).splitlines()[0]) from error
            raise
        if int(dataset.attrs["gaps"]) == dataset.value.size:
            raise InputError("the loss must be finite somewhere on the plane, got NaN everywhere: lower --extent")
        picture = figures.landscape(dataset)
        settings = {"case": self.case, "directions": self.directions, "seed": str(self.seed)}
        export(dataset, self.out / "landscape.nc", attributes=settings | provenance())
        write_atomic(self.out / "landscape.svg", figures.to_svg(picture))
        write_atomic(self.out / "landscape.png", figures.to_png(picture))
        if dataset.attrs["gaps"]:
            _say(f"{dataset.attrs['gaps']} of {dataset.value.size} points have no finite loss and are left blank")
        print(self.out / "landscape.png")
        return 0

    def _evaluated(self, case: Any, axes: dict[str, int]) -> Any:
        import jax

        from lazyscope import landscape
        from lazyscope.adapters import load_checkpoint

        def loss(params: Any) -> Any:
            return case.problem.loss(case.alpha * case.apply(params, case.problem.x), case.problem.y)

        center = case.params0 if self.after is None else load_checkpoint(self.after, case.params0)
        key = jax.random.key(self.seed)
        chosen: dict[str, Callable[[], Any]] = {
            "random": lambda: landscape.filter_normalised(key, center, axes=axes),
            "hessian": lambda: landscape.hessian_directions(loss, center).directions,
            "kernel": lambda: landscape.kernel_directions(case.apply, center, case.problem.x).directions,
        }
        directions = chosen[self.directions]()
        surface = landscape.plane(loss, center, directions, extent=self.extent, resolution=self.resolution)
        points = {"center": center} | ({} if self.after is None else {"initial": case.params0})
        placed = landscape.project(list(points.values()), center, directions, function=loss)
        names = {"coordinates": ("point", "axis"), "values": "point", "shadows": "point", "off_plane": "point"}
        dataset = surface.to_xarray().assign_coords(point=list(points))
        return dataset.assign({name: (dims, jax.device_get(getattr(placed, name))) for name, dims in names.items()})


@dataclass
class List:
    """Name, title and wall time of every figure.

    Example: lazyscope list --json
    """

    json: bool = False
    """Print a JSON list instead of the table."""

    def run(self) -> int:
        """Print the table of figures."""
        from lazyscope.papers.listing import described, print_figures

        if self.json:
            import json

            print(json.dumps(described(FIGURES), ensure_ascii=False))
        else:
            print_figures(FIGURES)
        return 0


@dataclass
class Report:
    """Make the page again from the results in a folder.

    Example: lazyscope report lazyscope-out
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that `lazyscope reproduce` wrote."""

    def run(self) -> int:
        """Write DIR/index.html and print its path."""
        from lazyscope.report import write_page

        try:
            print(write_page(self.folder))
        except ValueError as error:
            raise InputError(str(error)) from None
        return 0


StoreFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
EXPORTS = ("netcdf", "csv")


@dataclass
class StoreStatus:
    """What is kept: cells per function and settings, chunks and bytes.

    Example: lazyscope store status lazyscope-out
    """

    folder: StoreFolder
    """A store, or a folder that `lazyscope reproduce` wrote."""

    def run(self) -> int:
        """Print the table; a running computation is not disturbed."""
        from lazyscope import store
        from lazyscope.terminal import print_store

        folder = store.locate(self.folder)
        summaries, problems, aside = store.status(folder)
        print_store(str(folder), summaries)
        for problem in problems:
            _say(f"{problem.path} is {problem.reason}: `lazyscope store check` says how to go on")
        if aside:
            _say(f"{len(aside)} chunks failed and were set aside ({aside[0]}): they are not used and may be deleted")
        return 0


@dataclass
class StoreCheck:
    """Read every chunk and verify its checksum; exit status 1 when one is damaged.

    Example: lazyscope store check lazyscope-out
    """

    folder: StoreFolder
    """A store, or a folder that `lazyscope reproduce` wrote."""

    def run(self) -> int:
        """Print the damaged chunks, one line each; nothing is changed."""
        from lazyscope import store

        folder = store.locate(self.folder)
        cells, problems = store.check(folder)
        for problem in problems:
            _say(f"{problem.path} is {problem.reason}")
        print(f"{folder}: {cells} cells whole, {len(problems)} chunks damaged")
        if problems:
            _say("the command that made this store sets the damaged chunks aside and computes their cells again")
        return 1 if problems else 0


@dataclass
class StoreExport:
    """Every kept cell in an open format, one file per function and settings.

    Example: lazyscope store export lazyscope-out --out cells --format csv
    """

    folder: StoreFolder
    """A store, or a folder that `lazyscope reproduce` wrote."""
    out: Path = Path("lazyscope-cells")
    """Folder for the files."""
    format: str = "netcdf"
    """netcdf or csv."""

    def run(self) -> int:
        """Write the files and print their paths; damaged chunks are left out, named, and give exit status 1."""
        from lazyscope import store

        writers = dict(zip(EXPORTS, (store.write_netcdf, store.write_csv), strict=True))
        if self.format not in writers:
            raise InputError(f"--format must be one of {', '.join(EXPORTS)}, got {self.format!r}")
        _check_folder(self.out)
        written, problems = store.export_cells(store.locate(self.folder), self.out, write=writers[self.format])
        for path in written:
            print(path)
        for problem in problems:
            _say(f"left out {problem.path}: {problem.reason}")
        return 1 if problems else 0


@dataclass
class StoreCommand:
    """The finished cells that `reproduce` keeps: what is there, is it whole, write it out."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[StoreStatus, tyro.conf.subcommand("status", prefix_name=False)]
        | Annotated[StoreCheck, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[StoreExport, tyro.conf.subcommand("export", prefix_name=False)]
    ]

    def run(self) -> int:
        """Do what the subcommand says."""
        return self.command.run()


COMMANDS: dict[str, Callable[..., Reproduce | Diagnose | Landscape | List | Report | StoreCommand]] = {
    "reproduce": Reproduce,
    "diagnose": Diagnose,
    "landscape": Landscape,
    "list": List,
    "report": Report,
    "store": StoreCommand,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 done; 1 unexpected outcome, or cells that could not be computed; 2 bad input; 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"lazyscope {version('lazyscope')}")
        return 0
    try:
        _check_command(words)
        command = parse(COMMANDS, arguments, description=EXAMPLES)
        with terminated_as_interrupted():
            return command.run()
    except (InputError, OSError) as error:
        _say(str(error))
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "FailedCellsError":  # its module needs JAX, which most commands never load
            raise
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted; finished cells and figures are kept, the same command goes on from there")
        return 130


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, got {seed}")


def _check_command(words: Sequence[str]) -> None:
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        close = get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`lazyscope --help` shows them"
        raise InputError(f"a command must be one of {', '.join(COMMANDS)}, got {words[0]!r}: {hint}")


def _as_json(items: Sequence[Any], page: Path | None) -> str:
    import json

    found = {item.name: {"title": item.title, "size": item.size, "claims": item.findings} for item in items}
    return json.dumps({"page": str(page), "figures": found}, ensure_ascii=False)


def _unit_axis(text: str) -> tuple[str, int]:
    name, _, axis = text.partition("=")
    if not name or re.fullmatch(r"-?[0-9]{1,9}", axis) is None:
        raise InputError(f"--units must be NAME=AXIS, got {text!r}: for example a=0")
    return name, int(axis)


def _say(line: str) -> None:
    # One line whatever a name or a file brings with it, and nothing that a terminal would take for a command.
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(f"lazyscope: {safe}", file=sys.stderr)


def _check_folder(out: Path) -> None:
    blocker = next((p for p in (out, *out.parents) if p.exists()), None)
    if blocker is not None and not blocker.is_dir():
        raise InputError(f"--out must be a folder, got {str(out)!r}: {blocker} is a file, name another place")


def _prepare_jax() -> None:
    # One device per core, one thread each: cells run side by side, and a cell's bits do not depend on the machine's
    # number of cores. Must be said before JAX is loaded.
    os.environ.setdefault("NPROC", "1")
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def entry() -> None:
    """The console script."""
    sys.exit(main())
