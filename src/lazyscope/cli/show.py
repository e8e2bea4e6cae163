"""`lazyscope list` and `lazyscope report`: what there is to reproduce, and the page of what was."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lazyscope.cli.arguments import InputError
from lazyscope.papers import FIGURES, SIZES


@dataclass
class List:
    """Name, title and wall time of every figure.

    Example: lazyscope list --json
    """

    json: bool = False
    """Print a JSON list instead of the table."""

    def run(self) -> int:
        """Print the table of figures."""
        from lazyscope.papers.listing import described, duration

        if self.json:
            import json

            print(json.dumps(described(FIGURES)))
            return 0
        from lazyscope.cli.tables import print_table

        print_table(
            ("figure", "title", *SIZES),
            [(name, entry.title, *map(duration, entry.seconds)) for name, entry in FIGURES.items()],
            title="Wall time on two cores",
            wraps=("title",),
            numbers=SIZES,
        )
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
