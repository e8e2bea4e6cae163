"""`lazyscope store`: the cells that are kept."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_folder, say

StoreFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
EXPORTS = ("netcdf", "csv")


@dataclass
class StoreStatus:
    """What is kept: cells per figure, function and settings, chunks and bytes.

    Example: lazyscope store status lazyscope-out
    """

    folder: StoreFolder
    """A store, or a folder that `lazyscope reproduce` wrote."""

    def run(self) -> int:
        """Print the table; a running computation is not disturbed."""
        from lazyscope import store
        from lazyscope.cli.terminal import print_store

        folder = store.locate(self.folder)
        summaries, problems, aside = store.status(folder)
        print_store(str(folder), summaries)
        for problem in problems:
            say(f"{problem.path} is {problem.reason}: `lazyscope store check` says how to go on")
        if aside:
            say(f"{len(aside)} chunks failed and were set aside ({aside[0]}): they are not used and may be deleted")
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
            say(f"{problem.path} is {problem.reason}")
        print(f"{folder}: {cells} cells whole, {len(problems)} chunks damaged")
        if problems:
            say("the command that made this store sets the damaged chunks aside and computes their cells again")
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
        check_folder(self.out)
        written, problems = store.export_cells(store.locate(self.folder), self.out, write=writers[self.format])
        for path in written:
            print(path)
        for problem in problems:
            say(f"left out {problem.path}: {problem.reason}")
        return 1 if problems else 0


@dataclass
class StorePrune:
    """Say what nothing can ask for any more, and remove it when told to.

    That is: cells that figures of an earlier version asked for, of functions, versions and settings that no figure has
    now at any size; chunks that were set aside; files that a killed process left half-written. Cells of your own
    functions and figures stay, and so do those of `--set`, of more seeds, and states of unfinished runs.

    Example: lazyscope store prune lazyscope-out
    """

    folder: StoreFolder
    """A store, or a folder that `lazyscope reproduce` wrote."""
    yes: bool = False
    """Remove it without asking. Without, a terminal is asked, and elsewhere nothing is removed."""

    def run(self) -> int:
        """Print what would go and how large it is, then remove it or say how; exit status 2 while a process writes."""
        from lazyscope import store
        from lazyscope.cli.terminal import print_store, size_in_words
        from lazyscope.papers.programs import asked, of_a_figure

        folder = store.locate(self.folder)
        found = store.unused(folder, asked)
        others = [s for s in store.status(folder)[0] if asked(s) and not of_a_figure(s)]
        if others:
            named = sorted({", ".join(s.names) or s.function for s in others})
            say(f"{sum(s.cells for s in others)} cells are no figure's and stay: {'; '.join(named)}")
        if not found.files:
            print(f"{folder}: nothing to remove")
            return 0
        if found.cells:
            print_store(f"{folder}: no figure asks for these", found.cells)
        for path in (*found.aside, *found.half_written):
            print(path)
        size = size_in_words(found.bytes)
        if not (self.yes or _agreed(f"remove {len(found.files)} files, {size}? [y/N] ")):
            say(f"nothing is removed: `lazyscope store prune {self.folder} --yes` removes {size}")
            return 0
        gone = store.prune(folder, asked)
        print(f"{folder}: {sum(s.cells for s in gone.cells)} cells and {size} removed")
        return 0


def _agreed(question: str) -> bool:
    """What a terminal answers; no where there is none."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


@dataclass
class StoreCommand:
    """The finished cells that `reproduce` keeps: what is there, is it whole, write it out, drop what is of no use."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[StoreStatus, tyro.conf.subcommand("status", prefix_name=False)]
        | Annotated[StoreCheck, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[StoreExport, tyro.conf.subcommand("export", prefix_name=False)]
        | Annotated[StorePrune, tyro.conf.subcommand("prune", prefix_name=False)]
    ]

    def run(self) -> int:
        """Do what the subcommand says."""
        return self.command.run()
