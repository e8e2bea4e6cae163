"""Tables and lines for the terminal they are printed on; a pipe gets them at their full width. Needs no JAX."""

import shutil
import sys
from collections.abc import Collection, Sequence
from textwrap import fill
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROWEST = 16  # a wrapped column of less is hard to read: rows are listed instead
BETWEEN = 3  # blanks between two columns
HARD = "\xa0"  # a blank at which no line ends
UNLIMITED = 100_000


def width(stream: Any = None) -> int | None:
    """Columns of the terminal that a stream, by default standard output, is; None where it is none."""
    isatty = getattr(stream or sys.stdout, "isatty", None)
    return shutil.get_terminal_size().columns if isatty is not None and isatty() else None


def console(stream: Any = None) -> Console:
    """A stream, by default standard output, at its own width."""
    # Rich heeds width and height in a pair alone.
    return Console(file=stream, highlight=False, width=width(stream) or UNLIMITED, height=25)


def wrapped(text: str, indent: str = "  ") -> str:
    """A paragraph at the width of the terminal, all of it indented."""
    return fill(text, width() or UNLIMITED, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str,
    wraps: Collection[str] = (),
    numbers: Collection[str] = (),
    footer: Sequence[Any] | None = None,
    stream: Any = None,
) -> None:
    """`rows` under `headings`; columns in `wraps` give way where the terminal is narrow, `numbers` stand to the right.

    Where even so it does not fit, each row is a paragraph that begins with its first entry. Nothing is ever cut.
    """
    cells = [[str(entry) for entry in row] for row in rows]
    last = None if footer is None else [str(entry) for entry in footer]
    columns = [list(column) for column in zip(headings, *cells, *([] if last is None else [last]), strict=True)]
    needed = [
        min(_longest(column), max(_longest(" ".join(column).split()), NARROWEST))
        if heading in wraps
        else _longest(column)
        for heading, column in zip(headings, columns, strict=True)
    ]
    out = console(stream)
    if sum(needed) + BETWEEN * (len(headings) - 1) > out.width:
        _print_paragraphs(out, headings, cells, last, title)
        return
    table = Table(
        title=Text(title),
        title_justify="left",
        show_footer=last is not None,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for i, heading in enumerate(headings):
        table.add_column(
            heading,
            footer="" if last is None else Text(last[i]),
            justify="right" if heading in numbers else "left",
            no_wrap=heading not in wraps,
            overflow="fold",
            min_width=needed[i],
        )
    for row in cells:
        table.add_row(*map(Text, row))
    out.print(table)


def _print_paragraphs(
    out: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], footer: Sequence[str] | None, title: str
) -> None:
    out.print(Text(title), style="italic")
    for first, *rest in [*rows, *([] if footer is None else [footer])]:
        out.print(Text(first), style="bold", overflow="fold")
        told = [f"{heading}: {entry}" for heading, entry in zip(headings[1:], rest, strict=True) if entry]
        # No line ends within "tiny: 10 s".
        kept = "; ".join(words.replace(" ", HARD) if len(words) <= NARROWEST else words for words in told)
        out.print(Text(wrapped(kept).replace(HARD, " ")), no_wrap=True, overflow="ignore", crop=False)


def _longest(words: Sequence[str]) -> int:
    return max(map(cell_len, words), default=0)
