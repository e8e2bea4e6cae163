"""How long until the command line answers, and until the first figure has compiled?

    python benchmarks/startup.py

Fresh processes, taking turns. Processor time of `lazyscope --help` and `lazyscope list` over that of a bare
`python -c pass`, with the absolute numbers beside (goal: --help under 0.5 s, and no JAX in it); of `import jax` alone,
which is the floor of everything that computes; wall time of the smallest figure at tiny size without and with JAX's
persistent compilation cache, filled by a run before: what the cache would gain.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

from measure import Ratio, conclude, interleaved, ratio

COMMAND = [sys.executable, "-c", "from lazyscope.cli import entry; entry()"]


def processor(command: list[str]) -> float:
    """Processor seconds of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figure(out: str, cache: str | None) -> float:
    """Wall seconds of a tiny figure in a fresh process and folder."""
    extra = (
        {}
        if cache is None
        else {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out) as fresh:
        arguments = ["reproduce", "note-s3.4", "--size", "tiny", "--out", fresh]
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, env=os.environ | extra)
    return time.perf_counter() - began


def main(rounds: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    with tempfile.TemporaryDirectory() as out:
        costs = interleaved(
            {
                "python": lambda: processor([sys.executable, "-c", "pass"]),
                "help": lambda: processor([*COMMAND, "--help"]),
                "list": lambda: processor([*COMMAND, "list"]),
                "jax": lambda: processor([sys.executable, "-c", "import jax"]),
                "figure": lambda: figure(out, None),
                "cached": lambda: figure(out, out + "/cache"),
            },
            rounds,
        )
    seconds = [Ratio("lazyscope --help", "processor seconds", *_spread(costs["help"]), 0.5, at_most=True)]
    rows = [
        *seconds,
        ratio("lazyscope --help", "over a bare interpreter", costs["help"], costs["python"]),
        ratio("lazyscope list", "over a bare interpreter", costs["list"], costs["python"]),
        ratio("import jax", "over lazyscope --help", costs["jax"], costs["help"]),
        ratio("note-s3.4 at tiny", "without over with compilation cache", costs["figure"], costs["cached"]),
    ]
    numbers = {f"{name}, least seconds": min(values) for name, values in costs.items()}
    return conclude("startup", rows, numbers)


def _spread(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) > 0)
