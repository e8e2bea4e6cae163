"""How an equation of a jaxpr uses leaves: as the weights of a product, as the offset of another's, or else.

A leaf goes as itself through reshapes, transpositions and scales (`Origin`), and as one of several that are stacked
along a new axis (`Stack`), up to the equation that makes something of it. A product in which each leaf meets inputs and
units of its own has it as weights (`Part`).
"""

from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

_SMALL_SIDE = 2  # XLA's CPU convolution of images up to this side is ten times slower than shifts and one product
_MOST_SHIFTS = 64  # entries of a filter; more slices take longer to compile than they save
_SAME_ENTRIES = ("reshape", "transpose", "squeeze", "expand_dims", "rev", "copy")


class Use(NamedTuple):
    """A product in which a leaf enters: y, with the axes of its positions first, is (positions, units)."""

    positions: int
    fan_in: int
    units: int
    output: jax.ShapeDtypeStruct
    axes: tuple[int, ...]
    outer: int  # how many of the axes are those of positions
    layout: Hashable  # equal where the same entries of the leaf meet the same inputs and units


class Origin(NamedTuple):
    """A value that holds the entries of one leaf, times a scale, each once or spread from the axes of `shape`."""

    leaf: int
    scale: Any
    shape: tuple[int, ...]
    path: tuple[Hashable, ...] = ()


class Stack(NamedTuple):
    """A value that holds a leaf at each place of an axis; the origins are without that axis."""

    origins: tuple[Origin, ...]
    axis: int


class Product(NamedTuple):
    """A value that is the product of a leaf and enters one equation only."""

    leaf: int
    use: Use


Fact = Origin | Stack | Product | None


class Part(NamedTuple):
    """A leaf as the weights of a product, its inputs, and the product from these where that is quicker."""

    use: Use
    inputs: Callable[[], Float[Array, "positions fan_in"]]
    again: Callable[[Float[Array, "positions fan_in"]], Array] | None = None


class Meeting(NamedTuple):
    """An equation and the leaves that it uses: with a part each where they are weights, of a stack along `axis`."""

    origins: tuple[Origin, ...]
    parts: tuple[Part, ...] = ()
    axis: int | None = None
    added_to: int | None = None
    turns: int = 0  # of a loop that takes an entry of the leaf at each


def held(fact: Fact) -> tuple[Origin, ...]:
    """The leaves in a value."""
    return (fact,) if isinstance(fact, Origin) else fact.origins if isinstance(fact, Stack) else ()


def kept(equation: JaxprEqn, given: list[Any], sources: list[Fact]) -> Origin | Stack | None:
    """The leaves whose entries the result of an equation still holds, each once or spread over further axes."""
    name, source = equation.primitive.name, sources[0]
    if name in ("mul", "div") and len([s for s in sources if isinstance(s, Origin)]) == 1:
        at = 0 if isinstance(source, Origin) else 1
        origin, other = sources[at], given[1 - at]
        if jnp.ndim(other) == 0 and isinstance(origin, Origin) and (name == "mul" or at == 0):
            return origin._replace(scale=origin.scale * other if name == "mul" else origin.scale / other)
    if name in ("stack", "concatenate"):
        return _stacked(equation, given, sources)
    if not isinstance(source, Origin):
        return None
    if name == "neg":
        return source._replace(scale=-source.scale)
    if name == "broadcast_in_dim":
        return _spread(equation.params, source)
    if name in _SAME_ENTRIES and source.shape == jnp.shape(given[0]):
        shape = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
        return source._replace(shape=shape, path=(*source.path, (name, shape, *map(str, equation.params.items()))))
    return None


def _stacked(equation: JaxprEqn, given: list[Any], sources: list[Fact]) -> Stack | None:
    """Leaves along a new axis, by the primitive for it or, in a JAX without one, joined where each is 1 long."""
    origins = [source for source in sources if isinstance(source, Origin)]
    if len(origins) < len(given) or any(o.shape != jnp.shape(v) for o, v in zip(origins, given, strict=True)):
        return None
    if equation.primitive.name == "stack":
        return Stack(tuple(origins), equation.params["axis"])
    axis = equation.params["dimension"]
    if any(origin.shape[axis] != 1 for origin in origins):
        return None
    return Stack(tuple(o._replace(shape=o.shape[:axis] + o.shape[axis + 1 :]) for o in origins), axis)


