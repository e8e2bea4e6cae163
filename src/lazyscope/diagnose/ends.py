"""Where training ends: the weights of the model and those of its linearisation, as `diagnose` compares them."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.diagnose.training import DEFAULT_STEPS, OfCaller, Trainer, by_descent, by_trainer
from lazyscope.door import entrance
from lazyscope.models import Apply
from lazyscope.problems import Problem
from lazyscope.progress import Progress, heard


class Ends(NamedTuple):
    """Trained weights of the model and of its linearisation; how, in words."""

    trained: PyTree
    linearised: PyTree
    how: str


def ends(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    train: Trainer | None = None,
    alpha: float = 1.0,
    num_steps: int = DEFAULT_STEPS,
    key: Key[Array, ""],
    progress: Progress | None = None,
) -> Ends:
    """The two trained models that `diagnose` compares: by `train`, or by `num_steps` steps of descent.

    Raises ValueError as `diagnose` does, for a trainer that diverges or returns other shapes.
    """
    theirs = None if train is None else OfCaller(train, params0)
    return _ends(apply, params0, problem, train=theirs, alpha=alpha, num_steps=num_steps, key=key, progress=progress)


@entrance
def _ends(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    train: OfCaller | None,
    alpha: float,
    num_steps: int,
    key: Key[Array, ""],
    progress: Progress | None,
) -> Ends:
    params0, report = tree.copy(params0), heard(progress)
    if train is not None:
        found = by_trainer(train, apply, params0, alpha, report)
    else:
        key = jax.random.split(key, 3)[0]
        found = by_descent(apply, params0, problem, alpha, num_steps, key, report, recorded=False)
    return Ends(found.params, found.params_linear, found.how)
