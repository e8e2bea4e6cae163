"""Compute a figure, judge its claims, and leave picture, numbers and findings in a folder."""

import importlib
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key

from lazyscope import claims, figures, report
from lazyscope.claims import Finding
from lazyscope.papers import FIGURES, settings
from lazyscope.papers.figure import Figure, Trials
from lazyscope.store import Store, export, provenance
from lazyscope.sweep import Progress

ROOT_SEED = 0  # every figure starts from this key; trials differ by their seed


def load(name: str) -> Figure[Any]:
    """The figure of this name."""
    module, _, figure = FIGURES[name].figure.partition(":")
    return getattr(importlib.import_module(f"lazyscope.papers.{module}"), figure)


def reproduce(
    name: str,
    *,
    size: str,
    seeds: int | None,
    out: Path,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    data: Path | None = None,
) -> tuple[report.Item, list[Finding]]:
    """Compute `name` at `size` and write `NAME.nc`, `.svg`, `.png`, `.pdf` and `.json` into `out/figures`.

    Runs in float64 whatever the process default, as both papers' codes do. Cells already in `store` are not computed
    again: figures share theirs, and a run that was killed goes on.
    """
    figure = load(name)
    of_size = figure.sizes[size]
    trials = Trials(
        key=root_key(),
        seeds=of_size.seeds if seeds is None else seeds,
        store=store,
        executor=executor,
        progress=progress,
        data=data if size in FIGURES[name].cifar10 else None,
        checkpoints=None if store is None else store.folder.absolute() / "checkpoints",
    )
    began = time.perf_counter()
    with jax.enable_x64(True):
        dataset = figure.compute(of_size.settings, trials)
    wall = time.perf_counter() - began
    findings = [claims.evaluate(claim, dataset) for claim in figure.claims]
    shown = settings.table(of_size.settings, trials.seeds, figure.stated)
    item = report.Item(
        name=name,
        title=FIGURES[name].title,
        caption=figure.caption,
        size=size,
        command=f"lazyscope reproduce {name} --size {size}" + (f" --seeds {seeds}" if seeds is not None else ""),
        findings=[report.describe(finding, size) for finding in findings],
        settings={name: run for name, (run, _, _) in shown.items()},
        stated={name: [stated, why] for name, (_, stated, why) in shown.items() if stated},
        stand_in=settings.stand_ins(shown, figure.stated),
        numbers=figure.numbers(dataset),
        provenance=provenance(precision="float64", wall_seconds=wall),
    )
    export(dataset, out / "figures" / f"{name}.nc", attributes=item.settings | item.provenance)
    picture = figure.draw(dataset)
    report.write_item(
        out,
        item,
        svg=figures.to_svg(picture),
        png=figures.to_png(picture),
        pdf=figures.to_pdf(picture),
        interactive=None if figure.interactive is None else figure.interactive(dataset),
    )
    return item, findings


def unexpected(findings: list[Finding], size: str) -> list[Finding]:
    """Findings whose outcome is not the one expected at this size (None expects nothing)."""
    return [f for f in findings if f.claim.expected.get(size) not in (None, f.outcome)]


def root_key() -> Key[Array, ""]:
    """The key of every figure."""
    return jax.random.key(ROOT_SEED)
