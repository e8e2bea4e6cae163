"""What can be reproduced, as a table or as plain data; imports nothing that computes."""

from collections.abc import Mapping
from typing import Any

from lazyscope.papers import SIZES, Entry


def described(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Name, title, seconds of wall time at each size, and the sizes that need CIFAR-10."""
    return [
        {
            "name": name,
            "title": entry.title,
            "seconds": dict(zip(SIZES, entry.seconds, strict=True)),
            "cifar10": list(entry.cifar10),
        }
        for name, entry in entries.items()
    ]


def print_figures(entries: Mapping[str, Entry]) -> None:
    """Every figure with its title and wall time on two cores at each size."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Wall time on two cores", title_justify="left")
    for heading in ("figure", "title", *SIZES):
        table.add_column(heading)
    for name, entry in entries.items():
        table.add_row(name, entry.title, *(_duration(seconds) for seconds in entry.seconds))
    Console().print(table)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
