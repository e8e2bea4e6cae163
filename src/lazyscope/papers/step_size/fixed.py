"""Note, Figure 7: the same experiment with a fixed step of 0.005, and why its trend is inverted.

    lazyscope reproduce note-fig7 --size quick

The note replaces η = min(10, 0.1/tau²) by 0.005 and finds the best test loss *falling* with tau. The rule it calls
obscure is a change of time: in v = w/tau units it is the constant step 0.1. A fixed step gives small tau almost no
training (2000 times less at tau = 0.1) and diverges beyond η·λmax(K)/n = 2, near tau = 7. The note does not say whether
this figure is symmetrised nor how many steps it takes; both starts are drawn, the number of steps is ours.
"""

from dataclasses import dataclass, replace
from functools import partial

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials, prefixed
from lazyscope.papers.initialisation import panels
from lazyscope.papers.initialisation.training import experiment, runs
from lazyscope.papers.quantities import FIRST, LAST, LAZY, Quantity, at, log10_ratio, power
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, NOT_STATED, NOTE_RULE, Setting
from lazyscope.papers.step_size.rules import fixed_step_size, power_step_size
from lazyscope.papers.student import NOTE_STOP, QUICK, TINY, Protocol, decades


@dataclass(frozen=True)
class StepSizes:
    """The fixed-step experiment, and the one at equal kernel_time that it is compared with.

    At `small_tau` plain nets are trained by η = 0.1·tau^power for each of `powers`, too, in as many steps as there.
    """

    protocol: Protocol
    matched: Protocol
    taus: tuple[float, ...]
    plain_taus: tuple[float, ...]
    matched_taus: tuple[float, ...]
    powers: tuple[float, ...]
    small_tau: float


POWERS, SMALL_TAU = (1.0, 0.0, -1.0), 0.1
FULL = Protocol(step_rule=fixed_step_size)
SIZES = {
    "tiny": Size(
        StepSizes(
            replace(TINY, step_rule=fixed_step_size),
            TINY,
            (0.1, 1.0, 10.0),
            (0.1, 1.0),
            (0.316228, 1.0, 10.0),
            POWERS,
            SMALL_TAU,
        ),
        seeds=3,
    ),
    "quick": Size(
        StepSizes(
            replace(FULL, num_steps=2000),
            QUICK,
            (0.01, 0.1, 0.316228, 1.0, 3.16228, 10.0),
            (0.01, 0.1, 1.0, 5.62341, 10.0),
            (0.1, 0.316228, 1.0, 10.0),
            POWERS,
            SMALL_TAU,
        ),
        seeds=3,
    ),
    "paper": Size(
        StepSizes(
            FULL,
            Protocol(),
            decades(-2, 1, 0.25),
            decades(-2, 1, 0.25),
            decades(-1, 1, 0.1),
            (2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0),
            SMALL_TAU,
        ),
        seeds=10,
    ),
}
STATED = (
    FULL_BATCH,
    NO_STOP,
    Setting("taus", NOT_STATED, "chizat2019's range"),
    Setting("protocol.num_steps", NOT_STATED, "10000 in chizat2019's code"),
    Setting("protocol.doubled", NOT_STATED, "§5.1 speaks of Figure 3, which is plain", run="yes, and no at plain_taus"),
    Setting("matched.doubled", "", "", run="yes at matched_taus, no at small_tau"),
    Setting("matched.stop", NOTE_RULE, "beside it the same with this rule", run="none, and 1e-4 in 100 iterations"),
)
CAPTION = (
    "Test loss against tau at a fixed step of 0.005 and a fixed number of steps: solid at the end, dotted at its best. "
    "The best falls with tau because small tau is hardly trained. In green the same nets at equal kernel_time, the "
    "invariant measure of training time: there it rises. Hatched columns diverged or ended unstable. Full-batch; the "
    "note does not say which start this is, how many steps, nor whether it stops early."
)


