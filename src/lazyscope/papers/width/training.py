"""Two-layer nets of many widths under the two output scales that both papers compare, m^(-1/2) and 1/m.

Settings of Chizat et al. 2019, test_vs_m.jl: plain N(0, 1) weights, teacher times 100, full-batch descent on F_alpha
with η = 1/m for m^(-1/2) and 0.05/m for 1/m (their `stepsize` is η here). Both scales share data and initial weights.
Outputs move by −η (K/n)(alpha·h − y) whatever alpha, so at equal steps m^(-1/2) trains for 20 times the kernel_time.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.differential import differential_change
from lazyscope.dynamics import DIVERGED, default_record, gradient_descent
from lazyscope.krylov import lanczos
from lazyscope.measures import trained_gap
from lazyscope.models import Model, two_layer
from lazyscope.papers.figure import Cell
from lazyscope.papers.student import Data, held_out
from lazyscope.problems import Problem, square_loss
from lazyscope.store import stored_as

SQRT, MEAN = 0.5, 1.0  # alpha = m^-exponent
EXPONENTS = (SQRT, MEAN)
NAMES = {SQRT: "alpha = m^(−1/2)", MEAN: "alpha = 1/m"}
TIME_RATIO = 20  # of η at the two scales, and so of kernel_time at equal steps
KRYLOV_DEPTH = 120
DIFFERENTIAL_EXAMPLES = 200  # held-out inputs on which the change j of the differential is measured


@stored_as("lazyscope.papers.widths.WidthProtocol")
@dataclass(frozen=True)
class WidthProtocol(Data):
    """Settings of one width experiment; the defaults are those of Chizat et al. 2019, Figure 2a."""

    target_scale: float = 100.0
    num_steps: int = 25_000

    @property
    def record(self) -> tuple[int, ...]:
        """Recorded steps: 0, about 24 log-spaced ones, the last, and the one with the last's kernel_time at 1/m."""
        return tuple(sorted({*default_record(self.num_steps, 24), self.equal_time_step}))

    @property
    def equal_time_step(self) -> int:
        """The step at which m^(-1/2) has trained for as much kernel_time as 1/m has at the end."""
        return self.num_steps // TIME_RATIO


def step_size(width: int, exponent: Float[Array, ""]) -> Float[Array, ""]:
    """η = 1/m for alpha = m^(-1/2) and 0.05/m for alpha = 1/m (Chizat et al. 2019, test_vs_m.jl)."""
    return jnp.where(exponent == SQRT, 1.0, 1 / TIME_RATIO) / width


def output_scale(width: int, exponent: Float[Array, ""]) -> Float[Array, ""]:
    """The output scale alpha(m) = m^-exponent."""
    return jnp.asarray(float(width)) ** -exponent


def setup(key: Key[Array, ""], width: int, protocol: WidthProtocol) -> tuple[Model, PyTree, Problem]:
    """Model, initial parameters and problem of a trial: the problem is the same at every width."""
    key_data, key_init = jax.random.split(key)
    model = two_layer(width, protocol.d)
    return model, model.init(key_init), protocol.problem(key_data)


@stored_as("lazyscope.papers.widths.train")
def train(key: Key[Array, ""], *, width: int, exponent: Float[Array, ""], protocol: WidthProtocol) -> dict[str, Array]:
    """One run at width m and alpha = m^-exponent: losses, what moved, and the gap to the linearised descent."""
    model, params0, problem = setup(key, width, protocol)
    x_test, y_test = held_out(problem)
    alpha, eta = output_scale(width, exponent), step_size(width, exponent)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=alpha,
        step_size=eta,
        num_steps=protocol.num_steps,
        record=protocol.record,
    )
    outputs = alpha * model.apply(run.params, x_test)
    start = alpha * model.apply(params0, x_test)
    linear = linearised_outputs(model, params0, problem, alpha=alpha, eta=eta, num_steps=protocol.num_steps)
    change = differential_change(model.apply, params0, run.params, x_test[:DIFFERENTIAL_EXAMPLES])
    return {
        "train_loss": run.train_loss,
        "test_loss": run.test_loss,
        "kernel_time": run.kernel_time,
        "end_test_loss": square_loss(outputs, y_test),
        "linear_test_loss": square_loss(linear, y_test),
        "gap": trained_gap(outputs, linear, start, y_test),
        "differential_change": change.value,
        "movement": tree.norm(tree.sub(run.params, params0)) / tree.norm(params0),
        "zero_test_loss": square_loss(jnp.zeros_like(y_test), y_test),
        "diverged": run.status.code == DIVERGED,
        "unstable": run.status.unstable,
        "precision_limited": run.status.precision_limited,
        "still_improving": run.status.still_improving,
    }


TRAIN = Cell(train, 2, dict.fromkeys(("train_loss", "test_loss", "kernel_time"), ("step",)), static=("width",))


def linearised_outputs(
    model: Model, params0: PyTree, problem: Problem, *, alpha: Array, eta: Array, num_steps: int
) -> Float[Array, " n_test"]:
    """Held-out outputs of the linearised model after `num_steps` steps, from the two-layer kernel by Lanczos.

    They are h0 − K(x_test, x)/n [(1 − (1 − η A)^k)/A] (alpha·h0 − y) with A = K/n. `dynamics.linearized_descent` gives
    the same from a dense Jacobian, 400 MB and 10^11 operations a cell at n = 1000 and m = 512. Needs η·λmax(A) < 1,
    which holds here with a wide margin.
    """
    x, (x_test, _) = problem.x, held_out(problem)
    residual = alpha * model.apply(params0, x) - problem.y
    kernel = two_layer_kernel(params0, x, x) / x.shape[0]
    # In the Krylov space of the residual, where 100 dimensions already give 13 digits at kernel_time 4000.
    ritz = lanczos(lambda v: kernel @ v, residual, depth=KRYLOV_DEPTH)
    resolved = ritz.values > ritz.values.size * jnp.finfo(kernel.dtype).eps * ritz.values[-1]
    safe = jnp.where(resolved, ritz.values, 0.5 / eta)
    weight = jnp.where(resolved, -jnp.expm1(num_steps * jnp.log1p(-eta * safe)) / safe, eta * num_steps)
    pull = ritz.vectors.T @ (weight * (ritz.vectors @ residual)) / x.shape[0]
    return alpha * model.apply(params0, x_test) - two_layer_kernel(params0, x_test, x) @ pull


def two_layer_kernel(
    params: dict[str, Array], x: Float[Array, "n d"], x2: Float[Array, "n2 d"]
) -> Float[Array, "n n2"]:
    """The tangent kernel Σ_i relu(b_i·x) relu(b_i·x') + a_i² 1[b_i·x > 0] 1[b_i·x' > 0] x·x' of the two-layer net."""
    before, before2 = x @ params["b"].T, x2 @ params["b"].T
    readout = jax.nn.relu(before) @ jax.nn.relu(before2).T
    gates = jnp.where(before > 0, params["a"] ** 2, 0.0) @ jnp.where(before2 > 0, 1.0, 0.0).T
    return readout + gates * (x @ x2.T)
