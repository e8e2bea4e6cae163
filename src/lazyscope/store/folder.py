"""The folder that one process writes: which cells are there, and what happens when a disk or a file fails."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lazyscope.store import chunks, keys
from lazyscope.store.chunks import FORMAT, DamagedError, Row
from lazyscope.store.code import fingerprint
from lazyscope.store.files import StoreError, named, write_atomic
from lazyscope.store.lock import LOCK, acquire
from lazyscope.store.origin import DECIDING, origin

MARKER = "store.json"
CHUNKS = "chunks"
CHECKPOINTS = "checkpoints"  # of cells that take long, by their own hand
NAMES = "names.json"  # what each program is for: {digest: [names]}
CHUNK = re.compile(r"[0-9a-f]{64}\.npz")
BAD = re.compile(rf"{CHUNK.pattern}\.bad\d*")
LEFTOVER = re.compile(rf"\.{CHUNK.pattern}\.\w+")  # of a process killed while it wrote: `write_atomic` names them
FOREIGN = re.compile(r"\..*|Thumbs\.db|desktop\.ini|Icon\r|__MACOSX|@eaDir|lost\+found", re.IGNORECASE)
CODE = "code"
AGAIN = "run the same command again"


@runtime_checkable
class Cell(Protocol):
    """What a store needs to know of a cell of `sweep`."""

    @property
    def coords(self) -> Sequence[tuple[str, Any]]:
        """Names and values."""
        ...

    @property
    def seed(self) -> int:
        """The seed."""
        ...


class Store:
    """A folder of finished cells, owned by this process until `close` or the end of the `with` block.

    Cells already there are not computed again, whichever sweep asks for them. `notify(line)` hears of chunks that were
    set aside and of results of other versions; by default it warns.

    Raises StoreError, always in one line: another process owns the store, the folder holds something else, or its
    format is another version's.
    """

    def __init__(self, folder: str | Path, *, notify: Callable[[str], None] | None = None) -> None:
        self.folder = Path(folder)
        self._notify = _warn if notify is None else notify
        self._chunks = self.folder / CHUNKS
        if self.folder.is_dir():
            check_format(self.folder)  # before anything is put into a folder that is not ours
        self._lock = acquire(self.folder)
        try:
            _prepare(self.folder)
            for leftover in named(self._chunks, LEFTOVER):  # nobody else writes here
                leftover.unlink(missing_ok=True)
            self._where: dict[str, tuple[Path, int]] = {}
            self._origins: dict[Path, dict[str, str]] = {}
            self._verified: set[Path] = set()
            self._told: set[str] = set()
            self._origin: dict[str, str] | None = None
            self._name: str | None = None
            self._names = names_in(self.folder)
            for path in chunk_files(self.folder):
                self._index(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of cells."""
        return len(self._where)

    def close(self) -> None:
        """Let another process own the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def view(self, function: Callable[..., Any], *, version: int, key: Any, static: Sequence[str] = ()) -> "View":
        """The cells of one function at one version, with its settings, root key and the precision in force."""
        program = keys.program(function, version=version, key=key, static=static)
        if self._name is not None and self._name not in self._names.get(program.digest, []):
            self._names[program.digest] = [*self._names.get(program.digest, []), self._name]
            write_atomic(self.folder / NAMES, keys.to_json(self._names) + b"\n")
        return View(self, program, fingerprint(function))

    @contextmanager
    def used_for(self, name: str) -> Iterator[None]:
        """What is asked of the store inside is for `name`, a figure's say; `status` shows it. It decides nothing."""
        before, self._name = self._name, name
        try:
            yield
        finally:
            self._name = before

    def present(self, wanted: Sequence[str], facts: Mapping[str, str] | None = None) -> list[bool]:
        """Which keys are there; the chunks that hold them are verified first, and set aside where they fail.

        `facts` are those of the process that will compute the others, as far as they differ from this one's.
        """
        self._check_open()
        paths = {self._where[key][0] for key in wanted if key in self._where}
        for path in sorted(paths - self._verified):
            try:
                chunks.read(path)
                self._verified.add(path)
            except (DamagedError, FileNotFoundError) as error:
                self._set_aside(path, error)
        self._compare_origins(paths, facts or {})
        return [key in self._where for key in wanted]

    def compare_code(self, program: keys.Program, wanted: Sequence[str], code: str) -> None:
        """Tell once of cells whose function had another code when they were computed, and the same version."""
        there = [self._origins[self._where[key][0]].get(CODE, code) for key in wanted if key in self._where]
        older = sum(kept != code for kept in there)
        if older and program.digest not in self._told:
            self._told.add(program.digest)
            name, version = program.description["function"], program.description["version"]
            self._notify(
                f"the code of {name} has changed since {older} of its cells in {self.folder} were computed, and its "
                f"version is still {version}: they are used as they are; raise it where numbers change"
            )

    def add(
        self,
        program: keys.Program,
        rows: Sequence[Row],
        results: Mapping[str, np.ndarray],
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Keep a chunk: written, synced and renamed, or not there at all. `facts` are those of another process."""
        self._check_open()
        if self._origin is None:
            self._origin = origin()
        facts = self._origin | dict(facts or {})
        data = chunks.encode(program, rows, results, facts)
        name = hashlib.sha256("".join(row.key for row in rows).encode()).hexdigest()
        path = self._chunks / f"{name}.npz"
        try:
            write_atomic(path, data)
        except StoreError as error:
            raise StoreError(f"{error} ({len(self)} cells are in the store, {len(rows)} were not kept)") from error
        self._where |= {row.key: (path, i) for i, row in enumerate(rows)}
        self._origins[path] = facts

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Chunk by chunk: positions in `wanted`, and the rows that belong there."""
        self._check_open()
        places: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(wanted):
            path, row = self._where[key]
            places.setdefault(path, []).append((position, row))
        for path, pairs in places.items():
            try:
                _, arrays = chunks.read(path)
            except (DamagedError, FileNotFoundError) as error:
                self._set_aside(path, error)
                raise StoreError(
                    f"a chunk must not change while in use, got {path.name[:12]}: {AGAIN}, it computes those cells"
                ) from None
            taken = [row for _, row in pairs]
            yield [position for position, _ in pairs], {name: value[taken] for name, value in arrays.items()}

    def _index(self, path: Path) -> None:
        try:
            header = chunks.read_header(path)
        except DamagedError as error:
            self._set_aside(path, error)
            return
        for i, row in enumerate(header.rows):
            self._where.setdefault(row.key, (path, i))
        self._origins[path] = header.origin

    def _set_aside(self, path: Path, reason: Exception) -> None:
        lost = [key for key, (held, _) in self._where.items() if held == path]
        for key in lost:
            del self._where[key]
        self._origins.pop(path, None)
        self._verified.discard(path)
        cells = f"its {len(lost)} cells" if lost else "its cells"
        if isinstance(reason, FileNotFoundError):
            self._notify(f"chunk {path.name[:12]} has gone from {self.folder}: {cells} are computed again")
            return
        place = set_aside_name(path)
        path.replace(place)
        self._notify(f"chunk {path.name[:12]} is {reason}: kept as {place}, {cells} are computed again where needed")

    def _compare_origins(self, paths: set[Path], facts: Mapping[str, str]) -> None:
        found = [o for path in paths if (o := self._origins.get(path)) is not None]
        if not found:
            return
        if self._origin is None:
            self._origin = origin()
        now = self._origin | dict(facts)
        for name in DECIDING:
            others = sorted({o.get(name, "unknown") for o in found} - {now[name]})
            if others and name not in self._told:
                self._told.add(name)
                self._notify(
                    f"some cells in {self.folder} were computed with {name} {', '.join(others)}, this is "
                    f"{now[name]}: the last digits may differ; another folder computes all anew"
                )

    def _check_open(self) -> None:
        if self._lock is None:
            raise StoreError(f"a store must be open to be used, got {self.folder} after close: open it again")


class View:
    """The cells of one program in a store: what `sweep` works with."""

    def __init__(self, store: Store, program: keys.Program, code: str | None = None) -> None:
        self._store = store
        self.program, self._code = program, code

    def key(self, cell: Cell) -> str:
        """The key of a cell."""
        return self._row(cell).key

    def done(self, cells: Sequence[Cell], *, origin: Mapping[str, str] | None = None) -> list[bool]:
        """Which cells are already there, whole; `origin` is what differs where another process computes the others.

        It is told when the function's code is not what it was for some of them.
        """
        wanted = [self.key(cell) for cell in cells]
        found = self._store.present(wanted, origin)
        if self._code is not None:
            self._store.compare_code(self.program, wanted, self._code)
        return found

    def write(
        self, cells: Sequence[Cell], results: Mapping[str, np.ndarray], *, origin: Mapping[str, str] | None = None
    ) -> None:
        """Keep a chunk: each array has one row per cell; `origin` is what differs where another process computed it."""
        facts = dict(origin or {}) | ({} if self._code is None else {CODE: self._code})
        self._store.add(self.program, [self._row(cell) for cell in cells], results, facts)

    def read(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """All results, one row per cell, in the order asked for."""
        out: dict[str, np.ndarray] = {}
        for positions, arrays in self._store.rows([self.key(cell) for cell in cells]):
            if not out:
                out = {n: np.empty((len(cells), *value.shape[1:]), value.dtype) for n, value in arrays.items()}
            kinds = [{n: (v.shape[1:], v.dtype) for n, v in both.items()} for both in (out, arrays)]
            if kinds[0] != kinds[1]:
                raise StoreError(
                    f"all cells of a sweep need the same results, got {sorted(out)} and {sorted(arrays)} with other "
                    "names, shapes or types in the store: raise the function's version"
                )
            for name, value in arrays.items():
                out[name][positions] = value
        return out

    def _row(self, cell: Cell) -> Row:
        coords = keys.coordinates(cell.coords)
        return Row(keys.cell_key(self.program.digest, coords, cell.seed), coords, int(cell.seed))


def chunk_files(folder: Path) -> list[Path]:
    """All chunks of a store, by name."""
    return named(folder / CHUNKS, CHUNK)


def aside_files(folder: Path) -> list[Path]:
    """All chunks that were set aside."""
    return named(folder / CHUNKS, BAD)


def names_in(folder: Path) -> dict[str, list[str]]:
    """What each program in a store is for, as far as it was said; a damaged file says nothing."""
    try:
        found = json.loads((folder / NAMES).read_bytes())
        return {str(digest): [str(name) for name in names] for digest, names in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def check_format(folder: Path) -> None:
    """StoreError for the store of another version, or for a folder with something else in it."""
    marker = folder / MARKER
    if not marker.exists():
        known = {MARKER, LOCK, CHUNKS, NAMES, CHECKPOINTS}
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in known and not FOREIGN.fullmatch(p.name))
        if strangers:
            raise StoreError(
                f"a store needs a folder of its own, got {folder} with {strangers[0]!r} in it: name another"
            )
        return
    try:
        found = json.loads(marker.read_bytes())["format"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{marker} must say the format of the store, got something else: remove that file") from None
    if found != FORMAT:
        raise StoreError(
            f"this lazyscope reads stores of format {FORMAT}, got format {found!r} in {folder}: "
            "use the lazyscope that wrote it, or name another folder"
        )


def set_aside_name(path: Path) -> Path:
    """A free name beside `path` for a chunk that failed."""
    place, number = path.with_name(f"{path.name}.bad"), 1
    while place.exists():
        number += 1
        place = path.with_name(f"{path.name}.bad{number}")
    return place


def _prepare(folder: Path) -> None:
    check_format(folder)
    if not (folder / MARKER).exists():
        write_atomic(folder / MARKER, keys.to_json({"format": FORMAT}) + b"\n")
    (folder / CHUNKS).mkdir(exist_ok=True)


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)
