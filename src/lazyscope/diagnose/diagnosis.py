"""`diagnose`: how lazily a model trains, with reasons in words and advice that follows from the numbers."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lazyscope.criterion import Budget, Criterion, criterion
from lazyscope.diagnose.advice import advise, explain
from lazyscope.diagnose.regime import Thresholds, regime
from lazyscope.diagnose.training import (
    DEFAULT_STEPS,
    Trained,
    Trainer,
    by_checkpoint,
    by_descent,
    by_trainer,
    scaled,
)
from lazyscope.linearize import linearize
from lazyscope.measures import (
    activation_stability,
    alignment_of_kernel,
    change_of_kernels,
    distance_of_kernels,
    relative_change,
    trained_gap,
)
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.tangent import group_kernel_examples, group_kernels

KERNEL_NUMBERS = 2**26  # that the derivatives for the kernel may be, and the kernel: 512 MiB in float64


@dataclass(frozen=True)
class Diagnosis:
    """Regime with its deciders and thresholds, indicators, reasons and advice; prints as a table.

    `gap` is g and `kernel_change` is k, of the parameter group `kernel_group`, measured on `kernel_examples` inputs;
    `how` says what was trained. Indicators never decide. `criterion` is None where `with_kappa=False`.
    """

    regime: str
    gap: float
    kernel_change: float
    kernel_group: str
    thresholds: Thresholds
    how: str
    inputs: str
    kernel_examples: int
    alpha: float
    indicators: dict[str, float]
    losses: dict[str, float]
    criterion: Criterion | None
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        subset = f"{self.kernel_examples} of the {self.inputs}"
        rows = [
            ("regime", f"{self.regime}   ({self.thresholds})"),
            ("gap g", f"{self.gap:.3g}   on {self.inputs}"),
            (
                "kernel k",
                f"{self.kernel_change:.3g}   of the group that changed most, {self.kernel_group}; on {subset}",
            ),
            ("trained by", self.how),
            ("output scale", f"alpha = {self.alpha:g}"),
        ]
        if self.criterion is not None:
            rows.append(("kappa", _kappa(self.criterion)))
        rows += [(name, f"{value:.3g}   on {self.inputs}") for name, value in self.losses.items()]
        rows += [(name, f"{value:.3g}") for name, value in self.indicators.items()]
        rows += [("because" if i == 0 else "", reason) for i, reason in enumerate(self.reasons)]
        rows += [("advice" if i == 0 else "", line) for i, line in enumerate(self.advice)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {text}" for name, text in rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON; infinite and undefined numbers become None."""
        return _plain(asdict(self))


def diagnose(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    params: PyTree | None = None,
    train: Trainer | None = None,
    alpha: float = 1.0,
    gates: Callable[[PyTree, Array], PyTree] | None = None,
    key: Key[Array, ""],
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    num_steps: int = DEFAULT_STEPS,
    examples: int | None = None,
    budget: Budget | None = None,
    with_kappa: bool = True,
) -> Diagnosis:
    """How lazily alpha·h trains from `params0`.

    `train(apply, params0) -> params` is called once with alpha·h and once with its linearisation, and g compares the
    two trained models. `params` alone are weights trained elsewhere: g compares model and linearisation at those
    weights. Neither: both are trained by descent, `num_steps` steps of `stable_step_size`. The table says which.

    Deciders, on held-out inputs where there are any (docs/design.md, the regime):
    g = ‖f_T − f_lin,T‖/min(‖f_T − f_0‖, ‖y − mean y‖) for the square loss; for another loss the larger of
    ‖f_T − f_lin,T‖/‖f_T − f_0‖ and |L(f_T) − L(f_lin,T)|/|L(f_0) − L(f_T)|. k is the largest relative change of a
    parameter group's tangent kernel, on as many inputs (at most `examples`) as have derivatives of 512 MiB.

    Raises ValueError for a trainer that diverges or returns other shapes, for both `train` and `params`, and as
    `criterion` does.
    """
    if train is not None and params is not None:
        raise ValueError("diagnose takes train or params, got both: drop params to have your trainer called")
    key_train, key_kappa = jax.random.split(key)
    crit = criterion(apply, params0, problem, alpha=alpha, key=key_kappa, budget=budget) if with_kappa else None
    trained = _train(apply, params0, problem, params, train, alpha, num_steps, key_train)
    held_out = problem.x_test is not None
    x, y = (problem.x_test, problem.y_test) if held_out else (problem.x, problem.y)
    assert x is not None
    assert y is not None

    model = scaled(apply, alpha)
    f0, f, f_linear = model(params0, x), model(trained.params, x), linearize(model, params0)(trained.params_linear, x)
    gap, losses = _gap(problem, f, f_linear, f0, y)
    if not math.isfinite(losses["loss, trained"]):
        raise ValueError(
            f"the trained model must have a finite loss, got {losses['loss, trained']:g}: training diverged, lower the "
            "step size"
        )
    few = x[: _kernel_examples(apply, params0, x, examples)]
    before, after = group_kernels(apply, params0, few), group_kernels(apply, trained.params, few)
    change = change_of_kernels(before, after)
    group = max(change.groups, key=lambda name: float(change.groups[name]))
    k = float(change.groups[group])
    indicators = _indicators(params0, trained.params, (_whole(before), _whole(after)))
    if problem.loss is square_loss:
        names = ("alignment at start", "alignment, trained")
        for name, kernels in zip(names, (before, after), strict=True):
            indicators[name] = float(alignment_of_kernel(_whole(kernels), y[: len(few)], f0[: len(few)].shape))
    if gates is not None:
        shares = jax.tree.leaves(activation_stability(gates, params0, trained.params, few))
        indicators["stable gates"] = float(jnp.mean(jnp.concatenate([jnp.ravel(share) for share in shares])))
    verdict = regime(gap, k, thresholds)
    return Diagnosis(
        regime=verdict,
        gap=gap,
        kernel_change=k,
        kernel_group=group,
        thresholds=thresholds,
        how=trained.how,
        inputs=f"{x.shape[0]} {'held-out' if held_out else 'training'} inputs",
        kernel_examples=few.shape[0],
        alpha=alpha,
        indicators=indicators,
        losses=losses,
        criterion=crit,
        reasons=explain(verdict, gap, k, group, _share(before, group), thresholds, crit, indicators),
        advice=advise(verdict, crit, trained, problem, f0, y, losses),
    )


