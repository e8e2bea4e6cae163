"""Chizat et al. 2019, Figure 2(a): test loss against width for alpha = m^(-1/2) and 1/m.

    lazyscope reproduce chizat2019-fig2a --size paper

Their settings (test_vs_m.jl): d = 100, n = n_test = 1000, teacher times 100, plain initialisation, m = 2..512, 25000
steps of η = 1/m and 0.05/m, 10 trials. They show 0.1 times the loss; we divide by the square of the target scale, so
that numbers compare with the other figures. Shares its cells with note-s4.5. On two cores: tiny 15 s, quick 40 s, paper
about 90 min. Quick stops after 1000 steps: kernel_time 160 at m^(-1/2) and 8 at 1/m, of 4200 and 210 at paper size.

Measured at paper size with 3 trials (`docs/pictures/chizat2019-fig2a-paper.png`), means, times 10^-4:

    m                        2     4     6     8     16    32    64    128   256   512
    m^(-1/2), end            17.9  5.67  .010  .009  3.30  4.99  6.62  7.52  7.96  8.62
    at the time of 1/m       17.9  5.65  .083  .209  3.20  4.92  6.59  7.54  8.00  8.71
    1/m, end                 18.1  5.83  .028  .067  1.09  1.64  1.90  1.92  1.97  2.03
    m^(-1/2), linearised     32.9  31.5  34.5  36.8  31.2  24.2  19.8  17.2  15.8  14.7
    gap g, m^(-1/2)          .78   .75   .80   .83   .72   .57   .45   .36   .29   .23
    gap g, 1/m               .77   .72   .68   .65   .59   .52   .48   .46   .43   .41

The slope over m >= 32 is 0.185 (0.100 to 0.269) at m^(-1/2) and 0.066 (-0.003 to 0.134) at 1/m, which note-s4.5 finds
inconclusive against 0.1. No run is unstable. kernel_time is 4090 and 205 at m = 512; from m = 16 on m^(-1/2) ends where
it was at the kernel_time of 1/m.
"""

import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from lazyscope.claims import Claim, Outcome
from lazyscope.papers import width_panels
from lazyscope.papers.settings import Setting
from lazyscope.papers.width_panels import log_slope
from lazyscope.papers.widths import MEAN, SIZES, SQRT, Widths, over_width
from lazyscope.sweep import Progress, Store

__all__ = ["CAPTION", "CLAIMS", "SIZES", "compute", "draw", "numbers"]

SETTINGS = (
    Setting("protocol.num_steps", "25000", "time: kernel_time 160 and 8 of 4200 and 210"),
    Setting("widths", "2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512", "time"),
    Setting("seeds", "10", "time"),
)
CAPTION = (
    "Left: test loss at the end of training against width, mean and one standard deviation over trials, in units of "
    "the squared target scale. Dashed, the linearised models at the same steps; dotted, m^(−1/2) at the kernel_time "
    "that 1/m reaches. Right: what the width does to laziness, by the gap g to the trained linearisation and the "
    "relative movement of the weights. With targets this large no net here is lazy; with m^(−1/2) wider nets come "
    "closer to it, with 1/m they do not."
)


def compute(
    spec: Widths, *, key: Key[Array, ""], store: Store | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The runs at every width, output scale and seed."""
    return over_width(spec, key=key, store=store, progress=progress)


def rise(ds: xr.Dataset) -> np.ndarray:
    """Slope of the end test loss at m^(-1/2) over m >= 32."""
    return log_slope(ds.end_test_loss.sel(exponent=SQRT))


def last_ratio(ds: xr.Dataset) -> np.ndarray:
    """log10 of the end test loss at m^(-1/2) over that at 1/m, at the largest width."""
    last = ds.end_test_loss.isel(width=-1)
    return np.log10((last.sel(exponent=SQRT) / last.sel(exponent=MEAN)).values)


def _expect(quick: Outcome) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": quick, "paper": Outcome.HOLDS}


CLAIMS = (
    Claim(
        sentence="With alpha = m^(−1/2) the test loss increases with the width.",
        source="chizat2019 Figure 2(a)",
        measure="slope of log end test loss against log m over m >= 32",
        quantity=rise,
        accepted=(0.0, np.inf),
        expected=_expect(Outcome.HOLDS),
    ),
    Claim(
        sentence="With alpha = 1/m wide nets generalise better than with m^(−1/2).",
        source="chizat2019 Figure 2(a)",
        measure="log10 of end test loss at m^(−1/2) over that at 1/m, at the largest width",
        quantity=last_ratio,
        accepted=(np.log10(2), np.inf),
        expected=_expect(Outcome.INCONCLUSIVE),
    ),
)
draw = width_panels.draw
numbers = width_panels.numbers
