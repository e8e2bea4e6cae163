"""Note, §4.6: the under-parameterised case, m << d, symmetrised, with a large initialisation variance.

    lazyscope reproduce note-s4.6 --size quick

The note says that the model then converges to a local minimum, and asks for more visualisation. A doubled net of m
units has m/2 distinct ones at w0, each with d directions in Dh(w0) rather than d + 1 (a_i ∂h/∂a_i = b_i·∂h/∂b_i): the
rank is (m/2)d. Where that is less than n, the train loss of a lazy net stalls at that of the projection of y on the
range of Dh(w0). At the note's n = 1000, d = 100 this means m < 20 (its m = 50 is over-parameterised on the sample).
Reaching the projection by descent takes 10⁵ to 10⁶ steps there, so descent is shown at (n, d, m) = (200, 10, 8), 21000
steps, tau = 30, and d = 100 in closed form at t = ∞. A small readout makes a slow direction: such a net, and its
linearisation, are above the projection still. For m << d a net of (n, d, m) = (400, 40, 4) is trained at tau = 100 with
momentum until its gradient is gone, and the Hessian of F taken there. Sizes other than d = 100, and the momentum, are
ours.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import kernel_flow
from lazyscope.papers.figure import Cell, Figure, Size, Trials, prefixed
from lazyscope.papers.initialisation.training import experiment
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, TRAINING, Setting, ours, unused
from lazyscope.papers.student import Protocol, decades, setup
from lazyscope.papers.theorems.narrow_ends import END, Ends
from lazyscope.problems import square_loss
from lazyscope.store import stored_as


@dataclass(frozen=True)
class Narrow:
    """Descent at every tau, the closed form at every width on data of its own, and a net with m << d."""

    protocol: Protocol
    taus: tuple[float, ...]
    wide: Protocol
    widths: tuple[int, ...]
    ends: Ends
    end_seeds: int


DESCENT = Protocol(n=200, n_test=200, d=10, width=8, num_steps=21_000, test_every=1000)
WIDE = Protocol(n=1000, n_test=200, d=100)
SIZES = {
    "tiny": Size(
        Narrow(
            replace(DESCENT, n=40, n_test=40, d=4, width=4, num_steps=6000),
            (0.3, 30.0),
            replace(WIDE, n=60, n_test=40, d=10),
            (4, 8, 12),
            Ends(60, 12, 2, 100.0, 2000),
            end_seeds=3,
        ),
        seeds=3,
    ),
    "quick": Size(
        Narrow(DESCENT, (0.1, 30.0), WIDE, (4, 10, 16, 24), Ends(400, 40, 4, 100.0, 20_000), end_seeds=5), seeds=5
    ),
    "paper": Size(
        Narrow(
            replace(DESCENT, num_steps=210_000),
            decades(-1.5, 1.5, 0.5),
            WIDE,
            tuple(range(2, 33, 2)),
            Ends(1000, 100, 8, 100.0, 200_000),
            end_seeds=10,
        ),
        seeds=10,
    ),
}
STATED = (
    FULL_BATCH,
    NO_STOP,
    Setting("protocol.d", "m << d", "descent ends within 21000 steps; `wide` has d = 100, in closed form"),
    *unused("wide", "width", *TRAINING),
    ours("momentum 0.95, η = n/λmax(K(w0))", "the end is twenty times nearer in steps", "training for m << d"),
)
CAPTION = (
    "Left: train loss of a narrow symmetrised net during descent; at tau = 30 it stalls at the projection of the "
    "targets on the range of Dh(w0) (dashed), at small tau it goes on. Middle: that gap closing, also for a net with "
    "m << d (ours: n = 400, d = 40, m = 4, momentum 0.95). Right: loss of the "
    "projection at d = 100 against the width; dotted, the width from which Dh(w0) can be onto."
)


@stored_as("lazyscope.papers.note.s4_6.projection")
def projection(key: Key[Array, ""], *, width: int, protocol: Protocol) -> dict[str, Array]:
    """Where the linearised flow ends: loss relative to the start, on training and held-out data, and the rank."""
    model, params0, problem = setup(key, replace(protocol, width=width))
    run = kernel_flow(model.apply, params0, problem, times=[0.0, np.inf])
    return {
        "end": run.train_loss[1] / run.train_loss[0],
        "end_test": run.test_loss[1] / run.test_loss[0],
        "rank": run.details.rank,
        "target": square_loss(0 * problem.y, problem.y),
    }


PROJECTION = Cell(projection, 1, static=("width",))


def compute(settings: Narrow, trials: Trials) -> xr.Dataset:
    """Descent with its linearisation at every tau, and the closed form under `projection_*` at every width.

    The ends of nets with m << d have a dimension of their own, `end_seed`.
    """
    descent = experiment(settings.protocol, settings.taus, trials)
    closed = trials.over(PROJECTION, {"width": settings.widths}, protocol=settings.wide)
    ends = replace(trials, seeds=settings.end_seeds).over(END, {}, spec=settings.ends)
    ends = ends.assign_coords(end_step=list(settings.ends.record)).rename(seed="end_seed")
    sizes = {"examples": settings.wide.n, "dimension": settings.wide.d}
    return xr.merge([descent, prefixed(closed, "projection_"), ends], join="exact").assign_attrs(sizes)


def _projected(ds: xr.Dataset) -> xr.DataArray:
    """Loss of the projection for the descent's data: where its linearisation ends."""
    return ds.linear_train_loss.isel(tau=-1, linear_step=-1)


