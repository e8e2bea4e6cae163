"""`diagnose`: train model and linearisation, measure the deciders with their intervals, and say what follows."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from lazyscope import passes, tree
from lazyscope.criterion import Budget, check_outputs, criterion
from lazyscope.diagnose.advice import advise, below_0, explain, recommend, start_share
from lazyscope.diagnose.classification import classification
from lazyscope.diagnose.costs import gradient_seconds, metered
from lazyscope.diagnose.diagnosis import Diagnosis, Seed
from lazyscope.diagnose.gap import gap, losses
from lazyscope.diagnose.kept import Learnable, learnable, some_outputs
from lazyscope.diagnose.layers import group_rows, movement, sentences
from lazyscope.diagnose.references import placed
from lazyscope.diagnose.regime import Thresholds, near, regime, regimes
from lazyscope.diagnose.training import DEFAULT_STEPS, OfCaller, Trained, Trainer, by_checkpoint, by_descent, by_trainer
from lazyscope.differential import change_of_differential
from lazyscope.door import as_key, check_derivative, entrance
from lazyscope.door.modes import computed_in
from lazyscope.dynamics.run import movement_rounded
from lazyscope.examples import Batch, count, first
from lazyscope.groups import Groups, grouped
from lazyscope.measures import (
    Grouped,
    activation_stability,
    alignment_of_kernel,
    change_of_kernels,
    distance_of_kernels,
)
from lazyscope.models import Apply
from lazyscope.problems import Problem, check_loss, square_loss
from lazyscope.progress import Progress, heard, part
from lazyscope.tangent import MEMORY_BUDGET, group_kernel_examples, group_kernels

PARTS = ("measuring the gap", "measuring j", "measuring layers", "measuring kernels")
KERNEL_NUMBERS = 2**26  # that the derivatives for the kernel may be, and the kernel: 512 MiB in float64
KERNEL_EXAMPLES, DIFFERENTIAL_EXAMPLES = 256, 1024  # inputs that the kernel and j are measured on, at most
COARSE = 3  # roundings of a model's products within which a movement of its weights is lost
KAPPA_EXAMPLES = 4096  # training inputs on which the norms in kappa are searched, at most


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
    groups: Groups = None,
    budget: Budget | None = None,
    with_kappa: bool = True,
    seeds: int | None = None,
    costs: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """How lazily alpha·h trains from `params0`.

    `train(apply, params0) -> params` is called once with alpha·h and once with its linearisation, and g compares the
    two trained models. A trainer that takes a third argument is told alpha and the factors of its step by it
    (`Scale`). `params` alone are weights trained elsewhere: g compares model and linearisation at those weights.
    Neither: both are trained by descent, `num_steps` steps of `stable_step_size`. The table says which.

    Deciders, on held-out inputs where there are any (docs/design.md, the regime), each with a 95 % interval over them:
    g = ‖f_T − f_lin,T‖/min(‖f_T − f_0‖, ‖y − mean y‖) for the square loss; for another loss the larger of
    ‖f_T − f_lin,T‖/‖f_T − f_0‖ and |L(f_T) − L(f_lin,T)|/|L(f_0) − L(f_T)|. j = ‖Dh(w_T) − Dh(w_0)‖_F/‖Dh(w_0)‖_F, on
    at most 1024 inputs (`examples`). `groups` maps globs over leaf paths to names; by default a group is a module.
    Kernels are measured on as many inputs (at most 256) as have derivatives of 512 MiB, kappa on at most 4096 training
    inputs. Examples that do not fit one pass go through in blocks (`lazyscope.passes`).

    With `seeds`, `params0` is a function of a key (`model.init`): so many starts are drawn and diagnosed, and the one
    of median g is returned with the spread over all beside it (`Diagnosis.seeds`).

    With `costs`, `Diagnosis.costs` says what each part took, in gradients of the loss and in compiling, for which the
    gradient is compiled, too.

    `progress` hears of the products for kappa, the steps of the two descents (or of your two runs) and of what is then
    measured (`lazyscope.progress`); it changes no number.

    Raises ValueError for a trainer that diverges or returns other shapes, for both `train` and `params`, for labels or
    losses that do not fit the outputs, and as `criterion` does.
    """
    options = {
        "alpha": alpha,
        "gates": gates,
        "thresholds": thresholds,
        "num_steps": num_steps,
        "examples": examples,
        "groups": groups,
        "budget": budget,
        "with_kappa": with_kappa,
        "costs": costs,
        "progress": heard(progress),
    }
    if seeds is not None:
        return _over_seeds(apply, params0, problem, params, seeds, key, {"train": train, **options})
    if train is not None and params is not None:
        raise ValueError("diagnose takes train or params, got both: drop params to have your trainer called")
    theirs = None if train is None else OfCaller(train, params0)
    found = _metered(apply, params0, problem, params=params, train=theirs, key=key, **options)
    return replace(found, model=getattr(apply, "described", ""))


@entrance
def _metered(
    apply: Apply, params0: PyTree, problem: Problem, *, costs: bool, progress: Progress, **options: Any
) -> Diagnosis:
    if not costs:
        return _judged(apply, params0, problem, progress=progress, **options)
    with metered(progress, PARTS) as meter:
        found = _judged(apply, params0, problem, progress=meter, **options)
    return replace(found, costs=meter.costs(*gradient_seconds(apply, params0, problem)))


def _judged(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    *,
    params: PyTree | None,
    train: OfCaller | None,
    alpha: float,
    gates: Callable[[PyTree, Array], PyTree] | None,
    key: Key[Array, ""],
    thresholds: Thresholds,
    num_steps: int,
    examples: int | None,
    groups: Groups,
    budget: Budget | None,
    with_kappa: bool,
    progress: Progress,
) -> Diagnosis:
    params0 = tree.copy(params0)
    members = grouped(params0, groups)
    key_train, key_kappa, key_probes = jax.random.split(key, 3)
    held_out = problem.x_test is not None
    x, y = (problem.x_test, problem.y_test) if held_out else (problem.x, problem.y)
    assert y is not None
    start = check_outputs(apply, params0, problem.x)
    check_loss(problem.loss, start, problem.y)
    start = jnp.asarray(alpha, start.dtype) * start
    negative = float(problem.loss(start, problem.y)) < 0
    few_for_kappa = KAPPA_EXAMPLES if problem.num_examples > KAPPA_EXAMPLES else None
    options = {"alpha": alpha, "key": key_kappa, "budget": budget, "examples": few_for_kappa, "progress": progress}
    crit = criterion(apply, params0, problem, **options) if with_kappa and not negative else None
    trained = _train(apply, params0, problem, params, train, alpha, num_steps, key_train, progress)

    progress(0, len(PARTS), PARTS[0])
    h0 = passes.outputs(apply, params0, x)
    away = tree.differences(params0, trained.params_linear)
    h, change = passes.outputs(apply, trained.params, x), passes.push(apply, params0, x, away)
    f0, f, f_linear = _at_scale(alpha, h0, h, change)
    measured = losses(problem.loss, f, f_linear, f0, y)
    if not math.isfinite(measured["loss, trained"]):
        raise ValueError(
            f"the trained model must have a finite loss, got {measured['loss, trained']:g}: training diverged, lower "
            "the step size"
        )
    negative = negative or below_0(measured)
    crit = None if negative else crit
    g = gap(problem.loss, f, f_linear, f0, y)
    n = count(x)
    progress(1, len(PARTS), PARTS[1])
    few = first(x, examples or DIFFERENTIAL_EXAMPLES)
    kernel_examples = _kernel_examples(apply, params0, x, examples)
    change = change_of_differential(
        apply, params0, trained.params, few, groups, key_probes, report=progress, block=kernel_examples
    )
    j = change.interval
    if not np.all(np.isfinite(np.asarray(change.examples))):
        for at in (params0, trained.params):
            check_derivative(apply, at, few)
    progress(2, len(PARTS), PARTS[2])
    rows = group_rows(apply, params0, trained.params, few, change, members)
    progress(3, len(PARTS), PARTS[3])
    unit = tree.unit(change.unit)  # so that no unit of the outputs over- or underflows in a kernel
    indicators, kernel = _indicators(apply, params0, trained.params, problem, first(x, kernel_examples), y, f0, unit)
    if gates is not None:
        shares = jax.tree.leaves(activation_stability(gates, params0, trained.params, few))
        indicators["stable gates"] = float(jnp.mean(jnp.concatenate([jnp.ravel(share) for share in shares])))

    progress(len(PARTS), len(PARTS), PARTS[3])
    judged_by = thresholds.at_same_weights if trained.step == "elsewhere" else thresholds
    verdict = regime(g, j, judged_by)
    share = math.nan if negative else start_share(problem, start, problem.y)
    rounded = _rounded(apply, params0, trained.params, few)
    recommendation = None
    if verdict != "lazy" and rounded is None:
        recommendation = recommend(
            gap=g,
            differential=j,
            thresholds=judged_by,
            crit=crit,
            problem=problem,
            f0=start,
            y=problem.y,
            alpha=alpha,
            share=share,
        )
    return Diagnosis(
        regime=verdict,
        regimes=regimes(g, j, judged_by),
        gap=g,
        differential=j,
        probe_error=float(change.error),
        thresholds=judged_by,
        how=trained.how,
        inputs=f"{n} held-out inputs" if held_out else f"the {n} training inputs (there are no held-out ones)",
        num_inputs=n,
        differential_examples=count(few),
        alpha=alpha,
        groups=rows,
        kernel_change=kernel.change,
        kernel_changes=kernel.changes,
        kernel_examples=kernel.examples,
        indicators=indicators,
        losses=measured,
        classification=classification(problem.loss, f, f_linear, y),
        criterion=crit,
        recommendation=recommendation,
        placed=placed(g, j),
        reasons=(
            *explain(verdict, g, j, judged_by, crit, indicators, measured),
            *near(g, j, judged_by),
            *sentences(rows),
        ),
        advice=advise(
            verdict=verdict,
            differential=j,
            crit=crit,
            trained=trained,
            recommendation=recommendation,
            share=share,
            alpha=alpha,
            losses=measured,
            rounded=rounded,
            held_out=held_out,
        ),
        learnable=kernel.learnable,
        trajectory=trained.trajectory,
        outputs=some_outputs(f0, f, f_linear, y),
    )


def _rounded(apply: Apply, params0: PyTree, params: PyTree, x: Batch) -> tuple[float, str] | None:
    """‖w − w0‖/‖w0‖ where the float type rounds it away, and which, "" for that of the weights."""
    start, moved = tree.split(params0)[0], tree.differences(params, params0)
    size = float(tree.norm(start))
    part = float(tree.norm(moved)) / size if size > 0 else math.inf
    if movement_rounded(start, moved):
        return part, ""
    inside = computed_in(apply, params0, x)
    if inside is None or jnp.finfo(inside).eps <= jnp.finfo(jnp.result_type(*start)).eps:
        return None
    return (part, str(inside)) if 0 < part < COARSE * float(jnp.finfo(inside).eps) else None


def _over_seeds(
    apply: Apply,
    init: Any,
    problem: Problem,
    params: PyTree | None,
    seeds: int,
    key: Key[Array, ""],
    options: dict[str, Any],
) -> Diagnosis:
    if seeds < 1 or not callable(init) or params is not None:
        raise ValueError(
            f"seeds={seeds} needs starts that differ from seed to seed: pass params0 as a function of a key, "
            "model.init say, at least one seed, and no trained weights"
        )
    found, report = [], options["progress"]
    for i, one in enumerate(jax.random.split(as_key("key", key), seeds), 1):
        key_init, key_diagnose = jax.random.split(one)
        options["progress"] = part(report, f"seed {i} of {seeds}")
        found.append(diagnose(apply, init(key_init), problem, key=key_diagnose, **options))
    middle = sorted(found, key=lambda one: one.gap)[(seeds - 1) // 2]
    return replace(middle, seeds=tuple(Seed(one.gap, one.differential, one.regime) for one in found))


def _train(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    params: PyTree | None,
    train: OfCaller | None,
    alpha: float,
    num_steps: int,
    key: Key[Array, ""],
    report: Progress,
) -> Trained:
    if train is not None:
        return by_trainer(train, apply, params0, alpha, report)
    if params is not None:
        return by_checkpoint(params0, params)
    return by_descent(apply, params0, problem, alpha, num_steps, key, report)


@jax.jit
def _at_scale(alpha: float | Array, h0: Array, h: Array, change: Array) -> tuple[Array, Array, Array]:
    scale = jnp.asarray(alpha, h0.dtype)
    return scale * h0, scale * h, scale * (h0 + change)


class _Kernel(NamedTuple):
    """The relative change of the tangent kernel, in all and of each leaf, on how many inputs, what K(w0) can learn."""

    change: float | None
    changes: dict[str, float]
    examples: int
    learnable: Learnable | None = None


def _indicators(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    problem: Problem,
    few: Batch,
    y: Batch,
    f0: Array,
    unit: Array,
) -> tuple[dict[str, float], _Kernel]:
    found = {"movement in all": movement(params0, params)}
    n = count(few)
    if n == 0:
        return found, _Kernel(None, {}, 0)
    before, after = (group_kernels(apply, p, few, unit=unit) for p in (params0, params))
    change, cosine, whole = _compared(before, after)
    found["kernel 1 − cosine"] = float(cosine)
    if problem.loss is square_loss:
        shape = (n, *jax.eval_shape(apply, params0, few).shape[1:])
        for name, kernel in zip(("alignment at start", "alignment, trained"), whole, strict=True):
            found[name] = float(_alignment(kernel, y[:n], shape))
    by_leaf = {name: float(value) for name, value in change.groups.items()}
    return found, _Kernel(float(change.all), by_leaf, n, learnable(whole[0], problem.loss, f0[:n], first(y, n)))


def _compared(before: dict[str, Array], after: dict[str, Array]) -> tuple[Grouped, Array, list[Array]]:
    # Operation by operation: all kernels have one shape, and a program of them all takes longer to compile than to run.
    whole = [reduce(jnp.add, kernels.values()) for kernels in (before, after)]
    return change_of_kernels(before, after), distance_of_kernels(*whole), whole


_alignment = jax.jit(alignment_of_kernel, static_argnums=2)


def _kernel_examples(apply: Apply, params0: PyTree, x: Batch, examples: int | None) -> int:
    """How many inputs the kernel is measured on; 0 where not even two have derivatives that fit."""
    most = min(count(x), examples or KERNEL_EXAMPLES)
    affordable = group_kernel_examples(apply, params0, x, KERNEL_NUMBERS)
    if affordable < 2 and group_kernel_examples(apply, params0, x, MEMORY_BUDGET / 32) < 2:
        return 0
    return min(most, max(affordable, 2))
