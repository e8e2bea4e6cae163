"""Compiled programs kept between runs: JAX's persistent cache, in the user's own cache folder.

What is kept is code that later runs load and execute, so the folder is readable and writable by its owner alone.
`LAZYSCOPE_CACHE` names another folder, or is `off`; a cache that JAX itself was told of (`JAX_COMPILATION_CACHE_DIR`)
is used as it is. Programs are found by what they compute, the compiler and the machine: none is ever out of date.
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lazyscope.cli.arguments import InputError

VARIABLE = "LAZYSCOPE_CACHE"
MOST = 2 * 2**30  # bytes; the programs written first go first
_REQUEST, _HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
_seen: Counter[str] = Counter()


def default_folder(environ: Mapping[str, str], platform: str, home: Path) -> Path:
    """Where a user's caches lie on this system."""
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "lazyscope" / "Cache"
    if platform == "darwin":
        return home / "Library" / "Caches" / "lazyscope"
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "lazyscope"


def keep() -> None:
    """Keep and find compiled programs from here on, in this process; before the first is compiled.

    Raises InputError where the named folder is none and cannot be made.
    """
    import jax

    said = os.environ.get(VARIABLE, "")
    if said.lower() == "off":
        return
    jax.monitoring.register_event_listener(_listen)
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = Path(said).expanduser() if said else default_folder(os.environ, sys.platform, Path.home()) / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(folder)
    except OSError as error:
        if said:
            raise InputError(
                f"{VARIABLE} must name a folder of yours, got {said!r} ({error.strerror}): name another, or off"
            ) from error
        return  # a home that cannot be written to costs time, not the result
    if not _own(folder):
        raise InputError(f"compiled programs must lie in a folder of yours alone, got {folder}: set {VARIABLE}")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def report() -> dict[str, Any]:
    """Where programs are kept and how many bytes they are, how many were found there and how many were compiled."""
    import jax

    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    size = sum(_sizes(Path(folder)).values()) if folder and Path(folder).is_dir() else 0
    found = _seen[_HIT]
    return {"folder": folder, "bytes": size, "found": found, "compiled": _seen[_REQUEST] - found}


def sentence() -> str:
    """`report` in words, empty where nothing is kept."""
    told = report()
    if told["folder"] is None:
        return ""
    return (
        f"{told['found']} programs found and {told['compiled']} compiled; {told['bytes'] / 2**20:.0f} MiB are kept in "
        f"{told['folder']} ({VARIABLE}=off keeps none)"
    )


def _listen(event: str, **_: Any) -> None:
    _seen[event] += 1


def _own(folder: Path) -> bool:
    """Whether nobody else can write to it."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _make_room(folder: Path) -> None:
    """Remove what was written first until the rest is within `MOST`."""
    sizes = _sizes(folder)
    too_much = sum(sizes.values()) - MOST
    for file in sizes:
        if too_much <= 0:
            return
        too_much -= sizes[file]
        file.unlink(missing_ok=True)


def _sizes(folder: Path) -> dict[Path, int]:
    """Bytes of each kept program, the first written first; other processes may remove some in the meantime."""
    found = []
    for file in folder.glob("*-cache"):
        try:
            found.append((file.stat().st_mtime, file, file.stat().st_size))
        except FileNotFoundError:
            continue
    return {file: size for _, file, size in sorted(found)}
