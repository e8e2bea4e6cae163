"""Points of parameter space as flat vectors, and the checks that every entry to this package shares."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyscope import tree


def flatten(params: PyTree) -> tuple[Float[Array, " p"], Callable[[Float[Array, " p"]], PyTree]]:
    """The parameters as one vector in the order of `tree.split`, and the function that turns such a vector back."""
    theta, merge = tree.split(params)
    ends = [0]
    for leaf in theta:
        ends.append(ends[-1] + leaf.size)

    def unflatten(vector: Array) -> PyTree:
        return merge(
            [
                vector[start:end].reshape(leaf.shape).astype(leaf.dtype)
                for leaf, start, end in zip(theta, ends[:-1], ends[1:], strict=True)
            ]
        )

    dtype = jnp.result_type(*theta)
    return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in theta]), unflatten


def vector_like(center: PyTree, point: PyTree, what: str) -> Float[Array, " p"]:
    """`point` as a vector of the center's type; ValueError in one line unless it has the center's tree and shapes."""
    expected, got = _shapes(center), _shapes(point)
    if expected != got:
        differing = next((name for name in expected if expected[name] != got.get(name)), None)
        extra = next((name for name in got if name not in expected), None)
        where = (
            f"at {differing!r} {got.get(differing, 'nothing')} instead of {expected[differing]}"
            if differing is not None
            else f"a leaf {extra!r} that the center lacks"
        )
        raise ValueError(f"{what} must have the tree and shapes of the center, got {where}: build it from the center")
    return flatten(point)[0].astype(jnp.result_type(*tree.split(center)[0]))


def direction_matrix(center: PyTree, directions: Sequence[PyTree], count: int | None = None) -> Float[Array, "k p"]:
    """Directions as rows; ValueError for another number than `count`, another tree, a zero or dependent directions."""
    if count is not None and len(directions) != count:
        raise ValueError(f"a {'line' if count == 1 else 'plane'} needs {count} directions, got {len(directions)}")
    rows = [np.asarray(vector_like(center, d, f"direction {k}")) for k, d in enumerate(directions)]
    sizes = [float(np.linalg.norm(row)) for row in rows]
    for k, size in enumerate(sizes):
        if not (0 < size < np.inf):
            problem = "zero" if size == 0 else "not finite"
            raise ValueError(f"a direction must be finite and not zero, got direction {k} {problem}: draw another one")
    matrix = np.stack(rows)
    smallest = np.linalg.svd(matrix / np.array(sizes, matrix.dtype)[:, None], compute_uv=False)[-1]
    if smallest < 10 * np.finfo(matrix.dtype).eps * matrix.shape[1] ** 0.5:
        raise ValueError(f"directions must be independent, got {len(rows)} in a smaller space: they are parallel")
    return jnp.asarray(matrix)


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    theta, _ = tree.split(params)
    return {name: tuple(jnp.shape(leaf)) for name, leaf in zip(tree.group_names(params), theta, strict=True)}


def stack(points: Sequence[PyTree]) -> Float[Array, "r p"]:
    """Points as rows; ValueError when there is none or their trees differ from the first's."""
    if len(points) == 0:
        raise ValueError("at least one point is needed, got none: pass a list of parameter pytrees")
    return jnp.stack([vector_like(points[0], point, f"point {i}") for i, point in enumerate(points)])
