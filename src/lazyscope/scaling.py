"""What scale does: stable steps, the time that compares runs, and which runs are the same run.

For a q-homogeneous model, h(λw) = λ^q h(w), write w = tau·v. Descent on F_alpha from tau·v0 with step η is, iterate by
iterate, descent on F_{alpha·tau^q} from v0 with step η·tau^(2q−2): the gradient of h in w is tau^(q−1) times that in
v, so that one step of w, divided by tau, moves v by −η tau^(−1) (1/alpha) tau^(q−1) Dh(v)ᵀ∇R(alpha tau^q h(v)), which
is −η tau^(2q−2)/(alpha tau^q) Dh(v)ᵀ∇R (docs/design.md, the scale law). The losses R(alpha·h) are equal step by step.
Chizat et al. 2019's step rule 0.1/tau² is this law at q = 2.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from lazyscope import tree
from lazyscope.criterion import Budget, check_outputs, check_precision, criterion
from lazyscope.curvature import curvature_at, curvature_bound
from lazyscope.door import check_derivative, checked_outputs, concrete, entrance
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.problems import Problem, cross_entropy, square_loss
from lazyscope.tangent import largest_eigenvalue_in_units, representable


@entrance
def stable_step_size(
    apply: Apply, params: PyTree, problem: Problem, *, alpha: float | Array = 1.0, key: Key[Array, ""] | None = None
) -> Float[Array, ""]:
    """1/(λmax(K/n)·L) at `params`: half the largest step at which descent on F_alpha is stable in the linearised model.

    L is the largest curvature of n·R in the outputs: 1 for the square loss; 1/2 for the cross-entropy, a bound that
    holds at all outputs (Böhning 1992); for another loss the largest eigenvalue of n·∇²R at alpha·h(params), by
    Lanczos, from below. `alpha` matters for such losses only. With `key` the Lanczos starts are drawn, else fixed.

    inf where nothing limits the step: a zero derivative, or a loss without positive curvature. Raises ValueError where
    a derivative of finite outputs is NaN, and for a step beyond the largest or below the smallest float (NaN inside a
    transformation, which sees no values).
    """
    return _step_size(apply, params, problem, alpha, key, everywhere=False)


def bounded_step_size(
    apply: Apply, params: PyTree, problem: Problem, *, alpha: float | Array = 1.0, key: Key[Array, ""] | None = None
) -> Float[Array, ""]:
    """As `stable_step_size`, but for every loss of logits with the bound that it has for `cross_entropy`.

    So steps do not depend on who wrote the loss, nor on how certain the model starts.
    """
    return _step_size(apply, params, problem, alpha, key, everywhere=True)


def _step_size(
    apply: Apply,
    params: PyTree,
    problem: Problem,
    alpha: float | Array,
    key: Key[Array, ""] | None,
    *,
    everywhere: bool,
) -> Float[Array, ""]:
    key_kernel, key_loss = (None, None) if key is None else jax.random.split(key)
    outputs = checked_outputs(apply, params, problem.x)
    start = None if key_kernel is None else jax.random.normal(key_kernel, outputs.shape, outputs.dtype)
    sharpness, unit = largest_eigenvalue_in_units(apply, params, problem.x, start=start)
    if concrete(sharpness) and not math.isfinite(float(sharpness)):
        check_derivative(apply, params, problem.x)
    if problem.loss is square_loss:
        curvature = jnp.ones((), outputs.dtype)
    elif problem.loss is cross_entropy:
        curvature = jnp.full((), 0.5, outputs.dtype)
    else:
        values = alpha * apply(params, problem.x)
        curvature = curvature_at(problem.loss, values, problem.y, key_loss)
        if everywhere:
            bound = curvature_bound(problem.loss, values, problem.y)
            curvature = jnp.where(jnp.isfinite(bound), jnp.maximum(bound, curvature), curvature)
    # In an order in which nothing over- or underflows unless the step does.
    unlimited = (sharpness <= 0) | (curvature <= 0)
    step_size = jnp.where(unlimited, jnp.inf, 1 / sharpness / unit / curvature / unit)
    return representable(step_size, ~unlimited, "the stable step size")


@entrance
def kernel_time(
    apply: Apply, params0: PyTree, x: Batch, time: float | Float[Array, " R"]
) -> Float[Array, ""] | Float[Array, " R"]:
    """Kernel time s = time·λmax(K(w0))/n, with time = Σ η on F_alpha: what the scale law leaves alone.

    Runs with different tau, alpha or step rules are compared at equal s only; s = 2·steps is the edge of stability of
    the square loss at any scale.
    """
    value, unit = largest_eigenvalue_in_units(apply, params0, x)
    return time * unit * value * unit


class Collapsed(NamedTuple):
    """Output scale and step of the equivalent run at tau = 1."""

    alpha: Any
    step_size: Any


def collapse(tau: Any, alpha: Any, step_size: Any, *, degree: int) -> Collapsed:
    """(alpha·tau^q, η·tau^(2q−2)): the run from v0 that is the run (tau, alpha, η) from w0 = tau·v0, with w = tau·v.

    Exact for a q-homogeneous model, q = `degree` (2 for the two-layer ReLU net, the number of layers for an MLP
    without biases), doubled or not, with any loss and momentum. Not for biases that are drawn with tau as well, nor
    for smooth activations. Numbers or arrays. A cap on the step or a tolerance on the loss breaks the law unless it is
    scaled along.

    Raises ValueError for a degree below 1.
    """
    if degree < 1:
        raise ValueError(f"the scale law needs a homogeneous model of degree >= 1, got {degree}: 2 for two_layer")
    return Collapsed(alpha * tau**degree, step_size * tau ** (2 * degree - 2))


class DistinctRuns(NamedTuple):
    """Which cells to run: `cells` has the index of one cell per distinct run, `run_of[i]` is the run of cell i."""

    cells: Int[np.ndarray, " runs"]
    run_of: Int[np.ndarray, " cells"]


def distinct_runs(tau: Any, alpha: Any, step_size: Any, *, degree: int, rtol: float = 1e-9) -> DistinctRuns:
    """Cells of a grid that are equal by the scale law, so that each distinct run is computed once.

    The three settings broadcast to one list of cells, flattened in C order. Cells are equal where the collapsed alpha
    and step both agree to `rtol` (rounding of tau^q; chains of such neighbours count as equal). Results of the runs,
    indexed by `run_of`, are those of the cells; parameters of cell i are those of its run times
    tau_i/tau_(cells[run_of[i]]).

    Raises ValueError unless all settings are positive and finite.
    """
    settings = np.broadcast_arrays(*(np.asarray(value, float) for value in (tau, alpha, step_size)))
    flat = [value.reshape(-1) for value in settings]
    if not all(np.all(np.isfinite(value) & (value > 0)) for value in flat):
        raise ValueError("tau, alpha and step_size must be positive and finite to be compared: drop those cells")
    # In logarithms, so that tau = 1e6 at a high degree cannot overflow and rtol means the same everywhere.
    log_tau, log_alpha, log_step = (np.log(value) for value in flat)
    collapsed = (log_alpha + degree * log_tau, log_step + (2 * degree - 2) * log_tau)
    labels = np.stack([_clusters(values, rtol) for values in collapsed], axis=1)
    _, first, run_of = np.unique(labels, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return DistinctRuns(first[order], rank[run_of.reshape(-1)])


@entrance
def alpha_for(
    apply: Apply,
    params: PyTree,
    problem: Problem,
    *,
    kappa: float,
    key: Key[Array, ""],
    budget: Budget | None = None,
) -> float:
    """The smallest alpha at which the criterion equals `kappa`, in closed form (square loss).

    With s = 1/alpha and c = ‖D²h‖/‖Dh‖², kappa = c‖h − s·y‖, so s is the larger root of

        ‖y‖² s² − 2⟨h, y⟩ s + ‖h‖² − (kappa/c)² = 0.

    c rests on a lower bound of ‖D²h‖, as kappa does. Raises ValueError when no alpha gives this kappa, naming the least
    there is; for a loss other than the square loss, a model without curvature, or targets that are all 0.
    """
    if not (kappa > 0 and math.isfinite(kappa)):
        raise ValueError(
            f"kappa must be positive and finite, got {kappa:g}: alpha_for(..., kappa=0.01) is usually lazy"
        )
    if problem.loss is not square_loss:
        raise ValueError(
            "alpha_for solves the square loss's quadratic, got another loss: evaluate criterion at trial alphas"
        )
    outputs = check_outputs(apply, params, problem.x)
    h, y = (np.asarray(v, float).reshape(-1) / math.sqrt(problem.num_examples) for v in (outputs, problem.y))
    if not np.any(y):
        raise ValueError("alpha_for needs targets that are not all 0, got y = 0: kappa is then the same at every alpha")
    # Any alpha gives the two norms; this one makes alpha·h and y equally large, where rounding disturbs least.
    balance = tree.host_norm(y) / tree.host_norm(h) if np.any(h) else 1.0
    crit = criterion(apply, params, problem, alpha=2 * balance, key=key, budget=budget)
    if crit.hessian_norm.value == 0:
        raise ValueError("alpha_for needs a model with curvature, got ‖D²h‖ = 0: kappa is 0 at every alpha")
    if crit.jacobian_norm.value == 0:
        raise ValueError(
            "alpha_for needs parameters where ‖Dh‖ > 0, got 0: kappa is infinite at every alpha, move params"
        )
    radius = kappa * crit.jacobian_norm.value * (crit.jacobian_norm.value / crit.hessian_norm.value)
    # In units of ‖y‖ for y, and of the larger of ‖h‖ and the radius for these two: s is in units of their ratio.
    unit, unit_y = max(radius, tree.host_norm(h)), tree.host_norm(y)
    h, y, radius = h / unit, y / unit_y, radius / unit
    along = float(h @ y)
    # The distance of h from the line of y, rather than a difference of squares, keeps small kappa exact.
    across = float(np.linalg.norm(h - along * y))
    root = math.sqrt(max((radius - across) * (radius + across), 0.0))
    # The second form is the same root without the cancellation of along < 0.
    larger = along + root if along >= 0 else (radius**2 - float(h @ h)) / (root - along)
    if radius < across or larger <= 0:
        raise ValueError(
            f"no alpha gives kappa = {kappa:g}, got a least kappa of {crit.kappa_least:.3g} over all alpha because "
            "h(w0) is not 0: center first (ls.center or ls.double)"
        )
    alpha = unit_y / unit / larger
    check_precision(outputs, problem.y, alpha)
    return alpha


def _clusters(values: np.ndarray, gap: float) -> np.ndarray:
    order = np.argsort(values)
    labels = np.empty(len(values), int)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > gap)]) if len(values) else labels
    return labels
