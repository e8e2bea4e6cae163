"""`monitor`: the cheap measures along a training run, as a jittable function for anyone's loop and logger."""

from collections.abc import Callable

from jaxtyping import Array, PyTree

from lazyscope.measures import distance, kernel_change, linearization_gap, relative_change
from lazyscope.models import Apply


def monitor(apply: Apply, params0: PyTree, x: Array, *, kernel: bool = True) -> Callable[[PyTree], dict[str, Array]]:
    """A function params -> dict of scalars: how far a run has gone from `params0` and from its linearisation.

    `distance` is ‖w − w0‖, `movement` ‖w − w0‖/‖w0‖, `gap` the relative distance of model and linearisation at the same
    weights on `x`, and, with `kernel`, `kernel_change` and `kernel_change/GROUP` the relative changes of the tangent
    kernel. A few dozen inputs are enough; the kernel costs one Jacobian on them. All are 0 at `params0`.
    """

    def measure(params: PyTree) -> dict[str, Array]:
        found = {
            "distance": distance(params0, params).all,
            "movement": relative_change(params0, params).all,
            "gap": linearization_gap(apply, params0, params, x),
        }
        if kernel:
            change = kernel_change(apply, params0, params, x)
            found["kernel_change"] = change.all
            found |= {f"kernel_change/{name}": value for name, value in change.groups.items()}
        return found

    return measure
