"""What a page shows of a diagnosis: pictures, each with the numbers behind it as text and as a Dataset."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.diagnose.diagnosis import Diagnosis
from lazyscope.diagnose.kept import Trajectory
from lazyscope.diagnose.layers import that_matter
from lazyscope.diagnose.references import REFERENCES
from lazyscope.views import panels
from lazyscope.views.regime_map import Point, draw_map


class Shown(NamedTuple):
    """One picture with its words, numbers and data; `draw` makes it, a narrow one for a phone with `narrow=True`."""

    name: str
    title: str
    caption: str
    draw: Callable[..., Figure]
    numbers: list[list[str]]
    data: xr.Dataset


def regimes(found: Mapping[str, Diagnosis]) -> Shown:
    """The regime map of diagnoses by name; the regimes are those of the first one's thresholds."""
    names, first = list(found), next(iter(found.values()))
    columns = deciders(found.values())
    rows = [[name, *(six(values[i]) for values in columns.values())] for i, name in enumerate(names)]
    rows += [[name, six(g), "", "", six(j), "", ""] for name, g, j in REFERENCES]
    data = (
        dataset("diagnosis", columns, diagnosis=names)
        .assign(
            reference_g=("reference", [g for _, g, _ in REFERENCES]),
            reference_j=("reference", [j for *_, j in REFERENCES]),
            thresholds=("threshold", list(first.thresholds[:4])),
        )
        .assign_coords(
            reference=[name for name, *_ in REFERENCES],
            threshold=list(first.thresholds._fields[:4]),
        )
    )
    where = ", ".join(f"{name}: g = {one.gap}, j = {one.differential}" for name, one in found.items())
    other = {str(one.thresholds) for one in found.values()} - {str(first.thresholds)}
    return Shown(
        "diagnosis-regimes",
        "Regime map",
        f"Gap g and change j of the differential, with their 95 % intervals as a cross ({where}). Shaded are the "
        f"regimes ({first.thresholds}); grey dots are reference diagnoses of models of known kind, the nearest named."
        + (f" Others were judged by other thresholds: {'; '.join(sorted(other))}." if other else ""),
        partial(_map, found),
        [["", *columns], *rows],
        data,
    )


def _map(found: Mapping[str, Diagnosis], *, narrow: bool = False) -> Figure:
    figure, (ax,) = figures.new_figure(8.4, 5.6, narrow=narrow)
    points = [Point(name, one.gap, one.differential) for name, one in found.items()]
    draw_map(ax, points, next(iter(found.values())).thresholds)
    return figure


def deciders(found: Iterable[Diagnosis]) -> dict[str, list[float]]:
    """The numbers g and j of diagnoses with the ends of their intervals."""
    listed = list(found)
    return {
        f"{letter}{end}": [getattr(getattr(one, name), part) for one in listed]
        for letter, name in (("g", "gap"), ("j", "differential"))
        for end, part in (("", "value"), (" from", "low"), (" to", "high"))
    }


def items_of(found: Diagnosis) -> list[Shown]:
    """The pictures of one diagnosis, those that it has the numbers for."""
    shown = [_layers(found)]
    if found.outputs is not None:
        shown.append(_outputs(found))
    if found.learnable is not None:
        shown.append(_learnable(found))
    if found.trajectory is not None:
        shown.append(_trajectory(found))
    return shown


def _layers(found: Diagnosis) -> Shown:
    columns = {
        "share of Dh": [row.start_share for row in found.groups],
        "share of its change": [row.change_share for row in found.groups],
        "change": [row.change for row in found.groups],
        "movement": [row.movement for row in found.groups],
        "beyond first order": [np.nan if row.partial_gap is None else row.partial_gap for row in found.groups],
    }
    names = [row.name for row in found.groups]
    rows = that_matter(found.groups)
    rest = len(found.groups) - len(rows)
    return Shown(
        "diagnosis-layers",
        "Layers",
        "For each group of parameters its share of the squared size of the differential Dh at the start and of its "
        "change, and how far the trained model is from itself with this group alone at first order."
        + (f" The {rest} groups of less change are in the table." if rest else ""),
        partial(panels.layers, rows),
        table("group", columns, names),
        dataset("group", columns, group=names),
    )


