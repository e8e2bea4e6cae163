"""Note, related work [6] (random features): which net is which linear model on the two-layer figures' problem.

    lazyscope reproduce note-ref6 --size quick

The problem of note-fig3 and note-fig4 at tau = 100, on both plateaus. Beside the trained nets: the zero predictor,
least squares on (x, 1), least squares on the ReLU features of the initial hidden layer, and regression with the tangent
kernel, trained for ever (from the zero output) and for as many steps as the net. Predictors are compared as functions:
‖f − g‖/‖y‖ on held-out inputs. The runs at tau = 100 are those of note-fig3 and note-fig4, and come from the store
when these have run.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from matplotlib.axes import Axes

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import linearized_descent
from lazyscope.models import center
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.initialisation.training import affine, runs
from lazyscope.papers.quantities import at, log10_ratio
from lazyscope.papers.stated_settings import FULL_BATCH, NO_STOP
from lazyscope.papers.student import QUICK, TINY, Protocol, held_out, setup
from lazyscope.store import stored_as

LAZY_TAU = 100.0  # on both plateaus, where the test loss no longer depends on tau


@dataclass(frozen=True)
class Comparison:
    """The protocol of the nets, trained plain and symmetrised at `LAZY_TAU`."""

    protocol: Protocol


SIZES = {
    "tiny": Size(Comparison(replace(TINY, num_steps=3000)), seeds=3),
    "quick": Size(Comparison(QUICK), seeds=3),
    "paper": Size(Comparison(Protocol()), seeds=10),
}
STATED = (FULL_BATCH, NO_STOP)
CAPTION = (
    "Left, test losses of every predictor, one dot a trial. Right, how far any two are apart as functions, "
    "‖f − g‖/‖y‖ on held-out inputs, mean over trials; 0 is the same function. The plain net is the random-features "
    "regression on its own initial hidden layer, the symmetrised net the tangent-kernel descent stopped at the same "
    "step. Least squares on the inputs alone has a lower test loss than both."
)


class Predictor(NamedTuple):
    """A row of the comparison: its name in the Dataset, its label and its colour."""

    name: str
    label: str
    color: str


PREDICTORS = (
    Predictor("target", "target", figures.INK),
    Predictor("zero", "zero", figures.GREY),
    Predictor("least_squares", "least squares on x", figures.GREEN),
    Predictor("random_features", "random features", figures.PURPLE),
    Predictor("plain_net", "plain net", figures.BLUE),
    Predictor("plain_kernel", "kernel, plain", figures.ORANGE),
    Predictor("symmetrised_net", "symmetrised net", figures.BLUE),
    Predictor("symmetrised_descent", "kernel, symm., same steps", figures.ORANGE),
    Predictor("symmetrised_kernel", "kernel, symm.", figures.ORANGE),
)


TRAINED = ("plain_net", "symmetrised_net")


@stored_as("lazyscope.papers.note.ref6.predictors")
def predictors(key: Key[Array, ""], *, protocol: Protocol) -> dict[str, Array]:
    """Held-out outputs of every predictor that needs no training, for one trial of `protocol`.

    Tangent-kernel regressions are those of the centred model: for a plain net the initial output, which the linearised
    model never unlearns in directions outside the data, would hide what its kernel can do.
    """
    plain, symmetrised = (replace(protocol, doubled=doubled) for doubled in (False, True))
    _, params0, problem = setup(key, plain)
    x_test, y_test = held_out(problem)

    def features(x: Array) -> Array:
        return jax.nn.relu(x @ params0["b"].T)

    def fit(train: Array, test: Array) -> Array:
        return test @ jnp.linalg.lstsq(train, problem.y)[0]

    return {
        "target": y_test,
        "zero": jnp.zeros_like(y_test),
        "least_squares": fit(affine(problem.x), affine(x_test)),
        "random_features": fit(features(problem.x), features(x_test)),
        "plain_kernel": _kernel_outputs(key, plain)[1],
        **dict(zip(("symmetrised_descent", "symmetrised_kernel"), _kernel_outputs(key, symmetrised), strict=True)),
    }


def _kernel_outputs(key: Key[Array, ""], protocol: Protocol) -> Float[Array, "2 n_test"]:
    """Held-out outputs of the centred linearised model at `LAZY_TAU` after the protocol's steps, and for ever."""
    model, params0, problem = setup(key, protocol)
    run = linearized_descent(
        center(model.apply, params0),
        params0,
        problem,
        alpha=LAZY_TAU**2,
        step_size=protocol.step_rule(jnp.asarray(LAZY_TAU)) * LAZY_TAU**2,
        steps=[protocol.num_steps, np.inf],
    )
    return run.observed[1]


PREDICTED = Cell(predictors, 1, {p.name: ("example",) for p in PREDICTORS if p.name not in TRAINED})


