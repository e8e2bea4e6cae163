"""One file of finished cells: a zip that `numpy.load` opens too.

    header.json     format, program, cells (key, coordinates, seed), names and dtypes of the results, origin
    NAME.npy        one array per result, one row per cell
    sha256          of all that precedes

Nothing is compressed, so that no small file unpacks into a large one, and arrays are read without pickle.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lazyscope.store.files import StoreError
from lazyscope.store.keys import Program, cell_key, described, to_json

FORMAT = 1
HEADER = "header.json"
CHECKSUM = "sha256"


class DamagedError(Exception):
    """A chunk that is not what was written; the message says in which way."""


class Row(NamedTuple):
    """A cell as a chunk names it."""

    key: str
    coords: list[list[Any]]
    seed: int


class Header(NamedTuple):
    """What a chunk holds, without its arrays."""

    program: Program
    rows: list[Row]
    origin: dict[str, str]
    results: list[list[str]]


def encode(
    program: Program, rows: Sequence[Row], results: Mapping[str, np.ndarray], origin: Mapping[str, str]
) -> bytes:
    """The bytes of a chunk. Raises ValueError for results that are not arrays of numbers with one row per cell."""
    for name, value in results.items():
        if value.dtype.hasobject or value.ndim == 0 or len(value) != len(rows):
            raise ValueError(
                f"a chunk of {len(rows)} cells needs numbers with as many rows, "
                f"got {value.dtype} of shape {value.shape} for result {name!r}"
            )
    header = {
        "format": FORMAT,
        "program": program.description,
        "cells": [list(row) for row in rows],
        "results": [[name, value.dtype.name] for name, value in results.items()],
        "origin": dict(origin),
    }
    members = [(HEADER, to_json(header))]
    members += [(f"{name}.npy", _to_npy(value)) for name, value in results.items()]
    members.append((CHECKSUM, _checksum([data for _, data in members]).encode()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)  # the date is 1980: equal cells, equal bytes
    return buffer.getvalue()


def read_header(path: Path) -> Header:
    """What a chunk says it holds. A truncated file is found here, an altered one only by `read`.

    Raises DamagedError, and StoreError for a chunk of another format version.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                raw = _member(archive, archive.getinfo(HEADER))
            return _parse(raw, path)
        except StoreError:
            raise
        except Exception as error:  # whatever a broken file does to zipfile and json, it is a broken file
            raise DamagedError(f"truncated or not a chunk ({_words(error)})") from None


def read(path: Path) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and arrays of a chunk whose checksum holds. Raises DamagedError, and StoreError for another format."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [_member(archive, info) for info in archive.infolist()]
        *content, checksum = members
        if _checksum(content) != checksum.decode():
            raise DamagedError("altered: its checksum does not match")
        header = _parse(content[0], path)
        arrays = {name: _from_npy(npy, dtype) for (name, dtype), npy in zip(header.results, content[1:], strict=True)}
    except (StoreError, DamagedError):
        raise
    except Exception as error:  # as above
        raise DamagedError(f"truncated or altered ({_words(error)})") from None
    if any(cell_key(header.program.digest, row.coords, row.seed) != row.key for row in header.rows):
        raise DamagedError("altered: a key does not belong to its cell")
    if any(len(value) != len(header.rows) for value in arrays.values()):
        raise DamagedError("altered: not one row per cell")
    return header, arrays


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != zipfile.ZIP_STORED:
        raise DamagedError("a member is compressed")
    return archive.read(info)


def _parse(raw: bytes, path: Path) -> Header:
    header = json.loads(raw)
    if header["format"] != FORMAT:
        raise StoreError(
            f"this lazyscope reads stores of format {FORMAT}, got a chunk of format {header['format']!r} in "
            f"{path.parent}: use the lazyscope that wrote it, or name another folder"
        )
    rows = [
        Row(str(key), [[str(name), value] for name, value in coords], int(seed))
        for key, coords, seed in header["cells"]
    ]
    program = dict(header["program"])
    kinds = {"function": str, "version": int, "settings": dict}
    if not all(isinstance(program[name], kind) for name, kind in kinds.items()):
        raise ValueError("its header is none of ours")
    origin = {str(name): str(value) for name, value in header["origin"].items()}
    return Header(described(program), rows, origin, [[str(n), str(d)] for n, d in header["results"]])


def _to_npy(value: np.ndarray) -> bytes:
    # bfloat16 and its kin have no code in the npy format: their bits go in as integers, their name into the header.
    plain = value.view(f"u{value.dtype.itemsize}") if value.dtype.kind == "V" else value
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(plain), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(data: bytes, dtype: str) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array if array.dtype.name == dtype else array.view(np.dtype(dtype))


def _checksum(members: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for data in members:
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _words(error: Exception) -> str:
    return " ".join(f"{error}".split())[:80] or type(error).__name__
