"""What every command does with the process it runs in: its messages, its checks of input, its devices."""

import os
import sys
import tempfile
from pathlib import Path

from lazyscope.cli.arguments import InputError


def say(line: str) -> None:
    """A message on stderr, after the name of the program."""
    if sys.stderr is not None:  # print would take standard output instead
        print(message(line), file=sys.stderr)


def message(line: str) -> str:
    """What `say` says."""
    # One line whatever a name or a file brings with it, and nothing that a terminal would take for a command.
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return f"lazyscope: {safe}"


def check_folder(out: Path) -> None:
    """Raise InputError where no folder can be made, or written to; before anything is computed."""
    missing: list[Path] = []
    try:
        blocker = next((p for p in (out, *out.parents) if p.exists()), None)
        if blocker is not None and not blocker.is_dir():
            raise InputError(f"--out must be a folder, got {str(out)!r}: {blocker} is a file, name another place")
        missing += [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(
            f"--out must be a folder that can be written to, got {error.strerror} for {str(out)!r}: name another place"
        ) from None
    finally:
        for folder in missing:  # the deepest first
            if folder.exists():
                folder.rmdir()


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that a key does not hold."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, got {seed}")


def prepare_jax() -> None:
    """One device per core, one thread each: before JAX is loaded."""
    # Cells run side by side, and the bits of a cell do not depend on the machine's number of cores.
    os.environ.setdefault("NPROC", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what XLA logs of an interrupt says nothing to a user
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
