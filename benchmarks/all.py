"""All ratios of the CPU set in one table, for `make bench`.

    python benchmarks/all.py [--peers] [--models]
    python benchmarks/all.py --table                 the table alone, from what was measured last

Runs every question in a process of its own, one after the other, and writes the table of `docs/benchmarks.md` from the
files in `benchmarks/results`. With `--peers` also what needs an environment of its own, made where there is none
(gigabytes from PyPI): under 20 minutes on two idle cores. With `--models` also diagnoses of models of 5 and 40 million
weights and their searches, most of an hour. Without, the table keeps what was measured of them last; on a busy machine
ratios spread and say so.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
QUESTIONS = ("engine", "startup", "kappa", "kernel", "closed_forms", "growth", "differences", "door")
PEERS = ("kernel_peer",)
MODELS = ("diagnose", "search")
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def title(question: str) -> str:
    """The question that a script opens with."""
    return (HERE / f"{question}.py").read_text().splitlines()[0].strip('"')


def section(question: str) -> str:
    """One question's rows as a Markdown table."""
    kept = json.loads((HERE / "results" / f"{question}.json").read_text())
    lines = [f"**{title(question)}**", "", "| case | ratio | median | min to max | goal |", "|---|---|---:|---:|---|"]
    for row in kept["rows"]:
        goal = ""
        if row["goal"] is not None:
            goal = (
                f"{'at most' if row['at_most'] else 'at least'} {row['goal']:.3g}: {'met' if row['met'] else 'missed'}"
            )
        spread = f"{row['low']:.3g} to {row['high']:.3g}"
        lines.append(f"| {row['case']} | {row['ratio']} | {row['median']:.3g} | {spread} | {goal} |")
    return "\n".join(lines)


def environment() -> str:
    """What all of it was measured on."""
    found = json.loads((HERE / "results" / "kernel.json").read_text())["environment"]
    return ", ".join(f"{name} {value}" for name, value in found.items())


def main() -> int:
    """Measure, then write the table; returns the number of scripts that failed otherwise than by a missed goal."""
    broken, asked = 0, sys.argv[1:]
    chosen = QUESTIONS + (PEERS if "--peers" in asked else ()) + (MODELS if "--models" in asked else ())
    for question in () if "--table" in asked else chosen:
        began = time.perf_counter()
        print(f"{question}: {title(question)}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{question}.py")], check=False)
        print(f"{time.perf_counter() - began:.0f} s\n", flush=True)
        broken += done.returncode not in (0, 1)
    if broken:
        return broken
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    body = "\n\n".join(section(question) for question in QUESTIONS + PEERS + MODELS)
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\nMeasured on: {environment()}.\n\n{END}{after}")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
