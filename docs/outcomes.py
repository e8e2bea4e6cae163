"""The outcomes of all claims: `papers/outcomes.json`, and the page that shows them.

    python docs/outcomes.py              # writes outcomes.md
    python docs/outcomes.py DIR [...]    # takes outcomes from what `lazyscope reproduce --out DIR` left there before

Figures at their own seeds and settings count alone; what is unsettled stays so.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lazyscope.papers.outcomes import RECORD, UNSETTLED, Outcomes, recorded
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.papers.reproduce import load
from lazyscope.report import UNKNOWN, Item, read_items

PAGE = Path(__file__).with_name("outcomes.md")
INTRODUCTION = """# Outcomes

Every claim that `lazyscope reproduce` judges, and what came of it at each size. `tiny` runs in the tests and decides
little, `quick` is the default, `paper` has the papers' own settings. Unknown is what was not measured, or what hangs on
rounding. Numbers, intervals and what was measured instead are on the page that `reproduce` writes;
[this page](papers.md) tells the story. `lazyscope reproduce --check` lists every outcome that is another than here.

"""


def updated(known: Outcomes, items: Iterable[Item]) -> Outcomes:
    """The record of today's claims, in their order, with the outcomes in `items`."""
    found = {(item.name, item.size): item.findings for item in items if _as_it_stands(item)}
    return {name: _of_figure(name, known.get(name, {}), found) for name in FIGURES}


def _as_it_stands(item: Item) -> bool:
    return item.command == f"lazyscope reproduce {item.name} --size {item.size}" and item.name in FIGURES


def _of_figure(
    name: str, known: dict[str, dict[str, Any]], found: dict[tuple[str, str], list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    rows = {}
    for claim in load(name).claims:
        row = known.get(claim.sentence, {})
        new = {
            size: finding["outcome"]
            for size in SIZES
            for finding in found.get((name, size), ())
            if finding["sentence"] == claim.sentence and size not in row.get(UNSETTLED, {})
        }
        row = row | new
        rows[claim.sentence] = {key: row[key] for key in (*SIZES, UNSETTLED) if key in row}
    return rows


def as_json(outcomes: Outcomes) -> str:
    """One line a claim, so that a change of an outcome is a change of a line."""
    figures = []
    for name, rows in outcomes.items():
        lines = ",\n".join(f"  {_json(sentence)}: {_json(row)}" for sentence, row in rows.items())
        figures.append(f" {_json(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(figures) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def page(outcomes: Outcomes) -> str:
    """The page as Markdown."""
    words = ("holds", "fails", "inconclusive", UNKNOWN)
    lines = ["| | " + " | ".join(words) + " |", "|---|" + "---|" * len(words)]
    for size in SIZES:
        counts = Counter(row.get(size, UNKNOWN) for rows in outcomes.values() for row in rows.values())
        lines.append(f"| {size} | " + " | ".join(str(counts[word]) for word in words) + " |")
    for name, rows in outcomes.items():
        lines += ["", f"## {name}: {FIGURES[name].title}", "", f"| claim | {' | '.join(SIZES)} |", "|---|---|---|---|"]
        for sentence, row in rows.items():
            lines.append(f"| {_escaped(sentence)} | {' | '.join(_cell(row, size) for size in SIZES)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], size: str) -> str:
    why = row.get(UNSETTLED, {}).get(size)
    return row.get(size, UNKNOWN) if why is None else f"{UNKNOWN}: {_escaped(why)}"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*_<>`[]" else c for c in text)


def main(folders: list[str]) -> None:
    """Record what is in the folders, and write the page."""
    outcomes = updated(recorded(), (item for folder in folders for item in read_items(Path(folder))))
    RECORD.write_text(as_json(outcomes))
    PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
