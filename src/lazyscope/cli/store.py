"""`lazyscope store`: the cells that are kept."""

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
