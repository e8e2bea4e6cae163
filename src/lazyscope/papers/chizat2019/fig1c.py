"""Chizat et al. 2019, Figure 1(c): test loss against tau, end and best of training.

    lazyscope reproduce chizat2019-fig1c --size paper

Their settings (test_vs_scale.jl): d = 100, n = n_test = 1000, 50 units symmetrised, tau = 10^(-2.2:0.1:1), 10 trials,
10^4 steps of η = min(10, 0.1/tau²), the same initial draw for every tau of a trial. They show 1000 times the loss.
Shares its cells with note-fig4. On two cores: tiny 10 s, quick 40 s, paper about 15 min.

Measured at paper size (`docs/pictures/chizat2019-fig1c-paper.png`), means of 10 trials:

    tau               0.0063   0.01     0.0316   0.1      0.316    1        3.16     10
    end test loss     6.9e-5   9.4e-5   4.9e-4   1.70e-3  2.76e-3  3.09e-3  3.13e-3  3.13e-3
    best test loss    6.9e-5   9.4e-5   4.9e-4   1.48e-3  1.85e-3  1.88e-3  1.88e-3  1.88e-3
    linearised, same  2.8e-3   2.2e-3   2.1e-3   3.13e-3  3.13e-3  3.13e-3  3.13e-3  3.13e-3
"""

from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure
from scipy import stats

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers import panels
from lazyscope.papers.protocol import Protocol, Specification, decades, experiment
from lazyscope.papers.settings import Setting
from lazyscope.sweep import Progress, Store

FULL = Protocol()
SIZES = {
    "tiny": Specification(replace(FULL, n=40, n_test=40, d=8, width=8, num_steps=300), decades(-1.5, 1, 0.5), seeds=3),
    "quick": Specification(replace(FULL, num_steps=5000), decades(-2, 1, 0.5), seeds=3),
    "paper": Specification(FULL, decades(-2.2, 1, 0.1), seeds=10),
}
SETTINGS = (
    Setting("taus", "10^(-2.2) to 10 in steps of 10^0.1", "fewer values at quick"),
    Setting("protocol.num_steps", "10000", "time"),
    Setting("seeds", "10", "time"),
)
CAPTION = (
    "Generalisation worsens as the initialisation scale grows: test loss at the end of training (solid) and at its "
    "best (dotted), mean and one standard deviation over trials. The linearised model (orange) is what large tau tends "
    "to."
)


def compute(
    spec: Specification, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The runs at every tau and seed, with the linearised descent and the baselines beside them."""
    return experiment(spec.protocol, spec.taus, seeds=spec.seeds, key=key, store=store, progress=progress)


def rank_correlation(ds: xr.Dataset) -> np.ndarray:
    """Spearman correlation of tau and end test loss over all tau, per seed."""
    losses = ds.end_test_loss.transpose("seed", "tau").values
    return np.array([stats.spearmanr(ds.tau.values, row)[0] for row in losses])


def growth(ds: xr.Dataset) -> np.ndarray:
    """log10 of the end test loss at the largest tau over that at the smallest."""
    return np.log10((ds.end_test_loss.isel(tau=-1) / ds.end_test_loss.isel(tau=0)).values)


def cost_of_the_end(ds: xr.Dataset) -> np.ndarray:
    """log10 of end over best test loss at the largest tau."""
    last = ds.isel(tau=-1)
    return np.log10((last.end_test_loss / last.best_test_loss.isel(step=-1)).values)


EXPECTED = {"tiny": None, "quick": Outcome.HOLDS, "paper": Outcome.HOLDS}
CLAIMS = (
    Claim(
        sentence="Generalisation worsens as tau increases.",
        source="chizat2019 Figure 1(c), caption",
        measure="Spearman correlation of tau and end test loss",
        quantity=rank_correlation,
        accepted=(0.8, np.inf),
        scale=Scale.CORRELATION,
        expected=EXPECTED,
    ),
    Claim(
        sentence="The end test loss at large tau is several times that at small tau.",
        source="chizat2019 Figure 1(c)",
        measure="log10 of end test loss at the largest tau over that at the smallest",
        quantity=growth,
        accepted=(np.log10(3), np.inf),
        expected=EXPECTED,
    ),
    Claim(
        sentence="In the lazy regime the best test loss along training lies below that at the end.",
        source="chizat2019 Figure 1(c), dotted against solid line",
        measure="log10 of end over best test loss at the largest tau",
        quantity=cost_of_the_end,
        accepted=(0.05, np.inf),
        expected=EXPECTED,
        note="The best is chosen on the test loss itself, so it is not a test loss any more.",
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Losses against tau on logarithmic axes."""
    figure, (ax,) = figures.new_figure(7.6, 4.6)
    panels.loss_against_tau(ax, ds)
    figures.finish(ax, x="initialisation scale tau", y="test loss  ½‖f − y‖²", legend="lower right")
    return figure


numbers = panels.table
