"""What a run of the caller's own reports of itself, as a trajectory."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lazyscope.diagnose.kept import Trajectory

NAMES = {  # of a loss, g and j in a row: ours, and those of loggers
    "train": ("loss", "train_loss", "train/loss"),
    "test": ("eval_loss", "val_loss", "test_loss", "eval/loss", "val/loss", "test/loss"),
    "gap": ("gap", "lazyscope/gap", "train/lazyscope/gap"),
    "differential": ("differential", "lazyscope/differential", "train/lazyscope/differential"),
}
Row = Mapping[str, Any]


def reported(rows: Iterable[Row], linearised: Iterable[Row] = ()) -> Trajectory:
    """Rows of a log, each with its "step" and any of the names above, of the run and of that of the linearisation.

    ValueError for rows without a step, or in which nothing has a known name.
    """
    model, linear = _by_step(rows), _by_step(linearised)
    steps = sorted(step for step in {*model, *linear} if _of(model, step, _LOSSES) or _of(linear, step, _LOSSES))
    losses = [
        () if all(map(math.isnan, values)) else values
        for name in _LOSSES
        for values in (tuple(_of(of, step, (name,)).get(name, math.nan) for step in steps) for of in (model, linear))
    ]
    along = {name: {step: row[name] for step, row in sorted(model.items()) if name in row} for name in _DECIDERS}
    if not steps and not any(along.values()):
        raise ValueError(
            "a log must have rows with step and some of loss, gap, differential, got none of them: "
            "rows.append({'step': step, 'loss': loss, **measure(params)})"
        )
    return Trajectory(
        tuple(steps),
        *losses,
        gap_step=tuple(along["gap"]),
        gap=tuple(along["gap"].values()),
        differential_step=tuple(along["differential"]),
        differential=tuple(along["differential"].values()),
        same_weights=True,
    )


_LOSSES, _DECIDERS = ("train", "test"), ("gap", "differential")


def _by_step(rows: Iterable[Row]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if not isinstance(row, Mapping) or "step" not in row:
            got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
            raise ValueError(f"a row of a log must have its step, got {got}: {{'step': step, 'loss': loss}}")
        try:
            numbers = {
                name: float(row[known])
                for name, names in NAMES.items()
                for known in reversed(names)
                if row.get(known) is not None
            }
            step = int(float(row["step"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"a row of a log must have numbers for its step and losses, got {dict(row)}") from error
        found[step] = found.get(step, {}) | numbers
    return found


def _of(rows: dict[int, dict[str, float]], step: int, names: tuple[str, ...]) -> dict[str, float]:
    return {name: rows[step][name] for name in names if name in rows.get(step, {})}
