"""What came of every claim at each size: measured, so kept as data beside the claims, in `outcomes.json`.

`python docs/outcomes.py DIR` takes it from what `lazyscope reproduce` left in DIR. A size that was not measured is not
there. An outcome that hangs on rounding is not either: `unsettled` holds its size and on what it hangs.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lazyscope.claims import Outcome
from lazyscope.papers.figure import Figure

RECORD = Path(__file__).with_name("outcomes.json")
UNSETTLED = "unsettled"
Outcomes = dict[str, dict[str, dict[str, Any]]]  # by figure and sentence: outcomes by size


@cache
def recorded() -> Outcomes:
    """All of the record."""
    return json.loads(RECORD.read_text())


def expecting(name: str, figure: Figure[Any]) -> Figure[Any]:
    """The figure with the outcome that is expected of each claim at each size, as far as it was measured."""
    known = recorded().get(name, {})
    claims = [(claim, known.get(claim.sentence, {})) for claim in figure.claims]
    return replace(
        figure,
        claims=tuple(
            replace(claim, expected={size: Outcome(row[size]) for size in figure.sizes if size in row})
            for claim, row in claims
        ),
    )
