"""One process at a time may write to a folder."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from lazyscope.store.files import StoreError

LOCK = "lock"


def acquire(folder: Path) -> BaseFileLock:
    """The lock of a folder, made where it is not there. `release` it; it ends with its process, however that ends.

    Raises StoreError in one line: another process has it, the folder cannot be made or written, the file system has no
    locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StoreError(f"a store needs a folder, got the file {folder}: name another") from None
    except OSError as error:
        raise StoreError(
            f"a store needs a folder that can be made, got {error.strerror} for {folder}: name another"
        ) from error
    path = folder / LOCK
    # A lock of the kernel's or none: a file in its place would outlive a killed process.
    lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"one process at a time may write to a store, got {folder} in use by {_owner(path)}: wait for it, or name "
            "another"
        ) from None
    except PermissionError as error:
        raise StoreError(
            f"a store needs a lock that this user may write, got {error.strerror} for {path}: name another folder, or "
            "remove that file when no process uses it"
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(
            f"a store needs a file system with locks, got {reason} for {path}: name a folder on another disk"
        ) from error
    with suppress(OSError):  # who it is, for the message above: on a full disk, or on Windows, the lock holds without
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock


def _owner(path: Path) -> str:
    with suppress(OSError):
        if said := path.read_bytes()[:200].decode(errors="replace").strip():
            return said
    return "another process"
