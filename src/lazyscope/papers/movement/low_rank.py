"""Note, related work [8] (Varre et al. 2023): linear nets from small weights have a hidden layer of low rank.

    lazyscope reproduce note-ref8 --size quick

Two-layer linear net A B x with 3 outputs, hidden layer B of full size, targets from a linear map M* of singular values
1, 1/2, 1/4. Gradient flow keeps B Bᵀ − Aᵀ A. From small weights this difference stays near 0, so that at the end the
singular values of B are the square roots of those of M*, and its stable rank ‖B‖_F²/‖B‖² is Σσ/σ_max = 1.75. From
large weights B keeps 97 % of the stable rank it started with. Settings are ours: the note states the finding alone.
The flow is descent with small steps; the part of the invariant that descent breaks is proportional to the step.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import figures
from lazyscope.claims import Claim
from lazyscope.dynamics import gradient_descent
from lazyscope.measures import stable_rank
from lazyscope.models import two_layer_linear
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.quantities import FIRST, LAST, at, power
from lazyscope.papers.stated_settings import ours
from lazyscope.papers.student import decades
from lazyscope.problems import Problem, square_loss
from lazyscope.scaling import stable_step_size
from lazyscope.store import stored_as

SINGULAR_VALUES = (1.0, 0.5, 0.25)  # of the map to learn, one per output
BALANCED_RANK = sum(SINGULAR_VALUES) / max(SINGULAR_VALUES)


@dataclass(frozen=True)
class Scales:
    """Initialisation scales, and steps as fractions of the largest stable one at which the invariant is followed."""

    taus: tuple[float, ...]
    fractions: tuple[float, ...]  # the smallest serves the stable ranks
    n: int
    d: int
    width: int
    num_steps: int


SIZES = {
    "tiny": Size(Scales((0.01, 0.1, 1.0), (0.1, 0.2, 0.4), n=30, d=8, width=8, num_steps=1500), seeds=3),
    "quick": Size(
        Scales((*decades(-3, 0, 0.25), 10.0), (0.05, 0.1, 0.2, 0.4), n=100, d=30, width=30, num_steps=5000), seeds=5
    ),
    "paper": Size(
        Scales(decades(-4, 1, 0.25), (0.01, 0.02, 0.05, 0.1, 0.2, 0.4), n=200, d=50, width=50, num_steps=30_000),
        seeds=10,
    ),
}
FOLLOWED_TAU = 0.1  # where the invariant is followed: small weights, and far from 0
STATED = (ours("linear, two layers, three outputs, a linear map", "the note has no experiment; settings are ours"),)
CAPTION = (
    "Left, stable rank of the hidden layer before and after training against the initialisation scale. Small weights "
    "end at the stable rank that the balanced factorisation of the target has, large ones keep nearly the one they "
    "had. Right, how far descent leaves the invariant of the flow, B Bᵀ − Aᵀ A, against the step; dashed, slope 1: it "
    "is kept in the limit of the flow."
)


def invariant(params: PyTree) -> Float[Array, "m m"]:
    """B Bᵀ − Aᵀ A, which gradient flow keeps."""
    return params["b"] @ params["b"].T - params["a"].T @ params["a"]


def linear_problem(key: Key[Array, ""], *, n: int, d: int) -> Problem:
    """Gaussian inputs of variance 1 and targets M* x, with the singular values `SINGULAR_VALUES` of M*."""
    key_x, key_left, key_right = jax.random.split(key, 3)
    k = len(SINGULAR_VALUES)
    left = jnp.linalg.qr(jax.random.normal(key_left, (k, k)))[0]
    right = jnp.linalg.qr(jax.random.normal(key_right, (d, k)))[0]
    x = jax.random.normal(key_x, (n, d))
    return Problem(x, x @ right @ jnp.diag(jnp.array(SINGULAR_VALUES)) @ left.T)


@stored_as("lazyscope.papers.note.ref8.train")
def train(
    key: Key[Array, ""], *, tau: Array, fraction: Array, n: int, d: int, width: int, num_steps: int
) -> dict[str, Array]:
    """Stable rank of B at the start and at the end of a run, and the drift of the invariant over ‖B_T‖_F².

    The largest stable step is the smaller of those at the start and at the balanced solution, where λmax(K)/n =
    2 σ_max(M*) λmax(XᵀX)/n. Every run goes on until nothing moves, so that steps need no common time.
    """
    key_data, key_init = jax.random.split(key)
    problem = linear_problem(key_data, n=n, d=d)
    model = two_layer_linear(width, d, outputs=len(SINGULAR_VALUES))
    params0 = model.init(key_init, tau=tau)
    at_start = 2 * stable_step_size(model.apply, params0, problem)
    at_end = 1 / (max(SINGULAR_VALUES) * jnp.linalg.norm(problem.x, ord=2) ** 2 / n)
    step_size = fraction * jnp.minimum(at_start, at_end)
    run = gradient_descent(model.apply, params0, problem, step_size=step_size, num_steps=num_steps, record=(num_steps,))
    drift = jnp.linalg.norm(invariant(run.params) - invariant(params0))
    return {
        "start_rank": stable_rank(params0["b"]),
        "end_rank": stable_rank(run.params["b"]),
        "drift": drift / jnp.sum(run.params["b"] ** 2),
        "loss_left": run.train_loss[-1] / square_loss(jnp.zeros_like(problem.y), problem.y),
    }


TRAIN = Cell(train, 1)


def compute(settings: Scales, trials: Trials) -> xr.Dataset:
    """Stable ranks at every tau with the smallest step, and `drift` at every step from `FOLLOWED_TAU`."""
    shared: dict[str, Any] = {
        "n": settings.n,
        "d": settings.d,
        "width": settings.width,
        "num_steps": settings.num_steps,
    }
    ranks = trials.over(TRAIN, {"tau": settings.taus, "fraction": (min(settings.fractions),)}, **shared)
    steps = trials.over(TRAIN, {"tau": (FOLLOWED_TAU,), "fraction": settings.fractions}, **shared)
    return ranks.isel(fraction=0, drop=True).drop_vars("drift").assign(drift=steps.drift.isel(tau=0, drop=True))


SOURCE = "note §2 on [8] (Varre et al. 2023)"
CLAIMS = (
    Claim(
        sentence="The smaller the initialisation, the lower the rank of the hidden layer.",
        source=SOURCE,
        measure="smallest rise of the stable rank of B at the end from one tau to the next",
        quantity=at(lambda ds: ds.end_rank.diff("tau").min("tau")),
        accepted=(0.0, np.inf),
        note="It rises from 1.75 to 8.3 at tau = 0.18 and falls back by 3 % to a plateau: monotone up to there.",
    ),
    Claim(
        sentence="A small initialisation is biased toward a low-rank hidden layer: that of the balanced factorisation.",
        source=SOURCE,
        measure="stable rank of B at the end from the smallest tau over Σσ/σ_max of the target map, minus 1",
        quantity=at(lambda ds: ds.end_rank / BALANCED_RANK - 1, tau=FIRST),
        accepted=(-0.02, 0.02),
    ),
    Claim(
        sentence="A large one keeps the rank it started with.",
        source="ours, after " + SOURCE,
        measure="stable rank of B at the end over that at the start, largest tau, minus 1",
        quantity=at(lambda ds: ds.end_rank / ds.start_rank - 1, tau=LAST),
        accepted=(-0.02, 0.02),
        note="A plain net has its initial output to unlearn, which costs 3 % of the stable rank from tau = 0.3 on.",
    ),
    Claim(
        sentence="Gradient flow conserves W₁W₁ᵀ − W₂ᵀW₂.",
        source=SOURCE,
        measure="slope of log change of B Bᵀ − Aᵀ A by descent against log step; 1 means none in the flow",
        quantity=power("drift", "fraction"),
        accepted=(0.9, 1.1),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the stable rank against tau, right the drift of the invariant against the step."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2, log=("x", "xy"))
    figures.curve(left, ds.end_rank, "tau", label="after training", color=figures.BLUE, marker="o")
    figures.curve(left, ds.start_rank, "tau", label="at initialisation", color=figures.GREY, line="--")
    left.set_ylim(0, 1.1 * float(ds.start_rank.max()))
    level = xr.full_like(ds.end_rank.isel(tau=0), BALANCED_RANK)
    figures.levels(left, [figures.Level(level, "Σσ/σ_max", figures.ORANGE)])
    figures.finish(left, x="initialisation scale tau", y="stable rank of the hidden layer", legend="center left")
    figures.curve(
        right, ds.drift, "fraction", label=f"descent from tau = {FOLLOWED_TAU:g}", color=figures.BLUE, marker="o"
    )
    figures.guide(right, ds.drift, "fraction", 1, label="slope 1")
    right.set_xticks(ds.fraction.values, [f"{fraction:g}" for fraction in ds.fraction.values])
    right.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figures.finish(right, x="step η over the largest stable one", y="change of B Bᵀ − Aᵀ A over ‖B_T‖²")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """Stable ranks and what is left of the train loss against tau, means over seeds."""
    rows = {"start": ds.start_rank, "end": ds.end_rank, "train loss left": ds.loss_left}
    return figures.table(rows, "tau")


REF8 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
