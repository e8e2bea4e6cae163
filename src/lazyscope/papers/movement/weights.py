"""Note, Figure 1: how far the weights move in the "lazy" and in the non-lazy regime, and what the word is worth.

    lazyscope reproduce note-fig1 --size quick

Plain initialisation, tau = 0.1 against tau = 2, steps 10 and 0.025 (the rule of Chizat et al. 2019): in v = w/tau units
the same step 0.1, so that equal steps are equal kernel_time. The sum S_t = Σ|w_t − w_0|/|w_0| of the note is drawn; as
a sum of ratios of Gaussians it has no mean over seeds, and is judged by its logarithm; the other claims are on l2
movement. The same runs symmetrised stand beside: at tau = 2 these are lazy, the plain ones are not.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib.figure
import numpy as np
import xarray as xr

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers.figure import Figure, Size
from lazyscope.papers.movement.training import LAZY_TAU, RICH_TAU, trajectories
from lazyscope.papers.quantities import LAST, LAZY, Quantity, at, difference, log10, log10_ratio
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP, NOT_STATED, Setting
from lazyscope.papers.student import TINY, Protocol, Scales

FULL = Protocol(num_steps=10_000)
SIZES = {
    "tiny": Size(Scales(TINY, (RICH_TAU, LAZY_TAU)), seeds=3),
    "quick": Size(Scales(replace(FULL, num_steps=2000), (RICH_TAU, LAZY_TAU)), seeds=5),
    "paper": Size(Scales(FULL, (RICH_TAU, LAZY_TAU)), seeds=10),
}
PLOTS = "the note says the setup of chizat2019, whose plots of movement are its Figure 1(a) and (b)"
STATED = (
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


SYMMETRISED = "symmetrised_"


def movement_ratio(ds: xr.Dataset) -> xr.DataArray:
    """Relative l2 movement at tau = 0.1 over tau = 2, plain."""
    return ds.movement.sel(tau=RICH_TAU) / ds.movement.sel(tau=LAZY_TAU)


def entrywise_ratio(prefix: str) -> Quantity:
    """log10 of S_t at the end, tau = 0.1 over tau = 2. S_t has no mean over draws, its logarithm has."""
    rich, lazy = (at(f"{prefix}entrywise", tau=tau, step=LAST) for tau in (RICH_TAU, LAZY_TAU))
    return log10_ratio(rich, lazy)


def largest_group(prefix: str) -> Quantity:
    """Largest relative movement of a parameter group at the end, tau = 2."""
    return at(f"{prefix}largest_movement", tau=LAZY_TAU, step=LAST)


def early_share(prefix: str, *, tau: float, part: int) -> Quantity:
    """Share of the final l2 movement that is made in the first 1/part of the steps."""

    def share(ds: xr.Dataset) -> np.ndarray:
        movement = ds[f"{prefix}movement"].sel(tau=tau)
        return (movement.sel(step=int(ds.step[-1]) // part) / movement.isel(step=-1)).values

    return share


def first_tenth(prefix: str) -> Quantity:
    """Share of the final l2 movement made in the first tenth of the steps, tau = 2."""
    return early_share(prefix, tau=LAZY_TAU, part=10)


def second_half(prefix: str, tau: float = RICH_TAU) -> Quantity:
    """Share of the final l2 movement made in the second half of the steps."""
    first = early_share(prefix, tau=tau, part=2)
    return lambda ds: 1 - first(ds)


def furthest_gap(prefix: str) -> Quantity:
    """log10 of the largest gap g of held-out outputs to the linearised descent along training, tau = 2."""
    return log10(at(lambda ds: ds[f"{prefix}gap"].max("step"), tau=LAZY_TAU))


def _both(
    sentence: str,
    source: str,
    measure: str,
    quantity: Callable[[str], Quantity],
    accepted: tuple[float, float],
    notes: tuple[str, str] = ("", ""),
    **options: Any,
) -> tuple[Claim, Claim]:
    """A sentence on the plain nets of Figure 1, and on the symmetrised ones, of which those at tau = 2 are lazy."""
    plain, symmetrised = (
        Claim(
            sentence=f"{sentence} ({start}).",
            source=origin,
            measure=f"{measure}, {start}",
            quantity=quantity(prefix),
            accepted=accepted,
            note=note,
            **options,
        )
        for start, prefix, origin, note in zip(
            ("plain", "symmetrised"), ("", SYMMETRISED), (source, f"ours, on {source}"), notes, strict=True
        )
    )
    return plain, symmetrised


CLAIMS = (
    Claim(
        sentence="The weights change more in non-lazy than in lazy training.",
        source="note §4.2, Figure 1",
        measure="relative l2 movement at tau = 0.1 over that at tau = 2, plain, equal kernel_time",
        quantity=at(movement_ratio, step=LAST),
        accepted=(2.0, np.inf),
        scale=Scale.RATIO,
    ),
    *_both(
        "By the note's own sum S_t the weights change more in non-lazy than in lazy training",
        "note §4.2, Figure 1",
        "log10 of S_t at the end at tau = 0.1 over that at tau = 2",
        entrywise_ratio,
        (0.0, np.inf),
    ),
    *_both(
        "In the lazy regime the weights change very little",
        "note §4.2, Figure 1",
        "largest relative l2 movement of a parameter group at tau = 2",
        largest_group,
        (-np.inf, 0.1),
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
        first_tenth,
        (0.9, 1.1),
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
        second_half,
        (0.05, np.inf),
        ("By little, and not at ten thousand steps.", "It stands still sooner than the lazy net beside it."),
    ),
    Claim(
        sentence="In non-lazy training the weights go on changing for longer than in lazy training.",
        source="ours, on note §4.2",
        measure="share of the final l2 movement made in the second half, tau = 0.1 less tau = 2, symmetrised",
        quantity=difference(second_half(SYMMETRISED), second_half(SYMMETRISED, LAZY_TAU)),
        accepted=(0.0, np.inf),
        note="The other way round: what the lazy net still has to learn it learns slowly.",
    ),
    *_both(
        "In the lazy regime the parameters closely follow the linearised gradient flow",
        "note §4.2",
        "log10 of the largest gap g of held-out outputs to the linearised descent along training, tau = 2; lazy <= .05",
        furthest_gap,
        (-np.inf, np.log10(LAZY.gap_lazy)),
        ("A plain net at tau = 2 is no lazy net: it unlearns its initial output by erasing its readout.", ""),
    ),
    Claim(
        sentence="The lazy regime ends at a higher test loss, it misses nonlinear relationships.",
        source="note §4.2, Figure 1",
        measure="log10 of end test loss at tau = 2 over that at tau = 0.1, plain, equal kernel_time",
        quantity=log10_ratio(at("test_loss", tau=LAZY_TAU, step=LAST), at("test_loss", tau=RICH_TAU, step=LAST)),
        accepted=(np.log10(1.5), np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """S_t, relative movement and test loss against the step."""
    figure, axes = figures.new_figure(14, 4.2, columns=3, log="xy")
    panels = ("entrywise", "movement", "test_loss")
    labels = ("S_t, sum of relative changes", "relative movement ‖w − w0‖/‖w0‖", "test loss  ½‖f − y‖²")
    after = ds.isel(step=slice(1, None))
    for ax, name, label in zip(axes, panels, labels, strict=True):
        for tau, color in ((RICH_TAU, figures.ORANGE), (LAZY_TAU, figures.BLUE)):
            one = after.sel(tau=tau)
            figures.curve(ax, one[name], "step", label=f"plain, tau = {tau:g}", color=color)
            figures.curve(
                ax, one[f"symmetrised_{name}"], "step", label=f"symmetrised, tau = {tau:g}", color=color, line=":"
            )
        if name == "test_loss":
            linear = after.sel(tau=LAZY_TAU)
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


FIG1 = Figure(
    caption=CAPTION, sizes=SIZES, compute=trajectories, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED
)
