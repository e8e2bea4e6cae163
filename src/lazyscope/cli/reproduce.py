"""`lazyscope reproduce`: figures, their claims and the page."""

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli import process
from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_folder, say
from lazyscope.executors import in_words
from lazyscope.papers.registry import FIGURES, SIZES

KEPT = "finished cells and figures are kept, the same command goes on from there"
MOST_SEEDS = 1_000_000


@dataclass
class Reproduce:
    """Compute figures, judge their claims and write the page.

    Finished cells are kept in OUT/store: after an interruption, or with more seeds, the same command computes only what
    is not there yet.

    Example: lazyscope reproduce note-fig4 --size quick --out results
    """

    figures: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FIGURE ...]")] = ()
    """Names from `lazyscope list`, or FILE.py:OBJECT for a figure of your own; none means all of the list."""
    size: str = "quick"
    """tiny (seconds, for tests), quick (under a minute a figure) or paper (the full specification)."""
    out: Path = Path("lazyscope-out")
    """Folder for the page, the pictures and the data."""
    seeds: int | None = None
    """Number of independent trials; default: the figure's own number at this size."""
    check: bool = False
    """List every outcome other than the one expected at this size, and exit with status 1 where there is one."""
    json: bool = False
    """Print one JSON object with every claim and the path of the page instead of tables."""
    quiet: bool = False
    """Print nothing but the path of the page, and no progress."""
    data: Path | None = None
    """Folder with CIFAR-10 (cifar-10-binary.tar.gz, or what it unpacks to); some figures need it at paper size."""
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="[NAME=VALUE ...]")] = ()
    """Other settings than a figure's own, named as on the page: --set width=16 taus=0.1,1,10."""
    workers: int | None = None
    """Compute in this many processes, each with one thread; default: in this one, a thread per core. The bits agree."""
    dask: str | None = None
    """Compute on the cluster of the Dask scheduler at this address, such as tcp://10.0.0.1:8786."""

    def run(self) -> int:
        """Reproduce the figures one after the other; the page is there after the first."""
        names, changes = self._validated(), self._changes()
        process.prepare_jax()
        from lazyscope import report
        from lazyscope.cli.interrupts import how_to_go_on
        from lazyscope.cli.loading import FIGURE, in_one_line, on_figure
        from lazyscope.cli.terminal import print_findings, print_unexpected, progress_bar
        from lazyscope.papers.reproduce import load, reproduce, sized
        from lazyscope.papers.variation import in_store
        from lazyscope.store import Store

        own = {name: on_figure(name) for name in names if name not in FIGURES}
        self._check_places(own)
        for name in names if changes else own:  # what cannot be is said before anything is computed
            with in_one_line(name, FIGURE):
                sized(name, own[name] if name in own else load(name), self.size, changes)
        surprises, items, page, shown = [], [], None, False
        with (
            how_to_go_on(lambda: KEPT, keeps=True),
            self._executor() as executor,
            Store(self.out / "store", notify=say) as store,
        ):
            for name in names:
                with (
                    in_one_line(name, FIGURE) if changes or name in own else nullcontext(),
                    store.used_for(in_store(name, changes)),
                    progress_bar(name, unit="cells", quiet=self.quiet) as progress,
                ):
                    item, _ = reproduce(
                        name,
                        size=self.size,
                        seeds=self.seeds,
                        out=self.out,
                        store=store,
                        executor=executor,
                        progress=progress,
                        data=self.data,
                        own=own.get(name),
                        changes=changes,
                    )
                surprises += [(item.name, finding) for finding in item.findings if report.surprising(finding)]
                page = _page(self.out)
                items.append(item)
                if not (self.json or self.quiet):
                    print_findings(item)
                if page is not None and not shown and len(names) > 1 and not self.quiet:
                    say(f"the page is there and grows with every figure: {page}")
                    shown = True
        if self.json or page is not None:
            print(_as_json(items, page) if self.json else page)
        if self.check and surprises:
            print_unexpected(surprises)
            return 1
        return int(page is None)

    def _validated(self) -> list[str]:
        for name in self.figures:
            if name not in FIGURES and ":" not in name:
                close = get_close_matches(name, FIGURES, n=1)
                hint = f"did you mean {close[0]}?" if close else "`lazyscope list` shows them, yours is FILE.py:OBJECT"
                raise InputError(f"a figure must be one of the {len(FIGURES)} known names, got {name!r}: {hint}")
        if self.size not in SIZES:
            close = get_close_matches(self.size, SIZES, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise InputError(f"--size must be one of {', '.join(SIZES)}, got {self.size!r}{hint}")
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"--seeds must be at least 1, got {self.seeds}: an interval needs 3")
        if self.seeds is not None and self.seeds > MOST_SEEDS:
            raise InputError(f"--seeds must be at most {MOST_SEEDS}, got {self.seeds}: an interval needs 3")
        check_folder(self.out)
        names = list(self.figures) or list(FIGURES)
        self._check_data([name for name in names if name in FIGURES and self.size in FIGURES[name].cifar10])
        self._check_workers()
        return names

    def _check_places(self, own: Iterable[str]) -> None:
        # Results are called by file and object: those of two files of one name would overwrite each other.
        from lazyscope.papers.reproduce import own_name
        from lazyscope.report import asked_for

        taken: dict[str, str] = {}
        for name in own:
            for other in (taken.setdefault(own_name(name), name), asked_for(self.out, own_name(name))):
                if other is not None and _another_file(name, other):
                    raise InputError(
                        f"figures in one --out must differ in their file's name or their own, got {name} and {other}: "
                        "name another --out, or rename one of them"
                    )

    def _changes(self) -> dict[str, str]:
        changes = {}
        for change in self.changes:
            name, _, value = change.partition("=")
            if not (name and value):
                raise InputError(f"--set must be NAME=VALUE, got {change!r}: --set width=16 taus=0.1,1,10")
            if changes.get(name, value) != value:
                raise InputError(
                    f"--set must give a setting once, got {name}={changes[name]} and {change}: leave one out"
                )
            changes[name] = value
        return changes

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


def _another_file(name: str, other: str) -> bool:
    """Are these two files, as far as can be seen from here? Two names of one file are one."""
    file, there = (Path(one.rpartition(":")[0]) for one in (name, other))
    return there.is_file() and not (file.is_file() and there.samefile(file))


def _page(out: Path) -> Path | None:
    """The page, or None and a line: figures that are still to come are worth more."""
    from lazyscope.report import write_page

    try:
        return write_page(out)
    except (OSError, ValueError) as error:
        say(f"the page could not be made, figures and numbers are kept in {out / 'figures'}: {in_words(error)}")
        return None


def _as_json(items: Sequence[Any], page: Path | None) -> str:
    import json

    found = {item.name: {"title": item.title, "size": item.size, "claims": item.findings} for item in items}
    return json.dumps({"page": None if page is None else str(page), "figures": found})
