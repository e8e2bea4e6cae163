"""Note, §3.2: convergence under lazy training, over- and under-parameterised.

    lazyscope reproduce note-s3.2 --size quick

Stated for a strictly convex R and a Dh(w0) of full rank; what is needed is a strongly convex R and a Dh(w0) that is
onto, and for the global claim alpha > ‖y‖/C0 (chizat2019-thm2.4). Square loss where nothing else is said; shares its
cells with chizat2019-thm2.4 and -thm2.5, whose nets are ours: tanh, centred, and under-parameterised with two units and
readouts frozen at ±1, since readouts that move make directions so slow that no flow gets to their end. With all weights
free the rank of Dh is constant around w0 for a centred net and not for a symmetrised one, whose pairs have equal
derivatives at w0 and nowhere near it. On two cores: tiny 25 s, quick 40 s, paper 3 min.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers import convergence_cells as cells
from lazyscope.papers import loss_cells, start_cells
from lazyscope.papers.convergence_cells import OVER_SIZES, UNDER_SIZES, Convergence
from lazyscope.papers.flow_cells import slopes
from lazyscope.papers.loss_cells import LOSS_SIZES, Losses
from lazyscope.papers.settings import ours
from lazyscope.papers.start_cells import START_SIZES, Starts
from lazyscope.sweep import Progress, Store


@dataclass(frozen=True)
class Both:
    """The two settings, other losses and starts; `seeds` is used for all."""

    over: Convergence
    under: Convergence
    losses: Losses
    starts: Starts
    seeds: int


SIZES = {
    size: Both(OVER_SIZES[size], UNDER_SIZES[size], LOSS_SIZES[size], START_SIZES[size], OVER_SIZES[size].seeds)
    for size in ("tiny", "quick", "paper")
}
SETTINGS = (
    ours("tanh, two layers, centred, teacher-student"),
    ours(
        "frozen at ±1 in the under-parameterised flow", "readouts that move make directions without an end", "readouts"
    ),
)
CAPTION = (
    "Left, over-parameterised: the residual falls exponentially to 0, for every alpha as for the linearised flow. "
    "Middle, the linearised flow under other losses: strong convexity makes it exponential, strict convexity does not. "
    "Right, under-parameterised (two units, readouts frozen at ±1: ours): the train loss at the end tends to that of "
    "the projection as alpha grows."
)


def compute(
    spec: Both, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Over-parameterised flows under their own names, under-parameterised ones with an `under_` before theirs.

    Beside them other losses, minimisers at several alpha, starts with h(w0) other than 0, and ranks around w0.
    """
    options = {"key": key, "store": store, "progress": progress}
    over = cells.over(replace(spec.over, seeds=spec.seeds), **options)
    under = cells.under(replace(spec.under, seeds=spec.seeds), **options)
    under = under.rename({str(name): f"under_{name}" for name in _own(under)})
    others = [
        loss_cells.decays(spec.losses, seeds=spec.seeds, **options),
        start_cells.independences(spec.starts, seeds=spec.seeds, **options),
        start_cells.offsets(spec.starts, seeds=spec.seeds, **options),
        start_cells.ranks(spec.starts, seeds=spec.seeds, **options),
    ]
    return xr.merge([over, under, *others], join="exact")


def _own(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in [*ds.data_vars, "alpha", "unit"]]


def _under(ds: xr.Dataset) -> xr.Dataset:
    names = [str(name) for name in ds.data_vars if str(name).startswith("under_")]
    return ds[names].rename({name: name.removeprefix("under_") for name in [*names, "under_alpha", "under_unit"]})


def curvature_of_decay(ds: xr.Dataset) -> np.ndarray:
    """Late rate of the residual over that in the middle third, minus 1, at the largest alpha."""
    return _rate_change(ds.residual.isel(alpha=-1))


def loss_decay(ds: xr.Dataset, convex: str) -> np.ndarray:
    """The same of the linearised flow's loss under another R."""
    return _rate_change(ds.loss_left.sel(convex=convex).rename(loss_unit="unit"))


def _rate_change(values: xr.DataArray) -> np.ndarray:
    middle = values.sel(unit=values.unit <= 0.67 * float(values.unit[-1]))
    return (cells.late_rate(values, 0.67) / cells.late_rate(middle, 0.5) - 1).values


