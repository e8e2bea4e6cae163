"""The change of the differential over training, and which groups of parameters it is in.

    j = ‖Dh(w_T) − Dh(w_0)‖_F / ‖Dh(w_0)‖_F,

the note's Δ(Dh) (§1.1) taken over all of training instead of one step. ‖·‖_F² is a sum over examples and over
parameters: so j does not depend on how weights are stored, and the shares of groups of parameters add up to the whole.
No kernel is formed, and of large models no Jacobian (`lazyscope.tangent.squares`). With z of independent ±1 in the
outputs of each example, E‖Jᵀz‖² = ‖J‖_F² (Hutchinson 1990), at the cost of a transposed product at either end; the
same z at both ends makes small changes as sure as large ones. With as many directions as there are outputs the sum is
exact.

    found = differential_change(apply, params0, params, x)
    found.value, found.error, found.groups["hidden"].change_share

How much of what a group does is beyond first order is `partial_gap`'s to say.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import passes, tree
from lazyscope.door import check_examples, checked_outputs, concrete, entrance, outputs_of
from lazyscope.examples import Batch, blocks, count, take
from lazyscope.groups import Groups, grouped
from lazyscope.intervals import Interval, root_of_ratio
from lazyscope.models import Apply
from lazyscope.progress import Progress, due, heard, silent
from lazyscope.tangent import squares

PROBES, LEAST = 4, 64
"""Random directions an example, where there are too many outputs to take all of them, and in all at least."""
EXACT, FEW = 2**27, 12
"""Numbers that the derivatives of a batch may have, or else outputs that a model may have, to take all directions."""
DENSE = 2**25
"""Numbers that the derivatives of a batch may have to be formed; of more only their squares are (`tangent.squares`)."""
BLOCK = 2**25
"""Numbers that what is kept of one block may have: 256 MiB in float64."""


class GroupChange(NamedTuple):
    """One group of parameters: its share of ‖Dh(w0)‖_F² and of ‖ΔDh‖_F², and ‖ΔD_g h‖_F/‖D_g h(w0)‖_F."""

    start_share: Float[Array, ""]
    change_share: Float[Array, ""]
    relative: Float[Array, ""]


class DifferentialChange(NamedTuple):
    """j with its standard error over probes (0 where exact), group by group, and example by example.

    `examples` has ‖D h_i(w0)‖_F² and ‖ΔD h_i‖_F² of each example i, in a common unit: j² is the ratio of their sums.
    `probes` is the number of random directions an example, 0 where all were taken. `unit` is about the scale of Dh, the
    unit of `examples`.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    groups: dict[str, GroupChange]
    examples: Float[Array, "n 2"]
    probes: int
    unit: Float[Array, ""]

    @property
    def interval(self) -> Interval:
        """J with its 95 % interval over examples, which the noise of the probes is part of (`lazyscope.intervals`)."""
        start, change = np.asarray(self.examples, float).T
        return root_of_ratio(change, start)


@entrance
def differential_change(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    *,
    groups: Groups = None,
    key: Key[Array, ""] | None = None,
    probes: int | None = None,
    progress: Progress | None = None,
) -> DifferentialChange:
    """J = ‖Dh(params) − Dh(params0)‖_F/‖Dh(params0)‖_F on `x`, in all and per group of parameters.

    Exact where the derivatives have at most 2^27 numbers or the model at most 12 outputs; elsewhere, or with
    `probes`, by so many random directions an example (default 4, and 64 in all), which need a `key`. `groups` maps
    globs over leaf paths to names of groups; by default a group is a module (`lazyscope.groups`). 0 where nothing
    moved; the output scale alpha drops out. Examples are differentiated one by one, so they must not see each other.
    `progress` hears of blocks of examples (`lazyscope.progress`). Can be jitted.

    Raises ValueError for checkpoints of different shapes, for outputs that are not real with one row per example, for a
    glob that matches nothing, and for a missing key.
    """
    return change_of_differential(apply, params0, params, x, groups, key, probes, heard(progress))


