"""Where weights enter a model through one matrix product, convolution or look-up of rows, found in its jaxpr.

A leaf w that enters h in one place alone, as y_p = w u_p for inputs u_p at positions p (one of a dense layer, the
places of its filter for a convolution), has the derivative ∂h/∂w = Σ_p δ_p u_pᵀ with δ_p = ∂h/∂y_p. Inputs and δ are
much smaller than these matrices, and kernels follow from them (Novak et al. 2022, §3). δ is the derivative in a shift
that is added to y. No model has to declare anything: what is not recognised (weights used twice, products of
parameters, loops) is left to its Jacobian.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, Float, PyTree

_CALLS = ("jit", "pjit")  # the name depends on the version of JAX
_SAME_ENTRIES = ("reshape", "transpose", "squeeze", "expand_dims", "rev", "copy")


class Place(NamedTuple):
    """The product in which a leaf enters: y, with the axes of its positions first, is (positions, units)."""

    positions: int
    fan_in: int
    units: int
    output: jax.ShapeDtypeStruct
    axes: tuple[int, ...]


class _Origin(NamedTuple):
    """A value that holds the entries of one leaf, times a scale."""

    leaf: int
    scale: Any


_Inputs = Callable[[], Float[Array, "positions fan_in"]]
_Meet = Callable[[list[_Origin], Place | None, _Inputs | None, list[Any]], list[Any]]


def places(function: Callable[[list[Array], PyTree], Array], theta: list[Array], example: PyTree) -> list[Place | None]:
    """For each leaf the product through which alone it enters function(theta, example), None where there is none."""
    met: list[list[Place | None]] = [[] for _ in theta]

    def note(origins: list[_Origin], place: Place | None, _inputs: _Inputs | None, outputs: list[Any]) -> list[Any]:
        for origin in origins:
            met[origin.leaf].append(place)
        return outputs

    jax.eval_shape(lambda th, one: _through(function, th, one, note), theta, example)
    return [found[0] if len(found) == 1 else None for found in met]


def tapped(
    function: Callable[[list[Array], PyTree], Array], theta: list[Array], example: PyTree, shifts: dict[int, Array]
) -> tuple[Array, dict[int, Float[Array, "positions fan_in"]]]:
    """function(theta, example) with a shift added to the products of some leaves, and the inputs of those products."""
    inputs: dict[int, Array] = {}

    def shift(origins: list[_Origin], _place: Place | None, given: _Inputs | None, outputs: list[Any]) -> list[Any]:
        origin = origins[0]
        if given is None or origin.leaf not in shifts:
            return outputs
        inputs[origin.leaf] = origin.scale * given()
        return [outputs[0] + shifts[origin.leaf]]

    return _through(function, theta, example, shift), inputs


def _through(function: Callable, theta: list[Array], example: PyTree, meet: _Meet) -> Array:
    closed, inputs = jax.make_jaxpr(function)(theta, example), jax.tree.leaves(example)
    origins = [*(_Origin(leaf, 1) for leaf in range(len(theta))), *[None] * len(inputs)]
    (output,), (origin,) = _run(closed, [*theta, *inputs], origins, meet)
    if origin is not None:
        meet([origin], None, None, [output])
    return output


def _run(
    closed: ClosedJaxpr, operands: Sequence[Any], origins: Sequence[_Origin | None], meet: _Meet
) -> tuple[list[Any], list[_Origin | None]]:
    """Evaluate a jaxpr, equation by equation, telling `meet` of each that uses a leaf."""
    jaxpr: Jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *operands], strict=True))
    known = dict(zip(jaxpr.invars, origins, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def origin_of(atom: Any) -> _Origin | None:
        return None if isinstance(atom, Literal) else known.get(atom)

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        sources = [origin_of(atom) for atom in equation.invars]
        if equation.primitive.name in _CALLS:
            outputs, found = _run(equation.params["jaxpr"], given, sources, meet)
        else:
            outputs, found = _evaluate(jaxpr, equation, given), [None] * len(equation.outvars)
            used = [source for source in sources if source is not None]
            if used and (kept := _kept(equation, given, sources)):
                found = [kept]
            elif used:
                outputs = meet(used, *_product(equation, given, sources, outputs), outputs)
        values |= zip(equation.outvars, outputs, strict=True)
        known |= zip(equation.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars], [origin_of(atom) for atom in jaxpr.outvars]


def _evaluate(jaxpr: Jaxpr, equation: JaxprEqn, given: list[Any]) -> list[Any]:
    atoms = [(atom, value) for atom, value in zip(equation.invars, given, strict=True) if not isinstance(atom, Literal)]
    alone = jaxpr.replace(constvars=[], invars=[a for a, _ in atoms], outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*(value for _, value in atoms))


def _kept(equation: JaxprEqn, given: list[Any], sources: list[_Origin | None]) -> _Origin | None:
    """The leaf whose entries the result of an equation still holds, each once."""
    name, source = equation.primitive.name, sources[0]
    if name in _SAME_ENTRIES:
        return source
    if name == "neg" and source is not None:
        return source._replace(scale=-source.scale)
    if name in ("mul", "div") and len([s for s in sources if s is not None]) == 1:
        at = 0 if source is not None else 1
        origin, other = sources[at], given[1 - at]
        if jnp.ndim(other) == 0 and origin is not None and (name == "mul" or at == 0):
            return origin._replace(scale=origin.scale * other if name == "mul" else origin.scale / other)
    return None


def _product(
    equation: JaxprEqn, given: list[Any], sources: list[_Origin | None], outputs: list[Any]
) -> tuple[Place | None, _Inputs | None]:
    """The place of an equation and its inputs, where it is a product of a leaf with what is none."""
    name = equation.primitive.name
    if name == "dot_general" and sources.count(None) == 1:
        return _matrix_product(equation.params["dimension_numbers"], given, 0 if sources[0] else 1, outputs[0])
    if name == "conv_general_dilated" and sources[0] is None:
        return _convolution(equation.params, given, outputs[0])
    if name == "gather" and sources[0] is not None:
        return _rows(equation.params, given, outputs[0])
    return None, None


def _matrix_product(numbers: Any, given: list[Any], at: int, output: Array) -> tuple[Place | None, _Inputs | None]:
    contracted, batch = numbers
    if batch[0]:
        return None, None
    other, summed = given[1 - at], contracted[1 - at]
    free = [axis for axis in range(other.ndim) if axis not in summed]
    units_first = at == 0
    units = output.ndim - len(free)
    axes = tuple(range(output.ndim))
    if units_first:
        axes = (*axes[units:], *axes[:units])
    positions, fan_in = prod(other.shape[axis] for axis in free), prod(other.shape[axis] for axis in summed)
    place = Place(positions, fan_in, output.size // max(positions, 1), _shape(output), axes)
    return place, lambda: other.transpose(*free, *summed).reshape(positions, fan_in)


def _convolution(params: dict[str, Any], given: list[Any], output: Array) -> tuple[Place | None, _Inputs | None]:
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None, None
    numbers, (images, kernel) = params["dimension_numbers"], given
    batch, channel, *places = numbers.out_spec
    axes = (batch, *places, channel)
    sides = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    units = output.shape[channel]
    positions, fan_in = output.size // units, kernel.size // units

    def patches() -> Array:
        found = jax.lax.conv_general_dilated_patches(
            images,
            sides,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            numbers,
        )
        return found.transpose(axes).reshape(positions, fan_in)

    return Place(positions, fan_in, units, _shape(output), axes), patches


def _rows(params: dict[str, Any], given: list[Any], output: Array) -> tuple[Place | None, _Inputs | None]:
    """Rows of a table, an embedding: its product with one-hot vectors."""
    numbers, (table, indices) = params["dimension_numbers"], given
    plain = (numbers.collapsed_slice_dims, numbers.start_index_map, numbers.operand_batching_dims) == ((0,), (0,), ())
    last = (output.ndim - 1,)
    if table.ndim != 2 or not plain or numbers.offset_dims != last or params["slice_sizes"] != (1, table.shape[1]):
        return None, None
    fan_in, units = table.shape
    positions = output.size // max(units, 1)

    def one_hot() -> Array:
        chosen = indices.reshape(-1)
        if params["mode"] == jax.lax.GatherScatterMode.CLIP:
            chosen = jnp.clip(chosen, 0, fan_in - 1)
        return jax.nn.one_hot(chosen, fan_in, dtype=output.dtype)  # 0 for what lies outside, and is filled

    return Place(positions, fan_in, units, _shape(output), tuple(range(output.ndim))), one_hot


def _shape(value: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)
