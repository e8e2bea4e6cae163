"""Where weights enter a model through matrix products or convolutions, found in its jaxpr.

A leaf w that enters h as y_p = w u_p alone, for inputs u_p at positions p (one of a dense layer, the places of its
filter for a convolution, those of all its uses where it is used several times in one form), has the derivative
∂h/∂w = Σ_p δ_p u_pᵀ with δ_p = ∂h/∂y_p. Inputs and δ are much smaller than these matrices, and kernels follow from them
(Novak et al. 2022, §3). δ is the derivative in a shift that is added to y. A bias that is added to y is the weight of
one more input, which is 1. No model has to declare anything: what is not recognised (products of parameters, loops) is
left to its Jacobian.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, Float, PyTree

_CALLS = ("jit", "pjit")  # the name depends on the version of JAX
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


class Place(NamedTuple):
    """All products of a leaf, as positions of one; `offset` is the leaf that is added to each of them and no more."""

    positions: int
    fan_in: int
    units: int
    uses: tuple[Use, ...]
    offset: int | None


class _Origin(NamedTuple):
    """A value that holds the entries of one leaf, times a scale, each once or spread from the axes of `shape`."""

    leaf: int
    scale: Any
    shape: tuple[int, ...]
    path: tuple[Hashable, ...] = ()


class _Product(NamedTuple):
    """A value that is the product of a leaf and enters one equation only."""

    leaf: int
    use: Use


_Fact = _Origin | _Product | None
_Inputs = Callable[[], Float[Array, "positions fan_in"]]
_Again = Callable[[Float[Array, "positions fan_in"]], Array]


class _Meeting(NamedTuple):
    """An equation that uses leaves: one as the weights of a product, one as the offset of another's, or else."""

    origins: list[_Origin]
    use: Use | None = None
    inputs: _Inputs | None = None
    again: _Again | None = None  # the product from its inputs, where that is quicker than the equation
    added_to: int | None = None


_Meet = Callable[[_Meeting, list[Any]], list[Any]]
_Function = Callable[[list[Array], PyTree], Array]


def places(function: _Function, theta: list[Array], example: PyTree) -> list[Place | None]:
    """For each leaf the products through which alone it enters function(theta, example), None where there are none."""
    met: list[list[_Meeting]] = [[] for _ in theta]

    def note(meeting: _Meeting, outputs: list[Any]) -> list[Any]:
        for origin in meeting.origins:
            met[origin.leaf].append(meeting)
        return outputs

    jax.eval_shape(lambda th, one: _through(function, th, one, note), theta, example)
    added = [{(m.added_to, len(meetings), m.origins[0].path) for m in meetings} for meetings in met]

    def place(leaf: int) -> Place | None:
        uses = [meeting.use for meeting in met[leaf]]
        first = uses[0] if uses else None
        if first is None or any(use is None or use.layout != first.layout for use in uses):
            return None
        # As many sums with an offset as products, each of its own, are one for each.
        offset = next((other for other, to in enumerate(added) if [t[:2] for t in to] == [(leaf, len(uses))]), None)
        return Place(sum(use.positions for use in uses), first.fan_in, first.units, tuple(uses), offset)  # type: ignore[arg-type]

    return [place(leaf) for leaf in range(len(theta))]


def tapped(
    function: _Function, theta: list[Array], example: PyTree, shifts: dict[int, list[Array]]
) -> tuple[Array, dict[int, list[Float[Array, "positions fan_in"]]]]:
    """function(theta, example) with shifts added to all products of some leaves, and the inputs of those products."""
    inputs: dict[int, list[Array]] = {leaf: [] for leaf in shifts}

    def shift(meeting: _Meeting, outputs: list[Any]) -> list[Any]:
        origin = meeting.origins[0]
        if meeting.inputs is None or origin.leaf not in shifts:
            return outputs
        found, given = inputs[origin.leaf], meeting.inputs()
        output = outputs[0] if meeting.again is None else meeting.again(given)
        found.append(origin.scale * given)
        return [output + shifts[origin.leaf][len(found) - 1]]

    return _through(function, theta, example, shift), inputs


