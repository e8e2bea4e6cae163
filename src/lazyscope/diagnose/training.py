"""Trained parameters of a model and of its linearisation: by the user's trainer, or by descent at the stable step."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.diagnose.kept import Trajectory
from lazyscope.diagnose.trajectory import Recorder
from lazyscope.door import as_came, as_type, sealed, types
from lazyscope.dynamics import linearized_descent
from lazyscope.dynamics.parts import Losses, descent_in_parts, steps_of
from lazyscope.linearize import linearize
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.progress import Progress, silent
from lazyscope.scaling import bounded_step_size, stable_step_size

DEFAULT_STEPS = 1500
SHRUNK = 4**8  # by how much steps that diverge are shrunk at most
BLOWN_UP = 2.0  # end over start of a loss, from which descent that went anywhere was no descent
MATTERS = 1e-4  # share of what the loss fell by, from which it matters that it still falls: a hundredth in outputs
RUNS = "your trainer, runs"
CLOSED_FORM_SIDE = 2048  # rows of the tangent kernel up to which its eigenvectors beat iterating

Trainer = Callable[..., PyTree]
"""`train(apply, params0) -> params`, or `train(apply, params0, scale) -> params` with a `Scale`."""


class Scale(NamedTuple):
    """What a trainer has to know of the output scale alpha: the step on R(alpha·h) must shrink as alpha grows.

    `sgd` = 1/alpha² is the factor for the learning rate of descent (momentum or not): the gradient grows as alpha, and
    weights should move by 1/alpha. `adam` = 1/alpha is that of Adam and its kin, whose step does not follow the
    gradient's size; Adam's eps wants to grow as alpha. Decoupled weight decay is multiplied by the learning rate:
    divide it by the same factor to keep its strength.
    """

    alpha: float

    @property
    def sgd(self) -> float:
        """1/alpha²."""
        return self.alpha**-2

    @property
    def adam(self) -> float:
        """1/alpha."""
        return 1 / self.alpha


class Trained(NamedTuple):
    """Parameters after training the model and after training its linearisation; how, in words.

    `step` says whose step has to follow alpha when alpha is changed: "ours" does, "told" is a trainer that takes a
    `Scale`, "untold" one that does not, "elsewhere" no trainer at all.
    """

    params: PyTree
    params_linear: PyTree
    how: str
    step: str
    still_improving: bool | None = None
    step_size: float | None = None
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class Scaled:
    """alpha·h, equal to any other of the same h and alpha: what was compiled for one serves all."""

    apply: Apply
    alpha: float

    def __call__(self, params: PyTree, x: Any) -> Array:
        """alpha·h(params, x)."""
        outputs = self.apply(params, x)
        return jnp.asarray(self.alpha, outputs.dtype) * outputs


def scaled(apply: Apply, alpha: float) -> Apply:
    """alpha·h; `apply` itself at alpha = 1."""
    return apply if alpha == 1.0 else Scaled(apply, alpha)


def takes_scale(train: Trainer) -> bool:
    """Whether a trainer takes a third argument, the `Scale`; ValueError where it takes neither two nor three.

    One with a default, of another name than `scale`, is a setting of the trainer's own.
    """
    try:
        signature = inspect.signature(train)
    except (TypeError, ValueError):
        return False
    for count in (3, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 3 and not _own_setting(signature)
    raise ValueError(
        f"train must take (apply, params0) or (apply, params0, scale), got train{signature}: "
        "bind the rest, with functools.partial say"
    )


def _own_setting(signature: inspect.Signature) -> bool:
    third = [
        one for one in signature.parameters.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return len(third) > 2 and third[2].default is not third[2].empty and third[2].name != "scale"


class OfCaller:
    """A trainer of the caller's, given parameters as the caller knows them, in containers and buffers of their own."""

    def __init__(self, train: Trainer, params0: PyTree) -> None:
        self.train, self.dtypes = train, types(sealed(params0))
        self.told = takes_scale(train)

    def __call__(self, apply: Apply, params0: PyTree, alpha: float) -> PyTree:
        """What the trainer makes of `params0`; it may change them in place, and donate them."""
        more = (Scale(alpha),) if self.told else ()
        return self.train(apply, as_came(tree.copy(params0), self.dtypes), *more)


def by_trainer(train: OfCaller, apply: Apply, params0: PyTree, alpha: float, report: Progress = silent) -> Trained:
    """`train` on alpha·h and on its linearisation. Raises ValueError where it returns something else or diverges."""
    model = scaled(apply, alpha)
    ends = []
    for name, trained_model in (("the model", model), ("its linearisation", linearize(model, params0))):
        report(len(ends), 2, RUNS)
        params = sealed(train(trained_model, params0, alpha))
        _check_alone(params0, params)
        check_params(params0, params, f"train must return finite parameters like params0 for {name}")
        ends.append(tree.copy(as_type(params, jnp.result_type(*tree.split(params0)[0]))))
    report(2, 2, RUNS)
    step = "told" if train.told else "untold"
    if _equal(ends[1], params0) and not _equal(ends[0], params0):
        raise ValueError(
            "train must train whatever it is given, got a linearisation that did not move, though the model did: make "
            "its batches inside train, since an iterator is used up by the first call"
        )
    # So it is where train has a model of its own, and g is then the gap at the same weights.
    same = ", which ended at the same weights for both: does it call the apply that it is given?"
    how = f"your trainer, on the model and on its linearisation{same if _equal(*ends) else ''}"
    return Trained(ends[0], ends[1], how, step)


def _equal(one: PyTree, other: PyTree) -> bool:
    sides = (tree.split(side)[0] for side in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*sides, strict=True))


