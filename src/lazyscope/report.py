"""The page: one self-contained HTML file that opens offline, made from the items found in a folder.

An item is one figure with its claims; it lives in `DIR/figures/NAME.json` beside `NAME.svg`, `.png`, `.pdf` and `.nc`,
and where the page can do more than show a picture `NAME.interactive.json`: a surface to turn around, drawn with one
copy of plotly.js inside the page, or runs to explore (`templates/page.js`). The page depends on these files alone, so
it can be made again at any time (`lazyscope report DIR`), and it loads nothing. `DIR/lead.json`, where there is one, is
what stands above the figures: diagnoses in words and numbers.
"""

import base64
import csv
import io
import json
import math
import re
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lazyscope.claims import CONFIDENCE, Finding, Outcome, corrected, threshold_text
from lazyscope.store import named, write_atomic

PAGE, LEAD = "index.html", "lead.json"
UNKNOWN = "unknown"  # of an outcome that was not measured before
INTERACTIVE, NARROW = ".interactive.json", ".narrow.svg"
ITEM = re.compile(r"\w[\w.+-]*\.json")
WORDS = ("sentence", "outcome", "reason", "measure", "interval", "of", "note", "moved")  # of a finding
KEPT = {"PNG": "png", "PDF": "pdf", "SVG": "svg", "netCDF": "nc"}
GROUPS = {  # by the first part of a figure's name; the rest are later papers'
    "diagnosis": "What was measured",
    "explorer": "Explorer",
    "note": "The note: Bahaduri & Goudelin",
    "chizat2019": "Chizat, Oyallon & Bach 2019",
    "": "Later papers",
}


@dataclass(frozen=True)
class Item:
    """One figure on the page: what it shows, what was claimed and measured, and where it comes from.

    `settings` holds what was run, by name; `stated` what the paper states of it where that is said, and why ours is
    another value. `stand_in` says, beside each finding, what stood in for what the paper speaks of.
    """

    name: str
    title: str
    caption: str
    size: str
    command: str
    findings: list[dict[str, Any]]
    settings: dict[str, str]
    numbers: list[list[str]]
    provenance: dict[str, str]
    stated: dict[str, list[str]] = field(default_factory=dict)
    stand_in: str = ""


def describe(finding: Finding, size: str) -> dict[str, Any]:
    """A finding in the words of the page, and under `numbers` in all its digits, None for what there is not."""
    claim = finding.claim
    expected = claim.expected.get(size)
    return {
        "sentence": claim.sentence,
        "source": claim.source,
        "measure": claim.measure,
        "mean": _number(finding.mean),
        "interval": "none" if math.isnan(finding.low) else f"{_number(finding.low)} to {_number(finding.high)}",
        "of": "range over seeds" if claim.every_seed else "95 % interval",
        "threshold": threshold_text(claim.accepted),
        "seeds": finding.seeds,
        "outcome": finding.outcome.value,
        "expected": UNKNOWN if expected is None else expected.value,
        "reason": finding.reason,
        "note": claim.note,
        "moved": claim.moved,
        "p": _or_none(finding.p),
        "numbers": {name: _or_none(getattr(finding, name)) for name in ("mean", "low", "high")},
    }


def surprising(described: dict[str, Any]) -> bool:
    """Whether a finding, as `describe` gives it, has another outcome than was expected, where one was."""
    return described["expected"] not in (UNKNOWN, described["outcome"])


@dataclass(frozen=True)
class Summary:
    """A diagnosis above the figures: outcome in one sentence, reasons and advice; a table, and every number of it."""

    name: str
    outcome: str
    sentence: str
    reasons: list[str]
    advice: list[str]
    table: list[list[str]]
    numbers: list[list[str]]


@dataclass(frozen=True)
class Lead:
    """What stands above the figures: a title, a summary of each diagnosis, and the figures, in their order."""

    title: str
    figures: list[str]
    summaries: list[Summary]


@dataclass(frozen=True)
class Group:
    """Figures of one paper."""

    title: str
    entries: list[Item]


