"""kappa, what it is made of, and how far to trust it (note, §1.1 and §3.3; Chizat et al. 2019, §1.2).

>>> crit = criterion(apply, params, problem, alpha=1.0, key=jax.random.key(0))  # doctest: +SKIP
>>> crit.kappa, crit.kappa_interval, crit.kappa_exact                           # doctest: +SKIP

For the square loss ∇R(αh) = αh − y and 2R = ‖αh − y‖², so the general form of the note's one-step argument,

    ‖∇F‖/F against ‖D²h‖/‖Dh‖:   kappa_exact = 2R ‖D²h‖ / (α ‖Dhᵀ∇R‖ ‖Dh‖),

becomes kappa once ‖Dhᵀ∇R‖ is replaced by its largest possible value ‖Dh‖ ‖∇R‖. Any other loss is treated the same:
2R/‖∇R‖ takes the place of ‖αh − y‖. That presumes a loss whose least value is 0 (a cross-entropy on labels).
"""

import math
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.criterion.bounds import NO_BOUND, UpperBound, dense_bound, frobenius_bound
from lazyscope.criterion.budget import DEFAULT, PRODUCTS, QUICK, Budget
from lazyscope.criterion.estimate import Estimate, Search
from lazyscope.criterion.hessian import hessian_norm
from lazyscope.criterion.jacobian import jacobian_norm_along
from lazyscope.criterion.one_step import DIFFERENCE_STEPS, OneStep, one_step
from lazyscope.criterion.precision import check_precision
from lazyscope.criterion.products import coarse_unit, parameter_dtype
from lazyscope.criterion.ratios import product, ratio
from lazyscope.criterion.start import check_outputs, distance, start
from lazyscope.criterion.subsampling import Subsampling, subsampling, subset
from lazyscope.door import check_derivative, check_examples, entrance
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss
from lazyscope.progress import Progress, heard

KINKS = (
    "Automatic differentiation drops the kinks of ReLU: ‖D²h‖ is that of the second derivative almost everywhere, "
    "without the gates that flip."
)
_LARGE = 1_000_000  # parameters above which the quick budget is the default


@dataclass(frozen=True)
class Criterion:
    """kappa with its ingredients; prints as a table.

    `kappa_interval` runs from the searched norms (a lower bound) to `upper_bound` in place of ‖D²h‖.
    `kappa_inf` = ‖h‖‖D²h‖/‖Dh‖² is the limit at large alpha, 0 only for h(w0) = 0; `kappa_least`, at `alpha_least` (inf
    where only approached), the least over alpha. These three are None for a loss other than the square loss, for which
    `residual_norm` is 2R/‖∇R‖. `products` counts all of it, bounds and one-step changes included.
    """

    kappa: float
    kappa_interval: tuple[float, float]
    upper_bound: UpperBound
    residual_norm: float
    jacobian_norm: Estimate
    hessian_norm: Search
    kappa_exact: float
    kappa_inf: float | None
    kappa_least: float | None
    alpha_least: float | None
    alpha: float
    products: int
    one_step: OneStep | None = None
    subsampling: Subsampling | None = None

    def __str__(self) -> str:
        low, high = self.kappa_interval
        lines = [
            f"kappa         {self.kappa:.4g}   between {low:.4g} and {high:.4g}, at alpha = {self.alpha:g}",
            f"kappa_exact   {self.kappa_exact:.4g}",
            f"residual      {self.residual_norm:.6g}",
            f"‖Dh‖          {self.jacobian_norm}",
            f"‖D²h‖         {self.hessian_norm}",
            f"‖D²h‖ at most {self.upper_bound}",
        ]
        if self.kappa_inf is not None:
            lines.append(
                f"over alpha    kappa_inf {self.kappa_inf:.4g}, least {self.kappa_least:.4g} at {self.alpha_least:g}"
            )
        if self.one_step is not None:
            s = self.one_step
            lines += [
                f"one step      eta = {s.step_size:g}",
                f"  Δ(F)        {s.objective_change:.4g}, approximated by {s.objective_approximation:.4g}",
                f"  Δ(Dh)       {s.jacobian_change:.4g}, approximated by {s.jacobian_approximation:.4g}",
            ]
        if self.subsampling is not None:
            s = self.subsampling
            lines += [
                f"subsampling   {s.examples} of {s.total} examples: kappa ± {s.kappa_error:.1%} (standard error); on "
                f"held-out examples ‖Dh‖ {s.jacobian_norm_held_out:.4g}, ‖D²h‖ {s.hessian_norm_held_out:.4g}",
            ]
        return "\n".join([*lines, f"products      {self.products}", KINKS])


