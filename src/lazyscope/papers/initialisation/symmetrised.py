"""Test loss against tau with symmetrised initialisation: Chizat et al. 2019, Figure 1(c), and note, Figure 4.

    lazyscope reproduce chizat2019-fig1c --size paper
    lazyscope reproduce note-fig4 --size quick

Two-layer ReLU net of 50 units in 25 pairs, n = n_test = 1000 points on the sphere of R^100, the same initial draw for
every tau of a trial. Settings of the first (test_vs_scale.jl): tau = 10^(-2.2:0.1:1), 10 trials, 10^4 steps of η =
min(10, 0.1/tau²); they show 1000 times the loss. The note gives no range of tau and no number of steps; `stated` says
so on the page. The two share their cells.
"""

from dataclasses import replace

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size, Trials
from lazyscope.papers.initialisation import panels
from lazyscope.papers.initialisation.training import experiment
from lazyscope.papers.quantities import FIRST, LAST, at, log10_ratio, rank_correlation
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, NOT_STATED, Setting
from lazyscope.papers.student import QUICK, TINY, Protocol, Scales, decades

PLATEAU = slice(3, None)


def compute(settings: Scales, trials: Trials) -> xr.Dataset:
    """The runs at every tau and seed, with the linearised descent and the baselines beside them."""
    return experiment(settings.protocol, settings.taus, trials)


def rise(ds: xr.Dataset) -> np.ndarray:
    """log10 of the end test loss at tau = 1 over that at the smallest tau."""
    end = ds.end_test_loss
    return np.log10((end.sel(tau=1, method="nearest") / end.isel(tau=0)).values)


def plateau(ds: xr.Dataset) -> np.ndarray:
    """End test loss at the largest tau over that at the first tau >= 3, minus 1."""
    end = ds.end_test_loss.sel(tau=PLATEAU)
    return (end.isel(tau=-1) / end.isel(tau=0) - 1).values


def distance_to_linearised(ds: xr.Dataset) -> np.ndarray:
    """Largest relative difference of the end test loss to the linearised descent's, over tau >= 3."""
    linear = ds.linear_test_loss.isel(linear_step=-2)
    return abs(ds.end_test_loss / linear - 1).sel(tau=PLATEAU).max("tau").values


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Losses against tau on logarithmic axes with the linearised model, its limit and the baselines."""
    figure, (ax,) = figures.new_figure(7.6, 4.6, log="xy")
    panels.loss_against_tau(ax, ds)
    figures.finish(ax, x="initialisation scale tau", y="test loss  ½‖f − y‖²", legend="lower right")
    return figure


FIG1C = Figure(
    caption="Generalisation worsens as the initialisation scale grows: test loss at the end of training (solid) and at "
    "its best (dotted), mean and one standard deviation over trials. The linearised model (orange) is what large tau "
    "tends to.",
    sizes={
        "tiny": Size(Scales(TINY, decades(-1.5, 1, 0.5)), seeds=3),
        "quick": Size(Scales(QUICK, decades(-2, 1, 0.5)), seeds=3),
        "paper": Size(Scales(Protocol(), decades(-2.2, 1, 0.1)), seeds=10),
    },
    compute=compute,
    claims=(
        Claim(
            sentence="Generalisation worsens as tau increases.",
            source="chizat2019 Figure 1(c), caption",
            measure="Spearman correlation of tau and end test loss",
            quantity=rank_correlation("end_test_loss", "tau"),
            accepted=(0.8, np.inf),
            scale=Scale.CORRELATION,
        ),
        Claim(
            sentence="The end test loss at large tau is several times that at small tau.",
            source="chizat2019 Figure 1(c)",
            measure="log10 of end test loss at the largest tau over that at the smallest",
            quantity=log10_ratio(at("end_test_loss", tau=LAST), at("end_test_loss", tau=FIRST)),
            accepted=(np.log10(3), np.inf),
        ),
        Claim(
            sentence="In the lazy regime the best test loss along training lies below that at the end.",
            source="chizat2019 Figure 1(c), dotted against solid line",
            measure="log10 of end over best test loss at the largest tau",
            quantity=log10_ratio(at("end_test_loss", tau=LAST), at("best_test_loss", tau=LAST, step=LAST)),
            accepted=(0.05, np.inf),
            note="The best is chosen on the test loss itself, so it is not a test loss any more.",
        ),
    ),
    draw=draw,
    numbers=panels.table,
    stated=(
        Setting("taus", "10^(-2.2) to 10 in steps of 10^0.1", "fewer values at quick"),
        Setting("protocol.num_steps", "10000", "time"),
        Setting("seeds", "10", "time"),
    ),
)

FIG4 = replace(
    FIG1C,
    caption="Test loss at the end of training (solid) and at its best (dotted) against the initialisation scale tau, "
    "mean and one standard deviation over trials; orange, the same budget of the linearised model. From tau = 1 on the "
    "two coincide: this plateau is lazy training. Below, the net leaves its linearisation behind and generalises "
    "better. The dashed level is where the linearised model ends when it is trained for ever. Full-batch descent "
    "without early stopping, where the note says SGD and stops early.",
    sizes={
        "tiny": Size(Scales(TINY, decades(-1.5, 1.5, 0.5)), seeds=3),
        "quick": Size(Scales(QUICK, decades(-2, 2, 0.5)), seeds=3),
        "paper": Size(Scales(Protocol(), decades(-2.2, 1, 0.1) + decades(1.5, 3, 0.5) + decades(4, 6, 1)), seeds=10),
    },
    claims=(
        Claim(
            sentence="The test loss increases with the initialisation scale tau.",
            source="note §4.3, Figure 4; chizat2019 Figure 1(c)",
            measure="log10 of end test loss at tau = 1 over that at the smallest tau",
            quantity=rise,
            accepted=(np.log10(2), np.inf),
        ),
        Claim(
            sentence="The test loss then reaches a plateau as tau increases further.",
            source="note §3.3, §4.3, Figure 4",
            measure="end test loss at the largest tau over that at the first tau >= 3, minus 1",
            quantity=plateau,
            accepted=(-0.05, 0.05),
        ),
        Claim(
            sentence="On the plateau training is lazy: the net ends where its linearisation ends.",
            source="note §3.3, §4.3",
            measure="largest |end test loss / that of the linearised descent − 1| over tau >= 3",
            quantity=distance_to_linearised,
            accepted=(-np.inf, 0.02),
            scale=Scale.SIZE,
            note="Both at the same steps; the linearised model itself would go on to the dashed level.",
        ),
    ),
    stated=(
        FULL_BATCH,
        NO_STOP,
        Setting("taus", NOT_STATED, "chizat2019's range and two decades more"),
        Setting("protocol.num_steps", NOT_STATED, "10000 in chizat2019's code"),
        Setting("seeds", NOT_STATED, "10 in chizat2019's code"),
    ),
)