def _kappa(crit: Criterion) -> str:
    low, high = crit.kappa_interval
    within = f"between {low:.3g} and {high:.3g}" if math.isfinite(high) else "a lower bound, none from above"
    climbing = "" if crit.hessian_norm.converged else ", the search for ‖D²h‖ was still climbing"
    return f"{crit.kappa:.3g}   {within}; {crit.products} products{climbing}"


def _train(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    params: PyTree | None,
    train: Trainer | None,
    alpha: float,
    num_steps: int,
    key: Key[Array, ""],
) -> Trained:
    if train is not None:
        return by_trainer(train, apply, params0, alpha)
    if params is not None:
        return by_checkpoint(params0, params)
    return by_descent(apply, params0, problem, alpha, num_steps, key)


def _gap(problem: Problem, f: Array, f_linear: Array, f0: Array, y: Array) -> tuple[float, dict[str, float]]:
    losses = {
        "loss at start": float(problem.loss(f0, y)),
        "loss, trained": float(problem.loss(f, y)),
        "loss, linearised": float(problem.loss(f_linear, y)),
    }
    if problem.loss is square_loss:
        return float(trained_gap(f, f_linear, f0, y)), losses
    drop = abs(losses["loss at start"] - losses["loss, trained"])
    difference = abs(losses["loss, trained"] - losses["loss, linearised"])
    by_loss = 0.0 if difference == 0 else difference / drop if drop > 0 else math.inf
    return max(float(trained_gap(f, f_linear, f0)), by_loss), losses


def _kernel_examples(apply: Apply, params0: PyTree, x: Array, examples: int | None) -> int:
    affordable = max(group_kernel_examples(apply, params0, x, KERNEL_NUMBERS), 2)
    return min(x.shape[0], affordable, examples or 256)


def _indicators(params0: PyTree, params: PyTree, kernels: tuple[Array, Array]) -> dict[str, float]:
    moved = relative_change(params0, params)
    found = {"movement in all": float(moved.all)}
    # A group that starts at zero has no scale of its own: its movement is absolute and not compared with the others.
    for label, absolute in (("largest movement ({}, relative)", False), ("movement from zero ({}, absolute)", True)):
        names = [name for name in moved.groups if bool(moved.absolute[name]) is absolute]
        if names:
            largest = max(names, key=lambda name: float(moved.groups[name]))
            found[label.format(largest)] = float(moved.groups[largest])
    return found | {"kernel 1 − cosine": float(distance_of_kernels(*kernels))}


def _whole(kernels: dict[str, Array]) -> Array:
    return reduce(jnp.add, kernels.values())


def _share(kernels: dict[str, Array], group: str) -> float:
    """‖K_g‖/‖K‖, of which k takes no less than a hundredth for its scale."""
    whole = float(jnp.linalg.norm(_whole(kernels).reshape(-1)))
    return float(jnp.linalg.norm(kernels[group].reshape(-1))) / whole if whole > 0 else 1.0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