@dataclass(frozen=True)
class Chance:
    """What chance does over all claims of a page.

    `judged` of them by an interval and `worst` by their worst seed. Were every quantity at its threshold, `by_chance`
    would be decided. `doubtful` names, by figure and place, those of the `decided` that a correction does not leave.
    """

    judged: int
    worst: int
    by_chance: float
    decided: int
    doubtful: dict[str, list[bool]]

    @property
    def stay(self) -> int:
        """How many the correction leaves."""
        return self.decided - sum(map(sum, self.doubtful.values()))


def write_item(
    out: Path,
    item: Item,
    *,
    svg: bytes,
    png: bytes,
    pdf: bytes = b"",
    narrow: bytes = b"",
    interactive: dict[str, Any] | None = None,
) -> None:
    """Keep an item; the JSON goes last, so that a page never lists a figure whose picture is missing.

    `narrow` is the picture for a phone, as SVG. `interactive` is a plotly figure, as `to_plotly_json` gives it, or
    runs to explore, of kind "explorer".
    """
    kept = json.dumps(asdict(item), indent=1, ensure_ascii=False)
    try:
        _item(json.loads(kept), item.name)
    except (TypeError, ValueError, KeyError):
        raise ValueError(
            f"{item.name} must have rows of text as numbers and text as title, caption and claims, got something else: "
            "nothing is kept of it"
        ) from None
    folder = out / "figures"
    if interactive is not None:
        from plotly.utils import PlotlyJSONEncoder

        write_atomic(folder / f"{item.name}{INTERACTIVE}", json.dumps(interactive, cls=PlotlyJSONEncoder).encode())
    write_atomic(folder / f"{item.name}.svg", svg)
    write_atomic(folder / f"{item.name}.png", png)
    if narrow:
        write_atomic(folder / f"{item.name}{NARROW}", narrow)
    if pdf:
        write_atomic(folder / f"{item.name}.pdf", pdf)
    write_atomic(folder / f"{item.name}.json", kept.encode())


def write_lead(out: Path, lead: Lead) -> None:
    """Keep what stands above the figures, and no figure of an earlier lead that it does not name."""
    before = read_lead(out)
    for name in () if before is None else before.figures:
        if name not in lead.figures and ITEM.fullmatch(f"{name}.json"):
            for ending in ("json", "nc", "svg", "narrow.svg", "png", "pdf"):
                (out / "figures" / f"{name}.{ending}").unlink(missing_ok=True)
    write_atomic(out / LEAD, json.dumps(asdict(lead), indent=1, ensure_ascii=False).encode())


def read_lead(out: Path) -> Lead | None:
    """What stands above the figures of a folder, if anything does. Raises ValueError where it cannot be read."""
    if not (out / LEAD).is_file():
        return None
    try:
        values = json.loads((out / LEAD).read_text())
        lead = Lead(**values | {"summaries": [Summary(**one) for one in values["summaries"]]})
        texts = [lead.title, *lead.figures]
        for one in lead.summaries:
            texts += [one.name, one.outcome, one.sentence, *one.reasons, *one.advice]
            texts += [cell for name, text in (*one.table, *one.numbers) for cell in (name, text)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{out / LEAD} is not a result of this version ({type(error).__name__}): remove it, or diagnose again"
        ) from None
    return lead


def read_items(out: Path) -> list[Item]:
    """All items of a folder by name. Raises ValueError where there is none or one cannot be read."""
    files = [f for f in named(out / "figures", ITEM) if not f.name.endswith(INTERACTIVE)]
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


def asked_for(out: Path, name: str) -> str | None:
    """The figure on the command line that the result of this name came from, None where there is no such result."""
    try:
        return shlex.split(json.loads((out / "figures" / f"{name}.json").read_text())["command"])[2]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # whoever reads it says what is wrong with it


def _item(values: Any, stem: str) -> Item:
    """The item in a file. ValueError or TypeError unless all of it is what `write_item` writes, under its own name."""
    item = Item(**values)
    table = isinstance(item.numbers, list) and all(isinstance(row, list) for row in item.numbers)
    claims = isinstance(item.findings, list) and all(isinstance(finding, dict) for finding in item.findings)
    facts = all(isinstance(facts, dict) for facts in (item.settings, item.stated, item.provenance))
    if item.name != stem or not (table and item.numbers and claims and facts):
        raise ValueError
    texts: list[Any] = [item.title, item.caption, item.size, item.command, item.stand_in]
    texts += [*item.settings.values(), *item.provenance.values(), *(cell for row in item.numbers for cell in row)]
    texts += [text for stated, why in item.stated.values() for text in (stated, why)]
    texts += [finding[name] for finding in item.findings for name in WORDS]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    if not all(finding["p"] is None or 0 <= finding["p"] <= 1 for finding in item.findings):
        raise ValueError
    return item


