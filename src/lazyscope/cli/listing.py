"""What can be reproduced, as plain data; imports nothing that computes."""

from collections.abc import Mapping
from typing import Any

from lazyscope.papers.registry import SIZES, Entry


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


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
