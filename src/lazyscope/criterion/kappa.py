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
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import passes, tree
from lazyscope.criterion.bounds import NO_BOUND, UpperBound, dense_bound, frobenius_bound
from lazyscope.criterion.budget import DEFAULT, QUICK, Budget
from lazyscope.criterion.estimate import Estimate, Search
from lazyscope.criterion.hessian import hessian_norm
from lazyscope.criterion.jacobian import jacobian_norm
from lazyscope.criterion.products import coarse_unit, in_units, normalized_outputs, second_derivative
from lazyscope.door import check_derivative, check_examples, checked_outputs, entrance, linearized, pushed
from lazyscope.examples import Batch, count, take
from lazyscope.krylov import lanczos
from lazyscope.models import Apply
from lazyscope.problems import Loss, Problem, square_loss

KINKS = (
    "Automatic differentiation drops the kinks of ReLU: ‖D²h‖ is that of the second derivative almost everywhere, "
    "without the gates that flip."
)
_DIFFERENCE_STEPS = 24  # Lanczos steps for ‖Dh(w1) − Dh(w0)‖
_LARGE = 1_000_000  # parameters above which the quick budget is the default


class OneStep(NamedTuple):
    """Relative changes of the objective and of Dh in one gradient step, measured, and the note's approximations.

    Δ(F) = |F(w1) − F(w0)|/F(w0) ≈ η‖∇F‖²/F;  Δ(Dh) = ‖Dh(w1) − Dh(w0)‖/‖Dh(w0)‖, about η‖∇F‖‖D²h‖/‖Dh‖ at most.
    """

    step_size: float
    objective_change: float
    objective_approximation: float
    jacobian_change: float
    jacobian_approximation: float


class Subsampling(NamedTuple):
    """What using `examples` of `total` examples costs.

    `kappa_error` is the relative standard error of kappa at fixed maximisers (delta method, without replacement).
    A maximum over few examples is too large by more than that, so the same directions are evaluated on as many
    held-out examples: on average the norm over all the data lies between the held-out value and the one reported.
    """

    examples: int
    total: int
    kappa_error: float
    jacobian_norm_held_out: float
    hessian_norm_held_out: float


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
) -> Criterion:
    """The laziness criterion of alpha·h at `params`, matrix-free (note, §1.1).

    `budget` is `DEFAULT` (2000 products), `THOROUGH` or `QUICK` (40; the default above a million parameters). With
    `step_size`, the changes in one step w1 = w0 − η∇F_alpha are measured, too. `examples` draws a random subset
    of so many examples and states what that costs. Degenerate models give limits: kappa is 0 where the residual or D²h
    is 0, inf where Dh alone is. ‖D²h‖ is a lower bound, so kappa is one.

    Raises ValueError for a nonpositive alpha or step size, for parameters that are not float32 or float64 arrays, for
    outputs that are not finite real floats, one row per example and in the shape that the loss takes, for more
    examples than there are, and for float32 where alpha·h drowns the residual or the targets in rounding.
    """
    for name, value in (("alpha", alpha), ("step_size", 1.0 if step_size is None else step_size)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value:g}: the trained model is alpha·h")
    budget = _default_budget(params) if budget is None else budget
    key_subset, key_jacobian, key_hessian = jax.random.split(key, 3)
    x, y, held_out = _subset(problem, examples, key_subset)
    if held_out is not None:
        check_examples(apply, params, problem.x)
    check_outputs(apply, params, x)

    whole = passes.block_size(apply, params, x) == count(x)
    start = (_start if whole else _start_in_blocks)(apply, problem.loss, params, x, y, alpha)
    if not math.isfinite(float(start.along)):
        check_derivative(apply, params, x)
    square = problem.loss is square_loss
    residual = _distance(start.outputs, y, alpha) if square else _ratio(2 * float(start.loss), float(start.slope))
    if square:
        check_precision(start.outputs, y, alpha)
    jacobian, directions, right = jacobian_norm(apply, params, x, key=key_jacobian, budget=budget)
    if not math.isfinite(jacobian.value):
        check_derivative(apply, params, x)
    unit = coarse_unit(jacobian.value)
    hessian, top, probes = hessian_norm(
        apply,
        params,
        x,
        key=key_hessian,
        budget=budget,
        kernel_directions=directions,
        right=right,
        spent=jacobian.products,
        unit=unit,
    )
    if not math.isfinite(hessian.value):
        raise ValueError(
            "a second derivative of the outputs is NaN or infinite, though outputs and first derivatives are finite: a "
            "norm or root at 0 has none, so add an eps inside it or move the weights"
        )
    bound = _upper_bound(apply, params, x, budget, start.outputs.size, probes)
    curvature = _curvature(hessian.value, jacobian.value)
    kappa = _product(residual / alpha, curvature)
    widest = max(bound.value + 2 * bound.error, hessian.value)
    limits = _over_alpha(start.outputs, y, curvature) if square else (None, None, None)
    one_step, extra = None, 1
    if step_size is not None:
        one_step = _one_step(apply, problem.loss, params, (x, y), alpha, step_size, hessian, jacobian, start, residual)
        extra += 1 + 4 * min(_DIFFERENCE_STEPS, start.outputs.size)
    sampling = None
    if held_out is not None:
        sampling = _subsampling(apply, params, (x, y), held_out[0], right, top, start, problem, alpha, unit)
        extra += 4
    return Criterion(
        kappa=kappa,
        kappa_interval=(
            _product(residual / alpha, _curvature(hessian.value, jacobian.value + jacobian.error)),
            _product(residual / alpha, _curvature(widest, jacobian.value)),
        ),
        upper_bound=bound,
        residual_norm=residual,
        jacobian_norm=jacobian,
        hessian_norm=hessian,
        # ‖Dhᵀ∇R‖ in place of its largest value ‖Dh‖‖∇R‖.
        kappa_exact=_product(kappa, _ratio(jacobian.value, float(start.along))) if jacobian.value > 0 else kappa,
        kappa_inf=limits[0],
        kappa_least=limits[1],
        alpha_least=limits[2],
        alpha=float(alpha),
        products=jacobian.products + hessian.products + bound.products + extra,
        one_step=one_step,
        subsampling=sampling,
    )