def write_page(out: Path) -> Path:
    """Make `DIR/index.html` from the items in `DIR`; returns its path."""
    items, lead = read_items(out), read_lead(out)
    if lead is not None:
        order = {name: i for i, name in enumerate(lead.figures)}
        items = sorted(items, key=lambda item: order.get(item.name, len(order)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lazyscope"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pictures = {item.name: _svg(out / "figures" / f"{item.name}.svg") for item in items}
    narrow = {item.name: _svg(file) for item in items if (file := out / "figures" / f"{item.name}{NARROW}").is_file()}
    turned = {item.name: _interactive(out / "figures" / f"{item.name}{INTERACTIVE}") for item in items}
    explorers = {name: _embedded(data) for name, data in turned.items() if data.get("kind") == "explorer"}
    surfaces = {name: _embedded(data) for name, data in turned.items() if data and name not in explorers}
    outcomes = Counter(finding["outcome"] for item in items for finding in item.findings)
    chance = _chance(items)
    page = environment.get_template("page.html").render(
        lead=lead,
        items=items,
        chance=chance,
        groups=_grouped(items),
        pictures=pictures,
        narrow=narrow,
        outcomes=outcomes,
        claimed=lead is None or bool(outcomes),
        surfaces=surfaces,
        explorers=explorers,
        tables={item.name: _table(item.numbers) for item in items},
        all_numbers=[_table(summary.numbers) for summary in lead.summaries] if lead else [],
        files={item.name: _beside(out, item.name) for item in items},
        plotly=_plotly() if surfaces else "",
        css=_own("page.css"),
        js=_own("page.js"),
    )
    write_atomic(out / PAGE, page.encode())
    return out / PAGE


def _chance(items: list[Item]) -> Chance:
    judged = [(item.name, i, f) for item in items for i, f in enumerate(item.findings) if f["p"] is not None]
    decided = [(name, i) for name, i, f in judged if f["outcome"] != Outcome.INCONCLUSIVE.value]
    stays = {
        (name, i) for (name, i, _), kept in zip(judged, corrected([f["p"] for *_, f in judged]), strict=True) if kept
    }
    return Chance(
        judged=len(judged),
        worst=sum(len(item.findings) for item in items) - len(judged),
        by_chance=round((1 - CONFIDENCE) * len(judged), 1),
        decided=len(decided),
        doubtful={
            item.name: [(item.name, i) in {*decided} - stays for i in range(len(item.findings))] for item in items
        },
    )


def _grouped(items: list[Item]) -> list[Group]:
    def first(item: Item) -> str:
        start = item.name.split("-")[0]
        return start if start in GROUPS else ""

    groups = [Group(title, [item for item in items if first(item) == start]) for start, title in GROUPS.items()]
    return [group for group in groups if group.entries]


def _svg(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"a page needs the picture of each result, got none at {file}: make that result again")
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()


def _table(numbers: list[list[str]]) -> str:
    """Numbers as CSV in a data URI."""
    text = io.StringIO()
    csv.writer(text).writerows(numbers)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.getvalue().encode()).decode()


def _beside(out: Path, name: str) -> list[tuple[str, str]]:
    """Kinds and relative paths of the files that lie beside the page."""
    return [
        (kind, f"figures/{name}.{ending}")
        for kind, ending in KEPT.items()
        if (out / "figures" / f"{name}.{ending}").is_file()
    ]


def _interactive(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def _own(name: str) -> Markup:
    return Markup((resources.files("lazyscope") / "templates" / name).read_text())


def _embedded(data: dict[str, Any]) -> Markup:
    """JSON that is safe inside a script element: nothing in it can close the element."""
    return Markup(json.dumps(data).replace("<", "\\u003c"))


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _number(value: float) -> str:
    return f"{value:.4g}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