def excess(ds: xr.Dataset) -> np.ndarray:
    """Train loss at the end at the largest tau over that of the projection, minus 1."""
    return (ds.train_loss.isel(tau=-1, step=-1) / _projected(ds) - 1).values


def distance_to_linearised(ds: xr.Dataset) -> np.ndarray:
    """|Train loss at the end over the linearised descent's at equal steps − 1|, at the largest tau."""
    linear = ds.linear_train_loss.isel(tau=-1, linear_step=-2)
    return abs(ds.train_loss.isel(tau=-1, step=-1) / linear - 1).values


def share_left(ds: xr.Dataset) -> np.ndarray:
    """Loss of the projection over that at the start, least over the widths whose rank is below n."""
    low = ds.width.values // 2 * ds.attrs["dimension"] < ds.attrs["examples"]
    return ds.projection_end.sel(width=ds.width.values[low]).min("width").values


def above_rich(ds: xr.Dataset) -> np.ndarray:
    """log10 of the train loss at the end at the largest tau over the least at any tau, counted up to 2.

    Nets that fit their targets to 1e-10 would otherwise make the interval as wide as that.
    """
    end = ds.train_loss.isel(step=-1)
    return np.minimum(np.log10((end.isel(tau=-1) / end.min("tau")).values), 2.0)


def decay(ds: xr.Dataset) -> np.ndarray:
    """Correlation of log(loss − projection) with the step at the largest tau, after the first 5 % of the run.

    What is below 1e-12 of the projection is rounding, and is left out.
    """
    gap = (ds.train_loss.isel(tau=-1) / _projected(ds) - 1).transpose("seed", "step")
    late = gap.step.values >= 0.05 * gap.step.values[-1]
    kept = [late & (row > 1e-12) for row in gap.values]
    rows = zip(gap.values, kept, strict=True)
    return np.array([np.corrcoef(gap.step.values[among], np.log(row[among]))[0, 1] for row, among in rows])