def _outputs(found: Diagnosis) -> Shown:
    kept = found.outputs
    assert kept is not None
    columns = {"start": kept.start, "trained": kept.trained, "linearised": kept.linearised}
    columns |= {"target": kept.target} if kept.target else {}
    which = f"{len(kept.trained)} of the {kept.total} outputs" if len(kept.trained) < kept.total else "The outputs"
    labels = [f"{i}" if kept.total == kept.example[-1] + 1 else f"{i}, {k}" for i, k in zip(*kept[1:3], strict=True)]
    return Shown(
        "diagnosis-outputs",
        "Trained and linearised outputs, example by example",
        f"{which} on {found.inputs}, alpha in them. On the diagonal the trained model and its trained linearisation "
        "agree.",
        partial(panels.outputs, kept),
        table("example", columns, labels),
        dataset("entry", columns).assign(example=("entry", list(kept.example)), output=("entry", list(kept.entry))),
    )


def _learnable(found: Diagnosis) -> Shown:
    kept = found.learnable
    assert kept is not None
    columns = {"eigenvalue": kept.eigenvalues}
    columns |= {"share": kept.shares, "shares so far": tuple(np.cumsum(kept.shares))} if kept.shares else {}
    directions = range(1, len(kept.eigenvalues) + 1)
    return Shown(
        "diagnosis-kernel",
        "What the kernel can learn",
        f"Tangent kernel K(w0) on {kept.examples} inputs: {kept.size} rows, rank {kept.rank}, condition number "
        f"{kept.condition:.3g}, effective rank {kept.effective_rank:.3g}. Under the square loss lazy training "
        "learns what lies on a direction at a rate proportional to its eigenvalue."
        + (
            " There is nothing to be learnt at the start."
            if kept.reachable is None
            else f" In its range lies {100 * kept.reachable:.4g} % of what is to be learnt."
        ),
        partial(panels.learnable, kept),
        table("direction", columns, [str(i) for i in directions]),
        dataset("direction", columns, direction=list(directions)),
    )


def _trajectory(found: Diagnosis) -> Shown:
    kept = found.trajectory
    assert kept is not None
    losses = {name: getattr(kept, name) for name in ("train", "train_linearised", "test", "test_linearised")}
    by_step = {name: dict(zip(kept.step, values, strict=True)) for name, values in losses.items() if values}
    by_step |= {
        letter: dict(zip(steps, values, strict=True))
        for letter, steps, values in (("g", kept.gap_step, kept.gap), ("j", kept.differential_step, kept.differential))
        if values
    }
    steps = sorted({step for values in by_step.values() for step in values})
    columns = {name: [values.get(step, np.nan) for step in steps] for name, values in by_step.items()}
    return Shown(
        "diagnosis-training",
        "Along training",
        f"Losses, model (solid) and linearisation (dashed): {found.how}.{_said_of_deciders(kept)}",
        partial(panels.trajectory, kept, found.thresholds),
        table("step", columns, [str(step) for step in steps]),
        dataset("step", columns, step=steps),
    )


def _said_of_deciders(kept: Trajectory) -> str:
    said = []
    if kept.gap:
        where = (
            "the model and its linearisation at the model's weights" if kept.same_weights else "the two at each step"
        )
        said.append(f"g is the gap between {where}")
    if kept.differential:
        on = f", on {kept.differential_examples} inputs" if kept.differential_examples else ""
        said.append(f"j how far the differential has changed{on}")
    return f" Beside them {' and '.join(said)}; both begin at 0." if said else ""


def table(of: str, columns: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[list[str]]:
    """Columns of numbers as text, a row for each name."""
    rows = [[name, *(six(values[i]) for values in columns.values())] for i, name in enumerate(names)]
    return [[of, *columns], *rows]


def dataset(dim: str, columns: Mapping[str, Sequence[float]], **coords: Any) -> xr.Dataset:
    """Columns of numbers as variables along one dimension."""
    data = {name.replace(" ", "_"): (dim, np.asarray(values, float)) for name, values in columns.items()}
    return xr.Dataset(data, coords=coords)


def six(value: float) -> str:
    """To six digits; "none" for a number that is not there."""
    return "none" if np.isnan(value) else f"{value:.6g}"
