"""Chizat et al. 2019, §3.2: spectrum of the tangent kernel of an image net, on real images and on uniform noise.

    lazyscope reproduce chizat2019-fig3c --size quick

The kernel over images and outputs, (n·k, n·k), of VGG-11 at Xavier-normal weights of gain 2, for the same weights on n
images and on as many images of independent pixels, uniform on 0..255 and normalised alike. Images are centred by
channel. Linearised nets train slowly where this kernel is badly conditioned. The authors' code draws its noise into an
attribute that current versions of torchvision ignore, so that both of its kernels would be those of CIFAR.

quick uses digits as 32 x 32 images, 1/8 of the width, n = 64 and three draws of weights and images, in float64: about
30 s on two idle cores. Measured there: effective rank 22.1 on digits and 16.6 on noise, so that both claims fail. Deep
in the net noise images look alike, because pooling averages independent pixels; on CIFAR-10 this was not run.
paper: 495 images of CIFAR-10 (`--data DIR`) at full width, some two hours of one core by extrapolation, not run here.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.claims import Claim, Outcome
from lazyscope.datasets import uniform_noise
from lazyscope.papers.chizat2019.deep_cells import Deep, small_net
from lazyscope.papers.settings import Setting, unused
from lazyscope.sweep import Progress, Store, sweep
from lazyscope.tangent import blocked_tangent_kernel, spectrum

SPECTRUM_VERSION = 2
KINDS = ("real", "noise")


@dataclass(frozen=True)
class Spectra:
    """The net and its images (those of training), and how many of them the kernel is over."""

    deep: Deep
    images: int
    seeds: int


SIZES = {
    "tiny": Spectra(Deep(net=small_net, gain=2.0), images=6, seeds=3),
    "quick": Spectra(Deep(factor=1 / 8, gain=2.0), images=64, seeds=3),
    "paper": Spectra(Deep(cifar=True, gain=2.0), images=495, seeds=3),
}
SETTINGS = (
    Setting("deep.cifar", "yes", "digits where CIFAR-10 is not at hand"),
    Setting("deep.factor", "1", "time"),
    Setting("images", "495", "time"),
    *unused("deep", "examples", "held_out", "epochs", "batch", "rate", "knee", "loss", "augment"),
)
CAPTION = (
    "Eigenvalues of the tangent kernel over images and outputs, largest first, as shares of their sum, for real images "
    "and for uniform noise; bands: one standard deviation over draws of weights and images. The faster the decay, the "
    "more slowly the directions at the end are learnt by the linearised net."
)


def spectra(key: Key[Array, ""], *, kind: str, deep: Deep, images: int, data: Path | None = None) -> dict[str, Array]:
    """Eigenvalues of the kernel in descending order, its effective rank and the share of its largest eigenvalue."""
    every = deep.images(data)
    model = deep.model()
    key_init, key_choice, key_noise = jax.random.split(key, 3)
    dtype = jnp.result_type(float)
    params = jax.jit(model.init)(key_init, deep.gain)
    chosen = jax.random.choice(key_choice, len(every.train_x), (images,), replace=False)
    x = every.train_x[chosen].astype(dtype)
    if kind == "noise":
        x = uniform_noise(key_noise, x.shape, mean=every.mean, deviation=every.deviation, dtype=dtype)
    found = spectrum(blocked_tangent_kernel(model.apply, params, x))
    return {
        "eigenvalues": found.eigenvalues,
        "effective_rank": found.effective_rank,
        "rank": found.rank.astype(dtype),
        "condition": found.condition,
    }


def compute(
    spec: Spectra,
    *,
    key: Key[Array, ""],
    store: Store | None = None,
    progress: Progress | None = None,
    data: Path | None = None,
) -> xr.Dataset:
    """Both spectra per draw."""
    ds = sweep(
        partial(spectra, deep=spec.deep, images=spec.images),
        {"kind": KINDS},
        static=("kind",),
        key=key,
        seeds=spec.seeds,
        dims={"eigenvalues": ("index",)},
        version=SPECTRUM_VERSION,
        store=store,
        progress=progress,
        compiled=False,
        local={"data": data},
    )
    return ds.assign_coords(index=np.arange(1, ds.sizes["index"] + 1))


def contrast(ds: xr.Dataset) -> np.ndarray:
    """log10 of the effective rank on noise over that on real images."""
    return np.log10(ds.effective_rank.sel(kind="noise") / ds.effective_rank.sel(kind="real")).values


def decay(ds: xr.Dataset) -> np.ndarray:
    """Decades that the eigenvalues fall over the first half of the spectrum, real images less noise."""
    half = ds.sizes["index"] // 2
    fall = np.log10(ds.eigenvalues.isel(index=0) / ds.eigenvalues.isel(index=half))
    return (fall.sel(kind="real") - fall.sel(kind="noise")).values


def _expect(quick: Outcome) -> dict[str, Outcome | None]:
    return {"tiny": None, "quick": quick, "paper": None}


ON_DIGITS = "At quick size the real images are digits and few; the paper's are 495 of CIFAR-10."
CLAIMS = (
    Claim(
        sentence="The tangent kernel of real images is of much lower effective rank than that of random images.",
        source="Chizat et al. 2019, §3.2",
        measure="log10 of the effective rank (tr K)²/tr K² on noise over that on real images; much is twice",
        quantity=contrast,
        accepted=(np.log10(2), np.inf),
        expected=_expect(Outcome.FAILS),
        note=ON_DIGITS,
    ),
    Claim(
        sentence="Its eigenvalues decay faster: the linearised model is badly conditioned on real images.",
        source="Chizat et al. 2019, §3.2",
        measure="decades from the first eigenvalue to the middle of the spectrum, real images less noise",
        quantity=decay,
        accepted=(0.5, np.inf),
        expected=_expect(Outcome.FAILS),
        note=ON_DIGITS,
    ),
)


def draw(ds: xr.Dataset) -> Figure:
    """Both spectra, normalised by their sums."""
    figure, (ax,) = figures.new_figure()
    ax.set_yscale("log")
    shares = ds.eigenvalues / ds.eigenvalues.sum("index")
    for kind, colour in zip(KINDS, (figures.BLUE, figures.ORANGE), strict=True):
        rank = float(ds.effective_rank.sel(kind=kind).mean())
        label = f"{'real images' if kind == 'real' else 'uniform noise'}: effective rank {rank:.1f}"
        figures.curve(ax, shares.sel(kind=kind), "index", label=label, color=colour)
    ax.set_ylim(max(float(shares.min()), 1e-12) / 2, 1)
    figures.finish(ax, x="index of the eigenvalue", y="share of the sum of eigenvalues", legend="upper right")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Effective rank, rank and conditioning of both kernels, means over draws."""
    names = {"effective rank": "effective_rank", "rank": "rank", "condition": "condition"}
    rows = [[kind, *(f"{float(ds[v].sel(kind=kind).mean()):.4g}" for v in names.values())] for kind in KINDS]
    return [["images", *names], *rows]
