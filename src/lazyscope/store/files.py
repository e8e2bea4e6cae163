"""Files that are whole or not there."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import xarray as xr

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # FUSE and some network file systems
NO_MODES = (errno.EPERM, errno.EACCES, *NO_SYNC)  # FAT and SMB shares have none, and say it in many ways


class StoreError(OSError):
    """What is wrong with a folder of results, in one line: the rule, what was found, what to do."""


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write a file under its final name only once it is whole and on disk. StoreError where the disk is full."""
    try:
        _write(path, data)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreError(
            f"the disk is full: {path.name[:40]} does not fit into {path.parent}; what was finished before is kept, "
            "free some space and run the same command again"
        ) from error
    _sync_folder(path.parent)


def export(dataset: xr.Dataset, path: Path, *, attributes: Mapping[str, str]) -> None:
    """A Dataset as netCDF-4 with `attributes`, written whole or not at all."""
    # Made in memory: where the disk fills up under it, HDF5 takes the process with it.
    write_atomic(path, dataset.assign_attrs(attributes).to_netcdf(engine="h5netcdf"))


def named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The files of a folder whose whole name matches, by name: ours. What a system or an editor puts beside is not."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file())


@contextmanager
def _tolerated(codes: Sequence[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise


def _write(path: Path, data: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            with _tolerated(NO_SYNC):
                os.fsync(file.fileno())
        with _tolerated(NO_MODES):
            Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    # A rename is on disk once its folder is. Some network file systems refuse, and need no asking.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
