"""Trained parameters of a model and of its linearisation: by the user's trainer, or by descent at the stable step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.linearize import linearize
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.scaling import stable_step_size

DEFAULT_STEPS = 1500
CLOSED_FORM_SIDE = 2048  # rows of the tangent kernel up to which its eigenvectors beat iterating

Trainer = Callable[[Apply, PyTree], PyTree]


class Trained(NamedTuple):
    """Parameters after training the model and after training its linearisation; how, in words."""

    params: PyTree
    params_linear: PyTree
    how: str
    still_improving: bool | None
    step_size: float | None


def scaled(apply: Apply, alpha: float) -> Apply:
    """alpha·h; `apply` itself at alpha = 1."""
    return apply if alpha == 1.0 else lambda params, x: jnp.asarray(alpha, float) * apply(params, x)


def by_trainer(train: Trainer, apply: Apply, params0: PyTree, alpha: float) -> Trained:
    """`train` on alpha·h and on its linearisation. Raises ValueError where it returns something else or diverges."""
    model = scaled(apply, alpha)
    ends = []
    for name, trained_model in (("the model", model), ("its linearisation", linearize(model, params0))):
        params = train(trained_model, params0)
        check_params(params0, params, f"train must return finite parameters like params0 for {name}")
        ends.append(params)
    return Trained(ends[0], ends[1], "your trainer, on the model and on its linearisation", None, None)


def by_checkpoint(params0: PyTree, params: PyTree) -> Trained:
    """The weights given, for the model and for its linearisation: the gap at the same weights."""
    check_params(params0, params, "trained weights must be finite and like params0")
    return Trained(
        params, params, "elsewhere: g compares the model and its linearisation at the same weights", None, None
    )


def by_descent(
    apply: Apply, params0: PyTree, problem: Problem, alpha: float, num_steps: int, key: Key[Array, ""]
) -> Trained:
    """Full-batch descent of both, `num_steps` steps of `stable_step_size`; on F_alpha it does not depend on alpha."""
    step = float(stable_step_size(apply, params0, problem, alpha=alpha, key=key))
    if not jnp.isfinite(step):
        raise ValueError("the derivative of the model is 0 at params0, so nothing trains: start from other parameters")
    settings = {"alpha": alpha, "step_size": step, "num_steps": num_steps, "record": (0, num_steps)}
    run = gradient_descent(apply, params0, problem, **settings)
    linear = _linear_descent(apply, params0, problem, alpha, step, num_steps)
    how = f"{num_steps} steps of descent, η = {step:.3g} (half the stability limit)"
    for params in (run.params, linear):
        check_params(params0, params, "descent must end at finite parameters")
    return Trained(run.params, linear, how, bool(run.status.still_improving), step)


def _linear_descent(
    apply: Apply, params0: PyTree, problem: Problem, alpha: float, step_size: float, num_steps: int
) -> PyTree:
    kernel_side = jax.eval_shape(apply, params0, problem.x).size
    if problem.loss is square_loss and kernel_side <= CLOSED_FORM_SIDE:
        settings = {"alpha": alpha, "step_size": step_size}
        return linearized_descent(apply, params0, problem, steps=[num_steps], **settings).params
    settings = {"alpha": alpha, "step_size": step_size, "num_steps": num_steps, "record": (num_steps,)}
    return gradient_descent(linearize(apply, params0), params0, problem, **settings).params


def check_params(params0: PyTree, params: PyTree, rule: str) -> None:
    """ValueError, beginning with `rule`, unless `params` has the shapes of `params0` and finite values."""
    theta0, _ = tree.split(params0)
    try:
        theta, _ = tree.split(params)
    except ValueError as error:
        raise ValueError(f"{rule}, got none: {error}") from None
    shapes0, shapes = [leaf.shape for leaf in theta0], [leaf.shape for leaf in theta]
    if shapes0 != shapes or jax.tree.structure(params0) != jax.tree.structure(params):
        raise ValueError(f"{rule}, got shapes {shapes[:4]} for {shapes0[:4]}: keep the same pytree")
    bad = sum(int(jnp.sum(~jnp.isfinite(leaf))) for leaf in theta)
    if bad:
        raise ValueError(
            f"{rule}, got {bad} NaN or infinite values among {tree.size(theta)}: training diverged, lower its step size"
        )
