"""`monitor`: the cheap measures along a training run, as a jittable function for anyone's loop and logger."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lazyscope import tree
from lazyscope.differential import differential_change
from lazyscope.door import entrance, sealed
from lazyscope.examples import Batch, as_batch
from lazyscope.groups import Groups, grouped
from lazyscope.measures import distance, kernel_change, linearization_gap, relative_change
from lazyscope.models import Apply


def monitor(
    apply: Apply,
    params0: PyTree,
    x: Batch,
    *,
    kernel: bool = True,
    groups: Groups = None,
    key: Key[Array, ""] | None = None,
) -> Callable[[PyTree], dict[str, Array]]:
    """A function params -> dict of scalars: how far a run has gone from `params0` and from its linearisation.

    `distance` is ‖w − w0‖, `movement` ‖w − w0‖/‖w0‖ with `movement/GROUP` for each group of parameters (‖w − w0‖ itself
    where a group starts at zero), `gap` the relative distance of model and linearisation at the same weights on `x`,
    `differential` j with `differential/GROUP` and, where it is estimated by random directions from `key`,
    `differential_error`. With `kernel`, `kernel_change` and `kernel_change/LEAF` are
    the relative changes of the tangent kernel. A few dozen inputs are enough; the kernel costs one Jacobian on them.
    All are 0 at `params0`, which is copied.
    """
    start, inputs = tree.copy(sealed(params0)), as_batch("x", x)

    def measure(params: PyTree) -> dict[str, Array]:
        return _measure(apply, start, params, inputs, with_kernel=kernel, groups=groups, key=key)

    return measure


@entrance
def _measure(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    *,
    with_kernel: bool,
    groups: Groups,
    key: Key[Array, ""] | None,
) -> dict[str, Array]:
    change = differential_change(apply, params0, params, x, groups=groups, key=key)
    found = {
        "distance": distance(params0, params).all,
        "movement": relative_change(params0, params).all,
        "gap": linearization_gap(apply, params0, params, x),
        "differential": change.value,
    }
    if change.probes:
        found["differential_error"] = change.error
    found |= {f"differential/{name}": group.relative for name, group in change.groups.items()}
    found |= {f"movement/{name}": value for name, value in _movements(params0, params, groups).items()}
    if with_kernel:
        kernels = kernel_change(apply, params0, params, x)
        found["kernel_change"] = kernels.all
        found |= {f"kernel_change/{name}": value for name, value in kernels.groups.items()}
    return found


def _movements(params0: PyTree, params: PyTree, groups: Groups) -> dict[str, Array]:
    theta0, steps = tree.split(params0)[0], tree.differences(params0, params)

    def moved(leaves: list[int]) -> Array:
        size, change = (tree.norm([part[i] for i in leaves]) for part in (theta0, steps))
        return change / jnp.where(size == 0, 1, size)

    return {name: moved(leaves) for name, leaves in grouped(params0, groups).items()}
