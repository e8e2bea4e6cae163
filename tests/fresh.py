"""A process as a user starts it: without what `conftest` sets."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lazyscope

SET_HERE = ("NPROC", "XLA_FLAGS")


def environment(*places: Path) -> dict[str, str]:
    """The variables of a user, who has this checkout and `places` on the path."""
    path = [str(Path(lazyscope.__file__).parents[1]), *map(str, places)]
    kept = {name: value for name, value in os.environ.items() if name not in SET_HERE}
    return kept | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"}


def python(*arguments: Any, cwd: Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """What a fresh interpreter says; modules in `cwd` are found by it and by its workers."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=300, **options
    )
