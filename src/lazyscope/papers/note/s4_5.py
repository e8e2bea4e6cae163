"""Note, §4.5: asymmetric initialisation and the number of parameters.

    lazyscope reproduce note-s4.5 --size paper

The protocol of chizat2019-fig2a, whose cells it shares: the note's own figure for this section does not exist, and its
code trains other nets (teacher of 20 units, weights that shrink with m, widths up to 8, loss divided by the scale).
On two cores: tiny 10 s, quick 45 s, paper about 90 min. Quick stops after 1000 steps: kernel_time 160 at m^(-1/2) and 8
at 1/m, of 4100 and 205 at paper size, where 1/m with three trials is inconclusive: slope 0.066 (-0.003 to 0.134).
"""

from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope.claims import Claim, Outcome, Scale
from lazyscope.papers import width_panels
from lazyscope.papers.settings import FULL_BATCH, NO_STOP
from lazyscope.papers.width_panels import equal_time_loss, log_slope
from lazyscope.papers.widths import MEAN, SIZES, SQRT, Widths, over_width
from lazyscope.sweep import Progress, Store

__all__ = ["CAPTION", "CLAIMS", "SIZES", "compute", "draw", "numbers"]

SETTINGS = (FULL_BATCH, NO_STOP)
CAPTION = (
    "Left: test loss at the end of training against width, for both output scales, plain initialisation; dashed, their "
    "linearised models; dotted, m^(−1/2) at the kernel_time that 1/m reaches, a twentieth of its steps. Right: how far "
    "each net ends from its linearisation and how far its weights moved. At quick size no run is at its end: 1000 of "
    "25000 steps, kernel_time 160 at m^(−1/2) and 8 at 1/m, with every cell still improving; at paper size, with three "
    "trials, the slope at 1/m was 0.066 (−0.003 to 0.134)."
)


def compute(
    spec: Widths, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The runs at every width, output scale and seed."""
    return over_width(spec, key=key, store=store, progress=progress)


def slope_difference(ds: xr.Dataset) -> np.ndarray:
    """Slope of log loss against log m at m^(-1/2) minus that at 1/m, over m >= 32."""
    return log_slope(ds.end_test_loss.sel(exponent=SQRT)) - mean_slope(ds)


def mean_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of log loss against log m at 1/m, over m >= 32."""
    return log_slope(ds.end_test_loss.sel(exponent=MEAN))


def equal_time_ratio(ds: xr.Dataset) -> np.ndarray:
    """log10 of test loss at m^(-1/2) over that at 1/m, at equal kernel_time and the largest width."""
    other = ds.end_test_loss.sel(exponent=MEAN)
    return np.log10((equal_time_loss(ds) / other).isel(width=-1).values)


def gap_slope(ds: xr.Dataset) -> np.ndarray:
    """Slope of log g against log m at m^(-1/2), over m >= 32."""
    return log_slope(ds.gap.sel(exponent=SQRT))


def laziness_difference(ds: xr.Dataset, variable: str) -> np.ndarray:
    """Slope of log g (or j) against log m at m^(-1/2) minus that at 1/m, over m >= 32, paired by seed."""
    return log_slope(ds[variable].sel(exponent=SQRT)) - log_slope(ds[variable].sel(exponent=MEAN))


def unfinished(ds: xr.Dataset) -> np.ndarray:
    """Share of the cells over m >= 32 at 1/m whose train loss was still falling at the end."""
    return ds.still_improving.sel(exponent=MEAN, width=ds.width >= width_panels.WIDE).mean("width").values


def last_gap(ds: xr.Dataset) -> np.ndarray:
    """The gap g at m^(-1/2) and the largest width."""
    return ds.gap.sel(exponent=SQRT).isel(width=-1).values


def _expect(quick: Outcome, paper: Outcome | None) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": quick, "paper": paper}


CLAIMS = (
    Claim(
        sentence="1/√m leads to loss of generalisation as m grows, more than 1/m.",
        source="note §4.5",
        measure="slope of log end test loss against log m over m >= 32: m^(−1/2) minus 1/m, paired by seed",
        quantity=slope_difference,
        accepted=(0.0, np.inf),
        expected=_expect(Outcome.HOLDS, Outcome.HOLDS),
    ),
    Claim(
        sentence="1/m remains stable as m grows.",
        source="note §4.5",
        measure="slope of log end test loss against log m over m >= 32 at 1/m",
        quantity=mean_slope,
        accepted=(-0.1, 0.1),
        expected=_expect(Outcome.HOLDS, None),
        note="Of this budget: see the claim below. At paper size with three trials inconclusive, −0.003 to 0.134.",
    ),
    Claim(
        sentence="At 1/m the training that this compares has come to its end.",
        source="ours, on note §4.5",
        measure="share of the cells at 1/m, m >= 32, whose train loss was still falling at the end of the budget",
        quantity=unfinished,
        accepted=(-np.inf, 0.1),
        scale=Scale.SHARE,
        expected=_expect(Outcome.FAILS, None),
    ),
    Claim(
        sentence="The difference is one of output scale, not of training time.",
        source="ours, on note §4.5",
        measure="log10 of test loss at m^(−1/2) over that at 1/m at equal kernel_time, at the largest width",
        quantity=equal_time_ratio,
        accepted=(np.log10(2), np.inf),
        expected=_expect(Outcome.HOLDS, Outcome.HOLDS),
        note="At equal steps m^(−1/2) trains for 20 times the kernel_time of 1/m; here it stops at a twentieth.",
    ),
    Claim(
        sentence="With 1/√m wider nets are lazier.",
        source="note §4.7",
        measure="slope of log g against log m over m >= 32 at m^(−1/2); kappa would fall as m^(−1/2)",
        quantity=gap_slope,
        accepted=(-np.inf, -0.1),
        expected=_expect(Outcome.HOLDS, Outcome.HOLDS),
    ),
    Claim(
        sentence="Its bound decreases faster than that of 1/m: more lazy behaviour as m grows (outputs).",
        source="note §4.7",
        measure="slope of log g against log m over m >= 32: m^(−1/2) minus 1/m, paired by seed",
        quantity=partial(laziness_difference, variable="gap"),
        accepted=(-np.inf, 0.0),
        expected=_expect(Outcome.HOLDS, None),
        note="At equal steps, so 1/m has trained for a twentieth of the kernel_time.",
    ),
    Claim(
        sentence="Its bound decreases faster than that of 1/m: more lazy behaviour as m grows (differential).",
        source="note §4.7",
        measure="slope of log j against log m over m >= 32: m^(−1/2) minus 1/m, paired by seed",
        quantity=partial(laziness_difference, variable="differential_change"),
        accepted=(-np.inf, 0.0),
        expected=_expect(Outcome.HOLDS, None),
    ),
    Claim(
        sentence="At the largest width they train lazily.",
        source="chizat2019 §1.2, on note §4.5",
        measure="gap g at m^(−1/2) and the largest width; lazy is g <= 0.05",
        quantity=last_gap,
        accepted=(-np.inf, 0.05),
        scale=Scale.SIZE,
        expected=_expect(Outcome.FAILS, Outcome.FAILS),
    ),
)
draw = width_panels.draw
numbers = width_panels.numbers
