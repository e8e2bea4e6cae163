"""CIFAR-10 from its official binary files (Krizhevsky 2009), read byte by byte: nothing is unpickled or downloaded.

A record is one byte of label and 3072 bytes of pixels, channel by channel and row by row; five training files and one
of held-out records, 10 000 each, in the folder `cifar-10-batches-bin` of `cifar-10-binary.tar.gz`.
"""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lazyscope.datasets.images import Images, normalized

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
TRAINING = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
HELD_OUT = "test_batch.bin"
SOURCE = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CHECKSUM = "c32a1d4ab5d03f1284b67883e8d87530"
"""MD5 of the official archive, as its page gives it."""

CLASSES = 10
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def cifar10(folder: str | Path, *, dtype: Any = jnp.float32, checksum: str = CHECKSUM) -> Images:
    """The images of CIFAR-10, normalised by channel, from the archive or its unpacked folder in `folder`.

    The archive's MD5 must be `checksum`. An unpacked folder has none: sizes and labels are checked. Members are read
    by their exact names into memory, nothing is unpacked.

    Raises FileNotFoundError where there is neither, saying what was looked for and where to get it, and ValueError for
    another checksum, an archive or file that is cut short, and labels beyond 9.
    """
    parts = {name: _records(data, name) for name, data in _read(Path(folder), checksum).items()}
    train = tuple(np.concatenate(kind) for kind in zip(*(parts[name] for name in TRAINING), strict=True))
    return normalized(train, parts[HELD_OUT], brightest=255, dtype=dtype)  # type: ignore[arg-type]


def write_cifar10(
    folder: str | Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> str:
    """Pack images `(n, 32, 32, 3)` of bytes and labels in the official format into `folder`; returns the MD5.

    For trying things out and for data of one's own: `cifar10(folder, checksum=...)` reads them back. The training
    images are spread over the five files in order. Raises ValueError for other shapes, types or labels, for fewer than
    five training images, and where the archive is there already.
    """
    path = Path(folder) / ARCHIVE
    if path.exists():
        raise ValueError(f"{path} is there already: name another folder")
    for images, labels in (train, test):
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
            raise ValueError(
                f"images must be bytes of shape (n, 32, 32, 3) with n labels, got {images.dtype} of shape "
                f"{images.shape} and {len(labels)} labels: convert them"
            )
        _check_labels(np.asarray(labels), "labels")
    if len(train[0]) < len(TRAINING):
        raise ValueError(f"the format has {len(TRAINING)} training files, got {len(train[0])} images: give one to each")
    shares = np.array_split(np.arange(len(train[0])), len(TRAINING))
    files = {name: (train[0][share], train[1][share]) for name, share in zip(TRAINING, shares, strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, (images, labels) in (files | {HELD_OUT: test}).items():
            pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            data = np.concatenate([np.asarray(labels, np.uint8)[:, None], pixels], axis=1).tobytes()
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return _md5(path)


def _read(folder: Path, checksum: str) -> dict[str, bytes]:
    names = (*TRAINING, HELD_OUT)
    if not folder.is_dir():
        raise FileNotFoundError(f"a folder with CIFAR-10 must exist, got {str(folder)!r}: {_where_from(folder)}")
    archive, unpacked = folder / ARCHIVE, next((f for f in (folder / FOLDER, folder) if (f / HELD_OUT).is_file()), None)
    if archive.is_file():
        found = _md5(archive)
        if found != checksum:
            raise ValueError(f"{archive} must have the MD5 {checksum}, got {found}: {_where_from(folder)}")
        return _members(archive, names)
    if unpacked is None:
        raise FileNotFoundError(
            f"CIFAR-10 must be in {str(folder)!r}, looked for {ARCHIVE}, {FOLDER}/{HELD_OUT} and {HELD_OUT}: "
            f"{_where_from(folder)}"
        )
    missing = [name for name in names if not (unpacked / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{unpacked} must hold all six files, got no {missing[0]}: {_where_from(folder)}")
    return {name: (unpacked / name).read_bytes() for name in names}


def _members(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    try:
        with tarfile.open(archive, "r:gz") as opened:
            members = {member.name: member for member in opened if member.isfile()}
            absent = [name for name in names if f"{FOLDER}/{name}" not in members]
            if absent:
                raise ValueError(f"{archive} must hold {FOLDER}/{absent[0]}, got other files: get {SOURCE}")
            return {name: opened.extractfile(members[f"{FOLDER}/{name}"]).read() for name in names}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{archive} is cut short or damaged ({type(error).__name__}): get {SOURCE} again") from None


def _records(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % _RECORD:
        raise ValueError(
            f"{name} must be a whole number of records of {_RECORD} bytes, got {len(data)} bytes: get {SOURCE} again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    _check_labels(records[:, 0], name)
    return records[:, 1:].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1), records[:, 0]


def _check_labels(labels: np.ndarray, name: str) -> None:
    beyond = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if beyond.size:
        raise ValueError(
            f"labels must lie from 0 to {CLASSES - 1}, got {labels[beyond[0]]} in record {beyond[0]} of {name}: "
            "CIFAR-100 and other files have another format"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _where_from(folder: Path) -> str:
    return f"put {SOURCE} into a folder and name that folder (--data {folder})"
