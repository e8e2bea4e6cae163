"""Woodworth et al. 2020, "Kernel and rich regimes": diagonal nets pass from the least l1 to the least l2 norm.

    lazyscope reproduce woodworth2020 --size quick

f(x) = Σ_i (w₊ᵢ² − w₋ᵢ²) x_i from w₊ = w₋ = tau (their alpha; ours is the output scale). Gradient flow on the square
loss keeps w₊ w₋ = tau², so that β = w₊² − w₋² = 2 tau² sinh(Xᵀν) for some ν: of all β with Xβ = y it ends at that of
least

    Q_tau(β) = Σ_i tau² q(β_i/tau²),   q(z) = 2 − √(4 + z²) + z asinh(z/2),

the l1 norm as tau → 0, the l2 norm as tau → ∞, the lazy end. The convex problem is solved on its own, by Newton's
method (scipy) on the dual min_ν Σ_i 2 tau² cosh(x_iᵀν) − νᵀy. The flow needs an implicit integrator: its rates span ten
decades at small tau. n = 40 examples, 100 features, 5 of them relevant, no noise; settings other than these are ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from scipy import optimize

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.dynamics import gradient_flow
from lazyscope.papers.figure import Cell, Figure, Size, Trials
from lazyscope.papers.quantities import FIRST, LAST, at, log10_ratio
from lazyscope.papers.student import decades
from lazyscope.problems import Problem

TIMES = (1e8,)  # of the end, by when the slowest direction at tau = 1e-4 is at rest


@dataclass(frozen=True)
class Data:
    """`n` examples of `d` features, `relevant` of which enter the target, and the integrator's relative tolerance."""

    n: int
    d: int
    relevant: int
    rtol: float


@dataclass(frozen=True)
class Scales:
    """Initialisation scales of nets on the same data."""

    taus: tuple[float, ...]
    data: Data


SIZES = {
    "tiny": Size(Scales((1e-2, 1.0, 1e2), Data(n=12, d=24, relevant=2, rtol=1e-3)), seeds=3),
    "quick": Size(Scales(decades(-3, 2, 1), Data(n=40, d=100, relevant=5, rtol=1e-3)), seeds=5),
    "paper": Size(Scales(decades(-4, 2, 0.25), Data(n=40, d=100, relevant=5, rtol=1e-5)), seeds=10),
}
CAPTION = (
    "Left, where gradient flow ends against the initialisation scale: its distance to the interpolating solutions of "
    "least l1 and least l2 norm and to the sparse truth. Large weights train lazily and give the least l2 norm, small "
    "ones the sparse solution. Right, distance to the minimiser of Q_tau, computed without any training: the exact "
    "law at every scale between."
)


