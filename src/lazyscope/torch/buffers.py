"""Buffers that differ between start and end: the statistics of BatchNorm, above all."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import passes
from lazyscope.adapters.torch.converted import Converted, travelling
from lazyscope.diagnose import Diagnosis
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.tree import host_norm


class Buffers(NamedTuple):
    """Those that differ, at both ends, as leaves that travel along with parameters and are none."""

    start: dict[str, Array]
    end: dict[str, Array]
    fresh: bool  # the statistics of the start are those of a module that was just built


def differing(apply: Converted, module: Any) -> Buffers:
    """The buffers that outputs depend on and that `module`, the trained one, has other values of."""
    held = dict(module.named_buffers())
    start, end = {}, {}
    for name, before in apply.buffers.items():
        after = held[name].detach().cpu().numpy()
        if before.shape != after.shape or not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            start[name], end[name] = travelling(before), travelling(after.copy())
    new = {"running_mean": 0.0, "running_var": 1.0}
    found = {name: apply.buffers[name] for name in start if name.rpartition(".")[2] in new}
    fresh = bool(found) and all(np.all(v == new[name.rpartition(".")[2]]) for name, v in found.items())
    return Buffers(start, end, fresh)


def told_apart(
    found: Diagnosis, same: Diagnosis, apply: Apply, start: PyTree, old: PyTree, end: PyTree, x: Batch, new: Buffers
) -> Diagnosis:
    """The diagnosis with what is due to the buffers beside it.

    `found` has each end with its own buffers; `same` has those of the end at both ends. `start` and `end` are weights
    with their own, `old` are old weights with new buffers: ‖h_old − h_start‖/‖h_end − h_start‖ on x is the part that
    buffers alone have in the change of the outputs. The regime stays that of `found`.
    """
    h0, h_old, h = (np.asarray(passes.outputs(apply, at, x), float) for at in (start, old, end))
    moved = host_norm(h - h0)
    part = host_norm(h_old - h0) / moved if moved > 0 else 0.0
    names = list(new.start)
    listed = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    indicators = {
        "change by buffers": part,
        "differential j, new buffers at both ends": float(same.differential),
    }
    of = f"j = {float(same.differential):.2g}"
    if found.thresholds == same.thresholds:
        indicators["gap g, new buffers at both ends"] = float(same.gap)
        of = f"g = {float(same.gap):.2g} and {of} ({same.regime})"
    reasons = (
        f"{listed} changed, no weights: with them alone the outputs move {100 * part:.2g} % as far as in training; "
        f"with those of the end at both ends {of}",
    )
    advice = (
        (
            "the running statistics of the start are those of a new module, of nothing it has seen: run model.train() "
            "on some batches before, and judge from there",
        )
        if new.fresh
        else ()
    )
    return replace(
        found,
        indicators=found.indicators | indicators,
        reasons=(*found.reasons, *reasons),
        advice=(*advice, *found.advice),
    )
