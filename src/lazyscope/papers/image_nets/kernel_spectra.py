"""Chizat et al. 2019, §3.2: spectrum of the tangent kernel of an image net, on real images and on random ones.

    lazyscope reproduce chizat2019-fig3c --size quick

The kernel over images and outputs, (n·k, n·k), of VGG-11 at Xavier-normal weights of gain 2, for the same weights on n
images and on as many images of independent pixels, uniform on 0..255 and normalised alike. Images are centred by
channel. Linearised nets train slowly where this kernel is badly conditioned. The authors' code draws its noise into an
attribute that current versions of torchvision ignore, so that both of its kernels would be those of CIFAR.

Three controls (`lazyscope.datasets.controls`) tell which property of real images does it: the same images with their
pixels in another order, one for all or one for each, and Gaussian images of the mean and covariance of all images that
there are. A trial is a draw of weights, of a set of n images and of each control.

quick uses patches of photographs, 1/8 of the width and n = 64, in float64; the same on other images: `docs/papers.md`,
Photographs. paper: 495 images of CIFAR-10 (`--data DIR`) at full width, some eight hours of one core by extrapolation,
not run here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.datasets import Images, cifar10, gaussian_images, photographs, shuffled_pixels, uniform_noise
from lazyscope.models import Model
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.image_nets.training import small_net
from lazyscope.papers.quantities import Quantity, at, difference
from lazyscope.papers.stated_settings import Setting
from lazyscope.store import stored_as
from lazyscope.tangent import blocked_tangent_kernel, spectrum
from lazyscope.vision import vgg11

KINDS = {  # what each kernel is over
    "real": ("real images", figures.BLUE),
    "shuffled": ("pixels in another order, one for all", figures.GREEN),
    "shuffled each": ("pixels in another order, one for each", figures.PURPLE),
    "gaussian": ("Gaussian of the same covariance", figures.GREY),
    "noise": ("uniform noise", figures.ORANGE),
}


@dataclass(frozen=True)
class Spectra:
    """A net at its start, and the number of images that its kernel is over: CIFAR-10, or patches of photographs."""

    net: Callable[..., Model]
    images: int
    factor: float = 1.0
    gain: float = 2.0
    cifar: bool = False


SIZES = {
    "tiny": Size(Spectra(small_net, images=6), seeds=3),
    "quick": Size(Spectra(vgg11, images=64, factor=1 / 8), seeds=5),
    "paper": Size(Spectra(vgg11, images=495, cifar=True), seeds=5),
}
STATED = (
    Setting("cifar", "yes", "where CIFAR-10 is not at hand, patches of photographs", stand_in="on photographs"),
    Setting("factor", "1", "time"),
    Setting("images", "495", "time"),
)
CAPTION = (
    "Eigenvalues of the tangent kernel over images and outputs, largest first, as shares of their sum, for real "
    "images, for uniform noise and for three controls between them, each with some properties of the real images; "
    "bands: one standard deviation over draws of weights and images. The faster the decay, the more slowly the "
    "directions at the end are learnt by the linearised net."
)


@stored_as("lazyscope.papers.chizat2019.fig3c.spectra")
def spectra(
    key: Key[Array, ""],
    *,
    kind: str,
    net: Callable[..., Model],
    factor: float,
    gain: float,
    images: int,
    cifar: bool,
    data: Path | None = None,
) -> dict[str, Array]:
    """Eigenvalues of the kernel in descending order, its effective rank, its rank and its condition."""
    key_init, key_choice, key_control = jax.random.split(key, 3)
    model = net(factor=factor)
    params = jax.jit(model.init)(key_init, gain)
    every = _images(data) if cifar else photographs()
    chosen = every.train_x[jax.random.choice(key_choice, len(every.train_x), (images,), replace=False)]
    x = _control(kind, key_control, chosen, every).astype(jnp.result_type(float))
    found = spectrum(blocked_tangent_kernel(model.apply, params, x))
    return {
        "eigenvalues": found.eigenvalues,
        "effective_rank": found.effective_rank,
        "rank": found.rank.astype(x.dtype),
        "condition": found.condition,
    }


def _images(data: Path | None) -> Images:
    if data is None:
        raise ValueError("CIFAR-10 must be in a folder, got none: name it (data=, or --data)")
    return cifar10(data)


def _control(kind: str, key: Key[Array, ""], x: Array, every: Images) -> Float[Array, "n h w c"]:
    """The images `x`, or what is put in their place."""
    if kind == "gaussian":
        return gaussian_images(key, every.train_x, n=len(x))
    if kind == "noise":
        return uniform_noise(key, x.shape, mean=every.mean, deviation=every.deviation)
    return x if kind == "real" else shuffled_pixels(key, x, one_order=kind == "shuffled")


SPECTRA = Cell(spectra, 3, {"eigenvalues": ("index",)}, static=("kind",), compiled=False)


def compute(settings: Spectra, trials: Trials) -> xr.Dataset:
    """All spectra per draw."""
    ds = trials.over(
        SPECTRA,
        {"kind": tuple(KINDS)},
        local={"data": trials.data},
        net=settings.net,
        factor=settings.factor,
        gain=settings.gain,
        images=settings.images,
        cifar=settings.cifar,
    )
    return ds.assign_coords(index=np.arange(1, ds.sizes["index"] + 1))


def rank_against_real(kind: str) -> Quantity:
    """The effective rank on images of a kind over that on real ones."""
    return at(lambda ds: ds.effective_rank.sel(kind=kind) / ds.effective_rank.sel(kind="real"))


def fall(ds: xr.Dataset) -> xr.DataArray:
    """Decades that the eigenvalues fall over the first half of the spectrum."""
    return np.log10(ds.eigenvalues.isel(index=0) / ds.eigenvalues.isel(index=ds.sizes["index"] // 2))


def share_of_conditioning(ds: xr.Dataset) -> xr.DataArray:
    """Decades of the condition number by which images of a kind exceed noise, over those of real images."""
    decades = np.log10(ds.condition) - np.log10(ds.condition.sel(kind="noise"))
    return decades / decades.sel(kind="real")


PAPER, OURS = "Chizat et al. 2019, §3.2", "ours, on Chizat et al. 2019, §3.2"
ALIKE = (0.8, 1.25)  # ratios of effective ranks that are called alike
DETAIL = "Images with more detail lose up to a third of it with their neighbourhoods (docs/papers.md)."
HINDSIGHT = "the claim was added when the spectra showed that real images differ from noise at the small end alone"


def _alike(sentence: str, kind: str, note: str = "") -> Claim:
    """The claim that a control has the effective rank of real images."""
    return Claim(
        sentence=sentence,
        source=OURS,
        measure=f"effective rank, {KINDS[kind][0]}, over that on real images",
        quantity=rank_against_real(kind),
        accepted=ALIKE,
        scale=Scale.RATIO,
        note=note,
    )


def _conditioning(sentence: str, kind: str, accepted: tuple[float, float]) -> Claim:
    """The claim that a control is, or is not, worse conditioned than noise for the most part as real images are."""
    return Claim(
        sentence=sentence,
        source=OURS,
        measure=f"decades of λ1/λn above those on noise, {KINDS[kind][0]}, over those on real images",
        quantity=at(share_of_conditioning, kind=kind),
        accepted=accepted,
        moved=HINDSIGHT,
    )


CLAIMS = (
    Claim(
        sentence="The tangent kernel of real images is of much lower effective rank than that of random images.",
        source=PAPER,
        measure="effective rank (tr K)²/tr K², uniform noise over real images; much is twice",
        quantity=rank_against_real("noise"),
        accepted=(2.0, np.inf),
        scale=Scale.RATIO,
        note="Deep in the net images of noise look alike, because pooling averages independent pixels.",
    ),
    Claim(
        sentence="Its eigenvalues decay faster: the linearised model is badly conditioned on real images.",
        source=PAPER,
        measure="decades from the first eigenvalue to the middle of the spectrum, real images less noise",
        quantity=difference(at(fall, kind="real"), at(fall, kind="noise")),
        accepted=(0.5, np.inf),
        note="They do in the last quarter of the spectrum alone: see the condition number.",
    ),
    Claim(
        sentence="The condition number is larger on real images than on random ones.",
        source=OURS,
        measure="λ1/λn, real images over uniform noise; larger is twice",
        quantity=at(lambda ds: ds.condition.sel(kind="real") / ds.condition.sel(kind="noise")),
        accepted=(2.0, np.inf),
        scale=Scale.RATIO,
        note="Photographs owe it to smooth patches, which are nearly equal; 40 images of CIFAR do not show it.",
        moved=HINDSIGHT,
    ),
    _alike("Gaussian images of the covariance of real ones have their effective rank.", "gaussian"),
    _alike("Real images have it with their pixels in another order, one for all, as well.", "shuffled", DETAIL),
    _alike("Real images have it with their pixels in another order, one for each, as well.", "shuffled each", DETAIL),
    _conditioning(
        "Most of the conditioning of real images is that of their colours, in whatever order.",
        "shuffled each",
        (0.5, np.inf),
    ),
    _conditioning("Less than half of it is their covariance.", "gaussian", (-np.inf, 0.5)),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """All spectra, normalised by their sums."""
    figure, (ax,) = figures.new_figure(log="y")
    shares = ds.eigenvalues / ds.eigenvalues.sum("index")
    for kind, (name, colour) in KINDS.items():
        rank = float(ds.effective_rank.sel(kind=kind).mean())
        figures.curve(ax, shares.sel(kind=kind), "index", label=f"{name}: effective rank {rank:.1f}", color=colour)
    ax.set_ylim(max(float(shares.min()), 1e-12) / 2, 1)
    figures.finish(ax, x="index of the eigenvalue", y="share of the sum of eigenvalues", legend="upper right")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Effective rank, decay, rank and conditioning of every kernel, means over draws."""
    shown = {
        "effective rank": ds.effective_rank,
        "decades to the middle": fall(ds),
        "share of the first": ds.eigenvalues.isel(index=0) / ds.eigenvalues.sum("index"),
        "rank": ds["rank"],
        "condition": ds.condition,
    }
    rows = [
        [name, *(f"{float(v.sel(kind=kind).mean()):.4g}" for v in shown.values())] for kind, (name, _) in KINDS.items()
    ]
    return [["images", *shown], *rows]


FIG3C = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
