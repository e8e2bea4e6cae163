"""Values of a scalar function on a line or a plane, evaluated in batches under a memory budget.

The grid is one compiled program: the points are spread over the local devices, and each device works through its share
in batches. What is saved against a loop is the dispatch of every point. On a CPU a batch beyond the inner caches is
slower than its points one by one, so only small models are batched there; an accelerator takes all that fits.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.door import Program, entrance, outputs_of
from lazyscope.landscape.vectors import direction_matrix, flatten
from lazyscope.progress import Progress, heard

MEMORY_BUDGET = 2 * 2**30
"""Bytes that the evaluation of one grid may take: 2 GiB."""

CPU_BATCH_BYTES = 2**18  # working memory of a batch on a CPU: what its inner caches hold
BATCH_POINTS = 1024
PARTS = 20  # in which a grid is evaluated, at most

Function = Callable[[PyTree], Array]


class Line(NamedTuple):
    """Values on a line: `values[i]` at center + x[i]·direction. `gaps` counts values that are not finite (NaN)."""

    x: Float[Array, " nx"]
    values: Float[Array, " nx"]
    gaps: int

    def to_xarray(self) -> Any:
        """An xarray.Dataset with the variable `value` over `x`."""
        return _dataset({"x": self.x}, self.values, self.gaps)


class Plane(NamedTuple):
    """Values on a plane: `values[i, j]` at center + x[i]·d_0 + y[j]·d_1. `gaps` counts values that are NaN."""

    x: Float[Array, " nx"]
    y: Float[Array, " ny"]
    values: Float[Array, "nx ny"]
    gaps: int

    def to_xarray(self) -> Any:
        """An xarray.Dataset with the variable `value` over `x` and `y`."""
        return _dataset({"x": self.x, "y": self.y}, self.values, self.gaps)


@entrance
def line(
    function: Function,
    center: PyTree,
    direction: PyTree,
    *,
    extent: float | tuple[float, float] = 1.0,
    resolution: int = 51,
    memory_budget: float = MEMORY_BUDGET,
    progress: Progress | None = None,
) -> Line:
    """`function` at center + s·direction for `resolution` values of s: −extent..extent, or from a pair (low, high).

    Values that are not finite become NaN and are counted. `progress` hears of points (`lazyscope.progress`).

    Raises ValueError for a direction of another tree or a zero one, for an empty extent, a resolution below 2, and a
    grid that does not fit the budget.
    """
    matrix = direction_matrix(center, [direction], 1)
    (x,), values, gaps = _grid(function, center, matrix, (extent,), (resolution,), memory_budget, heard(progress))
    return Line(x, values, gaps)


@entrance
def plane(
    function: Function,
    center: PyTree,
    directions: Sequence[PyTree],
    *,
    extent: float | tuple[Any, Any] = 1.0,
    resolution: int | tuple[int, int] = 51,
    memory_budget: float = MEMORY_BUDGET,
    progress: Progress | None = None,
) -> Plane:
    """`function` at center + x·d_0 + y·d_1 on a grid.

    `function(params)` is any scalar of a pytree that JAX can trace, such as `lambda w: loss(apply(w, x), y)`.
    Coordinates are in units of the directions, which need not be orthogonal or of length 1. `extent` is one half-width
    for both axes, or a pair with a half-width or a (low, high) each; `resolution` one number or a pair.
    `progress` hears of points (`lazyscope.progress`).

    Values that are not finite become NaN and are counted in `gaps`. Raises ValueError in one line for directions of
    another tree, zero or parallel ones, for an empty extent, and for a grid that does not fit `memory_budget`.
    """
    matrix = direction_matrix(center, directions, 2)
    extents = extent if isinstance(extent, tuple) else (extent, extent)
    counts = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    (x, y), values, gaps = _grid(function, center, matrix, extents, counts, memory_budget, heard(progress))
    return Plane(x, y, values, gaps)


class Barrier(NamedTuple):
    """How far the loss on a line rises above its straight interpolation between the ends, and where that is most."""

    height: float
    at: float


def barrier(found: Line) -> Barrier:
    """The barrier between the ends of a line: max over s of L(s) − [(1 − s) L(0) + s L(1)] (Frankle et al. 2020, §2).

    `found` runs from one end to the other: `line(f, *between(a, b), extent=(0, 1))`, with s of 0 to 1 over its length.
    0 where the loss lies nowhere above, at an end. Raises ValueError where the line has gaps.
    """
    if found.gaps:
        raise ValueError(
            f"a barrier needs finite values all along the line, got {found.gaps} of {found.values.size} that are not: "
            "look at the line, or at another loss"
        )
    values, x = np.asarray(found.values, float), np.asarray(found.x, float)
    share = (x - x[0]) / (x[-1] - x[0])
    above = values - ((1 - share) * values[0] + share * values[-1])
    above[[0, -1]] = 0.0
    place = int(np.argmax(above))
    return Barrier(float(above[place]), float(share[place]))


def sublevel_radius(surface: Line | Plane, *, level: float) -> float:
    """Size of the region around the centre where the values are below `level`, in units of the coordinates.

    On a line half the length of the interval around s = 0, with linear interpolation at its ends, inf where an end is
    not reached; on a plane the radius of a disc of the same area as all grid points below the level. 0 when the centre
    of a line is not below. A gap counts as above.
    """
    values = np.nan_to_num(np.asarray(surface.values), nan=np.inf)
    x = np.asarray(surface.x)
    if isinstance(surface, Plane):
        cell = (x[1] - x[0]) * float(surface.y[1] - surface.y[0])
        return float(np.sqrt(np.sum(values < level) * cell / np.pi))
    middle = int(np.argmin(np.abs(x)))
    ends = (_crossing(x[middle:], values[middle:], level), _crossing(-x[middle::-1], values[middle::-1], level))
    return float(np.mean(ends))


def _crossing(s: np.ndarray, values: np.ndarray, level: float) -> float:
    """Distance from s[0] at which `values` first reach `level`."""
    above = np.flatnonzero(values >= level)
    if above.size == 0:
        return np.inf
    first = above[0]
    if first == 0:
        return 0.0
    low, high = values[first - 1], values[first]
    share = (level - low) / (high - low) if np.isfinite(high) else 0.0
    return s[first - 1] - s[0] + share * (s[first] - s[first - 1])


def _grid(
    function: Function,
    center: PyTree,
    matrix: Float[Array, "k p"],
    extents: Sequence[Any],
    counts: Sequence[int],
    memory_budget: float,
    report: Progress,
) -> tuple[list[Array], Array, int]:
    axes = [_axis(extent, count, matrix.dtype) for extent, count in zip(extents, counts, strict=True)]
    shape = tuple(axis.size for axis in axes)
    mesh = np.meshgrid(*axes, indexing="ij")
    coordinates = jnp.asarray(np.stack([m.reshape(-1) for m in mesh], axis=1))
    devices = _devices(function, center)
    batch = _batch(function, center, coordinates, memory_budget, devices)
    at_once = batch * len(devices)
    # One compiled program for parts of one size: progress shows, and Ctrl-C is heard, between two of them.
    size = at_once * max(1, -(-len(coordinates) // (PARTS * at_once)))
    parts = []
    for at in range(0, len(coordinates), size):
        report(at, len(coordinates), "points")
        share = coordinates[np.minimum(np.arange(at, at + size), len(coordinates) - 1)]
        parts.append(np.asarray(_evaluate(function, batch, devices, center, matrix, share)))
    report(len(coordinates), len(coordinates), "points")
    values = np.concatenate(parts)[: len(coordinates)]
    finite = np.isfinite(values)
    return axes, jnp.asarray(np.where(finite, values, np.nan).reshape(shape)), int(np.sum(~finite))


def _axis(extent: Any, count: int, dtype: Any) -> Array:
    low, high = extent if isinstance(extent, tuple) else (-extent, extent)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"an extent must be a positive half-width or (low, high) with low < high, got {extent}")
    if count < 2:
        raise ValueError(f"a grid needs a resolution of at least 2 points a side, got {count}: 25 to 101 are usual")
    return jnp.asarray(np.linspace(low, high, count), dtype)  # NumPy's: 0 in the middle is exactly 0


def _devices(function: Function, center: PyTree) -> tuple[jax.Device, ...]:
    """All local devices, or those to which the center or data of the function are bound."""
    kept = function.constants if isinstance(function, Program) else ()
    bound = [leaf for leaf in (*jax.tree.leaves(center), *kept) if getattr(leaf, "committed", False)]
    return tuple(bound[0].sharding.device_set) if bound else tuple(jax.local_devices())


def _batch(
    function: Function, center: PyTree, coordinates: Array, memory_budget: float, devices: tuple[jax.Device, ...]
) -> int:
    """Points evaluated at once, from the working memory that one takes by XLA's own account."""
    point = outputs_of(function, center)
    if point.shape != () or not jnp.issubdtype(point.dtype, jnp.floating):
        raise ValueError(
            f"a landscape needs a function with one real value, got {point.dtype} of shape {tuple(point.shape)}: "
            "return loss(apply(params, x), y)"
        )
    leaves, structure = jax.tree.flatten(center)
    work = _working_bytes(function, structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in tree.split(center)[0])
    each = work + 2 * parameters
    kept = 4 * coordinates.size * coordinates.dtype.itemsize + 4 * parameters
    room = (memory_budget - kept) / len(devices)
    if room < each:
        raise ValueError(
            f"a grid of {len(coordinates)} points must fit memory_budget={memory_budget:.3g} bytes, needs "
            f"{kept + len(devices) * each:.3g}: lower the resolution, use fewer examples or raise memory_budget"
        )
    if devices[0].platform == "cpu":
        room = min(room, max(CPU_BATCH_BYTES, each))
    fitting = int(room // each)
    return min(fitting, BATCH_POINTS, -(-len(coordinates) // len(devices)))


@lru_cache(maxsize=8)  # compiles: a second grid of the same function must not pay for it again
def _working_bytes(function: Function, structure: Any, leaves: tuple[tuple[Any, Any], ...]) -> int:
    center = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    analysis = jax.jit(function).lower(center).compile().memory_analysis()
    return 0 if analysis is None else analysis.temp_size_in_bytes


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluate(
    function: Function,
    batch: int,
    devices: tuple[jax.Device, ...],
    center: PyTree,
    matrix: Float[Array, "k p"],
    coordinates: Float[Array, "g k"],
) -> Float[Array, " g"]:
    count = coordinates.shape[0]
    rounds = -(-count // (batch * len(devices)))
    # Repeats of the last point fill the grid up to equal shares.
    padded = coordinates[jnp.minimum(jnp.arange(rounds * batch * len(devices)), count - 1)]

    def share(center: PyTree, matrix: Array, points: Array) -> Array:
        origin, unflatten = flatten(center)

        def at(point: Array) -> Array:
            return function(unflatten(origin + point @ matrix))

        return jax.lax.map(at, points, batch_size=batch)

    across = PartitionSpec("points")
    mesh = Mesh(np.array(devices), ("points",))
    spread = jax.shard_map(
        share, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), across), out_specs=across, check_vma=False
    )
    return spread(center, matrix, padded)[:count]


def _dataset(axes: dict[str, Array], values: Array, gaps: int) -> Any:
    import xarray as xr

    coordinates = {name: np.asarray(axis) for name, axis in axes.items()}
    return xr.Dataset({"value": (tuple(axes), np.asarray(values))}, coords=coordinates, attrs={"gaps": gaps})