def diagonal_net(w: Float[Array, "2 d"], x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Σ_i (w₊ᵢ² − w₋ᵢ²) x_i, 2-homogeneous in w = (w₊, w₋)."""
    return x @ (w[0] ** 2 - w[1] ** 2)


def sparse_problem(key: Key[Array, ""], *, n: int, d: int, relevant: int) -> tuple[Problem, Float[Array, " d"]]:
    """Gaussian inputs, targets β*·x without noise, with `relevant` entries ±1 in β*; the problem and β*."""
    key_x, key_sign = jax.random.split(key)
    x = jax.random.normal(key_x, (n, d))
    truth = jnp.zeros(d).at[:relevant].set(jax.random.rademacher(key_sign, (relevant,), float))
    return Problem(x, x @ truth), truth


class End(NamedTuple):
    """Where a flow ends: β, the largest |w₊ w₋/tau² − 1|, and the problem with the truth it was drawn from."""

    beta: Float[Array, " d"]
    product: Float[Array, ""]
    truth: Float[Array, " d"]
    x: Float[Array, "n d"]
    y: Float[Array, " n"]


def flow(key: Key[Array, ""], tau: float, *, n: int, d: int, relevant: int, rtol: float) -> End:
    """The flow from w₊ = w₋ = tau to its end."""
    problem, truth = sparse_problem(key, n=n, d=d, relevant=relevant)
    run = gradient_flow(
        diagonal_net,
        tau * jnp.ones((2, d)),
        problem,
        times=TIMES,
        rtol=rtol,
        atol=0.01 * rtol * tau,  # the weights start at tau and have to leave it
        solver=diffrax.Kvaerno3(),
    )
    w = run.params
    product = jnp.max(jnp.abs(w[0] * w[1] / tau**2 - 1))
    return End(w[0] ** 2 - w[1] ** 2, product, truth, problem.x, problem.y)


def least_q(x: np.ndarray, y: np.ndarray, tau: float) -> np.ndarray:
    """The minimiser of Q_tau among all β with Xβ = y, by a trust-region Newton method on the dual."""

    def dual(nu: np.ndarray) -> float:
        return float(np.sum(2 * tau**2 * np.cosh(x.T @ nu)) - nu @ y)

    def gradient(nu: np.ndarray) -> np.ndarray:
        return x @ (2 * tau**2 * np.sinh(x.T @ nu)) - y

    def hessian(nu: np.ndarray) -> np.ndarray:
        return (x * (2 * tau**2 * np.cosh(x.T @ nu))) @ x.T

    start = np.zeros(y.size)
    found = optimize.minimize(dual, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9})
    return 2 * tau**2 * np.sinh(x.T @ found.x)


def least_l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The interpolating β of least l1 norm, as a linear programme in its positive and negative parts."""
    d = x.shape[1]
    found = optimize.linprog(np.ones(2 * d), A_eq=np.hstack([x, -x]), b_eq=y)
    return found.x[:d] - found.x[d:]


def distances(key: Key[Array, ""], *, tau: float, data: Data) -> dict[str, float]:
    """Relative distances of β to the three minimisers and to the truth, ‖Xβ − y‖/‖y‖, and `product`."""
    end = flow(key, tau, n=data.n, d=data.d, relevant=data.relevant, rtol=data.rtol)
    beta, product, truth, x, y = (np.asarray(value) for value in end)

    def to(other: np.ndarray) -> float:
        return float(np.linalg.norm(beta - other) / np.linalg.norm(other))

    return {
        "to_least_q": to(least_q(x, y, tau)),
        "to_least_l1": to(least_l1(x, y)),
        "to_least_l2": to(np.linalg.pinv(x) @ y),
        "to_truth": to(truth),
        "residual": float(np.linalg.norm(x @ beta - y) / np.linalg.norm(y)),
        "product": float(product),
    }


DISTANCES = Cell(distances, 1, compiled=False)  # the linear solver of an implicit integrator is no part of a program


def compute(settings: Scales, trials: Trials) -> xr.Dataset:
    """The `distances` at every tau and seed."""
    return trials.over(DISTANCES, {"tau": settings.taus}, data=settings.data)


CLAIMS = (
    Claim(
        sentence="Gradient flow ends at the interpolating solution that minimises Q_alpha.",
        source="Woodworth et al. 2020, Theorem 1",
        measure="largest ‖β_T − β_Q‖/‖β_Q‖ over tau",
        quantity=at(lambda ds: ds.to_least_q.max("tau")),
        accepted=(-np.inf, 1e-3),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="From large weights it is the solution of least l2 norm: the kernel regime.",
        source="Woodworth et al. 2020, Theorem 2",
        measure="‖β_T − β_2‖/‖β_2‖ at the largest tau",
        quantity=at("to_least_l2", tau=LAST),
        accepted=(-np.inf, 1e-3),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="From small weights it is the solution of least l1 norm: the rich regime.",
        source="Woodworth et al. 2020, Theorem 2",
        measure="‖β_T − β_1‖/‖β_1‖ at the smallest tau",
        quantity=at("to_least_l1", tau=FIRST),
        accepted=(-np.inf, 0.05),
        scale=Scale.SIZE,
    ),
    Claim(
        sentence="The lazy end generalises worse where the truth is sparse.",
        source="Woodworth et al. 2020, §5",
        measure="log10 of the distance to the truth at the smallest tau over that at the largest",
        quantity=log10_ratio(at("to_truth", tau=FIRST), at("to_truth", tau=LAST)),
        accepted=(-np.inf, -1.0),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the distances to what the flow passes between, right the distance to the law."""
    figure, (left, right) = figures.new_figure(10.5, 4.4, columns=2, log="xy")
    figures.curve(left, ds.to_least_l1, "tau", label="to the least l1 norm", color=figures.BLUE, marker="o")
    figures.curve(left, ds.to_least_l2, "tau", label="to the least l2 norm", color=figures.ORANGE, marker="s")
    figures.curve(left, ds.to_truth, "tau", label="to the sparse truth", color=figures.GREEN, line="--")
    figures.finish(left, x="initialisation scale tau", y="relative distance of β")
    figures.curve(right, ds.to_least_q, "tau", label="to the minimiser of Q_tau", color=figures.BLUE, marker="o")
    figures.curve(right, ds.residual, "tau", label="‖Xβ − y‖/‖y‖", color=figures.GREY, line=":")
    right.axhline(1e-3, color=figures.INK, linewidth=0.8)
    right.annotate("accepted", (0.01, 1e-3), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    figures.finish(right, x="initialisation scale tau", y="relative distance of β")
    return figure


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """All distances against tau, means over seeds."""
    rows = {
        "to least Q": ds.to_least_q,
        "to least l1": ds.to_least_l1,
        "to least l2": ds.to_least_l2,
        "to the truth": ds.to_truth,
        "residual": ds.residual,
        "change of w₊ w₋/tau²": ds["product"],
    }
    return figures.table(rows, "tau")


WOODWORTH2020 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers)
