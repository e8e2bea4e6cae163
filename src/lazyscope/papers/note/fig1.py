"""Note, Figure 1: how far the weights move in the "lazy" and in the non-lazy regime, and what the word is worth.

    lazyscope reproduce note-fig1 --size quick

Plain initialisation, tau = 0.1 against tau = 2, steps 10 and 0.025 (the rule of Chizat et al. 2019): in v = w/tau
units the same step 0.1, so that equal steps are equal kernel_time. The sum S_t = Σ|w_t − w_0|/|w_0| of the note is
drawn; as a sum of ratios of Gaussians it has no mean over seeds, and is judged by its logarithm; the other claims are
on l2 movement. The same runs symmetrised stand beside: at tau = 2 these are lazy, the plain ones are not.
On two idle cores: tiny 10 s, quick 40 s, paper about 7 min.

Expected at quick (3 seeds, 2000 steps), plain at tau = 0.1 and 2: movement 0.46 and 0.107, largest group 1.7 and 1.0
(the readout is erased), S_t 1.2e4 and 980, gap g 0.46 and 8.7, test loss 1.9e-3 and 4.2e-3; symmetrised at tau = 2:
movement 1.6e-3, gap 0.019, test loss 2.2e-3. Of the final movement the first tenth of the steps makes .95 and the
second half 1e-5 at tau = 2, plain; .45 and .22 there symmetrised; .63 and .065 at tau = 0.1, plain; .73 and .021
symmetrised.

Measured at paper size (`docs/pictures/note-fig1-paper.png`), means of 10 trials after 10^4 steps (kernel_time 8.5e3):

              movement  largest group  S_t     gap g  test loss | symmetrised: movement  gap g  test loss
    tau 0.1   0.472     1.89           1.12e4  0.54   1.92e-3   |              0.365     0.48   1.70e-3
    tau 2     0.103     1.00           880     7.8    3.94e-3   |              0.0027    0.044  3.12e-3

By then the weights at tau = 0.1 have stopped as well (6e-4 of the movement in the second half), so that "throughout"
is a matter of the budget; the symmetrised gap lies between 0.032 and 0.054 of what was learnt, around the threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers.settings import FULL_BATCH, NO_STOP, NOT_STATED, Setting
from lazyscope.papers.student import Protocol
from lazyscope.papers.trajectories import along
from lazyscope.sweep import Progress, Store

LAZY, RICH = 2.0, 0.1


@dataclass(frozen=True)
class Movement:
    """The protocol, the two values of tau and the number of seeds."""

    protocol: Protocol
    taus: tuple[float, float]
    seeds: int


FULL = Protocol(num_steps=10_000)
SIZES = {
    "tiny": Movement(replace(FULL, n=40, n_test=40, d=8, width=8, num_steps=300), (RICH, LAZY), seeds=3),
    "quick": Movement(replace(FULL, num_steps=2000), (RICH, LAZY), seeds=5),
    "paper": Movement(FULL, (RICH, LAZY), seeds=10),
}
PLOTS = "the note says the setup of chizat2019, whose plots of movement are its Figure 1(a) and (b)"
SETTINGS = (
    FULL_BATCH,
    NO_STOP,
    Setting("taus", NOT_STATED, "those that chizat2019 calls non-lazy and lazy"),
    Setting("protocol.n", "15 in chizat2019's plots of movement", PLOTS),
    Setting("protocol.d", "2 in chizat2019's plots of movement", PLOTS),
    Setting("protocol.width", "16 in chizat2019's plots of movement", PLOTS),
    Setting("protocol.num_steps", NOT_STATED, "10000 in chizat2019's experiment over tau"),
    Setting("protocol.doubled", "no", "what is lazy at tau = 2 is the symmetrised net", run="no, and yes beside it"),
)
CAPTION = (
    "Left: the note's sum of relative changes. Middle: relative l2 movement of the weights. Right: test loss, and "
    "dashed that of the linearised descent at the same steps. Plain nets at tau = 2 (blue) move less than at tau = 0.1 "
    "(orange), but their readout is erased and they end far from their linearisation; symmetrised ones (dotted) hardly "
    "move and follow it. Full-batch descent without early stopping, where the note says SGD and stops early."
)


def compute(
    spec: Movement, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Trajectories at both tau, plain and symmetrised."""
    return along(spec.protocol, spec.taus, seeds=spec.seeds, key=key, store=store, progress=progress)


