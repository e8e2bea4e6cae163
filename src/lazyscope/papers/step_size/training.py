"""Runs behind what note §5.1 says of steps and optimisers: where lazy nets stall, the largest stable step, speed."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Key, PyTree

from lazyscope import tree
from lazyscope.dynamics import gradient_descent, linearized_descent, minibatches, sgd
from lazyscope.models import Doubled
from lazyscope.papers.figure import Cell
from lazyscope.papers.step_size.rules import chizat_step_size, fixed_step_size
from lazyscope.papers.student import Protocol, setup
from lazyscope.problems import square_loss
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue

MOMENTUM = 0.9
EDGE_STEPS = 100
REACHED = 0.1  # of the initial train loss
SPEED_POINTS = 120


@stored_as("lazyscope.papers.step_cells.Speed")
@dataclass(frozen=True)
class Speed:
    """The net whose gradients and speed are followed over tau, plain for the one and symmetrised for the other."""

    protocol: Protocol
    taus: tuple[float, ...]
    num_steps: int


def stall(
    key: Key[Array, ""], *, tau: Array, fraction: float, momentum: float, kernel_time: float, protocol: Protocol
) -> dict[str, Array]:
    """Train loss at the end of descent of given effective kernel_time, and the projection residual."""
    model, params0, problem = setup(key, protocol)
    step_size = 2 * fraction / largest_eigenvalue(model.apply, params0, problem.x)
    num_steps = round(kernel_time * (1 - momentum) / (2 * fraction))
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=tau**2,
        step_size=step_size,
        num_steps=num_steps,
        momentum=momentum,
        record=(0, num_steps),
    )
    limit = linearized_descent(model.apply, params0, problem, alpha=tau**2, step_size=step_size, steps=[np.inf])
    return {"train_loss": run.train_loss[-1], "residual": limit.train_loss[-1], "start": run.train_loss[0]}


@stored_as("lazyscope.papers.step_cells.sgd_stall")
def sgd_stall(key: Key[Array, ""], *, tau: float, kernel_time: float, protocol: Protocol) -> dict[str, Array]:
    """Train loss at the end of SGD with momentum over the projection residual.

    Batches are a quarter of the data; steps go down to 0 as a cosine, since at a constant one the noise of residuals
    that no weights can fit would stay.
    """
    key_net, key_batches = jax.random.split(key)
    model, params0, problem = setup(key_net, protocol)
    alpha, top = tau**2, largest_eigenvalue(model.apply, params0, problem.x)
    rate = 0.2 / top  # as heavy ball 2/λmax, and half of it over the run
    num_steps = round(kernel_time * (1 - MOMENTUM) / 0.1)

    def schedule(count: ArrayLike) -> Array:
        return 0.5 * rate * (1 + jnp.cos(np.pi * jnp.asarray(count, float) / num_steps))

    run = sgd(
        model.apply,
        params0,
        minibatches(problem, protocol.n // 4),
        alpha=alpha,
        optimizer=optax.sgd(schedule, momentum=MOMENTUM),
        num_steps=num_steps,
        key=key_batches,
        loss=square_loss,
        record=(num_steps,),
    )
    end = square_loss(alpha * model.apply(run.params, problem.x), problem.y)
    limit = linearized_descent(model.apply, params0, problem, alpha=alpha, step_size=rate, steps=[np.inf])
    return {"sgd_excess": end / limit.train_loss[-1]}


@stored_as("lazyscope.papers.step_cells.sparse_stall")
def sparse_stall(key: Key[Array, ""], *, tau: float, kernel_time: float, protocol: Protocol) -> dict[str, Array]:
    """Train loss at the end of descent with momentum over the projection residual, from a sparse start.

    Every hidden unit sees half of the inputs, with weights √2 times as large: the sparse initialisation that Sutskever
    et al. 2013 use, with half of the inputs for their 15.
    """
    model, params0, problem = setup(key, protocol)
    params0 = _sparse(jax.random.fold_in(key, 1), params0, protocol.d)
    alpha, step = tau**2, 0.8 / largest_eigenvalue(model.apply, params0, problem.x)
    num_steps = round(kernel_time * (1 - MOMENTUM) / 0.8)
    settings = {"alpha": alpha, "step_size": step}
    run = gradient_descent(
        model.apply, params0, problem, num_steps=num_steps, momentum=MOMENTUM, record=(num_steps,), **settings
    )
    limit = linearized_descent(model.apply, params0, problem, steps=[np.inf], **settings)
    return {"sparse_excess": run.train_loss[-1] / limit.train_loss[-1]}


@stored_as("lazyscope.papers.note.s5_1.edge")
def edge(key: Key[Array, ""], *, rate: Array, momentum: float, protocol: Protocol) -> dict[str, Array]:
    """Largest train loss in 100 steps over its start, lazy, the step in units of the limit 2(1 + β)."""
    model, params0, problem = setup(key, protocol)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=1e6,
        step_size=2 * (1 + momentum) * rate / largest_eigenvalue(model.apply, params0, problem.x),
        num_steps=EDGE_STEPS,
        momentum=momentum,
        record=range(EDGE_STEPS + 1),
    )
    # The largest on the way, not the last: just above the limit the loss rises, and may come down again (a catapult).
    return {"growth": jnp.nanmax(run.train_loss) / run.train_loss[0]}


@stored_as("lazyscope.papers.step_cells.start_gradient")
def start_gradient(key: Key[Array, ""], *, tau: Array, protocol: Protocol) -> dict[str, Array]:
    """‖∇F(w0)‖ and the largest stable step 2/λmax(K(w0)/n) at weights of scale tau."""
    model, params, problem = setup(key, replace(protocol, doubled=False))
    params = jax.tree.map(lambda leaf: tau * leaf, params)
    gradient = jax.grad(lambda w: square_loss(model.apply(w, problem.x), problem.y))(params)
    top = largest_eigenvalue(model.apply, params, problem.x)
    return {"gradient_norm": tree.norm(gradient), "stable_step": 2 / top}


@stored_as("lazyscope.papers.step_cells.speed")
def speed(key: Key[Array, ""], *, tau: Array, spec: Speed) -> dict[str, Array]:
    """Steps to a tenth of the initial train loss by the rule, by a fixed step of 0.005, and by 0.9 of the largest step.

    Symmetrised. A run that does not get there counts as taking all steps.
    """
    model, params0, problem = setup(key, replace(spec.protocol, doubled=True))
    top = largest_eigenvalue(model.apply, params0, problem.x)
    record = tuple(int(s) for s in np.unique(np.geomspace(1, spec.num_steps, SPEED_POINTS).round()))

    def steps(step_size: Array) -> Array:
        run = gradient_descent(
            model.apply,
            params0,
            problem,
            alpha=tau**2,
            step_size=step_size,
            num_steps=spec.num_steps,
            record=record,
        )
        start = square_loss(jnp.zeros_like(problem.y), problem.y)
        return jnp.min(jnp.where(run.train_loss <= REACHED * start, jnp.array(record), spec.num_steps))

    rule, fixed = chizat_step_size(tau) * tau**2, fixed_step_size(tau) * tau**2
    taken = jax.lax.map(steps, jnp.stack([rule, fixed, 1.8 / top]))
    return dict(zip(("rule_steps", "fixed_steps", "best_steps"), taken, strict=True))


STALL = Cell(stall, 2, static=("fraction", "momentum"))
SGD_STALL = Cell(sgd_stall, 1)
SPARSE_STALL = Cell(sparse_stall, 1)
EDGE = Cell(edge, 1, static=("momentum",))
START_GRADIENT = Cell(start_gradient, 1)
SPEED = Cell(speed, 1)


def _sparse(key: Key[Array, ""], params: PyTree, d: int) -> Doubled:
    net = params.plus
    order = jnp.argsort(jax.random.uniform(key, net["b"].shape), axis=1)
    sparse: dict[str, Array] = net | {"b": jnp.where(order < d // 2, jnp.sqrt(2.0) * net["b"], 0)}
    return Doubled(sparse, sparse)