def change_of_differential(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    groups: Groups = None,
    key: Key[Array, ""] | None = None,
    probes: int | None = None,
    report: Progress = silent,
    block: int | None = None,
) -> DifferentialChange:
    """`differential_change` of a program, in blocks of so many examples, for which one may be compiled already."""
    members = grouped(params0, groups)
    outputs = checked_outputs(apply, params0, x)
    check_examples(apply, params0, x)
    steps = tree.differences(params0, params)
    n, k, size = count(x), int(np.prod(outputs.shape[1:])), tree.size(steps)
    wanted = probes or max(PROBES, -(-LEAST // n))
    exact = probes is None and (k <= max(wanted, FEW) or n * k * size <= EXACT)
    if exact:
        directions = None
    elif key is None:
        raise ValueError(
            f"Dh has {n * k * size:.2g} numbers, too many to take each: pass key=jax.random.key(0) for random "
            "directions"
        )
    else:
        directions = jax.random.rademacher(key, (n, wanted, k), outputs.dtype)
    unit, starts, changes = _squares(apply, params0, params, x, directions, report, block)
    # At w0 the two derivatives, of two programs, may still differ in the last bit.
    changes = jnp.where(_moved(steps), changes, 0)
    owner = {leaf: i for i, leaves in enumerate(members.values()) for leaf in leaves}
    probes = 0 if directions is None else wanted
    owners = tuple(owner[leaf] for leaf in range(len(steps)))
    value, error, groups_, by_example = _summed(starts, changes, owners, probes)
    by_group = {name: GroupChange(*(part[i] for part in groups_)) for i, name in enumerate(members)}
    return DifferentialChange(value, error, by_group, by_example, probes, unit)


@entrance
def partial_gap(
    apply: Apply, params0: PyTree, params: PyTree, x: Batch, *, groups: Groups = None
) -> dict[str, Float[Array, ""]]:
    """How far the model is from itself with one group of parameters at first order, relative to its own movement.

    For each group g, with the others as they are at `params`:

        ‖h(w_T) − [h(w') + D_g h(w')(w_T − w_0)_g]‖ / ‖h(w_T) − h(w_0)‖,   w' = w_T but for w'_g = w_0,g,

    one forward-mode product a group. 0 for a group in which the model is linear, whatever the others do. `groups` as
    for `differential_change`. Raises ValueError for checkpoints of different shapes.
    """
    return partial_gaps(apply, params0, params, x, grouped(params0, groups))


def partial_gaps(
    apply: Apply, params0: PyTree, params: PyTree, x: Batch, members: dict[str, list[int]]
) -> dict[str, Float[Array, ""]]:
    """`partial_gap` of the groups whose leaves `members` lists."""
    (theta0, merge), theta = tree.split(params0), tree.split(params)[0]
    steps = tree.differences(params0, params)
    end, start = passes.outputs(apply, params, x), passes.outputs(apply, params0, x)
    nothing = [jnp.zeros_like(leaf) for leaf in theta0]

    def gap(leaves: list[int]) -> Array:
        at = [theta0[i] if i in leaves else leaf for i, leaf in enumerate(theta)]
        step = [steps[i] if i in leaves else zero for i, zero in enumerate(nothing)]
        gap = _apart(start, end, *passes.outputs_and_push(apply, merge(at), x, step))
        return jnp.where(_moved([steps[i] for i in leaves]), gap, 0)

    return {name: gap(leaves) for name, leaves in members.items()}


@jax.jit
def _apart(start: Array, end: Array, at: Array, change: Array) -> Array:
    return tree.ratio(tree.norm(end - (at + change)), tree.norm(end - start))


@partial(jax.jit, static_argnums=(2, 3))
def _summed(
    starts: Array, changes: Array, owners: tuple[int, ...], probes: int
) -> tuple[Array, Array, GroupChange, Array]:
    """From squares (examples, directions, leaves), the directions of each example of equal weight.

    `owners` has the number of each leaf's group; what belongs to groups comes as arrays over them.
    """
    if probes == 0:
        starts, changes = jnp.sum(starts, axis=1, keepdims=True), jnp.sum(changes, axis=1, keepdims=True)
    start, change = jnp.sum(jnp.mean(starts, axis=1)), jnp.sum(jnp.mean(changes, axis=1))
    square = tree.ratio(change, start)
    error = jnp.zeros((), square.dtype)
    if probes > 1:
        # Delta method for the ratio of two means over the same directions, independent from example to example.
        scatter = jnp.var(jnp.sum(changes - square * starts, axis=2), axis=1, ddof=1) / probes
        error = tree.ratio(jnp.sqrt(jnp.sum(scatter)), 2 * start * jnp.sqrt(square))
    elif probes == 1:
        error = jnp.full((), jnp.nan, square.dtype)

    def by_group(squares: Array) -> Array:
        leaves = jnp.sum(jnp.mean(squares, axis=1), axis=0)
        return jnp.zeros(max(owners) + 1, leaves.dtype).at[np.asarray(owners)].add(leaves)

    own, own_change = by_group(starts), by_group(changes)
    groups = GroupChange(tree.ratio(own, start), tree.ratio(own_change, change), jnp.sqrt(tree.ratio(own_change, own)))
    by_example = jnp.stack([jnp.sum(jnp.mean(part, axis=1), axis=1) for part in (starts, changes)], axis=1)
    return jnp.sqrt(square), error, groups, by_example


def _moved(steps: list[Array]) -> Array | bool:
    if concrete(*steps):
        return any(np.any(np.asarray(step) != 0) for step in steps)
    return jnp.any(jnp.stack([jnp.any(step != 0) for step in steps]))


def _squares(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    directions: Array | None,
    report: Progress,
    block: int | None,
) -> tuple[Array, Array, Array]:
    """A unit for all, and in it ‖z_rᵀD_l h_i‖² and ‖z_rᵀΔD_l h_i‖² of example i, direction r (None: all) and leaf l."""
    n, outputs = count(x), outputs_of(apply, params0, x)
    k = int(np.prod(outputs.shape[1:]))
    probes = k if directions is None else directions.shape[1]
    each = probes * tree.size(tree.split(params0)[0])
    if concrete(params0, params, x, directions) and n * each > min(DENSE, BLOCK):
        return _without_jacobians(apply, params0, params, x, directions, report, block)
    if directions is None:
        directions = jnp.broadcast_to(jnp.eye(k, dtype=outputs.dtype), (n, k, k))
    size = max(1, min(n, BLOCK // max(each, 1)))
    if size == n:
        scale, starts, changes = _block(apply, params0, params, x, directions)
        return _or_one(scale), starts, changes
    number = -(-n // size)
    rows = jnp.minimum(jnp.arange(number * size), n - 1).reshape(number, size)
    scales, starts, changes = jax.lax.map(lambda at: _block(apply, params0, params, take(x, at), directions[at]), rows)
    unit = _or_one(jnp.max(scales))
    factor = ((scales / unit) ** 2)[:, None, None, None]
    starts, changes = ((factor * part).reshape(number * size, *part.shape[2:])[:n] for part in (starts, changes))
    return unit, starts, changes


def _without_jacobians(
    apply: Apply,
    params0: PyTree,
    params: PyTree,
    x: Batch,
    directions: Array | None,
    report: Progress,
    block: int | None,
) -> tuple[Array, Array, Array]:
    model, data = (apply, x) if directions is None else (_Along(apply), (x, directions))
    n = count(x)
    most = max(1, min(n, BLOCK // squares.numbers(model, params0, data)))
    pieces, again = [], due(report)
    size = -(-n // -(-n // most))
    rows, number = blocks(data, block if block and directions is None and block <= most else size)
    for i in range(number):
        pieces.append(squares.squares(model, params0, params, take(rows, i)))
        if again():
            report(i + 1, number, "change of the differential, blocks of examples")
    unit = max(scale for scale, _, _ in pieces)
    found = (np.concatenate([(s / unit) ** 2 * piece[i] for s, *piece in pieces])[:n] for i in (0, 1))
    dtype = outputs_of(apply, params0, x).dtype
    return tuple(jnp.asarray(part, dtype) for part in (unit, *found))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Along:
    # Equal for equal models, so that programs compiled for it are found again.
    apply: Apply

    def __call__(self, params: PyTree, batch: tuple[Batch, Array]) -> Array:
        x, directions = batch
        outputs = self.apply(params, x)
        return jnp.einsum("nrk,nk->nr", directions, outputs.reshape(outputs.shape[0], -1))


@partial(jax.jit, static_argnums=0)
def _block(apply: Apply, params0: PyTree, params: PyTree, x: Batch, directions: Array) -> tuple[Array, Array, Array]:
    theta0, merge = tree.split(params0)
    theta, merge_trained = tree.split(params)

    def one(example: PyTree, rows: Array) -> tuple[list[Array], list[Array]]:
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        _, pull0 = jax.vjp(lambda th: apply(merge(th), alone).reshape(-1), theta0)
        _, pull = jax.vjp(lambda th: apply(merge_trained(th), alone).reshape(-1), theta)

        def both(z: Array) -> tuple[list[Array], list[Array]]:
            (before,), (after,) = pull0(z), pull(z)
            return before, tree.sub(after, before)

        return jax.vmap(both)(rows)

    befores, differences = jax.vmap(one)(x, directions)
    dtype = jnp.result_type(*befores)
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in (*befores, *differences)])
    scale = jnp.max(largest)
    unit = _or_one(scale)

    def square(leaf: Array) -> Array:
        return jnp.sum((leaf.reshape(*leaf.shape[:2], -1).astype(dtype) / unit) ** 2, axis=2)

    def squares(leaves: list[Array]) -> Array:
        return jnp.stack([square(leaf) for leaf in leaves], axis=2)

    return scale, squares(befores), squares(differences)


def _or_one(scale: Array) -> Array:
    return jnp.where(scale > 0, scale, 1)
