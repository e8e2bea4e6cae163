"""Which cells the figures can ask a store for: functions of ours with the settings that some figure has at some size.

`programs.json` has them by the name that stores know a function by, each as the first digits of the program's digest;
`python tests/test_keys.py` writes it.
"""

import json
from functools import cache
from pathlib import Path

from lazyscope.papers.variation import VARIED
from lazyscope.store import Summary

RECORD = Path(__file__).with_name("programs.json")
DIGITS = 16
OURS = "lazyscope.papers."
PRECISION = {"float": "float64", "matmul": None}  # of figures, unless a user has asked JAX for another


@cache
def recorded() -> dict[str, list[str]]:
    """All of the record."""
    return json.loads(RECORD.read_text())


def of_a_figure(summary: Summary) -> bool:
    """Whether a figure has these settings at some size."""
    return summary.program.digest[:DIGITS] in recorded().get(summary.function, ())


def asked(summary: Summary) -> bool:
    """Whether anything may ask for these cells again.

    No only where all is ours: the function, the names of figures that they were computed for, the precision, but no
    figure has these settings any more. More seeds and longer axes are of the same settings. Cells that were computed
    for `--set`, for a figure in a file, or by a sweep that named nothing, are their owner's.
    """
    by_figures = bool(summary.names) and not any(":" in name or VARIED in name for name in summary.names)
    usual = summary.program.description.get("precision") == PRECISION
    ours = by_figures and usual and summary.function.startswith(OURS)
    return not ours or of_a_figure(summary)