def check_outputs(apply: Apply, params: PyTree, x: Batch) -> Array:
    """The outputs, or a ValueError where they are not finite real floats with one row per example."""
    checked_outputs(apply, params, x)
    outputs = passes.outputs(apply, params, x)
    bad = int(np.sum(~np.isfinite(np.asarray(outputs))))
    if bad:
        raise ValueError(f"outputs must be finite, got {bad} NaN or infinite values: lower the scale of the weights")
    return outputs


def check_precision(outputs: Array, y: Array, alpha: float) -> None:
    """Refuse float32 where ten roundings of alpha·h exceed a tenth of the residual ‖αh − y‖ or of the targets."""
    if outputs.dtype == jnp.float64:
        return
    f, target = alpha * np.asarray(outputs, float), np.asarray(y, float)
    scales = [tree.host_norm(f - target)] + ([tree.host_norm(target)] if np.any(target) else [])
    rounding = float(jnp.finfo(outputs.dtype).eps) * tree.host_norm(f)
    if 10 * rounding > 0.1 * min(scales):
        root = math.sqrt(f.shape[0])
        raise ValueError(
            f"{outputs.dtype} must round alpha·h far below the residual and the targets, got eps·‖αh‖ = "
            f"{rounding / root:.2g} against {min(scales) / root:.2g} at alpha = {alpha:g}: "
            'add `jax.config.update("jax_enable_x64", True)` and pass float64 parameters, or use ls.center'
        )


class _Start(NamedTuple):
    outputs: Array  # h, without alpha
    loss: Array
    slope: Array  # ‖∇R‖ in function space
    along: Array  # ‖Dhᵀ∇R‖/‖∇R‖, at most ‖Dh‖; 0 for ∇R = 0


@partial(jax.jit, static_argnums=(0, 1))
def _start(apply: Apply, loss: Loss, params: PyTree, x: Batch, y: Array, alpha: float | Array) -> _Start:
    theta, merge = tree.split(params)
    outputs, pull = jax.vjp(lambda th: apply(merge(th), x), theta)
    scale = jnp.asarray(alpha, outputs.dtype)
    value, slope = jax.value_and_grad(loss)(scale * outputs, y)
    # ∂R/∂f_i is 1/n of the function-space gradient, whose norm is again a mean over examples.
    unit, root = tree.unit(slope), jnp.sqrt(jnp.asarray(count(x), slope.dtype))
    size = root * tree.norm(slope / unit)
    along = tree.norm(pull(slope / unit)[0]) / jnp.where(size > 0, size, 1)
    return _Start(outputs, value, unit * size, along)


