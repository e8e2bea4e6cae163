"""Looking at a store without owning it: what is there, whether it is whole, and all of it in open formats.

These read only, so they may run while another process computes.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lazyscope.store import chunks
from lazyscope.store.chunks import DamagedError, Header
from lazyscope.store.files import StoreError, export, write_atomic
from lazyscope.store.folder import CHUNKS, MARKER, aside_files, check_format, chunk_files, names_in
from lazyscope.store.keys import Program

Write = Callable[[xr.Dataset, Path], Path]


class Problem(NamedTuple):
    """A chunk that is not what was written."""

    path: Path
    reason: str


@dataclass
class Summary:
    """What a store holds of one function with one set of settings; `names` are what it was computed for."""

    program: Program
    names: tuple[str, ...] = ()
    cells: int = 0
    bytes: int = 0
    chunks: list[Path] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)
    axes: dict[str, set[str]] = field(default_factory=dict)

    @property
    def function(self) -> str:
        """The name that stores know it by."""
        return self.program.description["function"]

    @property
    def version(self) -> int:
        """Its version."""
        return self.program.description["version"]


def locate(folder: Path) -> Path:
    """The store in `folder`: itself, or the `store` inside it, as `reproduce` makes one. StoreError without."""
    for place in (folder, folder / "store"):
        if (place / MARKER).is_file() or (place / CHUNKS).is_dir():
            check_format(place)
            return place
    raise StoreError(f"a store needs a folder with {MARKER}, got {folder}: `lazyscope reproduce --out DIR` makes one")


def status(folder: Path) -> tuple[list[Summary], list[Problem], list[Path]]:
    """What is there per function and settings, the chunks whose header cannot be read, and those set aside."""
    found: dict[str, Summary] = {}
    problems = []
    names = names_in(folder)
    for path, header in _headers(folder, problems):
        digest = header.program.digest
        summary = found.setdefault(digest, Summary(header.program, tuple(names.get(digest, ()))))
        summary.cells += len(header.rows)
        summary.chunks.append(path)
        summary.bytes += path.stat().st_size
        for row in header.rows:
            summary.seeds.add(row.seed)
            for name, value in row.coords:
                summary.axes.setdefault(name, set()).add(json.dumps(value))
    ordered = sorted(found.values(), key=lambda s: (s.names, s.function, s.version, s.program.digest))
    return ordered, problems, aside_files(folder)


def check(folder: Path) -> tuple[int, list[Problem]]:
    """Read every chunk and compare its checksum: how many cells are whole, and which chunks are not."""
    cells, problems = 0, []
    for path in chunk_files(folder):
        try:
            header, _ = chunks.read(path)
            cells += len(header.rows)
        except DamagedError as error:
            problems.append(Problem(path, str(error)))
        except FileNotFoundError:
            continue  # the process that owns the store has set it aside meanwhile
    return cells, problems


def export_cells(folder: Path, out: Path, *, write: Write) -> tuple[list[Path], list[Problem]]:
    """All cells as one file per function and settings, and the chunks left out because they are damaged."""
    problems: list[Problem] = []
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path, header in _headers(folder, problems):
        names = [name for name, _ in header.rows[0].coords] if header.rows else []
        groups.setdefault((header.program.digest, *names), []).append(path)
    written = []
    for group, paths in groups.items():
        for table in _tables(paths, problems):
            stem = f"{_safe(table.attrs['function'].rpartition('.')[2])}-{group[0][:16]}"
            taken = sum(path.name.startswith(stem) for path in written)
            written.append(write(table, out / (f"{stem}-{taken + 1}" if taken else stem)))
    return written, problems


def write_netcdf(table: xr.Dataset, stem: Path) -> Path:
    """A table of cells as netCDF-4."""
    path = stem.with_name(f"{stem.name}.nc")
    export(table, path, attributes={})
    return path


def write_csv(table: xr.Dataset, stem: Path) -> Path:
    """A table of cells as CSV: one line per cell, a column per coordinate and per entry of each result."""
    columns: dict[str, np.ndarray] = {str(name): table[name].values for name in table.coords}
    for name, variable in table.data_vars.items():
        flat = variable.values.reshape(table.sizes["cell"], -1)
        entries = [f"{name}{list(index)}" for index in np.ndindex(variable.shape[1:])] if variable.ndim > 1 else [name]
        columns |= {str(entry): flat[:, i] for i, entry in enumerate(entries)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    path = stem.with_name(f"{stem.name}.csv")
    write_atomic(path, buffer.getvalue().encode())
    return path


def _headers(folder: Path, problems: list[Problem]) -> Iterator[tuple[Path, Header]]:
    for path in chunk_files(folder):
        try:
            yield path, chunks.read_header(path)
        except DamagedError as error:
            problems.append(Problem(path, str(error)))
        except FileNotFoundError:
            continue  # set aside meanwhile


def _tables(paths: list[Path], problems: list[Problem]) -> Iterator[xr.Dataset]:
    """The cells of one program with the same coordinates, apart where a static coordinate changes their shapes."""
    shapes: dict[tuple[Any, ...], list[tuple[Header, dict[str, np.ndarray]]]] = {}
    for path in paths:
        try:
            header, arrays = chunks.read(path)
        except DamagedError as error:
            problems.append(Problem(path, str(error)))
            continue
        kind = tuple((name, value.shape[1:], value.dtype.name) for name, value in sorted(arrays.items()))
        shapes.setdefault(kind, []).append((header, arrays))
    for parts in shapes.values():
        yield _table(parts)


def _table(parts: list[tuple[Header, dict[str, np.ndarray]]]) -> xr.Dataset:
    rows = [row for header, _ in parts for row in header.rows]
    coords: dict[str, Any] = {"seed": ("cell", [row.seed for row in rows])}
    for i, (name, _) in enumerate(rows[0].coords):
        coords[_safe(name)] = ("cell", _column([row.coords[i][1] for row in rows]))
    variables = {}
    for name in parts[0][1]:
        value = np.concatenate([arrays[name] for _, arrays in parts])
        safe = _safe(name) if _safe(name) not in coords else f"result_{_safe(name)}"
        dims = ("cell", *(f"{safe}_{axis}" for axis in range(value.ndim - 1)))
        variables[safe] = (dims, value.astype("float32") if value.dtype.kind == "V" else value)
    origins = {json.dumps(header.origin, sort_keys=True) for header, _ in parts}
    attributes = _attributes(parts[0][0].program.description) | {"origin": "[" + ", ".join(sorted(origins)) + "]"}
    order = sorted(range(len(rows)), key=lambda i: (json.dumps(rows[i].coords), rows[i].seed))
    return xr.Dataset(variables, coords=coords, attrs=attributes).isel(cell=order)


def _column(values: list[Any]) -> np.ndarray:
    values = [float(v["float"]) if isinstance(v, dict) and set(v) == {"float"} else v for v in values]
    if all(isinstance(v, (bool, int, float)) for v in values):
        return np.asarray(values)
    return np.asarray([v if isinstance(v, str) else json.dumps(v) for v in values])


def _attributes(description: Mapping[str, Any]) -> dict[str, str]:
    return {name: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for name, v in description.items()}


def _safe(name: str) -> str:
    """A name that is one part of a path and of a netCDF file, whatever a header says."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)[:80] or "_"
