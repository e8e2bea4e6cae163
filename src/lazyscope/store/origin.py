"""Where a result comes from: versions, device, threads, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

# Two results that differ in one of these agree to about 1e-10, not bit for bit.
DECIDING = ("lazyscope", "jax", "jaxlib", "device_kind", "xla_threads")


def provenance(**extra: Any) -> dict[str, str]:
    """Versions, device, threads, git commit if any, time: what a result carries of its origin."""
    import jax

    facts = origin() | {
        "precision": str(jax.numpy.result_type(float)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return facts | {name: f"{value:.1f}" if isinstance(value, float) else str(value) for name, value in extra.items()}


def origin() -> dict[str, str]:
    """The part of the provenance that does not change while a process runs."""
    import jax

    devices = jax.local_devices()
    commit, dirty = _git()
    return {
        **{
            name: metadata.version(name) for name in ("lazyscope", "jax", "jaxlib", "numpy", "scipy", "optax", "xarray")
        },
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "device_kind": devices[0].device_kind,
        "xla_threads": os.environ.get("NPROC", "default"),  # per device; XLA's own name for it
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _git() -> tuple[str, str]:
    here = Path(__file__).resolve()

    def ask(*command: str) -> str:
        asked = ["git", "-C", str(here.parent), *command]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in somebody else's repository
        return ask("rev-parse", "--short=12", "HEAD"), "yes" if ask("status", "--porcelain", "-uno") else "no"
    except (OSError, subprocess.SubprocessError):
        return "none", "none"
