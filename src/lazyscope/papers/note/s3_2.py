"""Note, §3.2: convergence under lazy training, over- and under-parameterised.

    lazyscope reproduce note-s3.2 --size quick

Stated for a strictly convex R and a Dh(w0) of full rank; what is needed is a strongly convex R and a Dh(w0) that is
onto, and for the global claim alpha > ‖y‖/C0 (chizat2019-thm2.4). Square loss; shares its cells with chizat2019-thm2.4
and -thm2.5, whose nets are ours. On two cores: tiny 12 s, quick 15 s, paper 2 min.
"""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome
from lazyscope.papers import convergence_cells as cells
from lazyscope.papers.convergence_cells import OVER_SIZES, UNDER_SIZES, Convergence
from lazyscope.papers.flow_cells import slopes
from lazyscope.sweep import Progress, Store


@dataclass(frozen=True)
class Both:
    """The two settings; `seeds` is used for both."""

    over: Convergence
    under: Convergence
    seeds: int


SIZES = {size: Both(OVER_SIZES[size], UNDER_SIZES[size], OVER_SIZES[size].seeds) for size in ("tiny", "quick", "paper")}
CAPTION = (
    "Left, over-parameterised: the residual falls exponentially to 0, for every alpha as for the linearised flow. "
    "Right, under-parameterised: the train loss at the end tends to that of the projection as alpha grows."
)


def compute(
    spec: Both, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Over-parameterised flows under their own names, under-parameterised ones with an `under_` before theirs."""
    options = {"key": key, "store": store, "progress": progress}
    over = cells.over(replace(spec.over, seeds=spec.seeds), **options)
    under = cells.under(replace(spec.under, seeds=spec.seeds), **options)
    return xr.merge([over, under.rename({str(name): f"under_{name}" for name in _own(under)})], join="exact")


def _own(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in [*ds.data_vars, "alpha", "unit"]]


def _under(ds: xr.Dataset) -> xr.Dataset:
    names = [str(name) for name in ds.data_vars if str(name).startswith("under_")]
    return ds[names].rename({name: name.removeprefix("under_") for name in [*names, "under_alpha", "under_unit"]})


def curvature_of_decay(ds: xr.Dataset) -> np.ndarray:
    """Late rate of the residual over that in the middle third, minus 1, at the largest alpha."""
    last = ds.residual.isel(alpha=-1)
    middle = last.sel(unit=last.unit <= 0.67 * float(last.unit[-1]))
    return (cells.late_rate(last, 0.67) / cells.late_rate(middle, 0.5) - 1).values


HOLDS: dict[str, Outcome | None] = dict.fromkeys(SIZES, Outcome.HOLDS)
CLAIMS = (
    Claim(
        sentence="Over-parameterised, the model converges with an exponential rate with respect to time.",
        source="note §3.2",
        measure="late log-slope of the residual over that before, minus 1, at the largest alpha",
        quantity=curvature_of_decay,
        accepted=(-0.15, 0.15),
        expected={"tiny": None, "quick": Outcome.HOLDS, "paper": Outcome.HOLDS},
    ),
    Claim(
        sentence="It converges to the global minimum.",
        source="note §3.2",
        measure="residual at the end over that at the start, largest over all alpha",
        quantity=lambda ds: ds.residual.isel(unit=-1).max("alpha").values,
        accepted=(-np.inf, 1e-3),
        expected=HOLDS,
        note="At alpha = 1 as well, far below the theorem's threshold.",
    ),
    Claim(
        sentence="The gap between the model and its linearised version is at most of the order of 1/α.",
        source="note §3.2",
        measure="slope of log of the largest output gap over all times against log alpha, alpha >= 100",
        quantity=lambda ds: slopes(ds.output_gap.sel(alpha=ds.alpha >= 100)).values,
        accepted=(-1.05, -0.95),
        expected=HOLDS,
    ),
    Claim(
        sentence="Under-parameterised, the model converges geometrically for a large enough α.",
        source="note §3.2",
        measure="late decay rate of ‖∇F‖ in units of λ at the largest alpha",
        quantity=lambda ds: cells.rate_at_largest_alpha(_under(ds)),
        accepted=(0.9, 1.1),
        expected=HOLDS,
    ),
    Claim(
        sentence="It converges to a local minimum that the variations of w can reach: the projection.",
        source="note §3.2",
        measure="train loss at the end over the projection's on the range of Dh(w0), minus 1, at the largest alpha",
        quantity=lambda ds: cells.excess(_under(ds)),
        accepted=(-0.01, 0.01),
        expected=HOLDS,
    ),
    Claim(
        sentence="It does not reach the global minimiser, which is out of reach of the variations of w.",
        source="note §3.2",
        measure="train loss at the end over that at the start, at the largest alpha; the global minimum of R is 0",
        quantity=lambda ds: cells.left_over(_under(ds)),
        accepted=(0.01, np.inf),
        expected=HOLDS,
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Residual against time over-parameterised, end loss against alpha under-parameterised."""
    figure, (left, right) = figures.new_figure(11, 4.4, columns=2)
    cells.draw_residual(left, ds)
    left.set_title("over-parameterised")
    cells.draw_end_loss(right, _under(ds))
    right.set_title("under-parameterised")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """The over-parameterised flows against alpha, means over seeds."""
    return figures.table(
        {
            "end residual": ds.residual.isel(unit=-1),
            "late rate / λmin": cells.late_rate(ds.residual),
            "output gap": ds.output_gap,
            "‖y‖/C0": ds.threshold,
        },
        "alpha",
    )
