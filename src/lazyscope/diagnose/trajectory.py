"""What is seen along our descent, of the model and of its linearisation: losses, the gap g, the change j."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from lazyscope import passes, tree
from lazyscope.diagnose.gap import gap
from lazyscope.diagnose.kept import Trajectory
from lazyscope.differential import differential_change
from lazyscope.dynamics import Run, default_record
from lazyscope.examples import count, first
from lazyscope.models import Apply
from lazyscope.problems import Problem

MEASURED = 10  # steps at which j is measured, of about forty that are recorded
EXAMPLES = 64  # inputs on which it is, at most
OUTPUT_BYTES = 2**28  # that the model's outputs may take that are kept for g, as many as fit


class Recorder:
    """Looks at both descents at the steps `record`; the model's comes first. `trajectory` says what was seen."""

    def __init__(
        self, apply: Apply, params0: PyTree, problem: Problem, alpha: float, num_steps: int, key: Key[Array, ""]
    ) -> None:
        self.record = default_record(num_steps)
        self._apply, self._params0, self._problem, self._alpha, self._key = apply, params0, problem, alpha, key
        held_out = problem.x_test is not None
        x, y = (problem.x_test, problem.y_test) if held_out else (problem.x, problem.y)
        assert y is not None
        self._x, self._y = x, y
        self._h0 = passes.outputs(apply, params0, self._x)
        kept = _spread(self.record[1:], max(OUTPUT_BYTES // max(self._h0.nbytes, 1), 1))
        self._kept, self._at = {0, *kept}, {0, *_spread(self.record[1:], MEASURED)}
        self._outputs: dict[int, np.ndarray] = {}
        self._losses: dict[bool, list[tuple[float, float]]] = {False: [], True: []}  # of the model, the linearisation
        self._gaps: list[float] = []
        self._changes: list[float] = []

    def model(self, step: int, params: PyTree, loss: float) -> None:
        """Look at the model."""
        f = self._scaled(passes.outputs(self._apply, params, self._x))
        self._noted(False, loss, f)
        if step in self._kept:
            self._outputs[step] = np.asarray(f)  # on the host
        if step in self._at:
            few = first(self._x, EXAMPLES)
            change = differential_change(self._apply, self._params0, params, few, key=self._key)
            self._changes.append(float(change.value))

    def linearised(self, step: int, params: PyTree, loss: float) -> None:
        """Look at the linearisation."""
        change = passes.push(self._apply, self._params0, self._x, tree.differences(self._params0, params))
        self._compared(step, loss, self._scaled(self._h0 + change))

    def closed_form(self, run: Run) -> None:
        """Look at the linearisation's run in closed form, at the same steps."""
        outputs = run.observed[0] if run.observed[1] is None else run.observed[1]
        for step, loss, f in zip(self.record, np.asarray(run.train_loss), np.asarray(outputs), strict=True):
            self._compared(step, float(loss), jnp.asarray(f))

    def trajectory(self) -> Trajectory:
        """What was seen of both."""
        (train, test), (train_linear, test_linear) = (
            tuple(zip(*self._losses[of], strict=True)) for of in (False, True)
        )
        held_out = self._problem.x_test is not None
        return Trajectory(
            step=self.record,
            train=train,
            train_linearised=train_linear,
            test=test if held_out else (),
            test_linearised=test_linear if held_out else (),
            gap_step=tuple(sorted(self._kept)),
            gap=tuple(self._gaps),
            differential_step=tuple(sorted(self._at)),
            differential=tuple(self._changes),
            differential_examples=min(count(self._x), EXAMPLES),
        )

    def _compared(self, step: int, loss: float, f_linear: Array) -> None:
        self._noted(True, loss, f_linear)
        if step in self._kept:
            f, f0 = jnp.asarray(self._outputs.pop(step)), self._scaled(self._h0)
            self._gaps.append(float(gap(self._problem.loss, f, f_linear, f0, self._y)) if step else 0.0)

    def _noted(self, linear: bool, loss: float, f: Array) -> None:
        held_out = loss if self._problem.x_test is None else float(_loss(self._problem.loss, f, self._y))
        self._losses[linear].append((loss, held_out))

    def _scaled(self, outputs: Array) -> Array:
        return jnp.asarray(self._alpha, outputs.dtype) * outputs


def _spread(steps: tuple[int, ...], most: int) -> list[int]:
    """At most so many of `steps`, evenly spaced, with the last."""
    chosen = np.unique(np.linspace(len(steps) - 1, 0, min(most, len(steps))).round().astype(int))
    return [steps[i] for i in chosen]


_loss = jax.jit(lambda loss, f, y: loss(f, y), static_argnums=0)
