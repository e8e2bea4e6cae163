"""What the benchmarks share: contenders that take turns, ratios with their spread, and one JSON file a question.

Contenders of one question run in the same process, one after the other, ROUNDS times; a ratio is formed within a round,
so that what else the machine does in the meantime falls on both sides. Its min, median and max over rounds are kept.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ROUNDS = 5
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "lazyscope")


@dataclass(frozen=True)
class Ratio:
    """One row of the table: a ratio over rounds and, where one was set beforehand, the value it should reach."""

    case: str
    ratio: str
    low: float
    median: float
    high: float
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        if self.goal is None:
            return None
        return self.median <= self.goal if self.at_most else self.median >= self.goal


def one_thread() -> None:
    """One XLA thread and one BLAS thread; before JAX or NumPy are imported."""
    if "jax" in sys.modules or "numpy" in sys.modules:
        raise RuntimeError("threads are set before JAX and NumPy are imported: call one_thread() first")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Each contender returns its cost in a unit common to all (seconds a step, say); the first round is not counted."""
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for counted in [False, *[True] * rounds]:
        for name, run in contenders.items():
            cost = run()
            if counted:
                costs[name].append(cost)
    return costs


def ratio(
    case: str,
    name: str,
    over: list[float],
    under: list[float],
    *,
    goal: float | None = None,
    at_most: bool = False,
) -> Ratio:
    """`over` to `under`, round by round."""
    values = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(case, name, min(values), statistics.median(values), max(values), goal, at_most)


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call."""
    began = clock()
    function()
    return clock() - began


def conclude(question: str, rows: list[Ratio], numbers: Mapping[str, object] | None = None) -> int:
    """Print the rows, keep them in results/QUESTION.json; returns the number of goals missed."""
    print(table(rows))
    RESULTS.mkdir(exist_ok=True)
    kept = {
        "question": question,
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        "numbers": dict(numbers or {}),
        "environment": environment(),
    }
    (RESULTS / f"{question}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return sum(row.met is False for row in rows)


def table(rows: list[Ratio]) -> str:
    """The rows as text: case, ratio, median with its range, goal."""
    lines = []
    for row in rows:
        goal = (
            ""
            if row.goal is None
            else f"{'<=' if row.at_most else '>='} {row.goal:g}, {'met' if row.met else 'missed'}"
        )
        lines.append(
            f"{row.case:34} {row.ratio:42} {row.median:8.3g}  ({row.low:.3g} to {row.high:.3g})  {goal}".rstrip()
        )
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """What the numbers depend on: processor, cores, versions, threads."""
    found = {name: version(name) for name in PACKAGES}
    if "torch" in sys.modules:
        found["torch"] = version("torch")
    threads = {"threads": os.environ.get("OMP_NUM_THREADS", "default")}
    return (
        {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()} | found | threads
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
