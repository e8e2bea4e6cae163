"""What the theorems assume of the start: h(w0) = 0 or small, and around w0 Dh of constant rank and Lipschitz."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.dynamics import gradient_flow, kernel_flow
from lazyscope.models import Apply
from lazyscope.papers.figure import Cell, Trials, prefixed, side_by_side
from lazyscope.papers.theorems.flows import Net, net_start
from lazyscope.problems import Problem, square_loss
from lazyscope.store import stored_as
from lazyscope.tangent import jacobian

ALPHAS = (1.0, 10.0, 100.0)  # at which linearised flows are compared
OFFSETS = (1.0, 1000.0)  # ‖h(w0)‖ in units of C0
NEARBY = 1e-3  # distance, per weight, at which the rank is looked at again
SHIFTS = (0.003, 0.01, 0.03, 0.1)  # per weight, at which Dh is compared with Dh(w0)
UNITS = 12.0  # last time of a flow in units of 1/λmin
RELATIVE_RANK = 1e-8  # singular values below this share of the largest are 0


@stored_as("lazyscope.papers.start_cells.Shape")
@dataclass(frozen=True)
class Shape:
    """Examples, inputs and units of a centred tanh net."""

    n: int
    d: int
    width: int

    def net(self) -> Net:
        """The net with its data."""
        return Net(self.n, self.d, self.width, n_test=1)


@dataclass(frozen=True)
class Starts:
    """An over-parameterised net for minimisers and offsets, an under-parameterised one for ranks, one for kinks."""

    over: Shape
    under: Shape
    kinks: Shape


STARTS = {
    "tiny": Starts(Shape(6, 6, 24), Shape(20, 3, 4), Shape(60, 8, 8)),
    "quick": Starts(Shape(20, 20, 100), Shape(60, 5, 4), Shape(200, 20, 20)),
    "paper": Starts(Shape(20, 20, 100), Shape(60, 5, 4), Shape(1000, 100, 50)),
}


@stored_as("lazyscope.papers.start_cells.independence")
def independence(key: Key[Array, ""], *, net: Net, centred: bool) -> dict[str, Array]:
    """How far linearised flows at three alpha are apart: outputs alpha·h̄ at a time and at infinity, and w̄* itself.

    Relative to their size at the smallest alpha (for weights, that of w̄* − w0). `minimiser` is ‖w̄* − w0‖ at each.
    """
    raw = Net(net.n, net.d, net.width, net.n_test, net.activation, centred=centred)
    apply, params0, problem, _ = net_start(key, net=raw)
    top = jnp.linalg.eigvalsh(_kernel(apply, params0, problem.x))
    times = jnp.stack([5 / top[-1], jnp.asarray(jnp.inf)])
    runs = [kernel_flow(apply, params0, problem, alpha=alpha, times=times) for alpha in ALPHAS]
    outputs = jnp.stack([run.observed[0] for run in runs])  # (alpha, time, n)
    apart = jnp.max(jnp.linalg.norm(outputs - outputs[:1], axis=2), axis=0) / jnp.linalg.norm(outputs[0], axis=1)
    moved = [tree.sub(run.params, params0) for run in runs]
    sizes = jnp.stack([tree.norm(step) for step in moved])
    return {
        "flow_apart": apart[0],
        "end_apart": apart[1],
        "weights_apart": tree.norm(tree.sub(moved[-1], moved[0])) / sizes[0],
        "minimiser": sizes,
    }


@stored_as("lazyscope.papers.start_cells.offset")
def offset(key: Key[Array, ""], *, size: Array, net: Net) -> dict[str, Array]:
    """A flow from ‖h(w0)‖ = size·C0 at alpha = 2‖y‖/C0, against the guarantee of chizat2019, Theorem 2.4.

    The start is moved by a constant function of norm size·C0. `guarantee` is the largest of the residual over
    ‖αh(w0) − y‖ exp(−t λmin/4), `end` the last residual over the first, `moved` the largest ‖w − w0‖ over the
    radius s/(2 Lip(Dh)) within which the theorem confines it.
    """
    centred, params0, problem, lipschitz = net_start(key, net=net)
    values = jnp.linalg.eigvalsh(_kernel(centred, params0, problem.x))
    low, top = values[0], values[-1]
    lip = lipschitz(jnp.sqrt(low) / (2 * lipschitz(jnp.zeros(()))[1]))[1]
    limit = low**1.5 / (32 * jnp.sqrt(top) * lip)
    shift = size * limit * jnp.where(jnp.arange(net.n) % 2 == 0, 1.0, -1.0)
    norm_y = jnp.sqrt(2 * square_loss(jnp.zeros_like(problem.y), problem.y))
    alpha = 2 * norm_y / limit

    def apply(params: PyTree, x: Array) -> Array:
        return centred(params, x) + shift

    times = UNITS * jnp.arange(1.0, 25.0) / 24
    settings = {"times": times / low, "rtol": 1e-8, "atol": 1e-11, "observe": lambda params: params}
    run = gradient_flow(apply, params0, Problem(problem.x, problem.y), alpha=alpha, **settings)
    residual = jnp.sqrt(run.train_loss / square_loss(alpha * shift, problem.y))
    moved = jax.vmap(lambda params: tree.norm(tree.sub(params, params0)))(run.observed)
    return {
        "guarantee": jnp.max(residual / jnp.exp(-times / 4)),
        "end": residual[-1],
        "moved": jnp.max(moved) * 2 * lip / jnp.sqrt(low),
        "late_rate": -jnp.log(residual[-1] / residual[17]) / (times[-1] - times[17]),
    }


@stored_as("lazyscope.papers.start_cells.rank_nearby")
def rank_nearby(key: Key[Array, ""], *, net: Net, doubled: bool) -> dict[str, Array]:
    """Rank of Dh at w0 and at a point nearby, all weights free, and the number of weights."""
    key_net, key_shift = jax.random.split(key)
    shape = Net(net.n, net.d, net.width, net.n_test, net.activation, doubled=doubled)
    apply, params0, problem, _ = net_start(key_net, net=shape)
    near = _shifted(key_shift, params0, NEARBY)
    ranks = [_rank(jacobian(apply, params, problem.x)[:, 0]) for params in (params0, near)]
    return {"rank": ranks[0], "rank_nearby": ranks[1], "parameters": jnp.asarray(tree.size(params0))}


@stored_as("lazyscope.papers.start_cells.smoothness")
def smoothness(key: Key[Array, ""], *, n: int, d: int, width: int, relu: bool) -> dict[str, Array]:
    """‖Dh(w0 + δu) − Dh(w0)‖_F/‖Dh(w0)‖_F for a random direction u and every shift δ."""
    net = Net(n, d, width, n_test=1, activation=jax.nn.relu if relu else jnp.tanh, centred=False)
    key_net, key_shift = jax.random.split(key)
    apply, params0, problem, _ = net_start(key_net, net=net)
    start = jacobian(apply, params0, problem.x)
    changes = [
        jnp.linalg.norm(jacobian(apply, _shifted(key_shift, params0, shift), problem.x) - start) for shift in SHIFTS
    ]
    return {"change": jnp.stack(changes) / jnp.linalg.norm(start)}


INDEPENDENCE = Cell(independence, 1, {"minimiser": ("linear_alpha",)})
OFFSET = Cell(offset, 2)
RANK = Cell(rank_nearby, 1)
SMOOTHNESS = Cell(smoothness, 1, {"change": ("shift",)})


def independences(settings: Starts, trials: Trials) -> xr.Dataset:
    """`independence` with h(w0) = 0 and without, over `output`."""
    kinds = {"centred": True, "raw": False}
    net = settings.over.net()
    parts = {name: trials.over(INDEPENDENCE, {}, net=net, centred=centred) for name, centred in kinds.items()}
    return side_by_side("output", parts).assign_coords(linear_alpha=list(ALPHAS))


def offsets(settings: Starts, trials: Trials) -> xr.Dataset:
    """`offset` at every size, named `offset_*`."""
    return prefixed(trials.over(OFFSET, {"size": OFFSETS}, net=settings.over.net()), "offset_")


def ranks(settings: Starts, trials: Trials) -> xr.Dataset:
    """`rank_nearby` of a centred and a doubled net, over `device`."""
    kinds = {"centred": False, "symmetrised": True}
    net = settings.under.net()
    return side_by_side("device", {name: trials.over(RANK, {}, net=net, doubled=on) for name, on in kinds.items()})


def smoothnesses(settings: Starts, trials: Trials) -> xr.Dataset:
    """`smoothness` of a ReLU and a tanh net, over (activation, shift), named `differential_change`."""
    net, kinds = settings.kinks, {"ReLU": True, "tanh": False}
    parts = {
        name: trials.over(SMOOTHNESS, {}, n=net.n, d=net.d, width=net.width, relu=relu) for name, relu in kinds.items()
    }
    ds = side_by_side("activation", parts).assign_coords(shift=list(SHIFTS))
    return ds.rename(change="differential_change")


def _kernel(apply: Apply, params: PyTree, x: Array) -> Float[Array, "n n"]:
    rows = jacobian(apply, params, x)[:, 0]
    return rows @ rows.T / rows.shape[0]


def _rank(rows: Float[Array, "n p"]) -> Array:
    values = jnp.linalg.svd(rows, compute_uv=False)
    return jnp.sum(values > RELATIVE_RANK * values[0])


def _shifted(key: Key[Array, ""], params: PyTree, size: float) -> PyTree:
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + size * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(shape, moved)
