"""Reasons and advice in words; every line follows from a number that is printed beside it.

What scale makes a model lazy. For a model that is 0 at the start, g and j fall as 1/alpha once they are small and as
alpha^(−1/2) where ReLUs still flip (theory: Chizat et al. 2019, Theorem 2.2; measured: docs/normal.md). The scale that
is recommended is the larger of two: the one that brings kappa to `RECOMMENDED`, at which the reference diagnoses are
lazy, and the one at which the deciders, falling so, pass their thresholds with a margin. The step of a trainer has to
follow: what is trained is R(alpha·h), whose gradient grows as alpha while the weights are to move by 1/alpha.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope import tree
from lazyscope.criterion import Criterion
from lazyscope.diagnose.regime import Thresholds
from lazyscope.diagnose.training import Trained
from lazyscope.examples import Batch
from lazyscope.problems import Loss, Problem

LARGE_START = 0.1  # initial output over the residual of a model that starts at 0, from which it is worth removing
RECOMMENDED = 1e-3  # kappa at which the reference diagnoses are lazy, ReLU nets included
MARGIN = 4.0  # by which the deciders, extrapolated, are to pass their thresholds
STRAIGHT = 1e-6  # change of the differential that is rounding
IN_DOUBLE = 'add `jax.config.update("jax_enable_x64", True)` and pass float64 parameters'
LOWER = "lower alpha below"


@dataclass(frozen=True)
class Recommendation:
    """What makes training lazy: center the model or not, the output scale, and the step that goes with it.

    `sgd` and `adam` are the factors by which the present learning rate of descent and of Adam have to be multiplied.
    """

    center: bool
    alpha: float
    sgd: float
    adam: float
    regime: str = "lazy"


def recommend(
    *,
    gap: float,
    differential: float,
    thresholds: Thresholds,
    crit: Criterion | None,
    problem: Problem,
    f0: Array,
    y: Batch,
    alpha: float,
    share: float,
) -> Recommendation | None:
    """The scale at which training is expected to be lazy, from what was measured at `alpha`.

    `f0` are the outputs at the start on the training inputs, alpha in them, `y` their targets and `share` the
    `start_share` of both. The model is to be centered where its initial output counts now or at that scale. None where
    nothing tells.
    """
    if not math.isfinite(share) or differential < STRAIGHT:
        return None
    far = share > LARGE_START  # then the deciders say little of the centered model
    flat = crit is not None and crit.hessian_norm.value == 0  # then kappa is 0 at every scale, and gates flip
    wanted = [alpha]
    if crit is not None and math.isfinite(crit.kappa) and crit.residual_norm > 0:
        # kappa without the initial output: the residual is then that of outputs 0.
        outputs_0 = _residual(problem, jnp.zeros_like(f0), y) / _residual(problem, f0, y) if far else 1.0
        wanted.append(alpha * crit.kappa * outputs_0 / RECOMMENDED)
    excess = max(gap / thresholds.gap_lazy, differential / thresholds.differential_lazy)
    if math.isfinite(excess) and (flat or not far):
        wanted.append(alpha * MARGIN * (excess**2 if flat else excess))
    elif crit is None or flat:
        return None
    best = float(f"{max(wanted):.2g}")
    if not math.isfinite(best) or best <= 0:
        return None
    return Recommendation(far or share * best / alpha > LARGE_START, best, (alpha / best) ** 2, alpha / best)


def start_share(problem: Problem, f0: Array, y: Batch) -> float:
    """The initial output, of mean square over examples, relative to what is to be learnt from outputs 0.

    NaN where the loss does not tell the latter: it is not finite at outputs 0, or below 0 there.
    """
    scale = _residual(problem, jnp.zeros_like(f0), y)
    if not scale >= 0:
        return math.nan
    size = tree.host_norm(np.asarray(f0)) / math.sqrt(f0.shape[0])
    return size / scale if scale > 0 else (math.inf if size > 0 else 0.0)


def _residual(problem: Problem, f: Array, y: Batch) -> float:
    """‖f − y‖ for the square loss; 2R/‖∇R‖ for another, which takes its place in kappa; NaN where not finite."""
    value, slope = _slope(problem.loss, f, y)
    size = math.sqrt(f.shape[0]) * tree.host_norm(np.asarray(slope))
    if not math.isfinite(float(value)) or not math.isfinite(size):
        return math.nan
    return 2 * float(value) / size if size > 0 else 0.0


@partial(jax.jit, static_argnums=0)
def _slope(loss: Loss, f: Array, y: Batch) -> tuple[Array, Array]:
    return jax.value_and_grad(loss)(f, y)


def below_0(losses: dict[str, float]) -> bool:
    """Whether a loss is negative somewhere, so that 0 is not its least value, as kappa presumes."""
    return any(value < 0 for value in losses.values())


def explain(
    verdict: str,
    gap: float,
    differential: float,
    thresholds: Thresholds,
    crit: Criterion | None,
    indicators: dict[str, float],
    losses: dict[str, float],
) -> tuple[str, ...]:
    """Why the regime is what it is, and where an indicator disagrees with it."""
    lines = [
        f"the trained model ends {_size(gap)} what it learnt away from its linearisation "
        f"(g = {gap:.2g}: {_against(gap, thresholds.gap_lazy, thresholds.gap_not_lazy)})",
        f"the differential changed by {_size(differential)} its size (j = {differential:.2g}: "
        f"{_against(differential, thresholds.differential_lazy, thresholds.differential_not_lazy)})",
    ]
    if verdict == "not lazy" and crit is not None and crit.kappa < 0.1:
        lines.append(f"kappa = {crit.kappa:.2g} predicted lazy training: it is a statement about the first steps only")
    if below_0(losses):
        lines.append("kappa is left out: it presumes a loss whose least value is 0, and this one falls below")
    turned = indicators.get("kernel 1 − cosine")
    if verdict == "not lazy" and turned is not None and turned < 0.05:
        lines.append(f"the tangent kernel hardly turned (1 − cosine = {turned:.2g}): it is blind to what changed")
    if verdict == "lazy" and crit is not None and crit.kappa > 0.1:
        lines.append(f"kappa = {crit.kappa:.2g} did not predict it: a small kappa suffices, it is not necessary")
    return tuple(lines)


def advise(
    *,
    verdict: str,
    differential: float,
    crit: Criterion | None,
    trained: Trained,
    recommendation: Recommendation | None,
    share: float,
    alpha: float,
    losses: dict[str, float],
    rounded: tuple[float, str] | None,
    held_out: bool,
) -> tuple[str, ...]:
    """What to change, for a reader who wants the other regime. `share` is that of `start_share`.

    `rounded` is what weights moved relative to their size, where that is too little for their float type or that of
    the model's products, and the latter ("" for the former).
    """
    lines: list[str] = []
    if trained.step == "ours" and trained.trajectory is not None and _rises(trained.trajectory.train_linearised):
        lines.append(
            "the step is stable at the start and was not further on: the loss of the linearisation, which descent can "
            "only lower, was above its start on the way; g and j may be that: pass train=, with a smaller step"
        )
    straight = differential < STRAIGHT and (crit is None or crit.hessian_norm.value == 0)
    if rounded is not None:
        part, kind = rounded
        rounds = f"which the model's {kind} rounds" if kind else "which their float type rounds"
        finer = "let the model compute in the type of its weights" if kind else IN_DOUBLE
        lines.append(f"the weights moved by {part:.1g} of their size, {rounds}: g and j may be that; {finer}")
    elif losses["loss at start"] == 0 == losses["loss, trained"]:
        lines.append("the loss was 0 at the start: nothing was to be learnt, and nothing tells how lazily")
    elif verdict != "lazy" and differential < STRAIGHT and trained.step in ("told", "untold"):
        lines.append(
            "the model did not change (j = 0), so g is what your two runs differ by: let train draw the same batches "
            "both times, by a generator that is seeded inside it"
        )
    elif verdict == "lazy" and straight:
        lines.append(
            "the model is linear in its parameters as far as training went: lazy at this and every larger output scale"
        )
    elif verdict == "lazy":
        lines.append(f"to leave the lazy regime {LOWER} {alpha:g}, or the initialisation scale, or train longer")
    elif recommendation is not None:
        lines += _for_laziness(recommendation, crit, trained, share, alpha)
    elif share > LARGE_START:
        lines.append(_to_unlearn(share))
    elif math.isnan(share) and below_0(losses):
        lines.append(
            "the loss falls below 0, so that its value does not tell how much is to be learnt: no output scale is "
            "recommended; add what makes its least value 0"
        )
    if not math.isfinite(losses["loss, linearised"]) or (math.isnan(share) and not below_0(losses)):
        lines.append(
            "the loss is not finite where the linearised model or a centered one goes, as for outputs that are "
            "probabilities: let the model give logits, and the loss take them"
        )
    if trained.still_improving:
        lines.append("the loss was still falling by more than 1 % at the end: run longer to learn where it ends")
    if losses["loss, trained"] > losses["loss at start"]:
        on = "held-out" if held_out else "training"
        lines.append(f"training raised the {on} loss: the regime says nothing about whether training helps here")
    return tuple(lines)


def _to_unlearn(share: float) -> str:
    size = f"{share:.2g} times what is to be learnt" if math.isfinite(share) else "where nothing else is to be learnt"
    return f"the initial output, {size}, has to be unlearnt: center the model"


def _far(share: float, there: float, alpha: float) -> str:
    size = f"{share * there / alpha:.2g} times what is to be learnt"
    return f"at alpha = {there:g} the initial output is {size}, which has to be unlearnt: center the model"


def _rises(losses: Sequence[float]) -> bool:
    """Whether a loss ever exceeds its start by more than rounding."""
    return max(losses) > losses[0] * (1 + 1e-4) > 0


def _for_laziness(
    recommendation: Recommendation, crit: Criterion | None, trained: Trained, share: float, alpha: float
) -> list[str]:
    lines = []
    first = f"alpha = {recommendation.alpha:g} is expected to be lazy"
    if recommendation.center:
        lines.append(_to_unlearn(share) if share > LARGE_START else _far(share, recommendation.alpha, alpha))
        first = f"centered (ls.center), alpha = {recommendation.alpha:g} is expected to be lazy"
        if crit is not None and crit.kappa_least is not None and crit.kappa_least > RECOMMENDED:
            first += f"; as it is, no output scale brings kappa below {crit.kappa_least:.2g}"
    lines.append(first)
    factor = f"multiply the learning rate by {recommendation.sgd:.3g} for SGD, by {recommendation.adam:.3g} for Adam"
    if trained.step == "told":
        lines.append(f"your trainer is told alpha and has to follow it: from here to there, {factor}")
    elif trained.step != "ours":
        lines.append(f"the step has to follow alpha, or training leaves the lazy regime again: {factor}")
    return lines


def _size(part: float) -> str:
    return f"{part:.2g} times" if part >= 0.995 or not np.isfinite(part) else f"{100 * part:.2g} % of"


def _against(value: float, lazy: float, not_lazy: float) -> str:
    if value <= lazy:
        return f"lazy is up to {lazy:.2g}"
    return f"not lazy is above {not_lazy:.2g}" if not value <= not_lazy else f"between {lazy:.2g} and {not_lazy:.2g}"