SYMMETRISED = "symmetrised_"


def movement_ratio(ds: xr.Dataset) -> np.ndarray:
    """Relative l2 movement at the end, tau = 0.1 over tau = 2, plain."""
    end = ds.movement.isel(step=-1)
    return (end.sel(tau=RICH) / end.sel(tau=LAZY)).values


def entrywise_ratio(ds: xr.Dataset, prefix: str) -> np.ndarray:
    """log10 of S_t at the end, tau = 0.1 over tau = 2. S_t has no mean over draws, its logarithm has."""
    end = ds[f"{prefix}entrywise"].isel(step=-1)
    return np.log10((end.sel(tau=RICH) / end.sel(tau=LAZY)).values)


def largest_group(ds: xr.Dataset, prefix: str) -> np.ndarray:
    """Largest relative movement of a parameter group at the end, tau = 2."""
    return ds[f"{prefix}largest_movement"].sel(tau=LAZY).isel(step=-1).values


def early_share(ds: xr.Dataset, prefix: str, tau: float, part: int) -> np.ndarray:
    """Share of the final l2 movement that is made in the first 1/part of the steps."""
    at = ds[f"{prefix}movement"].sel(tau=tau)
    return (at.sel(step=int(at.step[-1]) // part) / at.isel(step=-1)).values


def keeps_moving(ds: xr.Dataset, prefix: str) -> np.ndarray:
    """Share of the final l2 movement made in the second half of the steps, tau = 0.1."""
    return 1 - early_share(ds, prefix, RICH, 2)


def keeps_moving_more(ds: xr.Dataset) -> np.ndarray:
    """That share less the same of the lazy net, symmetrised."""
    lazy = 1 - early_share(ds, SYMMETRISED, LAZY, 2)
    return keeps_moving(ds, SYMMETRISED) - lazy


def furthest_gap(ds: xr.Dataset, prefix: str) -> np.ndarray:
    """log10 of the largest gap g of held-out outputs to the linearised descent along training, tau = 2."""
    return np.log10(ds[f"{prefix}gap"].sel(tau=LAZY).max("step").values)


def test_loss_ratio(ds: xr.Dataset) -> np.ndarray:
    """log10 of the test loss at the end, tau = 2 over tau = 0.1, plain, equal kernel_time."""
    end = ds.test_loss.isel(step=-1)
    return np.log10((end.sel(tau=LAZY) / end.sel(tau=RICH)).values)


def _expect(quick: Outcome, *paper: Outcome | None) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": quick, "paper": paper[0] if paper else quick}


def _both(
    sentence: str,
    source: str,
    measure: str,
    quantity: Callable[..., np.ndarray],
    accepted: tuple[float, float],
    outcomes: tuple[dict[str, Outcome | None], dict[str, Outcome | None]],
    notes: tuple[str, str] = ("", ""),
    **options: Any,
) -> tuple[Claim, Claim]:
    """A sentence on the plain nets of Figure 1, and on the symmetrised ones, of which those at tau = 2 are lazy."""
    plain, symmetrised = (
        Claim(
            sentence=f"{sentence} ({start}).",
            source=origin,
            measure=f"{measure}, {start}",
            quantity=partial(quantity, prefix=prefix),
            accepted=accepted,
            expected=outcome,
            note=note,
            **options,
        )
        for start, prefix, origin, outcome, note in zip(
            ("plain", "symmetrised"), ("", SYMMETRISED), (source, f"ours, on {source}"), outcomes, notes, strict=True
        )
    )
    return plain, symmetrised


H, F = Outcome.HOLDS, Outcome.FAILS
CLAIMS = (
    Claim(
        sentence="The weights change more in non-lazy than in lazy training.",
        source="note §4.2, Figure 1",
        measure="relative l2 movement at tau = 0.1 over that at tau = 2, plain, equal kernel_time",
        quantity=movement_ratio,
        accepted=(2.0, np.inf),
        scale=Scale.RATIO,
        expected=_expect(H),
    ),
    *_both(
        "By the note's own sum S_t the weights change more in non-lazy than in lazy training",
        "note §4.2, Figure 1",
        "log10 of S_t at the end at tau = 0.1 over that at tau = 2",
        entrywise_ratio,
        (0.0, np.inf),
        (_expect(H), _expect(H)),
    ),
    *_both(
        "In the lazy regime the weights change very little",
        "note §4.2, Figure 1",
        "largest relative l2 movement of a parameter group at tau = 2",
        largest_group,
        (-np.inf, 0.1),
        (_expect(F), _expect(H)),
        (
            "The readout weights are erased: in all the movement is small because the hidden weights outnumber them. "
            "This net is not lazy: g reaches 17.",
            "",
        ),
        scale=Scale.SIZE,
    ),
    *_both(
        "In the lazy regime the weights quickly stabilise",
        "note §4.2, Figure 1",
        "share of the final l2 movement made in the first tenth of the steps, tau = 2",
        partial(early_share, tau=LAZY, part=10),
        (0.9, 1.1),
        (_expect(H), _expect(F, None)),
        (
            "True of this net, which is not lazy; the lazy one beside it does not stand still.",
            "The net that is lazy goes on along the slow directions of its kernel for as long as it is trained.",
        ),
        scale=Scale.RATIO,
    ),
    *_both(
        "In non-lazy training the weights change substantially throughout",
        "note §4.2, Figure 1",
        "share of the final l2 movement made in the second half of the steps (evenly: 0.5), tau = 0.1",
        keeps_moving,
        (0.05, np.inf),
        (_expect(H, F), _expect(F)),
        ("By little, and not at ten thousand steps.", "It stands still sooner than the lazy net beside it."),
    ),
    Claim(
        sentence="In non-lazy training the weights go on changing for longer than in lazy training.",
        source="ours, on note §4.2",
        measure="share of the final l2 movement made in the second half, tau = 0.1 less tau = 2, symmetrised",
        quantity=keeps_moving_more,
        accepted=(0.0, np.inf),
        expected=_expect(F, None),
        note="The other way round: what the lazy net still has to learn it learns slowly.",
    ),
    *_both(
        "In the lazy regime the parameters closely follow the linearised gradient flow",
        "note §4.2",
        "log10 of the largest gap g of held-out outputs to the linearised descent along training, tau = 2; lazy <= .05",
        furthest_gap,
        (-np.inf, np.log10(0.05)),
        (_expect(F), _expect(H, Outcome.INCONCLUSIVE)),
        ("A plain net at tau = 2 is no lazy net: it unlearns its initial output by erasing its readout.", ""),
    ),
    Claim(
        sentence="The lazy regime ends at a higher test loss, it misses nonlinear relationships.",
        source="note §4.2, Figure 1",
        measure="log10 of end test loss at tau = 2 over that at tau = 0.1, plain, equal kernel_time",
        quantity=test_loss_ratio,
        accepted=(np.log10(1.5), np.inf),
        expected=_expect(H),
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """S_t, relative movement and test loss against the step."""
    figure, axes = figures.new_figure(14, 4.2, columns=3)
    panels = ("entrywise", "movement", "test_loss")
    labels = ("S_t, sum of relative changes", "relative movement ‖w − w0‖/‖w0‖", "test loss  ½‖f − y‖²")
    after = ds.isel(step=slice(1, None))
    for ax, name, label in zip(axes, panels, labels, strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        for tau, color in ((RICH, figures.ORANGE), (LAZY, figures.BLUE)):
            at = after.sel(tau=tau)
            figures.curve(ax, at[name], "step", label=f"plain, tau = {tau:g}", color=color)
            figures.curve(
                ax, at[f"symmetrised_{name}"], "step", label=f"symmetrised, tau = {tau:g}", color=color, line=":"
            )
        if name == "test_loss":
            linear = after.sel(tau=LAZY)
            figures.curve(
                ax,
                linear.linear_test_loss,
                "step",
                label="linearised, plain, tau = 2",
                color=figures.GREEN,
                line="--",
            )
        figures.finish(ax, x="iteration (equal kernel_time)", y=label)
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """What the claims rest on, at the end of training, means over seeds."""
    end = ds.isel(step=-1)
    return figures.table(
        {
            "movement": end.movement,
            "largest group": end.largest_movement,
            "S_t": end.entrywise,
            "gap g": end.gap,
            "test loss": end.test_loss,
            "symmetrised movement": end.symmetrised_movement,
            "symmetrised gap g": end.symmetrised_gap,
            "symmetrised test loss": end.symmetrised_test_loss,
            "kernel_time": end.kernel_time,
        },
        "tau",
    )
