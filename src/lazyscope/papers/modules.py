"""Figures that are still modules with `SIZES`, `CLAIMS`, `CAPTION`, `compute`, `draw` and `numbers`, as values."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import xarray as xr

from lazyscope.executors import OnWorkers
from lazyscope.papers.figure import Figure, Size, Trials


def of_module(module: ModuleType) -> Figure[Any]:
    """The figure of a module whose specifications hold the number of seeds."""

    def compute(spec: Any, trials: Trials) -> xr.Dataset:
        store = trials.store if trials.executor is None else OnWorkers(trials.store, trials.executor)
        data = {} if trials.data is None else {"data": trials.data}
        spec = replace(spec, seeds=trials.seeds)
        return module.compute(spec, key=trials.key, store=store, progress=trials.progress, **data)

    return Figure(
        caption=module.CAPTION,
        sizes={name: Size(spec, spec.seeds) for name, spec in module.SIZES.items()},
        compute=compute,
        claims=module.CLAIMS,
        draw=module.draw,
        numbers=module.numbers,
        stated=getattr(module, "SETTINGS", ()),
        interactive=getattr(module, "interactive", None),
    )
