"""Narrow nets, m << d and (m/2)d < n, trained to their end: loss, gradient and Hessian there."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Key

from lazyscope.dynamics import gradient_descent, kernel_flow
from lazyscope.papers.figure import Cell
from lazyscope.papers.student import Protocol, setup
from lazyscope.problems import square_loss
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue

MOMENTUM = 0.95  # ours: the end is 20 times nearer in steps
RATE = 1.0  # η·λmax(K(w0))/n, of a limit of 2(1 + β)
POINTS = 20


@stored_as("lazyscope.papers.narrow_cells.Ends")
@dataclass(frozen=True)
class Ends:
    """A net with its data, its initialisation scale, and steps with momentum."""

    n: int
    d: int
    width: int
    tau: float
    num_steps: int

    @property
    def record(self) -> tuple[int, ...]:
        """Recorded steps."""
        return tuple(self.num_steps * i // POINTS for i in range(POINTS + 1))


@stored_as("lazyscope.papers.narrow_cells.end")
def end(key: Key[Array, ""], *, spec: Ends) -> dict[str, Array]:
    """A lazy run of a symmetrised net.

    Losses are over that of the projection of y on the range of Dh(w0), where the linearised flow ends. `gradient` is
    ‖∇F‖ at the recorded steps over its start. `convexity` is the smallest over the largest eigenvalue of the Hessian
    of F at the end, below 0 at a saddle. In a two-layer ReLU net r·D²h couples a_i and b_i by ∂F/∂b_i over a_i, which
    is 0 where the gradient is: what is left of the Hessian, DhᵀDh, has none below 0.
    """
    protocol = Protocol(n=spec.n, n_test=1, d=spec.d, width=spec.width, doubled=True)
    model, params0, problem = setup(key, protocol)
    apply, alpha = model.apply, spec.tau**2
    limit = kernel_flow(apply, params0, problem, times=[jnp.inf])
    start, unravel = ravel_pytree(params0)

    def loss(u: Array) -> Array:
        return square_loss(alpha * apply(unravel(start + u / alpha), problem.x), problem.y)

    run = gradient_descent(
        apply,
        params0,
        problem,
        alpha=alpha,
        step_size=RATE / largest_eigenvalue(apply, params0, problem.x),
        num_steps=spec.num_steps,
        momentum=MOMENTUM,
        record=spec.record,
        observe=lambda params: alpha * (ravel_pytree(params)[0] - start),
    )
    gradient = jax.lax.map(lambda u: jnp.linalg.norm(jax.grad(loss)(u)), run.observed)
    curvature = jnp.linalg.eigvalsh(jax.hessian(loss)(run.observed[-1]))
    return {
        "end_loss": run.train_loss / limit.train_loss[0],
        "end_gradient": gradient / gradient[0],
        "convexity": curvature[0] / curvature[-1],
        "projection_share": limit.train_loss[0] / run.train_loss[0],
        "end_rank": limit.details.rank,
    }


END = Cell(end, 1, dict.fromkeys(("end_loss", "end_gradient"), ("end_step",)))
