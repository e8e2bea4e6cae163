"""Chizat et al. 2019, Figure 1(b): particles |a| b of a large initialisation hardly move.

    lazyscope reproduce chizat2019-fig1b --size quick

tau = 2, the other settings in `particles`. On two idle cores: tiny 6 s, quick 10 s, paper 30 s.

Expected at quick (10 trials): relative movement 0.07, mass turned by 1.6 degrees, train loss down by 3.9 decades.
"""

import numpy as np
import xarray as xr

from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers.chizat2019 import particles

SIZES = particles.sizes(2.0)
CAPTION = (
    "The same as Figure 1(a) with tau = 2: the particles stay where they started, in pairs of opposite sign, and the "
    "net fits the training points all the same."
)

compute, draw, numbers = particles.compute, particles.draw, particles.numbers


def movement(ds: xr.Dataset) -> np.ndarray:
    """Relative l2 movement of the parameters at the end."""
    return ds.movement.values


def turn(ds: xr.Dataset) -> np.ndarray:
    """Mean angle in degrees by which the mass turned."""
    return np.degrees(ds.turn.values)


def fitted(ds: xr.Dataset) -> np.ndarray:
    """log10 of the final train loss over the initial one."""
    return np.log10((ds.train_loss.isel(step=-1) / ds.train_loss.isel(step=0)).values)


def _expect(outcome: Outcome | None) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": outcome, "paper": outcome}


CLAIMS = (
    Claim(
        sentence="In lazy training the parameters hardly move.",
        source="chizat2019 Figure 1(b)",
        measure="relative l2 movement of the parameters",
        quantity=movement,
        accepted=(-np.inf, 0.1),
        scale=Scale.SIZE,
        expected=_expect(Outcome.HOLDS),
    ),
    Claim(
        sentence="The particles do not turn to the teacher's directions.",
        source="chizat2019 Figure 1(b)",
        measure="mean angle, weighted by mass, between a particle's start and end, in degrees",
        quantity=turn,
        accepted=(-np.inf, 10.0),
        scale=Scale.SIZE,
        expected=_expect(Outcome.HOLDS),
    ),
    Claim(
        sentence="The net fits the training points all the same.",
        source="chizat2019 Figure 1(b)",
        measure="log10 of final over initial train loss",
        quantity=fitted,
        accepted=(-np.inf, -2.0),
        expected=_expect(Outcome.HOLDS),
    ),
)
