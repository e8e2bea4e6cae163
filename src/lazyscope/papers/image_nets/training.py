"""VGG-11 and ResNet-18 at many output scales: the runs of Figures 3a, 3b and Table 1 of Chizat et al. 2019, §3.2.

A cell is one training of alpha·(h(w) − h(w0)) from Xavier-normal weights by SGD with momentum 0.9 and learning rate
lr0/(1 + epoch/3), as in their code, on F_alpha; alpha = inf trains the Taylor-linearised net. Recorded at the
end: loss and accuracy of the net; of the *frozen-activation* net, the current weights under the activation
pattern of w0 (multilinear in the weights, their "lazy" measure, not a linearisation); the share of gates that are as at
w0, layer by layer; and the outputs on held-out images.

Their code sweeps lr0 over 1, 0.1, 0.01, 0.001 for every alpha; here lr0 = rate·min(1, alpha/knee), one run instead of
four: in u = alpha·(w − w0) a step of the lazy net does not depend on alpha, and below the knee curvature limits it.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope.datasets import Images, cifar10, crop_and_flip, digit_images
from lazyscope.dynamics import EpochState, train_in_epochs
from lazyscope.models import Model
from lazyscope.papers.figure import Cell, Size, Trials, side_by_side
from lazyscope.papers.stated_settings import Setting
from lazyscope.problems import Loss, Problem, square_loss
from lazyscope.store import stored_as, write_atomic
from lazyscope.vision import layers, resnet18, vgg11
from lazyscope.vision.networks import network

CLASSES = 10
SPLITS = ["train", "test"]


@stored_as("lazyscope.papers.chizat2019.deep_cells.small_net")
@cache
def small_net(*, factor: float = 1.0) -> Model:
    """Three convolutions of 8·factor channels and a linear layer: a net that compiles at once, for the tiny size."""
    parts = [part for _ in range(3) for part in (layers.conv(round(8 * factor)), layers.relu(), layers.max_pool())]
    return network(layers.sequence([*parts, layers.dense(CLASSES)]), (32, 32, 3))


@stored_as("lazyscope.papers.chizat2019.deep_cells.Deep")
@dataclass(frozen=True)
class Deep:
    """A net, its images and its training. `examples` and `held_out` take the first so many images; None all."""

    net: Callable[..., Model] = vgg11
    factor: float = 1.0
    cifar: bool = False
    examples: int | None = None
    held_out: int | None = None
    epochs: int = 100
    batch: int = 128
    rate: float = 0.2
    knee: float = 3.0
    gain: float = 1.0
    loss: Loss = square_loss
    augment: bool = False

    def model(self) -> Model:
        """The net for 32 x 32 images of three channels."""
        return self.net(factor=self.factor)

    def images(self, data: Path | None) -> Images:
        """CIFAR-10 from the folder `data`, or the digits."""
        every = cifar10(data) if self.cifar and data is not None else digit_images()
        n, n_test = self.examples, self.held_out
        return every._replace(
            train_x=every.train_x[:n],
            train_y=every.train_y[:n],
            test_x=every.test_x[:n_test],
            test_y=every.test_y[:n_test],
        )

    def learning_rate(self, alpha: float, epoch: int) -> float:
        """lr0/(1 + epoch/3)."""
        return self.rate * min(1.0, alpha / self.knee) / (1 + epoch / 3)


@stored_as("lazyscope.papers.chizat2019.deep_cells.trained")
def trained(
    key: Key[Array, ""], *, alpha: float, deep: Deep, data: Path | None = None, checkpoints: Path | None = None
) -> dict[str, Any]:
    """One training in float32, taken up again from `checkpoints` where it was interrupted."""
    images = deep.images(data)
    targets = [jax.nn.one_hot(y, CLASSES, dtype=jnp.float32) for y in (images.train_y, images.test_y)]
    problem = Problem(images.train_x, targets[0], images.test_x, targets[1], deep.loss)
    model = deep.model()
    key_init, key_train = jax.random.split(key)
    params0 = _initial(model, key_init, deep.gain)
    file = None if checkpoints is None else checkpoints / f"{_name(key, alpha, deep)}.npz"
    assert model.difference is not None
    end = train_in_epochs(
        model.difference,
        params0,
        problem,
        alpha=alpha,
        rate=partial(deep.learning_rate, alpha),
        epochs=deep.epochs,
        batch=min(deep.batch, problem.num_examples),
        key=key_train,
        record=(deep.epochs,),
        augment=crop_and_flip if deep.augment else None,
        restore=None if file is None else partial(load_state, file),
        keep=None if file is None else partial(save_state, file),
    )
    if file is not None:
        file.unlink(missing_ok=True)
    history = end.history
    return {
        "loss": history.loss[-1],
        "accuracy": history.accuracy[-1],
        "frozen_loss": history.frozen_loss[-1],
        "frozen_accuracy": history.frozen_accuracy[-1],
        "stability": history.stability[-1],
        "outputs": history.outputs,
    }


@partial(jax.jit, static_argnums=0)
def _initial(model: Model, key: Key[Array, ""], gain: float | Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(key, gain))


TRAINED = Cell(
    trained,
    1,
    {
        **dict.fromkeys(("loss", "accuracy", "frozen_loss", "frozen_accuracy"), ("split",)),
        "stability": ("layer",),
        "outputs": ("image", "class"),
    },
    compiled=False,
)


def trainings(deep: Deep, alphas: tuple[float, ...], trials: Trials) -> xr.Dataset:
    """`trained` at every alpha and seed, one cell a device at a time; alpha = inf is the linearised net."""
    local = {"data": trials.data, "checkpoints": trials.checkpoints}
    return trials.over(TRAINED, {"alpha": alphas}, local=local, deep=deep).assign_coords(split=SPLITS)


def gap(ds: xr.Dataset) -> xr.DataArray:
    """‖f − f_lin‖/‖f_lin‖ on held-out images: ends of the net and of the linearised net, both 0 at the start."""
    line = ds.outputs.sel(alpha=np.inf)
    axes = ["image", "class"]
    return np.sqrt(((ds.outputs - line) ** 2).sum(axes) / (line**2).sum(axes))


def save_state(file: Path, state: EpochState) -> None:
    """The state of a run as npz, whole or not at all; no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{f"leaf{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(state))})
    write_atomic(file, buffer.getvalue())


def load_state(file: Path, start: EpochState) -> EpochState | None:
    """What `save_state` kept, in the structure of `start`; None without a file, ValueError for one of another run."""
    if not file.is_file():
        return None
    leaves, structure = jax.tree.flatten(start)
    with np.load(file, allow_pickle=False) as kept:
        found: list[Any] = [kept[name] for name in kept.files]
    same = len(found) == len(leaves) and all(
        np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype
        for a, b in zip(found, leaves, strict=True)
    )
    if not same:
        raise ValueError(f"{file} is the checkpoint of another run: remove it, the run then starts anew")
    placed = [a if isinstance(b, np.ndarray) else jnp.asarray(a) for a, b in zip(found, leaves, strict=True)]
    return jax.tree.unflatten(structure, placed)


def _name(key: Key[Array, ""], alpha: float, deep: Deep) -> str:
    # Equal names for equal runs alone; the version, so that numbers of an older code are not gone on with.
    settings = f"{TRAINED.version} {np.asarray(jax.random.key_data(key)).tolist()} {alpha!r} {deep!r}"
    settings = settings.replace(repr(deep.net), deep.net.__name__).replace(repr(deep.loss), deep.loss.__name__)
    return hashlib.sha256(settings.encode()).hexdigest()[:32]


PAPER = Deep(cifar=True, rate=1.0)
QUICK = Deep(factor=1 / 8, examples=512, held_out=288, epochs=4, batch=32)
TINY = Deep(net=small_net, examples=64, held_out=64, epochs=4, batch=32, rate=0.002)


@dataclass(frozen=True)
class Runs:
    """Nets by name with their trainings, and output scales; the linearised nets (alpha = inf) are always there."""

    nets: tuple[tuple[str, Deep], ...]
    alphas: tuple[float, ...]


# λmax(K(w0))/n of VGG-11 is 5 to 7 over the trials and that of ResNet-18, which adds its blocks, 21 to 270.
QUICK_NETS = (("VGG-11", QUICK), ("ResNet-18", replace(QUICK, net=resnet18, rate=0.01)))
RUNS = {
    "tiny": Size(Runs((("VGG-11", TINY),), (1.0, 1e7)), seeds=3),
    "quick": Size(Runs(QUICK_NETS, (1.0, 3.0, 20.0, 1e7)), seeds=3),
    "paper": Size(Runs((("VGG-11", PAPER),), (0.5, 1.0, 5.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)), seeds=3),
}
STATED = (
    Setting("nets.VGG-11.cifar", "yes", "digits where CIFAR-10 is not at hand", stand_in="on digits"),
    Setting("nets.VGG-11.factor", "1", "time"),
    Setting("nets.VGG-11.epochs", "100", "time"),
    Setting("nets.VGG-11.batch", "128", "few images"),
    Setting("nets.VGG-11.rate", "the best of 1, 0.1, 0.01, 0.001", "one run in place of four"),
    Setting("seeds", "not stated"),
)


def at_every_scale(settings: Runs, trials: Trials) -> xr.Dataset:
    """The runs of Figures 3a and 3b over net and alpha; `gap` is that to the linearised net.

    Layers are counted from the first; a net that has fewer than another has NaN for the rest.
    """
    found = {name: trainings(deep, (*settings.alphas, np.inf), trials) for name, deep in settings.nets}
    nets = {
        name: ds.assign(gap=gap(ds)).drop_vars("outputs").assign_coords(layer=np.arange(1, ds.sizes["layer"] + 1))
        for name, ds in found.items()
    }
    return side_by_side("net", nets, join="outer")


def not_linearised(ds: xr.Dataset) -> xr.Dataset:
    """The runs without those of the linearised nets."""
    return ds.sel(alpha=np.isfinite(ds.alpha))