def by_checkpoint(params0: PyTree, params: PyTree) -> Trained:
    """The weights given, for the model and for its linearisation: the gap at the same weights."""
    check_params(params0, params, "trained weights must be finite and like params0")
    how = "elsewhere: g compares the model and its linearisation at the same weights"
    return Trained(params, params, how, "elsewhere")


def by_descent(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    alpha: float,
    num_steps: int,
    key: Key[Array, ""],
    report: Progress = silent,
    *,
    recorded: bool = True,
) -> Trained:
    """Full-batch descent of both, `num_steps` steps of `bounded_step_size`; on F_alpha it does not depend on alpha.

    From a small start, where the kernel grows, such steps may diverge, or leave the loss far above its start: then both
    are taken smaller, by a factor that `how` says. Losses, g and j are recorded on the way, unless `recorded` is false.
    """
    step = float(bounded_step_size(apply, params0, problem, alpha=alpha, key=key))
    if not np.isfinite(step):
        if float(stable_step_size(apply, params0, Problem(problem.x, apply(params0, problem.x)), key=key)) < np.inf:
            raise ValueError(
                "the loss must curve at the start for a stable step to be told, got one without curvature in the "
                "outputs there, such as an absolute error: pass train=, a trainer with a step of its own"
            )
        raise ValueError("the derivative of the model is 0 at params0, so nothing trains: start from other parameters")

    def descended(step: float) -> tuple[PyTree, Losses, Recorder | None]:
        recorder = Recorder(apply, params0, problem, alpha, num_steps, key) if recorded else None
        seen = {} if recorder is None else {"record": recorder.record, "look": recorder.model}
        report(0, num_steps, steps_of(linear=False))
        found = descent_in_parts(
            apply, params0, problem, alpha=alpha, step_size=step, num_steps=num_steps, report=report, **seen
        )
        report(num_steps, num_steps, steps_of(linear=False))
        return *found, recorder

    over, (params, losses, recorder) = 1, descended(step)
    while not _descends(params0, params, losses) and over < SHRUNK:
        over *= 4
        params, losses, recorder = descended(step / over)
    settings = {"alpha": alpha, "step_size": step / over}
    report(0, num_steps, steps_of(linear=True))
    linear = _linear_descent(apply, params0, problem, num_steps, settings, report, recorder)
    report(num_steps, num_steps, steps_of(linear=True))
    limit = "half the stability limit" + (f" at the start over {over}: larger steps diverged" if over > 1 else "")
    how = f"{num_steps} steps of descent, η = {step / over:.3g} ({limit})"
    for end in (params, linear):
        check_params(params0, end, "descent must end at finite parameters")
    trajectory = None if recorder is None else recorder.trajectory()
    return Trained(params, linear, how, "ours", _still_falls(losses), step / over, trajectory)


def _descends(params0: PyTree, params: PyTree, losses: Losses) -> bool:
    if not all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in tree.split(params)[0]):
        return False
    if not losses.end - losses.start > (BLOWN_UP - 1) * abs(losses.start):
        return bool(np.isfinite(losses.end))
    # Where there is nothing to learn rounding alone may double what is left of a loss.
    moved = float(tree.norm(tree.differences(params, params0)))
    return moved < 1e-3 * float(tree.norm(tree.split(params0)[0]))


def _still_falls(losses: Losses) -> bool:
    fell = losses.late - losses.end
    return fell > 0.01 * abs(losses.late) and fell > MATTERS * (losses.start - losses.end)


def _linear_descent(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    num_steps: int,
    settings: dict[str, Any],
    report: Progress,
    recorder: Recorder | None,
) -> PyTree:
    kernel_side = jax.eval_shape(apply, params0, problem.x).size
    if problem.loss is square_loss and kernel_side <= CLOSED_FORM_SIDE:
        steps = (num_steps,) if recorder is None else recorder.record
        run = linearized_descent(apply, params0, problem, steps=steps, **settings)
        if recorder is not None:
            recorder.closed_form(run)
        return run.params
    seen = {} if recorder is None else {"record": recorder.record, "look": recorder.linearised}
    given = {"num_steps": num_steps, "linear": True, "report": report, **settings, **seen}
    return descent_in_parts(apply, params0, problem, **given)[0]


def _check_alone(params0: PyTree, params: Any) -> None:
    structure = jax.tree.structure(params0)
    if not isinstance(params, tuple) or jax.tree.structure(params) == structure:
        return
    if any(jax.tree.structure(item) == structure for item in params):
        raise ValueError(
            f"train must return the parameters alone, got a tuple of {len(params)} with the parameters in it: "
            "return params, and keep the rest elsewhere"
        )


def check_params(params0: PyTree, params: PyTree, rule: str) -> None:
    """ValueError, beginning with `rule`, unless `params` has the shapes of `params0` and finite values."""
    theta0, _ = tree.split(params0)
    try:
        theta, _ = tree.split(params)
    except ValueError as error:
        raise ValueError(f"{rule}, got none: {error}") from None
    shapes0, shapes = [leaf.shape for leaf in theta0], [leaf.shape for leaf in theta]
    if shapes0 != shapes or jax.tree.structure(params0) != jax.tree.structure(params):
        kinds = [type(side).__name__ for side in (params, params0)]
        unlike = f"shapes {shapes[:4]} for {shapes0[:4]}" if shapes0 != shapes else " for ".join(kinds)
        raise ValueError(f"{rule}, got {unlike}: keep the same pytree")
    bad = sum(int(np.sum(~np.isfinite(np.asarray(leaf)))) for leaf in theta)
    if bad:
        raise ValueError(
            f"{rule}, got {bad} NaN or infinite values among {tree.size(theta)}: training diverged, lower its step size"
        )
