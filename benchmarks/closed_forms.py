"""How much is saved by not iterating: linearised descent in closed form, equal cells computed once, planes in batches?

    python benchmarks/closed_forms.py

On one core, one thread, wall time without compilation:
- `linearized_descent` at 10 000 steps against `gradient_descent` on the linearised model (n = 1000, d = 100, m = 50,
  float64) over ITERATED steps, scaled up to 10 000;
- a plane of 8 x 8 values of tau and alpha on which every cell lies on one of 15 diagonals alpha·tau² = const: all cells
  against the distinct runs of `distinct_runs` (64/15 = 4.3 is what can be gained);
- the loss on a plane of 31 x 31 points against a loop over one jitted function (m = 8; `landscape.py` says more).
"""

import sys

from measure import Ratio, conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import lazyscope as ls  # noqa: E402
from lazyscope.scaling import distinct_runs  # noqa: E402

STEPS, ITERATED = 10_000, 500


def linearized(rounds: int) -> Ratio:
    """The closed form against iterating."""
    problem = ls.teacher_student(jax.random.key(0), n=1000, d=100, n_test=1000)
    model = ls.two_layer(50, 100)
    params0 = model.init(jax.random.key(1), doubled=True)
    line = ls.linearize(model.apply, params0)
    step = 0.1

    def closed() -> float:
        run = ls.linearized_descent(model.apply, params0, problem, step_size=step, steps=[STEPS])
        return float(run.train_loss[-1])

    def iterated(num_steps: int) -> float:
        options = {"step_size": step, "num_steps": num_steps, "record": (0, num_steps)}
        return float(ls.gradient_descent(line, params0, problem, **options).train_loss[-1])

    np.testing.assert_allclose(
        float(ls.linearized_descent(model.apply, params0, problem, step_size=step, steps=[ITERATED]).train_loss[-1]),
        iterated(ITERATED),
        rtol=1e-9,
    )
    costs = interleaved(
        {
            "closed": lambda: seconds(closed),
            "iterated": lambda: (
                (seconds(lambda: iterated(ITERATED)) - seconds(lambda: iterated(1))) * (STEPS / (ITERATED - 1))
            ),
        },
        rounds,
    )
    return ratio("linearised descent, 10⁴ steps", "iterating over closed form", costs["iterated"], costs["closed"])


def collapsed(rounds: int) -> Ratio:
    """Equal cells once against every cell."""
    taus, alphas = 10 ** np.linspace(-0.7, 0.7, 8), 10 ** np.linspace(-1.4, 1.4, 8)
    tau, alpha = (grid.reshape(-1) for grid in np.meshgrid(taus, alphas, indexing="ij"))
    step = 0.05 / tau**2
    problem = ls.teacher_student(jax.random.key(0), n=200, d=20, n_test=200)
    model = ls.two_layer(20, 20)
    start = model.init(jax.random.key(1), doubled=True)

    @jax.jit
    def losses(tau: jax.Array, alpha: jax.Array, step: jax.Array) -> jax.Array:
        def one(cell: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            t, a, eta = cell
            params0 = jax.tree.map(lambda leaf: t * leaf, start)
            options = {"alpha": a, "step_size": eta, "num_steps": 1000, "record": (0, 1000)}
            return ls.gradient_descent(model.apply, params0, problem, **options).test_loss[-1]

        return jax.lax.map(one, (tau, alpha, step))

    runs = distinct_runs(tau, alpha, step, degree=2)
    cells = runs.cells

    def every() -> np.ndarray:
        return np.asarray(losses(tau, alpha, step))

    def once() -> np.ndarray:
        return np.asarray(losses(tau[cells], alpha[cells], step[cells]))[runs.run_of]

    np.testing.assert_allclose(every(), once(), rtol=1e-6)
    costs = interleaved({"every": lambda: seconds(every), "once": lambda: seconds(once)}, rounds)
    name = f"plane of {tau.size} cells, {len(cells)} runs"
    return ratio(name, "every cell over distinct runs", costs["every"], costs["once"], goal=0.9 * tau.size / len(cells))


def plane(rounds: int) -> Ratio:
    """A plane in batches against a loop over points."""
    problem = ls.teacher_student(jax.random.key(0), n=1000, d=100, n_test=1)
    model = ls.two_layer(8, 100)
    center = model.init(jax.random.key(1))
    first, second = ls.landscape.filter_normalised(jax.random.key(2), center, axes={"a": 0})
    axis = np.linspace(-1, 1, 31)

    def loss(params: dict) -> jax.Array:
        return problem.loss(model.apply(params, problem.x), problem.y)

    @jax.jit
    def at(s: jax.Array, t: jax.Array) -> jax.Array:
        return loss(jax.tree.map(lambda c, u, v: c + s * u + t * v, center, first, second))

    def batched() -> np.ndarray:
        return np.asarray(ls.landscape.plane(loss, center, (first, second), resolution=31).values)

    def loop() -> np.ndarray:
        return np.array([[float(at(s, t)) for t in axis] for s in axis])

    np.testing.assert_allclose(batched(), loop(), rtol=1e-10)
    costs = interleaved({"batched": lambda: seconds(batched), "loop": lambda: seconds(loop)}, rounds)
    return ratio("loss on 31 x 31 points, m = 8", "jitted loop over plane", costs["loop"], costs["batched"])


def main(rounds: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    with jax.enable_x64(True):
        return conclude("closed_forms", [linearized(rounds), collapsed(rounds), plane(rounds)])


if __name__ == "__main__":
    jnp.zeros(())  # the device is there before anything is timed
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) > 0)
