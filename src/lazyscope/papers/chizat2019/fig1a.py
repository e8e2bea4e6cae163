"""Chizat et al. 2019, Figure 1(a): particles |a| b of a small initialisation travel to the teacher's directions.

    lazyscope reproduce chizat2019-fig1a --size quick

tau = 0.1, the other settings in `particles`. The paper shows one draw (seed 1 of Julia); claims are over our trials. On
two idle cores: tiny 6 s, quick 10 s, paper 30 s.

Expected at quick (10 trials): relative movement 4.5, half of the mass within a cosine of 0.95 of a teacher unit, train
loss down by 3.6 decades.
"""

import numpy as np
import xarray as xr

from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers.chizat2019 import particles

SIZES = particles.sizes(0.1)
CAPTION = (
    "Paths of the particles |a| b from their start (dots near the origin) to the end of training, orange where a is "
    "positive and blue where it is negative; arrows are the teacher's units, the circle has radius 1. With tau = 0.1 "
    "the particles travel far and gather in a few directions, about half of their mass in those of the teacher."
)

compute, draw, numbers = particles.compute, particles.draw, particles.numbers


def movement(ds: xr.Dataset) -> np.ndarray:
    """Relative l2 movement of the parameters at the end."""
    return ds.movement.values


def aligned(ds: xr.Dataset) -> np.ndarray:
    """Share of the mass Σ|a||b| that ends within arccos .95 of a teacher direction of its sign."""
    return ds.aligned_mass.values


def fitted(ds: xr.Dataset) -> np.ndarray:
    """log10 of the final train loss over the initial one."""
    return np.log10((ds.train_loss.isel(step=-1) / ds.train_loss.isel(step=0)).values)


def _expect(outcome: Outcome | None) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": outcome, "paper": outcome}


CLAIMS = (
    Claim(
        sentence="In non-lazy training the parameters move far from their initialisation.",
        source="chizat2019 Figure 1(a)",
        measure="relative l2 movement of the parameters",
        quantity=movement,
        accepted=(1.0, np.inf),
        scale=Scale.RATIO,
        expected=_expect(Outcome.HOLDS),
    ),
    Claim(
        sentence="The particles gather along the teacher's directions.",
        source="chizat2019 Figure 1(a)",
        measure="share of the mass |a||b| within a cosine of .95 of a teacher unit of its sign",
        quantity=aligned,
        accepted=(0.8, np.inf),
        scale=Scale.SHARE,
        expected={"tiny": None, "quick": Outcome.INCONCLUSIVE, "paper": None},
        note="Half of the mass does, 1 to 98 %. 15 points do not determine the teacher: particles also gather between "
        "its units.",
    ),
    Claim(
        sentence="The net fits the teacher on the training points.",
        source="chizat2019 Figure 1(a)",
        measure="log10 of final over initial train loss",
        quantity=fitted,
        accepted=(-np.inf, -2.0),
        expected=_expect(Outcome.HOLDS),
    ),
)