AT_100 = "tau = 100 was chosen after runs at 30, where one of three seeds leaves the point, and at 300."
CLAIMS = (
    Claim(
        sentence="Under-parameterised and lazy, the net ends where its linearisation ends.",
        source="note §4.6, §3.2",
        measure="|train loss at the end over the linearised descent's at equal steps − 1|, at the largest tau",
        quantity=distance_to_linearised,
        accepted=(-np.inf, 0.02),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="Under-parameterised and lazy, the model converges to a local minimum: the projection of the targets.",
        source="note §4.6, §3.2",
        measure="train loss at the end at the largest tau over the projection's on the range of Dh(w0), minus 1",
        quantity=excess,
        accepted=(-0.01, 0.01),
        note="A unit with a small readout is a slow direction: this budget suffices for most seeds, not for all. "
        "The limit of the linearised descent is the projection exactly.",
    ),
    Claim(
        sentence="For m << d the model converges to a stationary point.",
        source="note §4.6",
        measure="log10 of ‖∇F‖ at the end over its start, a net trained at tau = 100",
        quantity=lambda ds: np.log10(ds.end_gradient.isel(end_step=-1).values),
        accepted=(-np.inf, -3.0),
        moved=AT_100,
    ),
    Claim(
        sentence="For m << d that point is a local minimum, not a saddle.",
        source="note §4.6",
        measure="smallest over largest eigenvalue of the Hessian of F at the end of that net",
        quantity=lambda ds: ds.convexity.values,
        accepted=(-1e-6, np.inf),
        every_seed=True,
        moved=AT_100,
        note="To second order: half of its eigenvalues are 0, a symmetrised net having twice the weights of its rank.",
    ),
    Claim(
        sentence="For m << d it is the projection of the targets on the range of Dh(w0).",
        source="note §4.6, §3.2",
        measure="train loss at the end of that net over the projection's, minus 1",
        quantity=lambda ds: ds.end_loss.isel(end_step=-1).values - 1,
        accepted=(-0.01, 0.01),
        moved=AT_100,
    ),
    Claim(
        sentence="For m << d the train loss of the lazy model stalls above 0 (a trained net).",
        source="note §4.6",
        measure="train loss at the end of that net over its start",
        quantity=lambda ds: (ds.end_loss.isel(end_step=-1) * ds.projection_share).values,
        accepted=(1e-3, np.inf),
        scale=Scale.RATIO,
        moved=AT_100,
    ),
    Claim(
        sentence="For m << d the train loss of the lazy model stalls above 0 (the projection, d = 100).",
        source="note §4.6; at the note's d = 100",
        measure="loss of the projection over that at the start, least over the widths with (m/2)d < n",
        quantity=share_left,
        accepted=(1e-3, np.inf),
        scale=Scale.RATIO,
    ),
    Claim(
        sentence="It is not the global minimum: the same net trained from small weights goes lower.",
        source="note §3.2, §4.6",
        measure="log10 of the train loss at the end at the largest tau over the least at any tau, counted up to 2",
        quantity=above_rich,
        accepted=(float(np.log10(2)), np.inf),
    ),
    Claim(
        sentence="Convergence to it is geometric.",
        source="note §3.2",
        measure="correlation of log(train loss − projection's) with the step, at the largest tau, after 5 % of the run",
        quantity=decay,
        accepted=(-np.inf, -0.9),
        scale=Scale.CORRELATION,
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Losses and the gap to the projection against the step, and the projection's loss against width."""
    figure, (left, middle, right) = figures.new_figure(13.5, 4.3, columns=3, log=("y", "y", ""))
    colors = (figures.GREEN, figures.PURPLE, figures.BLUE)
    shown = [ds.tau.values[0], ds.tau.values[len(ds.tau) // 2], ds.tau.values[-1]]
    left.set_xscale("symlog", linthresh=1)
    for tau, color in zip(dict.fromkeys(shown), colors, strict=False):
        figures.curve(left, ds.train_loss.sel(tau=tau), "step", label=f"tau = {tau:g}", color=color)
    figures.levels(left, [figures.Level(_projected(ds), "projection", figures.ORANGE)])
    figures.finish(left, x="step of descent", y="train loss", legend="lower left")
    gap = ds.train_loss.isel(tau=-1) / _projected(ds) - 1
    figures.curve(middle, gap, "step", label=f"tau = {ds.tau.values[-1]:g}", color=figures.BLUE, marker="o")
    ends = abs(ds.end_loss - 1).clip(1e-6).rename(end_seed="seed", end_step="step")  # rounding is drawn at 1e-6
    figures.curve(middle, ends, "step", label="m << d, tau = 100, momentum", color=figures.GREEN)
    middle.axhline(0.01, color=figures.GREY, linestyle=":", label="1 %")
    figures.finish(middle, x="step of descent", y="|train loss / projection − 1|")
    right.set_yscale("symlog", linthresh=1e-3)
    figures.curve(right, ds.projection_end, "width", label="train", color=figures.ORANGE, marker="o")
    figures.curve(right, ds.projection_end_test, "width", label="held-out", color=figures.INK, marker="s")
    onto = 2 * ds.attrs["examples"] / ds.attrs["dimension"]
    right.axvline(onto, color=figures.GREY, linestyle=":", label=f"(m/2)d = n, m = {onto:.3g}")
    figures.finish(right, x=f"width m, at d = {ds.attrs['dimension']}", y="loss of the projection / loss at the start")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """The projection against width, means over seeds."""
    return figures.table(
        {
            "train loss left": ds.projection_end,
            "held-out loss left": ds.projection_end_test,
            "rank": ds.projection_rank,
        },
        "width",
    )


S4_6 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
