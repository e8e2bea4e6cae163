"""Two-layer nets over output scale, width and start: what one step changes at w0, and how lazily training then goes.

By the scale law a 2-homogeneous net at (tau, alpha) is the one at (1, alpha·tau²), also with its output centred, so a
grid over tau and alpha is one axis of alpha·tau². Steps are η·λmax(K(w0))/n = 0.85, what min(10, 0.1/tau²) of Chizat et
al. 2019 is at their width 50 for tau >= 0.1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from lazyscope import tree
from lazyscope.criterion import Ingredients
from lazyscope.differential import differential_change
from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.measures import trained_gap
from lazyscope.models import two_layer
from lazyscope.papers.figure import Cell
from lazyscope.papers.kappa.closed_form import hessian_norm
from lazyscope.papers.student import held_out
from lazyscope.problems import square_loss, teacher_student
from lazyscope.store import stored_as
from lazyscope.tangent import jacobian

STARTS = ("plain", "symmetrised", "centred")
PLAIN, SYMMETRISED, CENTRED = range(3)
RATE = 0.85  # η·λmax(K(w0))/n
SHARES = (1.0, 1e-3)  # of that step: as trained, and where first order holds


@stored_as("lazyscope.papers.regime_cells.Nets")
@dataclass(frozen=True)
class Nets:
    """Data, output scales alpha·tau² and steps of the nets that are compared; all live in the widest one's program."""

    n: int
    d: int
    widest: int
    scales: tuple[float, ...]
    num_steps: int


def initial(key: Key[Array, ""], *, width: Array, start: Int[Array, ""], nets: Nets) -> PyTree:
    """N(0, 1) weights of `width` units, pairs of equal b and opposite a where symmetrised.

    The units beyond `width` are 0: they have no output and no gradient, and stay 0.
    """
    params = two_layer(nets.widest, nets.d).init(key)
    half, unit = nets.widest // 2, jnp.arange(nets.widest, dtype=width.dtype)
    paired, partner = start == SYMMETRISED, jnp.arange(nets.widest) % half
    alive = jnp.where(paired, 2 * (unit % half) < width, unit < width)
    a = jnp.where(paired, jnp.where(unit < half, 1.0, -1.0) * params["a"][partner], params["a"])
    b = jnp.where(paired, params["b"][partner], params["b"])
    return {"a": jnp.where(alive, a, 0), "b": jnp.where(alive[:, None], b, 0)}


@stored_as("lazyscope.papers.regime_cells.over_scale")
def over_scale(key: Key[Array, ""], *, width: Array, start: Int[Array, ""], nets: Nets) -> dict[str, Array]:
    """For every scale: kappa, as printed and without its approximation, one step measured and estimated, g and j.

    Δ(Dh) and its bound are in operator norms on the training inputs. `exact` is (‖D²h‖/‖Dh‖)·2F/‖∇F‖, which is twice
    the bound of Δ(Dh) over the estimate of Δ(F); kappa is the same with ‖Dh‖‖h − y‖ for ‖∇F‖. `advantage` is the
    measured Δ(F)/Δ(Dh). Losses are over the zero predictor's.
    """
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(key_data, n=nets.n, d=nets.d, n_test=nets.n)
    x, y, (x_test, y_test) = problem.x, problem.y, held_out(problem)
    net = two_layer(nets.widest, nets.d).apply
    params0 = initial(key_init, width=width, start=start, nets=nets)

    def apply(params: PyTree, x: Array) -> Array:
        # Symmetrised nets are centred, too: their two halves cancel only to rounding where they are one product.
        return net(params, x) - jnp.where(start == PLAIN, 0, net(params0, x))

    derivative = jacobian(apply, params0, x)[:, 0]
    slope, bend = _norm(derivative), hessian_norm(params0, x)
    outputs, outputs_test = apply(params0, x), apply(params0, x_test)
    parts = Ingredients(outputs, y, slope, bend)
    eta, zero = RATE / slope**2, square_loss(jnp.zeros_like(y), y)

    def at(alpha: Array) -> dict[str, Array]:
        residual = alpha * outputs - y
        gradient = jnp.linalg.norm(derivative.T @ residual) / nets.n  # ‖Dhᵀ(αh − y)‖ in function space
        size = parts.residual_norm(alpha)
        run = gradient_descent(
            apply, params0, problem, alpha=alpha, step_size=eta, num_steps=nets.num_steps, record=(nets.num_steps,)
        )

        def one_step(share: Array) -> tuple[Array, Array, Array]:
            step = share * eta / alpha
            pull = tree.scale(step, jax.grad(lambda w: square_loss(alpha * apply(w, x), y))(params0))
            after = tree.sub(params0, tree.scale(1 / alpha, pull))
            objective = jnp.abs(square_loss(alpha * apply(after, x), y) / (0.5 * size**2) - 1)
            differential = _norm(jacobian(apply, after, x)[:, 0] - derivative) / slope
            estimate, bound = 2 * share * eta * (gradient / size) ** 2, step * gradient * bend / slope
            return objective / estimate, differential / bound, objective / differential

        ratios = jax.lax.map(one_step, jnp.array(SHARES))
        return {
            "kappa": parts.kappa(alpha),
            "exact": bend * size**2 / (alpha * slope * gradient),
            **dict(zip(("objective_ratio", "differential_ratio", "advantage"), ratios, strict=True)),
            "change": differential_change(apply, params0, run.params, x_test).value,
            "outputs": alpha * apply(run.params, x_test),
            "train_loss": run.train_loss[-1] / zero,
            "unstable": run.status.unstable,
        }

    def linear(alpha: Array) -> Array:
        settings = {"alpha": alpha, "step_size": eta, "steps": [nets.num_steps]}
        return linearized_descent(apply, params0, problem, **settings).observed[1][0]

    scales = jnp.asarray(nets.scales)
    found = jax.lax.map(at, scales)
    # vmap: the eigendecomposition does not depend on alpha and is done once.
    beside, ends = jax.vmap(linear)(scales), found.pop("outputs")
    gap = jax.vmap(lambda f, f_linear, a: trained_gap(f, f_linear, a * outputs_test, y_test))(ends, beside, scales)
    return found | {"gap": gap}


OVER_SCALE = Cell(
    over_scale,
    1,
    {
        **dict.fromkeys(("kappa", "exact", "gap", "change", "train_loss", "unstable"), ("scale",)),
        **dict.fromkeys(("objective_ratio", "differential_ratio", "advantage"), ("scale", "share")),
    },
)


def _norm(matrix: Float[Array, "n p"]) -> Float[Array, ""]:
    """The operator norm from R^p to function space."""
    return jnp.sqrt(jnp.linalg.eigvalsh(matrix @ matrix.T / matrix.shape[0])[-1])