def _through(function: _Function, theta: list[Array], example: PyTree, meet: _Meet) -> Array:
    closed, inputs = jax.make_jaxpr(function)(theta, example), jax.tree.leaves(example)
    facts = [*(_Origin(leaf, 1, jnp.shape(value)) for leaf, value in enumerate(theta)), *[None] * len(inputs)]
    (output,), (fact,) = _run(closed, [*theta, *inputs], facts, meet)
    if isinstance(fact, _Origin):
        meet(_Meeting([fact]), [output])
    return output


def _run(
    closed: ClosedJaxpr, operands: Sequence[Any], facts: Sequence[_Fact], meet: _Meet
) -> tuple[list[Any], list[_Fact]]:
    """Evaluate a jaxpr, equation by equation, telling `meet` of each that uses a leaf."""
    jaxpr: Jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *operands], strict=True))
    known: dict[Any, _Fact] = dict(zip(jaxpr.invars, facts, strict=True))
    uses = _uses(jaxpr)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def fact_of(atom: Any) -> _Fact:
        return None if isinstance(atom, Literal) else known.get(atom)

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        sources = [fact_of(atom) for atom in equation.invars]
        if equation.primitive.name in _CALLS:
            outputs, found = _run(equation.params["jaxpr"], given, sources, meet)
        else:
            outputs, found = _evaluate(jaxpr, equation, given), [None] * len(equation.outvars)
            origins = [source for source in sources if isinstance(source, _Origin)]
            if origins and (kept := _kept(equation, given, sources)):
                found = [kept]
            elif origins:
                meeting = _meeting(equation, given, sources, origins, outputs)
                outputs = meet(meeting, outputs)
                found = [_Product(origins[0].leaf, meeting.use)] if meeting.use else found
        values |= zip(equation.outvars, outputs, strict=True)
        known |= {
            variable: fact
            for variable, fact in zip(equation.outvars, found, strict=True)
            if isinstance(fact, _Origin) or uses[variable] == 1
        }
    return [read(atom) for atom in jaxpr.outvars], [fact_of(atom) for atom in jaxpr.outvars]


def _uses(jaxpr: Jaxpr) -> Counter:
    atoms = [atom for equation in jaxpr.eqns for atom in equation.invars] + list(jaxpr.outvars)
    return Counter(atom for atom in atoms if not isinstance(atom, Literal))


def _evaluate(jaxpr: Jaxpr, equation: JaxprEqn, given: list[Any]) -> list[Any]:
    atoms = [(atom, value) for atom, value in zip(equation.invars, given, strict=True) if not isinstance(atom, Literal)]
    alone = jaxpr.replace(constvars=[], invars=[a for a, _ in atoms], outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*(value for _, value in atoms))


def _kept(equation: JaxprEqn, given: list[Any], sources: list[_Fact]) -> _Origin | None:
    """The leaf whose entries the result of an equation still holds, each once or spread over further axes."""
    name, source = equation.primitive.name, sources[0]
    if name in ("mul", "div") and len([s for s in sources if isinstance(s, _Origin)]) == 1:
        at = 0 if isinstance(source, _Origin) else 1
        origin, other = sources[at], given[1 - at]
        if jnp.ndim(other) == 0 and isinstance(origin, _Origin) and (name == "mul" or at == 0):
            return origin._replace(scale=origin.scale * other if name == "mul" else origin.scale / other)
    if not isinstance(source, _Origin):
        return None
    if name == "neg":
        return source._replace(scale=-source.scale)
    if name == "broadcast_in_dim":
        return _spread(equation.params, source)
    if name in _SAME_ENTRIES and source.shape == jnp.shape(given[0]):
        shape = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
        return source._replace(shape=shape, path=(*source.path, (name, shape, *map(str, equation.params.items()))))
    return None


def _spread(params: dict[str, Any], source: _Origin) -> _Origin:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], source.shape, strict=True):
        shape[axis] = size
    return source._replace(shape=tuple(shape), path=(*source.path, ("spread", tuple(shape))))