@entrance
def criterion(
    apply: Apply,
    params: PyTree,
    problem: Problem,
    *,
    alpha: float = 1.0,
    key: Key[Array, ""],
    budget: Budget | None = None,
    step_size: float | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> Criterion:
    """The laziness criterion of alpha·h at `params`, matrix-free (note, §1.1).

    `budget` is `DEFAULT` (2000 products), `THOROUGH` or `QUICK` (36; the default above a million parameters). With
    `step_size`, the changes in one step w1 = w0 − η∇F_alpha are measured, too. `examples` draws a random subset
    of so many examples and states what that costs. Degenerate models give limits: kappa is 0 where the residual or D²h
    is 0, inf where Dh alone is. ‖D²h‖ is a lower bound, so kappa is one. `progress` hears of the products spent
    (`lazyscope.progress`).

    Raises ValueError for a nonpositive alpha or step size, for parameters that are not float32 or float64 arrays, for
    outputs that are not finite real floats, one row per example and in the shape that the loss takes, for a loss below
    0, for more examples than there are, and for float32 where alpha·h drowns the residual or the targets in rounding.
    """
    for name, value in (("alpha", alpha), ("step_size", 1.0 if step_size is None else step_size)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value:g}: the trained model is alpha·h")
    budget = default_budget(params) if budget is None else budget
    report = heard(progress)
    report(0, budget.products, PRODUCTS)
    key_subset, key_jacobian, key_hessian = jax.random.split(key, 3)
    x, y, held_out = subset(problem, examples, key_subset)
    if held_out is not None:
        check_examples(apply, params, problem.x)
    begun = start(problem.loss, check_outputs(apply, params, x), y, alpha)
    square = problem.loss is square_loss
    if float(begun.loss) < 0:
        raise ValueError(
            f"kappa must have a loss whose least value is 0, got {float(begun.loss):.3g} at the start: add a constant"
        )
    residual = distance(begun.outputs, y, alpha) if square else ratio(2 * float(begun.loss), float(begun.slope))
    if square:
        check_precision(begun.outputs, y, alpha)
    direction = begun.direction.astype(parameter_dtype(params))
    jacobian, directions, right, along = jacobian_norm_along(
        apply, params, x, direction, key=key_jacobian, budget=budget, progress=report
    )
    begun = begun._replace(along=along)
    if not (math.isfinite(jacobian.value) and math.isfinite(along)):
        check_derivative(apply, params, x)
    unit = coarse_unit(jacobian.value)
    hessian, top, probes = hessian_norm(
        apply,
        params,
        x,
        key=key_hessian,
        budget=budget,
        kernel_directions=directions,
        right=right if held_out is None else [tree.copy(u) for u in right],
        spent=jacobian.products,
        unit=unit,
        progress=report,
    )
    if not math.isfinite(hessian.value):
        raise ValueError(
            "a second derivative of the outputs is NaN or infinite, though outputs and first derivatives are finite: a "
            "norm or root at 0 has none, so add an eps inside it or move the weights"
        )
    bound = _upper_bound(apply, params, x, budget, begun.outputs.size, probes)
    curvature = _curvature(hessian.value, jacobian.value)
    kappa = product(residual / alpha, curvature)
    widest = max(bound.value + 2 * bound.error, hessian.value)
    limits = _over_alpha(begun.outputs, y, curvature) if square else (None, None, None)
    stepped, extra = None, 1
    if step_size is not None:
        stepped = one_step(apply, problem.loss, params, (x, y), alpha, step_size, hessian, jacobian, begun, residual)
        extra += 1 + 4 * min(DIFFERENCE_STEPS, begun.outputs.size)
    sampling = None
    if held_out is not None:
        sampling = subsampling(apply, params, (x, y), held_out[0], right[0], top, begun, problem, alpha, unit)
        extra += 4
    report(budget.products, budget.products, PRODUCTS)
    return Criterion(
        kappa=kappa,
        kappa_interval=(
            product(residual / alpha, _curvature(hessian.value, jacobian.value + jacobian.error)),
            product(residual / alpha, _curvature(widest, jacobian.value)),
        ),
        upper_bound=bound,
        residual_norm=residual,
        jacobian_norm=jacobian,
        hessian_norm=hessian,
        # ‖Dhᵀ∇R‖ in place of its largest value ‖Dh‖‖∇R‖.
        kappa_exact=product(kappa, ratio(jacobian.value, along)) if jacobian.value > 0 else kappa,
        kappa_inf=limits[0],
        kappa_least=limits[1],
        alpha_least=limits[2],
        alpha=float(alpha),
        products=jacobian.products + hessian.products + bound.products + extra,
        one_step=stepped,
        subsampling=sampling,
    )


def _over_alpha(outputs: Array, y: Array, curvature: float) -> tuple[float, float, float]:
    """kappa_inf, the least kappa over alpha and where: with s = 1/alpha, kappa(s) = c‖h − s·y‖, a parabola in s."""
    h, target = (np.asarray(v, float).reshape(-1) / math.sqrt(outputs.shape[0]) for v in (outputs, y))
    size, size_y = tree.host_norm(h), tree.host_norm(target)
    limit = product(size, curvature)
    if size == 0 or size_y == 0:
        return limit, limit, math.inf
    cosine = float((h / size) @ (target / size_y))
    if cosine <= 0:
        return limit, limit, math.inf
    least = size * float(np.linalg.norm(h / size - cosine * (target / size_y)))
    return limit, product(least, curvature), size_y / size / cosine


def _upper_bound(
    apply: Apply, params: PyTree, x: Batch, budget: Budget, num_outputs: int, probes: Float[np.ndarray, " probes"]
) -> UpperBound:
    if budget.dense and num_outputs * tree.size(tree.split(params)[0]) ** 2 <= budget.dense:
        return dense_bound(apply, params, x)
    return frobenius_bound(probes) if len(probes) > 1 else NO_BOUND


def default_budget(params: PyTree) -> Budget:
    """`DEFAULT`, and `QUICK` above a million parameters."""
    return DEFAULT if tree.size(tree.split(params)[0]) <= _LARGE else QUICK


def _curvature(second: float, first: float) -> float:
    """‖D²h‖/‖Dh‖², without the square."""
    return ratio(ratio(second, first), first)
