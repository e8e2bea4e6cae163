"""Chizat et al. 2019, Theorem 2.5: under-parameterised nets converge geometrically to a local minimum.

    lazyscope reproduce chizat2019-thm2.5 --size quick

h(w0) = 0, R strongly convex, rank Dh(w) constant near w0: for alpha large enough the flow converges geometrically to a
local minimum of F_alpha, at a rate that tends to that of the linearised flow, λ, the smallest nonzero eigenvalue of
K(w0)/n. Its loss tends to that of the projection of y on the range of Dh(w0), not to 0. Centred
tanh net of two units with fixed readouts ±1, n = 60, d = 5: full column rank 10 < n. Ours; the theorem gives no
experiment. On two cores: tiny 6 s, quick 8 s, paper 40 s.
"""

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers import convergence_cells as cells
from lazyscope.papers.convergence_cells import Convergence
from lazyscope.papers.settings import ours
from lazyscope.sweep import Progress, Store

SIZES = cells.UNDER_SIZES
SETTINGS = (
    ours("tanh, two layers, teacher-student"),
    ours("frozen at ±1; the output is centred", "Dh then has constant rank", "readouts"),
)
CAPTION = (
    "Left: gradient norm of the flow against time in units of 1/λ, λ the smallest nonzero eigenvalue of the kernel at "
    "w0; grey, the slope of exp(−t λ). Right: distance of the train loss at the end from that of the projection on the "
    "range of Dh(w0), against the output scale: it falls as 1/α."
)


def compute(
    spec: Convergence, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Losses, gradients and curvature along the flow at every alpha."""
    return cells.under(spec, key=key, store=store, progress=progress)


HOLDS: dict[str, Outcome | None] = dict.fromkeys(SIZES, Outcome.HOLDS)
CLAIMS = (
    Claim(
        sentence="For alpha large enough the flow converges geometrically, at a rate independent of alpha.",
        source="chizat2019 Theorem 2.5",
        measure="late decay rate of ‖∇F‖ in units of λ at the largest alpha over that at the one before, minus 1",
        quantity=cells.rate_change,
        accepted=(-0.05, 0.05),
        expected=HOLDS,
    ),
    Claim(
        sentence="That rate is the linearised flow's: λ, the smallest nonzero eigenvalue of K(w0)/n.",
        source="ours, on Theorem 2.5",
        measure="late decay rate of ‖∇F‖ over λ at the largest alpha",
        quantity=cells.rate_at_largest_alpha,
        accepted=(0.9, 1.1),
        scale=Scale.RATIO,
        expected=HOLDS,
    ),
    Claim(
        sentence="The limit is a local minimum of F_α.",
        source="chizat2019 Theorem 2.5",
        measure="smallest over largest eigenvalue of the Hessian of F at the end, at the largest alpha",
        quantity=lambda ds: ds.convexity.isel(alpha=-1).values,
        accepted=(0, np.inf),
        every_seed=True,
        expected=HOLDS,
        note="Positive definite: a strict local minimum.",
    ),
    Claim(
        sentence="Its loss is that of the projection of y on the range of Dh(w0).",
        source="ours, on Theorem 2.5",
        measure="train loss at the end over the projection's, minus 1, at the largest alpha",
        quantity=cells.excess,
        accepted=(-0.01, 0.01),
        expected=HOLDS,
    ),
    Claim(
        sentence="It is not the global minimum.",
        source="chizat2019 §2.3; note §3.2",
        measure="train loss at the end over that at the start, at the largest alpha; the global minimum of R is 0",
        quantity=cells.left_over,
        accepted=(0.01, np.inf),
        scale=Scale.RATIO,
        expected=HOLDS,
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Gradient norm against time, and end loss against alpha."""
    figure, (left, right) = figures.new_figure(11, 4.4, columns=2)
    cells.draw_gradient(left, ds)
    cells.draw_end_loss(right, ds)
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Rates and losses against alpha, means over seeds."""
    return figures.table(
        {
            "late rate / λ": cells.late_rate(ds.gradient),
            "end gradient": ds.gradient.isel(unit=-1),
            "end loss": ds.train_loss.isel(unit=-1),
            "projection": ds.projection_loss,
            "start": ds.start_loss,
            "convexity": ds.convexity,
            "rank": ds["rank"],
            "steps": ds.steps,
        },
        "alpha",
    )
