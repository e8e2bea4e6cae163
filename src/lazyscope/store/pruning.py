"""What nothing asks a store for any more, and its removal.

A store does not know who may ask: `asked(summary)` says it of one function with one set of settings, whose cells go or
stay together. Whatever it leaves open it must answer with yes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lazyscope.store import keys
from lazyscope.store.contents import Summary, status
from lazyscope.store.files import named, write_atomic
from lazyscope.store.folder import CHUNKS, LEFTOVER, NAMES, names_in
from lazyscope.store.lock import acquire

Asked = Callable[[Summary], bool]


@dataclass(frozen=True)
class Unused:
    """What would go from a store: cells, chunks that were set aside, files that a killed process left half-written."""

    cells: list[Summary]
    aside: list[Path]
    half_written: list[Path]

    @property
    def files(self) -> list[Path]:
        """All of it, as files."""
        return [*(path for summary in self.cells for path in summary.chunks), *self.aside, *self.half_written]

    @property
    def bytes(self) -> int:
        """How large it is."""
        return sum(path.stat().st_size for path in self.files)


def unused(folder: Path, asked: Asked) -> Unused:
    """What nothing asks the store in `folder` for; it reads only."""
    summaries, _, aside = status(folder)
    return Unused([s for s in summaries if not asked(s)], aside, named(folder / CHUNKS, LEFTOVER))


def prune(folder: Path, asked: Asked) -> Unused:
    """Remove what is `unused`, and say what it was. StoreError, in one line, while another process writes."""
    lock = acquire(folder)
    try:
        found = unused(folder, asked)
        gone = {summary.program.digest for summary in found.cells}
        for path in found.files:
            path.unlink(missing_ok=True)
        if gone:
            names = {digest: said for digest, said in names_in(folder).items() if digest not in gone}
            write_atomic(folder / NAMES, keys.to_json(names) + b"\n")
        return found
    finally:
        lock.release()
