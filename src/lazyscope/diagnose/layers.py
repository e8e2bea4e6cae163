"""Which groups of parameters the change of the differential is in: one row a group, and sentences about them."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import tree
from lazyscope.differential import DifferentialChange, partial_gaps
from lazyscope.examples import Batch, first
from lazyscope.models import Apply

MATTER, MOST = 0.9, 6  # rows are printed up to this share of the change, and at most so many
GAPS, GAP_EXAMPLES = 16, 256  # groups, those of most change, and inputs of which partial gaps are computed


@dataclass(frozen=True)
class GroupRow:
    """One group of parameters (a module, or what `groups=` says).

    Shares are those of ‖Dh(w0)‖_F² and of ‖Dh(w_T) − Dh(w0)‖_F², over groups they add up to 1; `change` is
    ‖ΔD_g h‖_F/‖D_g h(w0)‖_F. `movement` is ‖Δw‖/‖w0‖, or ‖Δw‖ itself where the group starts at zero (`from_zero`).
    `partial_gap` is how far the trained model is from itself with this group alone at first order, None where not
    computed. `trained` says whether any weight moved.
    """

    name: str
    weights: int
    start_share: float
    change_share: float
    change: float
    movement: float
    from_zero: bool
    partial_gap: float | None
    trained: bool

    def __str__(self) -> str:
        moved = f"moved {self.movement:.2g}{' from zero' if self.from_zero else ' of its size'}"
        alone = "" if self.partial_gap is None else f", beyond first order {self.partial_gap:.2g}"
        return (
            f"{self.change_share:.1%} of the change, {self.start_share:.1%} of Dh; "
            f"changed by {self.change:.2g}, {moved}{alone}"
        )


def group_rows(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    found: DifferentialChange,
    members: dict[str, list[int]],
) -> tuple[GroupRow, ...]:
    """A row for each group, those with most of the change first."""
    theta0, theta = tree.split(params0)[0], tree.split(params)[0]
    order = sorted(members, key=lambda name: -float(found.groups[name].change_share))
    few = first(x, GAP_EXAMPLES)
    gaps = partial_gaps(apply, params0, params, few, {name: members[name] for name in order[:GAPS]})
    rows = []
    for name in order:
        before, after = ([leaves[i] for i in members[name]] for leaves in (theta0, theta))
        size, moved = _sizes(before, after)
        change = found.groups[name]
        rows.append(
            GroupRow(
                name=name,
                weights=tree.size(before),
                start_share=float(change.start_share),
                change_share=float(change.change_share),
                change=float(change.relative),
                movement=moved / size if size > 0 else moved,
                from_zero=size == 0,
                partial_gap=float(gaps[name]) if name in gaps else None,
                trained=moved > 0,
            )
        )
    return tuple(rows)


def movement(params0: PyTree, params: PyTree) -> float:
    """‖w − w0‖/‖w0‖ over all parameters, ‖w − w0‖ itself where all start at zero."""
    size, moved = _sizes(tree.split(params0)[0], tree.split(params)[0])
    return moved / size if size > 0 else moved


def that_matter(rows: tuple[GroupRow, ...]) -> tuple[GroupRow, ...]:
    """The rows that hold most of the change."""
    shares = np.cumsum([row.change_share for row in rows])
    enough = int(np.searchsorted(shares, MATTER)) + 1
    return rows[: min(enough, MOST, len(rows))]


def sentences(rows: tuple[GroupRow, ...]) -> tuple[str, ...]:
    """What did not train, and whether the change is in one group or everywhere."""
    lines = []
    still = [row.name for row in rows if not row.trained]
    if still and len(still) < len(rows):
        listed = ", ".join(still[:MOST]) + (f" and {len(still) - MOST} more" if len(still) > MOST else "")
        lines.append(f"did not train at all: {listed}")
    shares = [row.change_share for row in rows]
    if len(rows) > 2 and sum(shares) > 0:
        many = int(np.searchsorted(np.cumsum(shares), 0.8)) + 1
        if shares[0] >= 0.8:
            lines.append(f"the change of the differential is in one group: {rows[0].name}, {shares[0]:.0%} of it")
        elif 2 * many >= len(rows):
            lines.append(
                f"the change of the differential is everywhere: {many} of {len(rows)} groups make up 80 % of it"
            )
        else:
            lines.append(f"{many} of {len(rows)} groups make up 80 % of the change of the differential")
    return tuple(lines)


def _sizes(before: list[Array], after: list[Array]) -> tuple[float, float]:
    """‖w0‖ and ‖w − w0‖ of some leaves, one leaf after the other."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True)]
    return math.hypot(*(tree.host_norm(a) for a, _ in pairs)), math.hypot(*(tree.host_norm(b - a) for a, b in pairs))
