"""Compute a figure, judge its claims, and leave picture, numbers and findings in a folder."""

import importlib
import shlex
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import xarray as xr
from jaxtyping import Array, Key

from lazyscope import claims, figures, report
from lazyscope.claims import Finding
from lazyscope.papers import stated_settings
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.outcomes import expecting
from lazyscope.papers.registry import FIGURES
from lazyscope.papers.variation import label, varied
from lazyscope.store import Store, export, provenance
from lazyscope.store.folder import CHECKPOINTS
from lazyscope.sweep import Progress

ROOT_SEED = 0  # every figure starts from this key; trials differ by their seed


def load(name: str) -> Figure[Any]:
    """The figure of this name, with the outcomes expected of its claims."""
    module, _, figure = FIGURES[name].figure.partition(":")
    return expecting(name, getattr(importlib.import_module(f"lazyscope.papers.{module}"), figure))


def sized(name: str, figure: Figure[Any], size: str, changes: Mapping[str, str]) -> Size[Any]:
    """What `reproduce` computes of a figure: its settings at a size, varied. ValueError as there and in `varied`."""
    if size not in figure.sizes:
        raise ValueError(f"--size must be one of {', '.join(figure.sizes)}, got {size!r}: name one that {name} has")
    return replace(figure.sizes[size], settings=varied(figure.sizes[size].settings, changes))


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
    own: Figure[Any] | None = None,
    changes: Mapping[str, str] | None = None,
) -> tuple[report.Item, list[Finding]]:
    """Compute `name` at `size` and write `NAME.nc`, `.svg`, `.png`, `.pdf` and `.json` into `out/figures`.

    Runs in float64 whatever the process default, as both papers' codes do. Cells already in `store` are not computed
    again: figures share theirs, and a run that was killed goes on.

    `own` is the figure where `name` is none of ours, a file's and an object's (`FILE.py:OBJECT`). With `changes`, as in
    `varied`, it is a figure beside the one as it stands, under a name of its own, of which no outcome is expected.
    ValueError for a size that the figure lacks, and where its claims look for settings that were changed.
    """
    figure, changes = load(name) if own is None else own, changes or {}
    of_size = sized(name, figure, size, changes)
    title, cifar10 = (FIGURES[name].title, FIGURES[name].cifar10) if own is None else (name, figure.sizes)
    trials = Trials(
        key=root_key(),
        seeds=of_size.seeds if seeds is None else seeds,
        store=store,
        executor=executor,
        progress=progress,
        data=data if size in cifar10 else None,
        checkpoints=None if store is None else store.folder.absolute() / CHECKPOINTS,
    )
    began = time.perf_counter()
    with jax.enable_x64(True):
        dataset = figure.compute(of_size.settings, trials)
    wall = time.perf_counter() - began
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(f"compute of a figure must return an xarray.Dataset, got {type(dataset).__name__} of {name}")
    stated = [replace(claim, expected={}) if changes else claim for claim in figure.claims]
    try:
        findings = [claims.evaluate(claim, dataset) for claim in stated]
        picture, numbers = figure.draw(dataset), figure.numbers(dataset)
    except (KeyError, IndexError, ValueError) as error:
        if not changes:
            raise
        raise ValueError(
            f"the claims of {name} must find what they look at, got settings without it ({error}): vary another one"
        ) from error
    shown = stated_settings.table(of_size.settings, trials.seeds, figure.stated)
    item = report.Item(
        name=label(own_name(name), changes),
        title=title + "".join(f", {setting} = {value}" for setting, value in changes.items()),
        caption=figure.caption,
        size=size,
        command=_command(name, size, seeds, changes),
        findings=[report.describe(finding, size) for finding in findings],
        settings={name: run for name, (run, _, _) in shown.items()},
        stated={name: [stated, why] for name, (_, stated, why) in shown.items() if stated},
        stand_in=stated_settings.stand_ins(shown, figure.stated),
        numbers=numbers,
        provenance=provenance(precision="float64", wall_seconds=wall),
    )
    export(dataset, out / "figures" / f"{item.name}.nc", attributes=item.settings | item.provenance)
    report.write_item(
        out,
        item,
        svg=figures.to_svg(picture),
        png=figures.to_png(picture),
        pdf=figures.to_pdf(picture),
        interactive=None if figure.interactive is None else figure.interactive(dataset),
    )
    return item, findings


def _command(name: str, size: str, seeds: int | None, changes: Mapping[str, str]) -> str:
    words = ["lazyscope", "reproduce", name, "--size", size]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    words += ["--set", *(f"{setting}={value}" for setting, value in changes.items())] if changes else []
    return shlex.join(words)


def own_name(name: str) -> str:
    """The name of a figure on disk: a file's or module's and an object's for one of one's own."""
    place, _, figure = name.rpartition(":")
    place = Path(place).stem if place.endswith(".py") else place
    return f"{place}-{figure}" if place else name


def root_key() -> Key[Array, ""]:
    """The key of every figure."""
    return jax.random.key(ROOT_SEED)
