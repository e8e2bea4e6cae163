"""The page: one self-contained HTML file that opens offline, made from the items found in a folder.

An item is one figure with its claims; it lives in `DIR/figures/NAME.json` beside `NAME.svg`, `NAME.png` and `NAME.nc`,
and for a figure to turn around `NAME.plotly.json`, which the page draws with one copy of plotly.js inside it. The
page depends on these files alone, so it can be made again at any time (`lazyscope report DIR`).
"""

import base64
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lazyscope.claims import Finding, threshold_text
from lazyscope.store import write_atomic

PAGE = "index.html"
INTERACTIVE = ".plotly.json"


@dataclass(frozen=True)
class Item:
    """One figure on the page: what it shows, what was claimed and measured, and where it comes from."""

    name: str
    title: str
    caption: str
    size: str
    command: str
    findings: list[dict[str, Any]]
    settings: dict[str, str]
    numbers: list[list[str]]
    provenance: dict[str, str]


def describe(finding: Finding, size: str) -> dict[str, Any]:
    """A finding in the words and numbers of the page."""
    claim = finding.claim
    expected = claim.expected.get(size)
    return {
        "sentence": claim.sentence,
        "source": claim.source,
        "measure": claim.measure,
        "mean": _number(finding.mean),
        "interval": "none" if math.isnan(finding.low) else f"{_number(finding.low)} to {_number(finding.high)}",
        "threshold": threshold_text(claim.accepted),
        "seeds": finding.seeds,
        "outcome": finding.outcome.value,
        "expected": "unknown" if expected is None else expected.value,
        "reason": finding.reason,
        "note": claim.note,
    }


def write_item(out: Path, item: Item, *, svg: bytes, png: bytes, interactive: dict[str, Any] | None = None) -> None:
    """Keep an item; the JSON goes last, so that a page never lists a figure whose picture is missing.

    `interactive` is a plotly figure as `Figure.to_plotly_json` gives it.
    """
    folder = out / "figures"
    if interactive is not None:
        from plotly.utils import PlotlyJSONEncoder

        write_atomic(folder / f"{item.name}{INTERACTIVE}", json.dumps(interactive, cls=PlotlyJSONEncoder).encode())
    write_atomic(folder / f"{item.name}.svg", svg)
    write_atomic(folder / f"{item.name}.png", png)
    write_atomic(folder / f"{item.name}.json", json.dumps(asdict(item), indent=1, ensure_ascii=False).encode())


def read_items(out: Path) -> list[Item]:
    """All items of a folder by name. Raises ValueError where there is none or one cannot be read."""
    files = sorted(f for f in (out / "figures").glob("*.json") if not f.name.endswith(INTERACTIVE))
    if not files:
        raise ValueError(
            f"a report needs a folder with results, got {str(out)!r}: run `lazyscope reproduce --out {out}` first"
        )
    items = []
    for file in files:
        try:
            items.append(_item(json.loads(file.read_text()), file.stem))
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file} is not a result of this version ({type(error).__name__}): remove it, or reproduce it again"
            ) from None
    return items


def _item(values: Any, stem: str) -> Item:
    """The item in a file. ValueError or TypeError unless all of it is what `write_item` writes, under its own name."""
    item = Item(**values)
    table = isinstance(item.numbers, list) and all(isinstance(row, list) for row in item.numbers)
    claims = isinstance(item.findings, list) and all(isinstance(finding, dict) for finding in item.findings)
    facts = isinstance(item.settings, dict) and isinstance(item.provenance, dict)
    if item.name != stem or not (table and item.numbers and claims and facts):
        raise ValueError
    texts: list[Any] = [item.title, item.caption, item.size, item.command]
    texts += [*item.settings.values(), *item.provenance.values(), *(cell for row in item.numbers for cell in row)]
    texts += [finding[name] for finding in item.findings for name in ("sentence", "outcome", "reason", "measure")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return item


def write_page(out: Path) -> Path:
    """Make `DIR/index.html` from the items in `DIR`; returns its path."""
    items = read_items(out)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lazyscope"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pictures = {
        item.name: "data:image/svg+xml;base64,"
        + base64.b64encode((out / "figures" / f"{item.name}.svg").read_bytes()).decode()
        for item in items
    }
    surfaces = {item.name: _embedded(out / "figures" / f"{item.name}{INTERACTIVE}") for item in items}
    surfaces = {name: data for name, data in surfaces.items() if data}
    outcomes = Counter(finding["outcome"] for item in items for finding in item.findings)
    page = environment.get_template("page.html").render(
        items=items, pictures=pictures, outcomes=outcomes, surfaces=surfaces, plotly=_plotly() if surfaces else ""
    )
    write_atomic(out / PAGE, page.encode())
    return out / PAGE


def _embedded(file: Path) -> Markup:
    """JSON that is safe inside a script element: nothing in it can close the element."""
    if not file.is_file():
        return Markup("")
    return Markup(json.dumps(json.loads(file.read_text())).replace("<", "\\u003c"))


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _number(value: float) -> str:
    return f"{value:.4g}"