def compute(settings: Comparison, trials: Trials) -> xr.Dataset:
    """`outputs` of every predictor on held-out inputs reduced to `test_loss` and pairwise `distance`, per seed."""
    ds = trials.over(PREDICTED, {}, protocol=settings.protocol)
    for name, doubled in zip(TRAINED, (False, True), strict=True):
        net = runs(replace(settings.protocol, doubled=doubled), (LAZY_TAU,), trials)
        ds[name] = net.outputs_test.isel(tau=0, drop=True)
    outputs = ds[[p.name for p in PREDICTORS]].to_dataarray("predictor")
    scale = (ds.target**2).mean("example")
    apart = ((outputs - outputs.rename(predictor="other")) ** 2).mean("example")
    return xr.Dataset(
        {
            "test_loss": 0.5 * apart.sel(other="target", drop=True),
            "distance": np.sqrt(apart / scale),
        }
    )


def better_net(ds: xr.Dataset) -> np.ndarray:
    """The smaller test loss of the two nets."""
    return ds.test_loss.sel(predictor=list(TRAINED)).min("predictor").values


SAME, OTHER = (-np.inf, 0.1), (0.2, np.inf)  # of ‖f − g‖/‖y‖: the same function, another function
CLAIMS = (
    Claim(
        sentence="At large tau a plain net is the random-features regression on its initial hidden layer.",
        source="ours, after note Figure 3 and [6]",
        measure="‖f − g‖/‖y‖ on held-out inputs, plain net and random features",
        quantity=at("distance", predictor="plain_net", other="random_features"),
        accepted=SAME,
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="It generalises as its linearised model.",
        source="note §3.1, applied to note Figure 3",
        measure="‖f − g‖/‖y‖ on held-out inputs, plain net and regression with its own tangent kernel",
        quantity=at("distance", predictor="plain_net", other="plain_kernel"),
        accepted=SAME,
        scale=Scale.SIZE,
        note="Even with the initial output taken away, which favours the linearised model, it is another function.",
    ),
    Claim(
        sentence="A symmetrised net generalises as its linearised model.",
        source="note §3.1, applied to note Figure 4",
        measure="‖f − g‖/‖y‖ on held-out inputs, symmetrised net and tangent-kernel descent of as many steps",
        quantity=at("distance", predictor="symmetrised_net", other="symmetrised_descent"),
        accepted=SAME,
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="What it does is another thing than regression on random features.",
        source="ours, after [6]",
        measure="‖f − g‖/‖y‖ on held-out inputs, symmetrised net and random features",
        quantity=at("distance", predictor="symmetrised_net", other="random_features"),
        accepted=OTHER,
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="The tangent kernel generalises better than the random features of the same hidden layer.",
        source="ours, after [6] and theory of [3]",
        measure="log10 of the test loss of the plain net's tangent-kernel regression over that of its random features",
        quantity=log10_ratio(at("test_loss", predictor="plain_kernel"), at("test_loss", predictor="random_features")),
        accepted=(-np.inf, 0.0),
    ),
    Claim(
        sentence="Least squares on the inputs alone generalises better than both nets at large tau.",
        source="ours, on note §4.3",
        measure="log10 of the smaller of the nets' test losses over that of least squares on (x, 1)",
        quantity=log10_ratio(better_net, at("test_loss", predictor="least_squares")),
        accepted=(0.0, np.inf),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the test losses, right the matrix of distances."""
    figure, (left, right) = figures.new_figure(12, 4.8, columns=2)
    rows = PREDICTORS[1:]
    for height, predictor in enumerate(rows):
        losses = ds.test_loss.sel(predictor=predictor.name).values
        left.plot(losses, np.full(losses.size, height), "o", color=predictor.color, alpha=0.5, markersize=5)
        left.plot(losses.mean(), height, "|", color=predictor.color, markersize=16, markeredgewidth=2)
    left.set_yticks(range(len(rows)), [p.label for p in rows])
    left.invert_yaxis()
    left.set_xlabel("test loss  ½‖f − y‖²")
    left.set_xlim(left=0)
    _matrix(right, ds)
    return figure


def _matrix(ax: Axes, ds: xr.Dataset) -> None:
    names, labels = [p.name for p in PREDICTORS], [p.label for p in PREDICTORS]
    values = ds.distance.mean("seed").sel(predictor=names, other=names).transpose("predictor", "other").values
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.2)
    ax.grid(visible=False)
    for i, j in np.ndindex(values.shape):
        color = "white" if values[i, j] > 0.8 else figures.INK
        ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.set_title("‖f − g‖/‖y‖, held-out")


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Test loss of every predictor, and its distance to three others, means over seeds."""
    near = ("target", "random_features", "symmetrised_kernel")
    header = ["predictor", "test loss", *(f"distance to {name.replace('_', ' ')}" for name in near)]
    mean = ds.mean("seed")
    body = []
    for predictor in PREDICTORS:
        row = mean.sel(predictor=predictor.name)
        apart = [f"{float(row.distance.sel(other=name)):.3g}" for name in near]
        body.append([predictor.label, f"{float(row.test_loss):.3g}", *apart])
    return [header, *body]


REF6 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
