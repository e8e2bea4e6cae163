"""Several solutions of one problem at many widths under both output scales: what the landscape figures look at.

Settings of the note's landscape code: targets times 100, plain N(0, 1) weights, initial draws shared by the two scales,
η = 1/m for m^(-1/2) and 0.05/m for 1/m, test loss (shown there times 0.1).

Nets of all widths are padded with units of weight 0 to the largest, and alpha is moved into the readout weights, which
changes no function: so one compiled program serves every width and scale.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key, PyTree

from lazyscope.dynamics import gradient_descent
from lazyscope.landscape import align, two_layer_axes
from lazyscope.models import two_layer
from lazyscope.papers.figure import Cell, Size, Trials
from lazyscope.papers.stated_settings import Setting
from lazyscope.papers.student import held_out
from lazyscope.papers.width.training import EXPONENTS, WidthProtocol, output_scale, setup, step_size
from lazyscope.problems import Problem, square_loss
from lazyscope.store import stored_as


@dataclass(frozen=True)
class Solutions:
    """What a landscape figure computes at one size: protocol, widths, initial draws and the planes' points."""

    protocol: WidthProtocol
    widths: tuple[int, ...]
    inits: int
    resolution: int


SMALL = WidthProtocol(n=40, n_test=40, d=6, target_scale=10.0, num_steps=200)  # larger targets diverge at so small d
SHORT = WidthProtocol(n=500, n_test=500, d=50, num_steps=1500)
SIZES = {
    "tiny": Size(Solutions(SMALL, (8, 32), inits=4, resolution=9), seeds=3),
    "quick": Size(Solutions(SHORT, (8, 32, 128), inits=6, resolution=25), seeds=3),
    "paper": Size(Solutions(WidthProtocol(), (6, 8, 12, 16, 24, 32, 64, 128, 256), inits=8, resolution=51), seeds=3),
}

SIZES_OF_NOTE = (
    Setting("protocol.n", "1000 (the note's code)", "time"),
    Setting("protocol.n_test", "1000 (the note's code)", "time"),
    Setting("protocol.d", "100 (the note's code)", "time"),
    Setting("protocol.num_steps", "25000 (the note's code)", "time"),
    Setting("inits", "8 (the note's code)", "time"),
)


@stored_as("lazyscope.papers.solutions.solve")
def solve(
    key: Key[Array, ""], *, width: int, protocol: WidthProtocol, inits: int, padded_width: int
) -> dict[str, Array]:
    """The final weights of `inits` nets at both output scales, padded to `padded_width` units, and their test loss."""
    _, _, problem = setup(key, width, protocol)
    x_test, y_test = held_out(problem)
    model = two_layer(width, protocol.d)
    keys = jax.random.split(jax.random.split(key)[1], inits)

    def trained(exponent: Array, init_key: Array) -> tuple[PyTree, Array, Array]:
        alpha = output_scale(width, exponent)
        run = gradient_descent(
            model.apply,
            model.init(init_key),
            problem,
            alpha=alpha,
            step_size=step_size(width, exponent),
            num_steps=protocol.num_steps,
            record=(protocol.num_steps,),
        )
        loss = square_loss(alpha * model.apply(run.params, x_test), y_test)
        return run.params, loss, run.kernel_time[-1]

    def over_inits(exponent: Array) -> tuple[PyTree, Array, Array]:
        return jax.lax.map(lambda k: trained(exponent, k), keys)

    params, losses, times = jax.lax.map(over_inits, jnp.array(EXPONENTS))
    extra = padded_width - width
    return {
        "a": jnp.pad(params["a"], ((0, 0), (0, 0), (0, extra))),
        "b": jnp.pad(params["b"], ((0, 0), (0, 0), (0, extra), (0, 0))),
        "test_loss": losses,
        "kernel_time": jnp.mean(times, axis=1),
    }


SOLVE = Cell(
    solve,
    1,
    {
        "a": ("exponent", "init", "unit"),
        "b": ("exponent", "init", "unit", "input"),
        "test_loss": ("exponent", "init"),
        "kernel_time": ("exponent",),
    },
    static=("width",),
)


def solutions(settings: Solutions, trials: Trials) -> xr.Dataset:
    """The solutions at every width and seed."""
    ds = trials.over(
        SOLVE,
        {"width": settings.widths},
        protocol=settings.protocol,
        inits=settings.inits,
        padded_width=max(settings.widths),
    )
    return ds.assign_coords(exponent=list(EXPONENTS), width=list(settings.widths))


def problem_of(key: Key[Array, ""], seed: int, settings: Solutions) -> Problem:
    """The problem of a trial, as its cells have it."""
    return setup(jax.random.fold_in(key, seed), 1, settings.protocol)[2]


def relative_test_loss(key: Key[Array, ""], seed: int, settings: Solutions) -> Callable[[PyTree], Array]:
    """The test loss of padded nets with alpha absorbed, over that of the zero predictor."""
    x, y = held_out(problem_of(key, seed, settings))
    apply = two_layer(max(settings.widths), settings.protocol.d).apply
    zero = square_loss(jnp.zeros_like(y), y)
    return lambda params: square_loss(apply(params, x), y) / zero


def nets(ds: xr.Dataset, *, width: int, exponent: float, seed: int) -> list[PyTree]:
    """The solutions of one cell in raw weights, padded."""
    cell = ds.sel(width=width, exponent=exponent, seed=seed)
    return [{"a": jnp.asarray(cell.a.values[i]), "b": jnp.asarray(cell.b.values[i])} for i in range(ds.sizes["init"])]


def absorb(params: PyTree, width: int, exponent: float) -> PyTree:
    """Weights, or a direction, with alpha = width^-exponent moved into the readout: the net then is alpha·h."""
    return params | {"a": params["a"] * width**-exponent}


def orders_to_first(points: list[PyTree], width: int) -> list[np.ndarray]:
    """For every net the order of its units that brings it nearest to the first net."""
    cut = [_cut(p, width) for p in points]
    axes = two_layer_axes()
    return [align(p, cut[0], axes).orders["hidden"] for p in cut]


def reorder(params: PyTree, order: np.ndarray) -> PyTree:
    """Units in a new order; the padding stays last."""
    rest = np.arange(order.size, params["a"].shape[0])
    return jax.tree.map(lambda leaf: leaf[np.concatenate([order, rest])], params)


def _cut(params: PyTree, width: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:width], params)