def _start_in_blocks(apply: Apply, loss: Loss, params: PyTree, x: Batch, y: Array, alpha: float | Array) -> _Start:
    outputs = passes.outputs(apply, params, x)
    value, slope = jax.value_and_grad(loss)(jnp.asarray(alpha, outputs.dtype) * outputs, y)
    unit, root = tree.unit(slope), jnp.sqrt(jnp.asarray(count(x), slope.dtype))
    size = root * tree.norm(slope / unit)
    along = tree.norm(passes.pull(apply, params, x, slope / unit)) / jnp.where(size > 0, size, 1)
    return _Start(outputs, value, unit * size, along)


def _one_step(
    apply: Apply,
    loss: Loss,
    params: PyTree,
    data: tuple[Array, Array],
    alpha: float,
    step_size: float,
    hessian: Estimate,
    jacobian: Estimate,
    start: _Start,
    residual: float,
) -> OneStep:
    """Measured and approximate changes for w1 = w0 − η∇F_alpha, whose length is (η/α)‖Dhᵀ∇R‖."""
    x, y = data
    slope, along = float(start.slope), float(start.along)
    unit = coarse_unit(jacobian.value)
    unit_slope = coarse_unit(slope)
    apply = passes.in_blocks(apply, params, x)
    after = _step(apply, loss, params, x, y, alpha, step_size * unit * unit_slope / alpha, unit, unit_slope)
    if loss is square_loss:
        left = _ratio(_distance(after.outputs, y, alpha), residual)
        objective_change = abs(left * left - 1) if residual > 0 else 0.0
    else:
        before = float(start.loss)
        objective_change = _ratio(abs(float(after.loss) - before), before)
    return OneStep(
        float(step_size),
        objective_change,
        # ‖∇F‖²/F = ‖Dhᵀ∇R‖²/R, and 2R/‖∇R‖ stands in for the residual.
        _product(2 * (step_size * along) * along, _ratio(slope, residual)),
        _ratio(unit * math.sqrt(max(float(after.difference), 0.0)), jacobian.value),
        _product((step_size * along) * slope / alpha, _ratio(hessian.value, jacobian.value)),
    )


class _Stepped(NamedTuple):
    outputs: Array  # h(w1)
    loss: Array
    difference: Array  # ‖Dh(w1) − Dh(w0)‖² in squares of the unit


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    apply: Apply,
    loss: Loss,
    params: PyTree,
    x: Batch,
    y: Array,
    alpha: float | Array,
    step: float | Array,
    unit: float | Array,
    unit_slope: float | Array,
) -> _Stepped:
    """w1 = w0 − step·(Dh/unit)ᵀ(∇R/unit_slope)."""
    f, w0 = normalized_outputs(apply, params, x)
    theta, merge = tree.split(params)
    _, unravel = ravel_pytree(theta)
    unit = jnp.asarray(unit, w0.dtype)

    def outputs(w: Array) -> Array:
        return apply(merge(unravel(w)), x)

    def loss_of(f: Array) -> Array:
        return loss(jnp.asarray(alpha, f.dtype) * f, y)

    h, pull = jax.vjp(outputs, w0)
    slope = jax.grad(lambda f: loss(f, y))(jnp.asarray(alpha, h.dtype) * h) / jnp.asarray(unit_slope, h.dtype)
    w1 = w0 - jnp.asarray(step, w0.dtype) * (pull(slope)[0] / unit)
    value, push0, pull0 = linearized(f, w0)
    _, push1, pull1 = linearized(f, w1)

    def product(z: Array) -> Array:
        v = (pull1(z) - pull0(z)) / unit
        return (push1(v) - push0(v)) / unit

    index = jnp.arange(value.size, dtype=value.dtype)
    values = lanczos(product, 1.0 + jnp.cos(index * index), depth=_DIFFERENCE_STEPS).values
    after = outputs(w1)
    return _Stepped(after, loss_of(after), jnp.max(values))


def _distance(outputs: Array, y: Array, alpha: float) -> float:
    """‖αh − y‖ in function space, in double precision."""
    return tree.host_norm(float(alpha) * np.asarray(outputs, float) - np.asarray(y, float)) / math.sqrt(len(outputs))


def _over_alpha(outputs: Array, y: Array, curvature: float) -> tuple[float, float, float]:
    """kappa_inf, the least kappa over alpha and where: with s = 1/alpha, kappa(s) = c‖h − s·y‖, a parabola in s."""
    h, target = (np.asarray(v, float).reshape(-1) / math.sqrt(outputs.shape[0]) for v in (outputs, y))
    size, size_y = tree.host_norm(h), tree.host_norm(target)
    limit = _product(size, curvature)
    if size == 0 or size_y == 0:
        return limit, limit, math.inf
    cosine = float((h / size) @ (target / size_y))
    if cosine <= 0:
        return limit, limit, math.inf
    least = size * float(np.linalg.norm(h / size - cosine * (target / size_y)))
    return limit, _product(least, curvature), size_y / size / cosine


