"""Compute a figure, judge its claims, and leave picture, numbers and findings in a folder."""

import dataclasses
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import claims, figures, report
from lazyscope.claims import Claim, Finding
from lazyscope.papers import FIGURES, settings
from lazyscope.store import export, provenance
from lazyscope.sweep import Progress, Store

ROOT_SEED = 0  # every figure starts from this key; trials differ by their seed


@runtime_checkable
class FigureModule(Protocol):
    """What a module of `papers` offers.

    Where it helps also `interactive(dataset)`, a plotly figure as plain data, and `SETTINGS`, what the paper states of
    its settings (`lazyscope.papers.settings`).
    """

    __name__: str
    SIZES: dict[str, Any]
    CLAIMS: tuple[Claim, ...]
    CAPTION: str
    compute: Callable[..., xr.Dataset]
    draw: Callable[[xr.Dataset], Figure]
    numbers: Callable[[xr.Dataset], list[list[str]]]


def load(name: str) -> FigureModule:
    """The module of a figure."""
    return importlib.import_module(FIGURES[name].module)  # type: ignore[return-value]


def reproduce(
    name: str,
    *,
    size: str,
    seeds: int | None,
    out: Path,
    store: Store | None = None,
    progress: Progress | None = None,
    data: Path | None = None,
) -> tuple[report.Item, list[Finding]]:
    """Compute `name` at `size` and write `NAME.nc`, `.svg`, `.png` and `.json` into `out/figures`.

    Runs in float64 whatever the process default, as both papers' codes do. Cells already in `store` are not computed
    again: figures share theirs, and a run that was killed goes on.
    """
    module = load(name)
    spec = module.SIZES[size]
    if seeds is not None:
        spec = dataclasses.replace(spec, seeds=seeds)
    images = {"data": data} if size in FIGURES[name].cifar10 else {}
    began = time.perf_counter()
    with jax.enable_x64(True):
        dataset = module.compute(spec, key=_root_key(), store=store, progress=progress, **images)
    wall = time.perf_counter() - began
    findings = [claims.evaluate(claim, dataset) for claim in module.CLAIMS]
    shown = settings_of(module, spec)
    item = report.Item(
        name=name,
        title=FIGURES[name].title,
        caption=module.CAPTION,
        size=size,
        command=f"lazyscope reproduce {name} --size {size}" + (f" --seeds {seeds}" if seeds is not None else ""),
        findings=[report.describe(finding, size) for finding in findings],
        settings={name: run for name, (run, _, _) in shown.items()},
        stated={name: [stated, why] for name, (_, stated, why) in shown.items() if stated},
        numbers=module.numbers(dataset),
        provenance=provenance(precision="float64", wall_seconds=wall),
    )
    export(dataset, out / "figures" / f"{name}.nc", attributes=item.settings | item.provenance)
    picture = module.draw(dataset)
    turn: Callable[[xr.Dataset], dict[str, Any]] | None = getattr(module, "interactive", None)
    report.write_item(
        out,
        item,
        svg=figures.to_svg(picture),
        png=figures.to_png(picture),
        pdf=figures.to_pdf(picture),
        interactive=None if turn is None else turn(dataset),
    )
    return item, findings


def unexpected(findings: list[Finding], size: str) -> list[Finding]:
    """Findings whose outcome is not the one expected at this size (None expects nothing)."""
    return [f for f in findings if f.claim.expected.get(size) not in (None, f.outcome)]


def _root_key() -> Key[Array, ""]:
    return jax.random.key(ROOT_SEED)


def settings_of(module: FigureModule, spec: Any) -> dict[str, tuple[str, str, str]]:
    """What was run, what the paper states and why it differs, by path, for a figure at a specification."""
    return settings.table(spec, getattr(module, "SETTINGS", ()))
