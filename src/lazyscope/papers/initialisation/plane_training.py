"""Runs over the plane of initialisation scale and output scale: at equal kernel_time, and as in the note's code."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lazyscope.dynamics import DIVERGED, gradient_descent
from lazyscope.models import Model, mlp
from lazyscope.papers.figure import Cell
from lazyscope.papers.student import NOTE_STOP, Protocol, held_out, setup
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue

RATE = 0.3  # η·λmax(K(w0))/n


@stored_as("lazyscope.papers.plane_cells.Net")
@dataclass(frozen=True)
class Net:
    """A net over the plane: layers of equal width, ReLU or tanh, with or without biases (which start at 0)."""

    depth: int = 2
    smooth: bool = False
    bias: bool = False

    def model(self, width: int, d: int) -> Model:
        """The fully connected net; with two layers of ReLU and no biases it is the papers' student."""
        widths = (d, *[width] * (self.depth - 1), 1)
        return mlp(widths, jnp.tanh if self.smooth else jax.nn.relu, bias=self.bias)


@stored_as("lazyscope.papers.plane_cells.plane")
def at_equal_time(key: Key[Array, ""], *, tau: Array, alpha: Array, net: Net, protocol: Protocol) -> dict[str, Array]:
    """One raw run from tau·v0 at output scale alpha, for a given kernel_time."""
    _, _, problem = setup(key, protocol)
    model = net.model(protocol.width // 2 if protocol.doubled else protocol.width, protocol.d)
    start = model.init(jax.random.fold_in(key, 1), doubled=protocol.doubled)
    params0 = jax.tree.map(lambda leaf: tau * leaf, start)
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=alpha,
        step_size=RATE / largest_eigenvalue(model.apply, params0, problem.x),
        num_steps=protocol.num_steps,
        record=(0, protocol.num_steps),
    )
    return {
        "loss": run.test_loss[-1],
        "diverged": run.status.code == DIVERGED,
        "unstable": run.status.unstable,
    }


AT_EQUAL_TIME = Cell(at_equal_time, 1)


@stored_as("lazyscope.papers.plane_cells.note_plane")
def with_note_steps(
    key: Key[Array, ""], *, tau: Array, alpha: Array, num_steps: int, protocol: Protocol
) -> dict[str, Array]:
    """One run as in the note's code, plain initialisation, in v = w/tau units."""
    model, params0, problem = setup(key, replace(protocol, doubled=False))
    x_test, y_test = held_out(problem)
    # Its loss is divided by alpha² and its step by alpha once more than F_alpha asks for: in our η,
    step_size = jnp.minimum(10.0, 0.1 / (tau * alpha) ** 2) / alpha
    run = gradient_descent(
        model.apply,
        params0,
        problem,
        alpha=alpha * tau**2,
        step_size=step_size * tau**2,
        num_steps=num_steps,
        record=range(0, num_steps + 1, 25),
        test_every=1,
        stop=NOTE_STOP,
    )

    def test_loss(params: PyTree) -> Array:
        return problem.loss(alpha * tau**2 * model.apply(params, x_test), y_test)

    # What is recorded after the stop is NaN, so the last of the best is looked for up to 25 steps before it.
    best = jnp.fmin(jnp.nanmin(run.best_test_loss), test_loss(run.params))
    return {"best": best, "start": test_loss(params0), "width": jnp.asarray(float(protocol.width))}


WITH_NOTE_STEPS = Cell(with_note_steps, 2)