def _upper_bound(
    apply: Apply, params: PyTree, x: Batch, budget: Budget, num_outputs: int, probes: Float[np.ndarray, " probes"]
) -> UpperBound:
    if budget.dense and num_outputs * tree.size(tree.split(params)[0]) ** 2 <= budget.dense:
        return dense_bound(apply, params, x)
    return frobenius_bound(probes) if len(probes) > 1 else NO_BOUND


def _subset(
    problem: Problem, number: int | None, key: Key[Array, ""]
) -> tuple[Batch, Batch, tuple[Batch, Batch] | None]:
    """All the data, or a random subset and, apart from it, up to as many held-out examples."""
    n = problem.num_examples
    if number is None or number == n:
        return problem.x, problem.y, None
    if not 2 <= number < n:
        raise ValueError(f"examples must lie between 2 and the {n} of the problem, got {number}: pass fewer or None")
    order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(n)
    chosen, rest = order[:number], order[number : 2 * number]
    return take(problem.x, chosen), take(problem.y, chosen), (take(problem.x, rest), take(problem.y, rest))


def _subsampling(
    apply: Apply,
    params: PyTree,
    data: tuple[Array, Array],
    x_held_out: Array,
    right: Array,
    top: Array,
    start: _Start,
    problem: Problem,
    alpha: float,
    unit: float,
) -> Subsampling:
    """Each squared norm is a mean over examples at its maximiser, and at a maximum the maximiser's own shift drops out.

    With a_i, b_i, r_i the examples' shares of ‖Dh‖², ‖D²h‖², ‖αh − y‖² relative to their means, the influence
    of example i on log kappa is (b_i + r_i)/2 − a_i. For another loss than the square loss the shares of the loss
    stand in for those of the residual.
    """
    x, y = data
    m = count(x)
    within = in_units(apply, unit)
    jacobian, hessian = (np.asarray(v, float) for v in _shares(within, params, x, right, top))
    held = [
        unit * math.sqrt(float(np.mean(np.asarray(v, float)))) for v in _shares(within, params, x_held_out, right, top)
    ]
    outputs = jnp.asarray(alpha, start.outputs.dtype) * start.outputs
    if problem.loss is square_loss:
        losses = _squares(np.asarray(outputs, float) - np.asarray(y, float))
    else:
        losses = np.asarray(jax.vmap(lambda f, t: problem.loss(f[None], t[None]))(outputs, y), float)
    influence = (_relative(hessian) + _relative(losses)) / 2 - _relative(jacobian)
    error = float(np.std(influence, ddof=1)) / math.sqrt(m) * math.sqrt(1 - m / problem.num_examples)
    return Subsampling(m, problem.num_examples, error, held[0], held[1])


@partial(jax.jit, static_argnums=0)
def _shares(apply: Apply, params: PyTree, x: Batch, right: Array, top: Array) -> tuple[Array, Array]:
    """n·(its share) of each example in ‖Dh·right‖² and ‖B(top, top)‖², so that the norms² are means."""
    f, vector = normalized_outputs(apply, params, x)
    n = count(x)

    def by_example(v: Array) -> Array:
        return jnp.sum(v.reshape(n, -1) ** 2, axis=1) * n

    return by_example(pushed(f, vector, right)[1]), by_example(second_derivative(f, vector, top))


def _squares(rows: np.ndarray) -> np.ndarray:
    """The squared norm of each row, up to a common factor."""
    largest = float(np.max(np.abs(rows), initial=0.0)) or 1.0
    return np.sum((rows / largest).reshape(len(rows), -1) ** 2, axis=1)


def _relative(shares: np.ndarray) -> np.ndarray:
    mean = float(np.mean(shares))
    return shares / mean if mean > 0 else np.zeros_like(shares)


def _default_budget(params: PyTree) -> Budget:
    return DEFAULT if tree.size(tree.split(params)[0]) <= _LARGE else QUICK


def _ratio(a: float, b: float) -> float:
    """a/b with 0 wherever a is 0, else inf where b is 0."""
    if a == 0:
        return 0.0
    return a / b if b > 0 else math.inf


def _curvature(second: float, first: float) -> float:
    """‖D²h‖/‖Dh‖², without the square."""
    return _ratio(_ratio(second, first), first)


def _product(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b