def _spread(params: dict[str, Any], source: Origin) -> Origin:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], source.shape, strict=True):
        shape[axis] = size
    return source._replace(shape=tuple(shape), path=(*source.path, ("spread", tuple(shape))))


def meeting(equation: JaxprEqn, given: list[Any], sources: list[Fact], outputs: list[Any]) -> Meeting:
    """What an equation makes of the leaves that it uses."""
    name, params, users = equation.primitive.name, equation.params, [i for i, s in enumerate(sources) if held(s)]
    origins = tuple(origin for i in users for origin in held(sources[i]))
    at, source = users[0], sources[users[0]]
    if len(users) > 1:
        return Meeting(origins)
    if isinstance(source, Stack):
        numbers = params.get("dimension_numbers")
        return _stacked_products(numbers, given, at, source, outputs[0]) if name == "dot_general" else Meeting(origins)
    if name == "add" and isinstance(product := sources[1 - at], Product) and _is_offset(origins[0], product.use):
        return Meeting(origins, added_to=product.leaf)
    part = None
    if origins[0].shape == jnp.shape(given[at]):
        if name == "dot_general":
            part = _matrix_product(params["dimension_numbers"], given, at, origins[0], outputs[0])
        elif name == "conv_general_dilated" and at == 1:
            part = _convolution(params, given, origins[0], outputs[0])
        elif name == "gather" and at == 0:
            part = _rows(params, given, origins[0], outputs[0])
    return Meeting(origins, (part,) if part else ())


def _stacked_products(numbers: Any, given: list[Any], at: int, stack: Stack, output: Any) -> Meeting:
    """Products of the leaves of a stack, each with the same inputs or, along an axis of batches, with its own."""
    (contracted, batch), axis, other = numbers, stack.axis, given[1 - at]
    if axis in contracted[at] or tuple(batch[at]) not in ((), (axis,)):
        return Meeting(stack.origins)
    own = batch[1 - at][0] if batch[at] else None
    gone = (axis, own) if at == 0 else (own, axis)
    summed = [tuple(a - (b is not None and a > b) for a in axes) for axes, b in zip(contracted, gone, strict=True)]
    free = sum(a not in contracted[at] for a in range(axis))
    along = 0 if batch[at] else free if at == 0 else other.ndim - len(contracted[0]) + free
    one = jax.ShapeDtypeStruct(output.shape[:along] + output.shape[along + 1 :], output.dtype)

    parts = []
    for i, origin in enumerate(stack.origins):
        inputs = other if own is None else jax.lax.index_in_dim(other, i, own, keepdims=False)
        pair = (origin, inputs) if at == 0 else (inputs, origin)
        parts.append(_matrix_product((summed, ((), ())), pair, at, origin, one))
    return Meeting(stack.origins, tuple(parts), along)


def _is_offset(origin: Origin, use: Use) -> bool:
    """Whether a sum with a product adds one entry of a leaf to each unit, the same at all positions."""
    unscaled = isinstance(origin.scale, int) and origin.scale == 1
    if not unscaled or len(origin.shape) != len(use.axes):
        return False
    sizes = [1 if place < use.outer else use.output.shape[axis] for place, axis in enumerate(use.axes)]
    return sizes == [origin.shape[axis] for axis in use.axes]


