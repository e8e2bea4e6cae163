"""What the command line prints: a progress line with time left, and tables."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lazyscope.cli.tables import console, print_table
from lazyscope.progress import Progress as ProgressCallback
from lazyscope.report import Item
from lazyscope.store import Summary

STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


class Heard:
    """What a progress callback was told: parts that are finished, and how far the present one is."""

    def __init__(self, draw: ProgressCallback | None = None) -> None:
        self._draw = draw
        self.finished: list[str] = []
        self.now = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Note it, and draw it where there is a terminal."""
        self.now = f"{what}: {done} of {total}"
        if done >= total and what not in self.finished:
            self.finished.append(what)
        if self._draw is not None:
            self._draw(done, total, what)

    def __str__(self) -> str:
        done = f", done: {'; '.join(self.finished)}" if self.finished else ""
        return f"at {self.now or 'the start'}{done}"


@contextmanager
def progress_bar(name: str, *, unit: str = "", quiet: bool = False) -> Iterator[Heard]:
    """A callback `progress(done, total, what)` that draws one line on standard error, with the time left.

    Nothing is drawn with `quiet`, or where standard error is no terminal.
    """
    stderr = sys.stderr
    if quiet or stderr is None or not stderr.isatty():
        yield Heard()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(name, total=None)
    before = (0, 0)

    def draw(done: int, total: int, what: str) -> None:
        nonlocal before
        if done < before[0] or total != before[1]:  # another part: what the last one took says nothing of it
            bar.reset(task, total=total)
        before = done, total
        bar.update(task, completed=done, total=total, description=f"{name} {what}".strip())

    # A terminal that cannot draw a bar costs no result.
    with suppress(Exception):
        bar.start()
    try:
        yield Heard(draw)
    finally:
        with suppress(Exception):
            bar.stop()


def print_findings(item: Item) -> None:
    """The claims of a figure: outcome and sentence, then what was measured against which range."""
    out = console()
    out.print(Text(f"{item.name}: {item.title} ({item.size})"), style="bold")
    for finding in item.findings:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=12, style=STYLES[finding["outcome"]])
        grid.add_column(overflow="fold")
        grid.add_row(finding["outcome"], Text(finding["sentence"]))
        measured = f"{finding['measure']} = {finding['mean']}, {finding['of']} {finding['interval']}"
        grid.add_row("", Text(f"{measured}; accepted {finding['threshold']}", style="dim"))
        out.print(grid)


def print_unexpected(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Findings, as a page has them, whose outcome is another than expected, beside their figures; on standard error."""
    print_table(
        ("figure", "claim", "expected", "outcome", "measured", "accepted"),
        [
            (name, f["sentence"], f["expected"], f["outcome"], f"{f['mean']} ({f['interval']})", f["threshold"])
            for name, f in rows
        ],
        title="other outcomes than expected",
        wraps=("claim", "measured"),
        stream=sys.stderr,
    )


def print_store(title: str, summaries: Sequence[Summary]) -> None:
    """Cells of a store per figure, function and settings, and their total."""
    rows = [
        (
            ", ".join(s.names) or "(unnamed)",
            f"{'.'.join(s.function.split('.')[-2:])} v{s.version}",
            s.program.digest[:8],
            ", ".join(f"{name}: {len(values)}" for name, values in sorted(s.axes.items())),
            len(s.seeds),
            s.cells,
            len(s.chunks),
            size_in_words(s.bytes),
        )
        for s in summaries
    ]
    cells, chunks = sum(s.cells for s in summaries), sum(len(s.chunks) for s in summaries)
    size = size_in_words(sum(s.bytes for s in summaries))
    print_table(
        ("figure", "function", "settings", "axes", "seeds", "cells", "chunks", "size"),
        rows,
        title=title,
        wraps=("figure", "function", "axes"),
        numbers=("seeds", "cells", "chunks", "size"),
        footer=("all", "", "", "", "", cells, chunks, size),
    )


def size_in_words(count: int) -> str:
    """Bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