def compute(settings: StepSizes, trials: Trials) -> xr.Dataset:
    """Symmetrised runs at `tau`; plain, matched and early-stopped runs, and other step rules, under their own axes."""
    whole, small = replace(settings.matched, doubled=False), (settings.small_tau,)
    # Half of Figure 3's step there, and twice as many.
    halved = replace(whole, step_rule=partial(power_step_size, power=-2.0, at_one=0.05), num_steps=2 * whole.num_steps)
    rules = [replace(whole, step_rule=partial(power_step_size, power=power)) for power in settings.powers]
    parts = {
        "plain": experiment(replace(settings.protocol, doubled=False), settings.plain_taus, trials),
        "matched": runs(settings.matched, settings.matched_taus, trials),
        "whole": runs(whole, small, trials),
        "stopped": runs(replace(whole, stop=NOTE_STOP), small, trials),
        "halved": runs(halved, small, trials),
    }
    losses = [runs(rule, small, trials).end_test_loss.isel(tau=0, drop=True) for rule in rules]
    family = xr.concat(losses, xr.Variable("power", list(settings.powers)), join="exact").rename("power_end_test_loss")
    main = experiment(settings.protocol, settings.taus, trials)
    beside = [
        prefixed(ds[[kept for kept in KEPT if kept in ds]], f"{name}_", "tau", "step") for name, ds in parts.items()
    ]
    return xr.merge([main, family, *beside], join="exact")


KEPT = ("best_test_loss", "end_test_loss", "differential_change", "diverged", "unstable", "kernel_time", "gap")


def stable(ds: xr.Dataset, variable: str, prefix: str = "") -> xr.DataArray:
    """A variable of the runs under `prefix`, at the values of tau where no seed diverged or ended unstable."""
    ended = (ds[f"{prefix}diverged"] | ds[f"{prefix}unstable"]).any("seed")
    return ds[f"{prefix}{variable}"].sel({f"{prefix}tau": ~ended.values})


def laziness(prefix: str) -> Quantity:
    """The largest of g and j over their thresholds over the stable cells with tau >= 1: at most 1 is lazy."""
    tau = f"{prefix}tau"
    limits = {"gap": LAZY.gap_lazy, "differential_change": LAZY.differential_lazy}

    def largest(ds: xr.Dataset) -> xr.DataArray:
        ratios = [stable(ds, variable, prefix) / limit for variable, limit in limits.items()]
        return xr.concat(ratios, "decider", join="exact").sel({tau: slice(1, None)}).max(["decider", tau])

    return at(largest)


def distance_to_figure_3(ds: xr.Dataset, *, sign: int) -> xr.DataArray:
    """Least |log10 of end test loss over that of Figure 3's rule| over the rules with powers of this sign."""
    losses = ds.power_end_test_loss.sel(power=np.sign(ds.power) == sign)
    return abs(np.log10(losses / ds.whole_end_test_loss.isel(whole_tau=0))).min("power")


