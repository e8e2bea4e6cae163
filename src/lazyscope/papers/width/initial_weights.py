"""What random initial weights decide of a trained wide net: shares of the change explained, and spread over draws."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyscope.dynamics import gradient_descent, linearized_descent
from lazyscope.models import two_layer
from lazyscope.papers.figure import Cell
from lazyscope.papers.kappa.training import PLAIN, Nets, initial
from lazyscope.papers.student import held_out
from lazyscope.problems import Problem, teacher_student
from lazyscope.scaling import stable_step_size
from lazyscope.store import stored_as


@stored_as("lazyscope.papers.draw_cells.Draws")
@dataclass(frozen=True)
class Draws:
    """Widths of nets with alpha = m^(−1/2) on one problem, trained from `draws` plain initialisations each."""

    widths: tuple[int, ...]
    n: int
    d: int
    num_steps: int
    draws: int


@stored_as("lazyscope.papers.draw_cells.over_draws")
def over_draws(key: Key[Array, ""], *, width: Array, widest: int, spec: Draws) -> dict[str, Array]:
    """Held-out outputs of trained nets: what their initial weights explain, and how they spread over draws.

    Shares are 1 − ‖Δf − Δf'‖²/‖Δf‖² of the change Δf = f_T − f_0 of the centred net, f' its linearisation (all initial
    tangent features) or the net whose readout alone is trained (the features of the initial hidden layer), at equal
    steps. Spreads are standard deviations over draws relative to ‖y‖, of the plain net and of the centred one, which is
    its change from the output that it started with.
    """
    key_data, key_init = jax.random.split(key)
    problem = teacher_student(key_data, n=spec.n, d=spec.d, n_test=spec.n)
    x_test, y_test = held_out(problem)
    apply, alpha = two_layer(widest, spec.d).apply, width**-0.5
    nets = Nets(spec.n, spec.d, widest, (), 0)

    def one(init_key: Key[Array, ""]) -> dict[str, Array]:
        params0 = initial(init_key, width=width, start=jnp.asarray(PLAIN), nets=nets)
        step_size = stable_step_size(apply, params0, problem)
        start, start_test = alpha * apply(params0, problem.x), alpha * apply(params0, x_test)
        # A net with its output centred learns y as the net itself learns y + alpha·h(w0).
        moved = Problem(problem.x, problem.y + start, x_test, y_test + start_test)
        settings: dict[str, Any] = {"alpha": alpha, "step_size": step_size}
        ends = [
            gradient_descent(apply, params0, data, num_steps=spec.num_steps, record=(spec.num_steps,), **settings)
            for data in (problem, moved)
        ]
        plain, centred = (alpha * apply(run.params, x_test) for run in ends)
        linear = linearized_descent(apply, params0, moved, steps=[spec.num_steps], **settings).observed[1][0]

        def readout(a: Float[Array, " m"], x: Array) -> Array:
            return apply({"a": a, "b": params0["b"]}, x)

        features = linearized_descent(readout, params0["a"], moved, steps=[spec.num_steps], **settings).observed[1][0]
        size = jnp.sum((centred - start_test) ** 2)
        return {
            "plain": plain,
            "centred": centred - start_test,
            "tangent_share": 1 - jnp.sum((centred - linear) ** 2) / size,
            "readout_share": 1 - jnp.sum((centred - features) ** 2) / size,
        }

    found = jax.lax.map(one, jax.random.split(key_init, spec.draws))
    norm = jnp.sqrt(jnp.mean(y_test**2))

    def spread(outputs: Float[Array, "draws n"]) -> Array:
        return jnp.sqrt(jnp.mean(jnp.var(outputs, axis=0, ddof=1))) / norm

    return {
        "plain_spread": spread(found["plain"]),
        "centred_spread": spread(found["centred"]),
        "tangent_share": jnp.mean(found["tangent_share"]),
        "readout_share": jnp.mean(found["readout_share"]),
    }


DRAWN = Cell(over_draws, 1)
