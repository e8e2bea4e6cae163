"""The page of one diagnosis or of several side by side, of the parts that every page has (`lazyscope.report`)."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from lazyscope import figures, report
from lazyscope.diagnose.diagnosis import Diagnosis
from lazyscope.store import export, provenance, write_atomic
from lazyscope.views.items import Shown, items_of, regimes
from lazyscope.views.scales import at_scales

KEPT = "diagnosis"  # the file beside the page, from which the page can be made again


class _Case(NamedTuple):
    name: str
    found: Diagnosis


def origin(found: Diagnosis) -> dict[str, str]:
    """Where a diagnosis was made: what it was kept with, else this process, now."""
    return dict(found.provenance) or provenance()


def write_page(
    diagnoses: Mapping[str, Diagnosis],
    folder: str | PathLike[str],
    *,
    command: str = "",
    scales: Sequence[Diagnosis] = (),
) -> Path:
    """`folder/index.html` of diagnoses by name, with pictures, data and each diagnosis as JSON; returns its path.

    `scales` are diagnoses of the first case at several output scales. Raises ValueError without any diagnosis.
    """
    if not diagnoses:
        raise ValueError("a page needs a diagnosis, got none: name at least one")
    out = Path(folder)
    cases = [_Case(name or "This training", found) for name, found in diagnoses.items()]
    shown: list[tuple[Shown, _Case]] = [(regimes({case.name: case.found for case in cases}), cases[0])]
    if scales:
        shown.append((at_scales(scales), cases[0]))
    for i, case in enumerate(cases):
        suffix = f"-{i + 1}" if len(cases) > 1 else ""
        title = f"{case.name}: " if len(cases) > 1 else ""
        shown += [
            (one._replace(name=f"{one.name}{suffix}", title=f"{title}{one.title}"), case)
            for one in items_of(case.found)
        ]
        write_atomic(out / f"{KEPT}{suffix}.json", case.found.to_json().encode())
    for one, case in shown:
        _write(out, one, case, command)
    title = ", ".join(case.name for case in cases)
    lead = report.Lead(title, [one.name for one, _ in shown], [_summary(*case) for case in cases])
    report.write_lead(out, lead)
    return report.write_page(out)


def _write(out: Path, one: Shown, case: _Case, command: str) -> None:
    found = case.found
    settings = {
        "diagnosis": case.name,
        "model": found.model,
        "trained by": found.how,
        "judged on": found.inputs,
        "alpha": f"{found.alpha:g}",
        "thresholds": str(found.thresholds),
    }
    settings = {name: text for name, text in settings.items() if text}
    where = origin(found)
    item = report.Item(
        name=one.name,
        title=one.title,
        caption=one.caption,
        size="",
        command=command,
        findings=[],
        settings=settings,
        numbers=one.numbers,
        provenance=where,
    )
    export(one.data, out / "figures" / f"{one.name}.nc", attributes=settings | where)
    picture = one.draw()
    report.write_item(
        out,
        item,
        svg=figures.to_svg(picture),
        png=figures.to_png(picture),
        pdf=figures.to_pdf(picture),
        narrow=figures.to_svg(one.draw(narrow=True)),
    )


def _summary(name: str, found: Diagnosis) -> report.Summary:
    return report.Summary(
        name=name,
        outcome=found.verdict.partition(" (")[0],
        sentence=(
            f"the trained model ends g = {found.gap} away from its linearisation, relative to what it learnt, and its "
            f"differential changed by j = {found.differential} ({found.thresholds})"
        ),
        reasons=list(found.reasons),
        advice=list(found.advice),
        table=[[row, text] for row, text in found.rows()],
        numbers=[["name", "value"], *_flat("", found.as_dict())],
    )


def _flat(path: str, value: Any) -> list[list[str]]:
    """Every number inside `value` under its path, to the last digit."""
    if isinstance(value, dict):
        return [row for name, inner in value.items() for row in _flat(f"{path}.{name}" if path else name, inner)]
    if isinstance(value, list):
        return [row for i, inner in enumerate(value) for row in _flat(f"{path}.{i}", inner)]
    if value is None:
        return [[path, "none"]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return []
    return [[path, repr(value)]]