def _matrix_product(numbers: Any, given: Sequence[Any], at: int, origin: Origin, output: Any) -> Part | None:
    contracted, batch = numbers
    if batch[0]:
        return None
    other, summed = given[1 - at], contracted[1 - at]
    free = [axis for axis in range(other.ndim) if axis not in summed]
    units = output.ndim - len(free)
    axes = tuple(range(output.ndim))
    if at == 0:
        axes = (*axes[units:], *axes[:units])
    positions, fan_in = prod(other.shape[axis] for axis in free), prod(other.shape[axis] for axis in summed)
    layout = ("product", origin.shape, origin.path, contracted[at])
    use = Use(positions, fan_in, output.size // max(positions, 1), _shape(output), axes, len(free), layout)
    return Part(use, lambda: other.transpose(*free, *summed).reshape(positions, fan_in))


def _convolution(params: dict[str, Any], given: list[Any], origin: Origin, output: Array) -> Part | None:
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    numbers, (images, kernel) = params["dimension_numbers"], given
    batch, channel, *places = numbers.out_spec
    axes = (batch, *places, channel)
    units = output.shape[channel]
    positions, fan_in = output.size // units, kernel.size // units
    sides = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    use = Use(
        positions, fan_in, units, _shape(output), axes, len(axes) - 1, ("filter", origin.shape, origin.path, numbers)
    )

    def patches() -> Array:
        if prod(sides) > _MOST_SHIFTS:
            found = jax.lax.conv_general_dilated_patches(
                images,
                sides,
                params["window_strides"],
                params["padding"],
                params["lhs_dilation"],
                params["rhs_dilation"],
                numbers,
            ).transpose(axes)
        else:
            found = _shifted(images, params, sides, [output.shape[axis] for axis in places])
        return found.reshape(positions, fan_in)

    def again(patches: Array) -> Array:
        out, into, *window = numbers.rhs_spec
        product = patches @ kernel.transpose(*window, into, out).reshape(fan_in, units)
        return product.reshape([output.shape[axis] for axis in axes]).transpose(np.argsort(axes))

    small = max(images.shape[axis] for axis in numbers.lhs_spec[2:]) <= _SMALL_SIDE and prod(sides) <= _MOST_SHIFTS
    return Part(use, patches, again if small else None)


def _shifted(images: Array, params: dict[str, Any], sides: list[int], counts: list[int]) -> Array:
    """What is under a filter at each of its places, (batch, *places, entries of the filter), by slices."""
    batch, channel, *places = params["dimension_numbers"].lhs_spec
    margins = [(low, high, gap - 1) for (low, high), gap in zip(params["padding"], params["lhs_dilation"], strict=True)]
    moved = images.transpose(batch, *places, channel)
    padded = jax.lax.pad(moved, jnp.zeros((), images.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
    strides = params["window_strides"]

    def under(corner: tuple[int, ...]) -> Array:
        starts = [at * gap for at, gap in zip(corner, params["rhs_dilation"], strict=True)]
        stops = [at + (count - 1) * step + 1 for at, count, step in zip(starts, counts, strides, strict=True)]
        size, channels = moved.shape[0], moved.shape[-1]
        return jax.lax.slice(padded, (0, *starts, 0), (size, *stops, channels), (1, *strides, 1))

    return jnp.concatenate([under(corner) for corner in np.ndindex(*sides)], axis=-1)


def _rows(params: dict[str, Any], given: list[Any], origin: Origin, output: Array) -> Part | None:
    """Rows of a table, an embedding: its product with one-hot vectors."""
    numbers, (table, indices) = params["dimension_numbers"], given
    plain = (numbers.collapsed_slice_dims, numbers.start_index_map, numbers.operand_batching_dims) == ((0,), (0,), ())
    last = (output.ndim - 1,)
    if table.ndim != 2 or not plain or numbers.offset_dims != last or params["slice_sizes"] != (1, table.shape[1]):
        return None
    fan_in, units = table.shape
    layout = ("rows", origin.shape, origin.path)
    positions, axes = output.size // max(units, 1), tuple(range(output.ndim))
    use = Use(positions, fan_in, units, _shape(output), axes, output.ndim - 1, layout)

    def one_hot() -> Array:
        chosen = indices.reshape(-1)
        if params["mode"] == jax.lax.GatherScatterMode.CLIP:
            chosen = jnp.clip(chosen, 0, fan_in - 1)
        return jax.nn.one_hot(chosen, fan_in, dtype=output.dtype)  # 0 for what lies outside, and is filled

    return Part(use, one_hot)


def _shape(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)
