"""Note, §3.3: the criterion against the initialisation scale tau, plain and symmetrised.

    lazyscope reproduce note-s3.3 --size quick

For plain initialisation kappa tends to kappa_inf > 0 as tau grows: a plateau of the criterion, not of the test loss,
and no sign of lazy training (note-fig3). For symmetrised initialisation it has no plateau, kappa = tau^-2 kappa(1).
With h(w0) = 0 the criterion passes 0.1 at a smaller tau, by 0.04 decades; below kappa_inf a plain net never gets. On
the test loss, where the note verified it, the symmetrised plateau does come earlier (cells of note-fig3).
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.initialisation.training import BOTH_STARTS, TwoStarts, from_both_starts
from lazyscope.papers.kappa.closed_form import FULL, SMALL, STATED, Plane, kappa_from_both_starts
from lazyscope.papers.quantities import LAST, at, log10_ratio, power
from lazyscope.papers.student import decades

SATISFIED = 0.1  # kappa << 1, as in note-s1.1-regimes


@dataclass(frozen=True)
class Scales(Plane):
    """Where kappa is evaluated, and the runs of note-fig3 whose test losses are looked at beside it."""

    trained: TwoStarts
    trained_seeds: int


def _with_crossing(taus: tuple[float, ...]) -> tuple[float, ...]:
    # Both starts pass kappa = 0.1 between tau = 0.1 and 0.2, close to each other.
    return tuple(sorted({*taus, *decades(-1, -0.7, 0.05)}))


SIZES = {
    "tiny": Size(Scales(SMALL, decades(-2, 4, 1), (1.0,), BOTH_STARTS["tiny"], trained_seeds=3), seeds=3),
    "quick": Size(
        Scales(FULL, _with_crossing(decades(-2, 4, 0.5)), (1.0,), BOTH_STARTS["quick"], trained_seeds=3), seeds=5
    ),
    "paper": Size(
        Scales(FULL, _with_crossing(decades(-2.2, 6, 0.2)), (1.0,), BOTH_STARTS["paper"], trained_seeds=10), seeds=10
    ),
}
CAPTION = (
    "Left, kappa at initialisation against tau. Plain (blue), it stops falling at kappa_inf, the level at which the "
    "residual is the initial output itself. Symmetrised (orange), it falls as tau^−2 for ever: there is no plateau of "
    "the criterion. Right, the test loss after training: it is flat where symmetrised kappa is still falling, and for "
    "symmetrised nets from a smaller tau on."
)


def compute(settings: Scales, trials: Trials) -> xr.Dataset:
    """Kappa at every tau and seed from both starts, and the test losses of the trained nets.

    These have dimensions of their own, `trained_tau`, `symmetrised_tau` and `trained_seed`.
    """
    both = kappa_from_both_starts(settings, trials).isel(alpha=0)
    losses = from_both_starts(settings.trained, replace(trials, seeds=settings.trained_seeds))
    losses = losses[["end_test_loss", "symmetrised_end_test_loss"]]
    return both.merge(losses.rename(tau="trained_tau", seed="trained_seed"), join="exact")


def crossing(ds: xr.Dataset) -> np.ndarray:
    """log10 of the tau at which plain kappa falls to 0.1 over that of symmetrised kappa, interpolated in logarithms.

    A kappa that never does counts as doing so at the largest tau.
    """
    values = ds[["kappa", "symmetrised_kappa"]].transpose("seed", "tau")
    plain, paired = (_satisfied(values[name], np.log10(ds.tau.values)) for name in values.data_vars)
    return plain - paired


def _satisfied(kappa: xr.DataArray, log_tau: np.ndarray) -> np.ndarray:
    # np.interp wants an increasing abscissa: minus log kappa is, up to a few per cent near kappa_inf.
    return np.array([np.interp(-np.log10(SATISFIED), -np.log10(row), log_tau) for row in kappa.values])


def earlier_plateau(ds: xr.Dataset) -> np.ndarray:
    """Decades of tau by which the symmetrised test loss reaches its plateau before the plain one, per trained seed."""
    plain = _reached(ds.end_test_loss, "trained_tau")
    return plain - _reached(ds.symmetrised_end_test_loss, "symmetrised_tau")


def _reached(loss: xr.DataArray, axis: str) -> np.ndarray:
    """log10 of the tau from which on the loss stays within 10 % of that at the largest tau, interpolated."""
    logs, log_tau = np.log(loss.transpose("trained_seed", axis).values), np.log10(loss[axis].values)
    found = []
    for row in logs - logs[:, -1:]:
        outside = np.flatnonzero(np.abs(row) > np.log(1.1))
        if outside.size == 0:
            found.append(log_tau[0])
            continue
        last = outside[-1]
        share = (np.sign(row[last]) * np.log(1.1) - row[last]) / (row[last + 1] - row[last])
        found.append(log_tau[last] + share * (log_tau[last + 1] - log_tau[last]))
    return np.array(found)


CLAIMS = (
    Claim(
        sentence="For non-symmetrised initialisation the criterion stabilises as tau increases.",
        source="note §3.3, appendix A",
        measure="kappa at the largest tau over kappa at tau = 10, minus 1",
        quantity=at(lambda ds: ds.kappa / ds.kappa.sel(tau=10.0) - 1, tau=LAST),
        accepted=(-0.05, 0.05),
        note="A constant kappa_inf > 0 is no entry into the lazy regime: see note-fig3.",
    ),
    Claim(
        sentence="There kappa ≈ ‖h(w')‖ ‖D²h(w')‖ / ‖Dh(w')‖².",
        source="note §3.3",
        measure="kappa at the largest tau over kappa_inf, minus 1",
        quantity=at(lambda ds: ds.kappa / ds.kappa_inf - 1, tau=LAST),
        accepted=(-0.01, 0.01),
    ),
    Claim(
        sentence="For symmetrised initialisation the plateau of the criterion occurs earlier as tau increases.",
        source="note §3.3",
        measure="log10 of kappa at tau = 10 over kappa at tau = 1; a plateau is 0",
        quantity=log10_ratio(at("symmetrised_kappa", tau=10.0), at("symmetrised_kappa", tau=1.0)),
        accepted=(-0.1, 0.1),
        note="There is none: with h(w0) = 0 kappa is ‖y‖‖D²h‖/‖Dh‖² and falls as tau^−q. Only the test loss is flat.",
    ),
    Claim(
        sentence="For symmetrised initialisation the criterion is satisfied at lower values of tau.",
        source="note §3.3, §4.3",
        measure="log10 of the tau at which plain kappa falls to 0.1 over that at which symmetrised kappa does",
        quantity=crossing,
        accepted=(0.0, np.inf),
        note="By little at 0.1, where y is still most of the residual; below kappa_inf plain nets never get.",
    ),
    Claim(
        sentence="For symmetrised initialisation the plateau of the test loss occurs earlier as tau increases.",
        source="note §3.3, §4.3, Figures 3 and 4: verified on the test loss",
        measure="decades of tau from which on the test loss stays within 10 % of its last: plain minus symmetrised",
        quantity=earlier_plateau,
        accepted=(0.0, np.inf),
        note="By 0.46 decades at quick size.",
    ),
    Claim(
        sentence="For symmetrised initialisation the criterion falls as tau^−q, q = 2.",
        source="ours, from note appendix A",
        measure="slope of log kappa against log tau",
        quantity=power("symmetrised_kappa", "tau"),
        accepted=(-2.01, -1.99),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Kappa against tau and the test loss against tau, plain and symmetrised."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2, log="xy")
    figures.curve(left, ds.kappa, "tau", label="plain", color=figures.BLUE, marker="o")
    figures.curve(left, ds.symmetrised_kappa, "tau", label="symmetrised", color=figures.ORANGE, marker="s")
    figures.levels(left, [figures.Level(ds.kappa_inf.isel(tau=-1), "kappa_inf", figures.GREY)])
    figures.finish(left, x="initialisation scale tau", y="kappa")
    trained = ds[["end_test_loss", "symmetrised_end_test_loss"]].rename(trained_seed="seed")
    figures.curve(right, trained.end_test_loss, "trained_tau", label="plain", color=figures.BLUE, marker="o")
    figures.curve(
        right,
        trained.symmetrised_end_test_loss,
        "symmetrised_tau",
        label="symmetrised",
        color=figures.ORANGE,
        marker="s",
    )
    figures.finish(right, x="initialisation scale tau", y="test loss  ½‖f − y‖²")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Kappa against tau, means over seeds."""
    return figures.table({"plain": ds.kappa, "symmetrised": ds.symmetrised_kappa}, "tau")


S3_3 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