def _meeting(
    equation: JaxprEqn, given: list[Any], sources: list[_Fact], origins: list[_Origin], outputs: list[Any]
) -> _Meeting:
    """What an equation makes of the leaves that it uses."""
    name, origin = equation.primitive.name, origins[0]
    if len(origins) > 1:
        return _Meeting(origins)
    at = next(i for i, source in enumerate(sources) if source is origin)
    if name == "add" and isinstance(product := sources[1 - at], _Product) and _is_offset(origin, product.use):
        return _Meeting(origins, added_to=product.leaf)
    if origin.shape == jnp.shape(given[at]):
        if name == "dot_general":
            return _Meeting(origins, *_matrix_product(equation.params["dimension_numbers"], given, at, origin, outputs))
        if name == "conv_general_dilated" and at == 1:
            return _Meeting(origins, *_convolution(equation.params, given, origin, outputs))
        if name == "gather" and at == 0:
            return _Meeting(origins, *_rows(equation.params, given, origin, outputs))
    return _Meeting(origins)


def _is_offset(origin: _Origin, use: Use) -> bool:
    """Whether a sum with a product adds one entry of a leaf to each unit, the same at all positions."""
    unscaled = isinstance(origin.scale, int) and origin.scale == 1
    if not unscaled or len(origin.shape) != len(use.axes):
        return False
    sizes = [1 if place < use.outer else use.output.shape[axis] for place, axis in enumerate(use.axes)]
    return sizes == [origin.shape[axis] for axis in use.axes]


def _matrix_product(
    numbers: Any, given: list[Any], at: int, origin: _Origin, outputs: list[Any]
) -> tuple[Use | None, _Inputs | None]:
    contracted, batch = numbers
    if batch[0]:
        return None, None
    output, other, summed = outputs[0], given[1 - at], contracted[1 - at]
    free = [axis for axis in range(other.ndim) if axis not in summed]
    units = output.ndim - len(free)
    axes = tuple(range(output.ndim))
    if at == 0:
        axes = (*axes[units:], *axes[:units])
    positions, fan_in = prod(other.shape[axis] for axis in free), prod(other.shape[axis] for axis in summed)
    layout = ("product", origin.shape, origin.path, contracted[at])
    use = Use(positions, fan_in, output.size // max(positions, 1), _shape(output), axes, len(free), layout)
    return use, lambda: other.transpose(*free, *summed).reshape(positions, fan_in)


def _convolution(
    params: dict[str, Any], given: list[Any], origin: _Origin, outputs: list[Any]
) -> tuple[Use | None, _Inputs | None, _Again | None]:
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None, None, None
    numbers, (images, kernel), output = params["dimension_numbers"], given, outputs[0]
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
    return use, patches, again if small else None


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


def _rows(
    params: dict[str, Any], given: list[Any], origin: _Origin, outputs: list[Any]
) -> tuple[Use | None, _Inputs | None]:
    """Rows of a table, an embedding: its product with one-hot vectors."""
    numbers, (table, indices), output = params["dimension_numbers"], given, outputs[0]
    plain = (numbers.collapsed_slice_dims, numbers.start_index_map, numbers.operand_batching_dims) == ((0,), (0,), ())
    last = (output.ndim - 1,)
    if table.ndim != 2 or not plain or numbers.offset_dims != last or params["slice_sizes"] != (1, table.shape[1]):
        return None, None
    fan_in, units = table.shape
    layout = ("rows", origin.shape, origin.path)
    positions, axes = output.size // max(units, 1), tuple(range(output.ndim))
    use = Use(positions, fan_in, units, _shape(output), axes, output.ndim - 1, layout)

    def one_hot() -> Array:
        chosen = indices.reshape(-1)
        if params["mode"] == jax.lax.GatherScatterMode.CLIP:
            chosen = jnp.clip(chosen, 0, fan_in - 1)
        return jax.nn.one_hot(chosen, fan_in, dtype=output.dtype)  # 0 for what lies outside, and is filled

    return use, one_hot


def _shape(value: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)