def minimiser_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of log ‖w̄* − w0‖ against log alpha, h(w0) = 0."""
    values = ds.minimiser.sel(output="centred").transpose("linear_alpha", "seed").values
    return np.polyfit(np.log(ds.linear_alpha.values), np.log(values), 1)[0]


def added_rank(ds: xr.Dataset, device: str) -> np.ndarray:
    """Rank of Dh near w0 minus that at w0, over the number of weights."""
    one = ds.sel(device=device)
    return ((one.rank_nearby - one["rank"]) / one.parameters).values


def above_reach(ds: xr.Dataset) -> np.ndarray:
    """log10 of the train loss at the end at the largest alpha over the least at any alpha, under-parameterised."""
    end = _under(ds).train_loss.isel(unit=-1)
    return np.log10((end.isel(alpha=-1) / end.min("alpha")).values)


def _expect(outcome: Outcome | None) -> dict[str, Outcome | None]:
    return dict.fromkeys(SIZES, outcome)


def _decay_claim(convex: str, sentence: str, quick: Outcome, note: str = "") -> Claim:
    return Claim(
        sentence=sentence,
        source="note §3.2",
        measure="late log-slope of the linearised flow's loss over that before, minus 1; exponential is 0",
        quantity=partial(loss_decay, convex=convex),
        accepted=(-0.15, 0.15),
        expected={"tiny": None, "quick": quick, "paper": None},
        note=note,
        moved="the flow was followed for 12 units of time at first, which ends below the integrator's tolerance.",
    )


def _rank_claim(device: str, what: str, outcome: Outcome, note: str = "") -> Claim:
    return Claim(
        sentence=f"Dh(w) has constant rank around w0 ({what}).",
        source="note §3.2, assumption",
        measure="rank at 0.001 per weight from w0 minus that at w0, over the number of weights; all weights free",
        quantity=partial(added_rank, device=device),
        accepted=(-0.01, 0.01),
        expected=_expect(outcome),
        note=note,
    )


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
        scale=Scale.SIZE,
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
    _decay_claim(
        "quartic",
        "R strictly convex: the linearised flow converges linearly (quartic loss).",
        Outcome.FAILS,
        "It falls as a power of the time. What is needed is strong convexity.",
    ),
    _decay_claim(
        "logistic",
        "R strictly convex: the linearised flow converges linearly (logistic loss).",
        Outcome.FAILS,
        "It falls as 1/t, and where labels can be fitted there is no minimiser to converge to.",
    ),
    _decay_claim(
        "strongly convex", "R strongly convex and smooth, not quadratic: it converges linearly.", Outcome.HOLDS
    ),
    Claim(
        sentence="With h(w0) = 0 the global minimiser does not depend on α.",
        source="note §3.2",
        measure="‖w̄* at the largest α − w̄* at the smallest‖ over ‖w̄* − w0‖ at the smallest",
        quantity=lambda ds: ds.weights_apart.sel(output="centred").values,
        accepted=(-np.inf, 0.01),
        scale=Scale.SIZE,
        expected=_expect(Outcome.FAILS),
        note="Its outputs αh̄(w̄*) do not depend on α; w̄* − w0 is in proportion to 1/α.",
    ),
    Claim(
        sentence="Its outputs αh̄(w̄*) do not depend on α.",
        source="note §3.2, corrected",
        measure="largest difference of αh̄(w̄*) between three α, relative to its size",
        quantity=lambda ds: ds.end_apart.sel(output="centred").values,
        accepted=(-np.inf, 1e-9),
        scale=Scale.SIZE,
        expected=HOLDS,
    ),
    Claim(
        sentence="w̄* − w0 is in proportion to 1/α.",
        source="ours, on note §3.2",
        measure="slope of log ‖w̄* − w0‖ against log α, h(w0) = 0",
        quantity=minimiser_slope,
        accepted=(-1.001, -0.999),
        expected=HOLDS,
    ),
    Claim(
        sentence="Initialised with ‖h(w0)‖ <= C0 it converges at an exponential rate, as guaranteed.",
        source="note §3.2 (norm not big), chizat2019 Theorem 2.4",
        measure="largest residual over ‖αh(w0) − y‖ exp(−t λmin/4), from ‖h(w0)‖ = C0 at α = 2‖y‖/C0",
        quantity=lambda ds: ds.offset_guarantee.sel(size=1.0).values,
        accepted=(-np.inf, 1.0),
        scale=Scale.RATIO,
        every_seed=True,
        expected=dict.fromkeys(SIZES),
    ),
    Claim(
        sentence="A large ‖h(w0)‖ de-stabilises the model: the guarantee fails at 1000·C0.",
        source="note §3.2",
        measure="the same from ‖h(w0)‖ = 1000·C0",
        quantity=lambda ds: ds.offset_guarantee.sel(size=1000.0).values,
        accepted=(1.0, np.inf),
        scale=Scale.RATIO,
        expected={"tiny": None, "quick": Outcome.FAILS, "paper": None},
        note="C0 is sufficient only: a thousand times as far the guarantee still holds.",
    ),
    _rank_claim("centred", "centred net", Outcome.HOLDS),
    _rank_claim(
        "symmetrised",
        "symmetrised net",
        Outcome.FAILS,
        "Its pairs have the same derivatives at w0 alone, so that the theorem does not cover the note's own start.",
    ),
    Claim(
        sentence="Under-parameterised, the model converges geometrically for a large enough α.",
        source="note §3.2",
        measure="late decay rate of ‖∇F‖ in units of λ at the largest alpha",
        quantity=lambda ds: cells.rate_at_largest_alpha(_under(ds)),
        accepted=(0.9, 1.1),
        scale=Scale.RATIO,
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
        scale=Scale.RATIO,
        expected=HOLDS,
    ),
    Claim(
        sentence="The same net can go lower: where it ends is not its global minimum.",
        source="note §3.2",
        measure="log10 of the train loss at the end at the largest alpha over the least at any alpha, same start",
        quantity=above_reach,
        accepted=(float(np.log10(1.01)), np.inf),
        expected=dict.fromkeys(SIZES),
        note="The claim before compares with 0, which no net of ten weights reaches on 60 examples.",
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Residual against time over-parameterised, other losses, end loss against alpha under-parameterised."""
    figure, (left, middle, right) = figures.new_figure(14.5, 4.4, columns=3)
    cells.draw_residual(left, ds)
    left.set_title("over-parameterised")
    middle.set_yscale("log")
    colors = (figures.BLUE, figures.GREEN, figures.ORANGE, figures.PURPLE)
    for convex, color in zip(ds.convex.values, colors, strict=True):
        figures.curve(middle, ds.loss_left.sel(convex=convex), "loss_unit", label=convex, color=color)
    middle.set_title("linearised flow, other losses")
    figures.finish(middle, x="time in units of 1/λmin", y="R(αh̄) / R(0)")
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