AFTER = "this claim was added, once g and j of these cells were known."
MEASURED = "|log10 of end test loss over that of Figure 3's rule η = 0.1/tau²| at tau = 0.1, plain"
CLAIMS = (
    Claim(
        sentence="With a fixed step the inverse result: the best test loss falls as tau increases (plain).",
        source="note §5.1, Figure 7 (dotted line)",
        measure="slope of log10 best test loss against log10 tau, stable plain cells",
        quantity=power(partial(stable, variable="best_test_loss", prefix="plain_"), "plain_tau", plain_step=LAST),
        accepted=(-np.inf, -0.05),
        note="§5.1 speaks of Figure 3, which is plain. In so many steps a plain net at tau = 1 has not even unlearnt "
        "its initial output.",
        moved="symmetrised nets alone were judged before; the note does not say which nets Figure 7 shows.",
    ),
    Claim(
        sentence="With a fixed step the inverse result: the best test loss falls as tau increases (symmetrised).",
        source="note §5.1, Figure 7 (dotted line)",
        measure="slope of log10 best test loss against log10 tau, stable symmetrised cells",
        quantity=power(partial(stable, variable="best_test_loss"), "tau", step=LAST),
        accepted=(-np.inf, -0.05),
        note="True of this number of steps; small tau is still at the loss of the zero predictor.",
    ),
    Claim(
        sentence="At equal kernel_time, too, the best test loss falls as tau increases.",
        source="ours, on note §5.1",
        measure="slope of log10 best test loss against log10 tau, equal kernel_time, tau >= 0.1",
        quantity=power(
            lambda ds: ds.matched_best_test_loss.sel(matched_tau=~ds.matched_diverged.any("seed").values),
            "matched_tau",
            matched_step=LAST,
        ),
        accepted=(-np.inf, -0.01),
        note="The inversion is a matter of unequal training times: matched, the loss rises with tau.",
    ),
    Claim(
        sentence="Under this setup training can be called lazy as tau increases (symmetrised).",
        source="note §5.1, a question",
        measure="largest of g/0.05 and j/0.1 over stable symmetrised cells with tau >= 1; lazy is at most 1",
        quantity=laziness(""),
        accepted=(-np.inf, 1.0),
        scale=Scale.SIZE,
        moved=AFTER,
    ),
    Claim(
        sentence="Under this setup training can be called lazy as tau increases (plain).",
        source="note §5.1, a question",
        measure="largest of g/0.05 and j/0.1 over stable plain cells with tau >= 1; lazy is at most 1",
        quantity=laziness("plain_"),
        accepted=(-np.inf, 1.0),
        scale=Scale.SIZE,
        note="No step size makes plain nets lazy: their linearisation has their initial output to unlearn.",
    ),
    Claim(
        sentence="The larger tau, the closer training keeps to its linearisation.",
        source="ours, on note §5.1",
        measure="slope of log10 gap g against log10 tau, stable symmetrised cells",
        quantity=power(partial(stable, variable="gap"), "tau"),
        accepted=(-np.inf, 0.0),
        note="g is small at small tau because nothing has been trained yet: at tau = 0.01 0.3 % of the loss is gone.",
        moved=AFTER,
    ),
    Claim(
        sentence="A figure like Figure 3 can be reproduced with lower step sizes for smaller tau (equal steps).",
        source="note §5.1",
        measure=f"least {MEASURED}, over η = 0.1·tau^p with p > 0, as many steps",
        quantity=at(partial(distance_to_figure_3, sign=1)),
        accepted=(-np.inf, 0.1),
        scale=Scale.SIZE,
        note="Smaller steps at smaller tau train it even less: Figure 3 needs the opposite.",
        moved="one rule, η = 0.005·min(tau, 1), was tried first, in fewer steps than Figure 3 has; it failed, too.",
    ),
    Claim(
        sentence="It can with higher step sizes for smaller tau (equal steps).",
        source="ours, on note §5.1",
        measure=f"least {MEASURED}, over η = 0.1·tau^p with −1 <= p < 0, as many steps",
        quantity=at(partial(distance_to_figure_3, sign=-1)),
        accepted=(-np.inf, 0.1),
        scale=Scale.SIZE,
        note="It need not be p = −2: at tau = 0.1 a tenth of the training ends within a sixth of the same test loss.",
    ),
    Claim(
        sentence="It can with lower step sizes and as many more steps (equal kernel_time).",
        source="ours, on note §5.1",
        measure="|log10 of end test loss with half the step and twice the steps over Figure 3's| at tau = 0.1, plain",
        quantity=lambda ds: abs(
            log10_ratio(at("halved_end_test_loss", halved_tau=FIRST), at("whole_end_test_loss", whole_tau=FIRST))(ds)
        ),
        accepted=(-np.inf, 0.1),
        scale=Scale.SIZE,
        note="As any stable step then does: all follow one gradient flow. Without a budget the hypothesis is true of "
        "every rule.",
    ),
    Claim(
        sentence="The test loss at convergence can be read off where it stops improving by 1e-4 in 100 iterations.",
        source="note §4.4; on the test loss, as in its code",
        measure="log10 of the test loss where this stops over that at the end of the full run, plain, tau = 0.1",
        quantity=log10_ratio(
            at("stopped_end_test_loss", stopped_tau=FIRST), at("whole_end_test_loss", whole_tau=FIRST)
        ),
        accepted=(-np.log10(1.05), np.log10(1.05)),
        note="The held-out data choose when to stop: what is reported is the best of training, and no test loss.",
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Best and end losses against tau for both starts, and the matched runs."""
    figure, (ax,) = figures.new_figure(7.8, 4.8, log="xy")
    for prefix, label, color in (("", "symmetrised", figures.BLUE), ("plain_", "plain", figures.ORANGE)):
        end = ds[f"{prefix}end_test_loss"].where(~ds[f"{prefix}diverged"])
        best = ds[f"{prefix}best_test_loss"].isel({f"{prefix}step": -1}).where(~ds[f"{prefix}diverged"])
        figures.curve(ax, end, f"{prefix}tau", label=f"{label}, end", color=color, marker="o")
        figures.curve(ax, best, f"{prefix}tau", label=f"{label}, best", color=color, line=":")
    matched = ds.matched_best_test_loss.isel(matched_step=-1)
    figures.curve(ax, matched, "matched_tau", label="symmetrised, best, equal kernel_time", color=figures.GREEN)
    figures.levels(ax, [figures.Level(ds.zero_test_loss, "zero", figures.GREY)])
    figures.mark_cells(ax, ds[["diverged", "unstable"]], ds.end_test_loss, "tau")
    figures.finish(ax, x="initialisation scale tau", y="test loss  ½‖f − y‖²")
    return figure


FIG7 = Figure(
    caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=panels.table, stated=STATED
)
