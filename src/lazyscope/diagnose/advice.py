"""Reasons and advice in words; every line follows from a number that is printed beside it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.criterion import Criterion
from lazyscope.diagnose.regime import Thresholds
from lazyscope.diagnose.training import Trained
from lazyscope.problems import Problem, square_loss

LARGE_START = 0.1  # initial output over targets from which it is worth removing
LAZY_KAPPA = 0.01


def explain(
    verdict: str,
    gap: float,
    k: float,
    group: str,
    share: float,
    thresholds: Thresholds,
    crit: Criterion | None,
    indicators: dict[str, float],
) -> tuple[str, ...]:
    """Why the regime is what it is, and where an indicator disagrees with it.

    `share` is the part of the whole kernel that is the group's at the start.
    """
    kernel = f"the tangent kernel of {group} changed by {_size(k)} its size"
    if share < 0.01:
        kernel = f"the tangent kernel of {group}, under 1 % of the whole, changed by {_size(k / 100)} the whole"
    lines = [
        f"the trained model ends {_size(gap)} what it learnt away from its linearisation "
        f"(g = {gap:.2g}: {_against(gap, thresholds.gap_lazy, thresholds.gap_not_lazy)})",
        f"{kernel} (k = {k:.2g}: {_against(k, thresholds.kernel_lazy, thresholds.kernel_not_lazy)})",
    ]
    if verdict == "not lazy" and crit is not None and crit.kappa < 0.1:
        lines.append(f"kappa = {crit.kappa:.2g} predicted lazy training: it is a statement about the first steps only")
    if verdict == "not lazy" and indicators["kernel 1 − cosine"] < 0.05 and k > thresholds.kernel_not_lazy:
        lines.append("the kernel as a whole hardly turned; the change is in one group of parameters")
    if verdict == "lazy" and crit is not None and crit.kappa > 0.1:
        lines.append(f"kappa = {crit.kappa:.2g} did not predict it: a small kappa suffices, it is not necessary")
    return tuple(lines)


def advise(
    verdict: str,
    crit: Criterion | None,
    trained: Trained,
    problem: Problem,
    f0: Array,
    y: Array,
    losses: dict[str, float],
) -> tuple[str, ...]:
    """What to change, for a reader who wants the other regime."""
    lines: list[str] = []
    if problem.loss is square_loss:
        share = float(jnp.linalg.norm(f0.reshape(-1)) / jnp.maximum(jnp.linalg.norm(y.reshape(-1)), 1e-300))
        if share > LARGE_START and verdict != "lazy":
            lines.append(
                f"the initial output, {share:.2g} times the targets, has to be unlearnt: center or double the model"
            )
    if crit is not None and crit.kappa_inf is not None and crit.kappa_least is not None:
        lines += _about_alpha(verdict, crit)
    if trained.still_improving:
        lines.append("the loss was still falling by more than 1 % at the end: run longer to learn where it ends")
    if losses["loss, trained"] > losses["loss at start"]:
        lines.append("training raised the held-out loss: the regime says nothing about whether training helps here")
    if not lines and verdict == "lazy":
        lines.append("to leave the lazy regime lower alpha or the initialisation scale, or train longer")
    return tuple(lines)


def _about_alpha(verdict: str, crit: Criterion) -> list[str]:
    assert crit.kappa_inf is not None
    assert crit.kappa_least is not None
    if verdict == "lazy":
        return [f"to leave the lazy regime lower alpha below {crit.alpha:g}, or the initialisation scale"]
    if crit.kappa_least >= LAZY_KAPPA:
        return [
            f"no output scale brings kappa below {crit.kappa_least:.2g} (kappa_inf = {crit.kappa_inf:.2g}): "
            "center or double the model first, then raise alpha"
        ]
    if crit.kappa_inf == 0 and np.isfinite(crit.kappa) and crit.kappa > 0:
        wanted = crit.alpha * crit.kappa / LAZY_KAPPA
        return [f"alpha = {wanted:.3g} would give kappa = {LAZY_KAPPA:g}, which is usually lazy"]
    return [f"alpha near {crit.alpha_least:.3g} gives the least kappa, {crit.kappa_least:.2g}"]


def _size(part: float) -> str:
    return f"{part:.2g} times" if part >= 2 or not np.isfinite(part) else f"{100 * part:.2g} % of"


def _against(value: float, lazy: float, not_lazy: float) -> str:
    if value <= lazy:
        return f"lazy is up to {lazy:g}"
    return f"not lazy is above {not_lazy:g}" if not value <= not_lazy else f"between {lazy:g} and {not_lazy:g}"
