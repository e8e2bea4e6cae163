"""What note §5.1 says of steps and optimisers, as cells: SGD, sparse starts, gradients and speed against tau."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Key, PyTree

from lazyscope import tree
from lazyscope.dynamics import gradient_descent, linearized_descent, minibatches, sgd
from lazyscope.models import Doubled
from lazyscope.papers.student import Protocol, chizat_step_size, fixed_step_size, setup
from lazyscope.problems import square_loss
from lazyscope.tangent import largest_eigenvalue

SGD_VERSION = 1
SPARSE_VERSION = 1
GRADIENT_VERSION = 1
SPEED_VERSION = 1
MOMENTUM = 0.9
REACHED = 0.1  # of the initial train loss
SPEED_POINTS = 120


@dataclass(frozen=True)
class Speed:
    """The net whose gradients and speed are followed over tau, plain for the one and symmetrised for the other."""

    protocol: Protocol
    taus: tuple[float, ...]
    num_steps: int


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


def start_gradient(key: Key[Array, ""], *, tau: Array, protocol: Protocol) -> dict[str, Array]:
    """‖∇F(w0)‖ and the largest stable step 2/λmax(K(w0)/n) at weights of scale tau."""
    model, params, problem = setup(key, replace(protocol, doubled=False))
    params = jax.tree.map(lambda leaf: tau * leaf, params)
    gradient = jax.grad(lambda w: square_loss(model.apply(w, problem.x), problem.y))(params)
    top = largest_eigenvalue(model.apply, params, problem.x)
    return {"gradient_norm": tree.norm(gradient), "stable_step": 2 / top}


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


def _sparse(key: Key[Array, ""], params: PyTree, d: int) -> Doubled:
    net = params.plus
    order = jnp.argsort(jax.random.uniform(key, net["b"].shape), axis=1)
    sparse: dict[str, Array] = net | {"b": jnp.where(order < d // 2, jnp.sqrt(2.0) * net["b"], 0)}
    return Doubled(sparse, sparse)
