"""Chizat et al. 2019, Theorem 2.3: the quantitative bound for the square loss, against what is measured.

    lazyscope reproduce chizat2019-thm2.3 --size quick

If h is Lip(h)-Lipschitz and Dh Lip(Dh)-Lipschitz on a ball of radius r around w0, then at T = K/Lip(h)²

    ‖αh(w) − αh̄(w̄)‖ / ‖αh(w0) − y‖ <= K² Lip(Dh)/(α Lip(h)²) ‖αh(w0) − y‖   where α r Lip(h) >= K‖αh(w0) − y‖.

The constants are exact for quadratic maps and stated upper bounds for two-layer tanh nets; r is the least allowed.
h(w0) need not vanish: the tanh net is neither centred nor doubled. At small K the bound is attained by the quadratic
map whose targets lie in its steepest direction, and loose for drawn targets and for the net. The gap grows as K² for
small K, then saturates; the bound goes on. Both sides are computed by `finite_bound` (`flows.py`), for note-s3.1 as
well.
"""

import matplotlib.figure
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure
from lazyscope.papers.quantities import Quantity, at
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.theorems.flows import BOUNDS, bounds, draw_bound, growth

STATED = (ours("tanh, two layers, teacher-student; quadratic maps"),)
CAPTION = (
    "Relative gap between flow and linearised flow after K steps of 1/Lip(h)² in flow time (solid), and the theorem's "
    "bound (dashed), at three output scales. Both start as K²; the gap saturates, the bound does not."
)


def worst_ratio(*models: str) -> Quantity:
    """The largest measured gap over bound, over alpha and K."""
    return at(lambda ds: (ds.gap / ds.bound).sel(model=list(models)).max(("model", "alpha", "K")))


CLAIMS = (
    Claim(
        sentence="The relative gap is at most K² Lip(Dh)‖αh(w0) − y‖/(α Lip(h)²).",
        source="chizat2019 Theorem 2.3",
        measure="largest measured gap over bound, quadratic maps, exact constants, over alpha and K",
        quantity=worst_ratio("quadratic", "quadratic, aligned"),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="The bound holds for a neural net whose initial output is not 0.",
        source="chizat2019 Theorem 2.3",
        measure="largest measured gap over bound, two-layer tanh net, upper bounds of the constants, over alpha and K",
        quantity=worst_ratio("tanh net"),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="The flow stays in the ball on which the constants are taken.",
        source="chizat2019 Theorem 2.3, proof",
        measure="largest ‖w(T) − w0‖/r, all models, alpha and K",
        quantity=at(lambda ds: ds.confined.max(("model", "alpha", "K"))),
        accepted=(0, 1),
        scale=Scale.RATIO,
        every_seed=True,
    ),
    Claim(
        sentence="The gap grows as K².",
        source="chizat2019 Theorem 2.3",
        measure="slope of log gap against log K for K <= 0.01, the one farthest from 2 over models and alpha",
        quantity=growth,
        accepted=(1.8, 2.2),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Gap and bound against K, one panel a model."""
    figure, axes = figures.new_figure(12.5, 4.2, columns=ds.sizes["model"], log="xy")
    for ax, name in zip(axes, ds.model.values, strict=True):
        draw_bound(ax, ds.sel(model=name))
        ax.set_title(name)
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Largest measured gap over bound against K, one column a model."""
    ratio = (ds.gap / ds.bound).max("alpha")
    return figures.table({f"gap/bound, {name}": ratio.sel(model=name) for name in ds.model.values}, "K")


THM2_3 = Figure(caption=CAPTION, sizes=BOUNDS, compute=bounds, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
