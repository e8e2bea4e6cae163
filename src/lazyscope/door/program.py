"""A user's function as the program that it is now.

Compiled code is kept under the function that was compiled, and a function is more than its object: an attribute, a
global or a variable of a closure may have changed since, and some functions cannot be hashed at all. A `Program` is
hashed and compared by what the function computes: its jaxpr and the constants in it, traced anew at every entry, once.
Equal programs share what is compiled even where they come from two lambdas.
"""

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree

from lazyscope.door.leaves import callable_of, is_traced, unsealed
from lazyscope.door.modes import holds

_BY_CONTENT = 2**22  # bytes of a constant up to which two arrays are compared by their entries
_JAX = jax.__file__.removesuffix("__init__.py").replace("\\", "/")
_OURS = __file__.replace("\\", "/").removesuffix("door/program.py") + "adapters/"
_BY_FORMULAS = ("relu", "relu6")  # with rules that JAX makes elsewhere
_OF_USERS = ("custom_derivatives.py", "solves.py")  # files of JAX that make rules of what a user gives
_RULES = ("custom_jvp_call", "custom_vjp_call")
_ORDERS = 2  # of derivatives that are measured


class _Key:
    """What a program is compared by."""

    __slots__ = ("__weakref__", "hash", "pieces")

    def __init__(self, pieces: tuple[Any, ...]) -> None:
        self.pieces = pieces
        self.hash = hash(tuple(piece for piece in pieces if isinstance(piece, str)))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Key) and self.hash == other.hash and self.pieces == other.pieces)

    def __hash__(self) -> int:
        return self.hash


_KEYS: weakref.WeakValueDictionary[_Key, _Key] = weakref.WeakValueDictionary()


class Program:
    """A function of pytrees, hashed by what it computes; `outputs` are the shapes of its values on `inputs`.

    `constants` are the arrays that it has in it beside its arguments.
    """

    __slots__ = ("__weakref__", "_key", "constants", "function", "inputs", "outputs")

    def __init__(
        self, function: Callable, key: tuple[Any, ...], constants: Sequence[Any], inputs: Any, outputs: PyTree
    ) -> None:
        self.function = function
        self.constants = constants
        self.inputs = inputs
        self.outputs = outputs
        # Equal keys are one object, quick to compare: programs are, at every call of what was compiled for them.
        self._key = _KEYS.setdefault(found := _Key(key), found)

    def __call__(self, params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The function's value, given what its caller passed (`leaves.Fixed` undone).

        Raises ValueError where it fails on another number of examples than it was made on.
        """
        try:
            return self.function(unsealed(params), *args, **kwargs)
        except (TypeError, ValueError) as error:
            if (given := _rows(avals(*args)[1])) == (made := _rows(self.inputs[1])[-len(given) :]) or not given:
                raise
            rows = next(n for n, others in zip(given, made, strict=True) if n != others)
            name = getattr(self.function, "__name__", type(self.function).__name__)
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"{name} must take any number of examples, got from a batch of {rows}: {said.rstrip('.')}: write -1 or "
                "x.shape[0] where it has a number, and put what it has for each example into x or y"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def program(function: Callable, *args: PyTree) -> Program:
    """`function` as the program that it is on `args` (sealed); a program comes back as it is."""
    if isinstance(function, Program):
        return function
    closed, outputs = jax.make_jaxpr(lambda params, *rest: function(unsealed(params), *rest), return_shape=True)(*args)
    inputs = avals(*args)
    if any(is_traced(constant) for constant in closed.consts):
        return Program(function, (callable_of(function),), (), inputs, outputs)
    pieces: list[Any] = [str(inputs[0])]
    if _describe(closed, pieces):
        pieces += _derivatives(function, args)
    return Program(function, tuple(pieces), closed.consts, inputs, outputs)


def avals(*args: PyTree) -> tuple[Any, tuple[Any, ...]]:
    """Structure, shapes and types of arguments."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(_aval(leaf) for leaf in leaves)


def _rows(shapes: Sequence[tuple[Any, Any]]) -> list[int]:
    return [shape[0] if shape else 0 for shape, _ in shapes]


def _aval(leaf: Any) -> tuple[Any, Any]:
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype
    return np.shape(leaf), jax.dtypes.result_type(leaf)


def outputs_of(function: Callable, *args: PyTree) -> PyTree:
    """Shapes and types of the outputs, known already where `function` is a program on arguments like these."""
    if isinstance(function, Program) and function.inputs == avals(*args):
        return function.outputs
    return jax.eval_shape(function, *args)


class _Same:
    """A constant that is compared as an object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _derivatives(function: Callable, args: tuple[PyTree, ...]) -> list[Any]:
    """The programs of transposed products: what rules of the user's own make of the derivative, and of its own."""
    pieces: list[Any] = []
    derived = function
    for _ in range(_ORDERS):
        derived = _product(derived)
        pieces.append("derivative")
        try:
            if not _describe(jax.make_jaxpr(derived)(*args), pieces):
                break
        except (TypeError, ValueError, NotImplementedError):
            return [*pieces, callable_of(function)]  # no such product: the function as an object
    return pieces


def _product(function: Callable) -> Callable:
    def product(params: PyTree, *rest: PyTree) -> PyTree:
        floats, merge = _floats(params)
        outputs, pull = jax.vjp(lambda values: function(unsealed(merge(values)), *rest), floats)
        return pull(outputs)

    return product


def _floats(params: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    leaves, structure = jax.tree.flatten(params)
    chosen = [jax.numpy.issubdtype(jax.dtypes.result_type(leaf), jax.numpy.floating) for leaf in leaves]

    def merge(values: list[Any]) -> PyTree:
        remaining = iter(values)
        return jax.tree.unflatten(
            structure, [next(remaining) if float_ else leaf for leaf, float_ in zip(leaves, chosen, strict=True)]
        )

    return [leaf for leaf, float_ in zip(leaves, chosen, strict=True) if float_], merge


def _describe(closed: ClosedJaxpr | Jaxpr, pieces: list[Any]) -> bool:
    """Append what distinguishes a program from others; whether rules for derivatives not of JAX itself are in it."""
    if isinstance(closed, ClosedJaxpr):
        pieces += [_constant(constant) for constant in closed.consts]
        jaxpr = closed.jaxpr
    else:
        jaxpr = closed
    numbers: dict[Any, int] = {}
    for variable in (*jaxpr.constvars, *jaxpr.invars):
        numbers[variable] = len(numbers)
        pieces.append(variable.aval)

    def say(atom: Any) -> None:
        if isinstance(atom, Literal):
            pieces.extend((_constant(atom.val), atom.aval))
        else:
            pieces.append(numbers[atom])

    foreign = False
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        pieces.append(name)
        for atom in equation.invars:
            say(atom)
        for key, value in equation.params.items():
            if name in _RULES and not isinstance(value, ClosedJaxpr | Jaxpr | bool | int | str):
                continue  # functions made anew by every trace: `_derivative` sees what they do
            pieces.append(key)
            foreign |= _setting(value, pieces)
        if name in _RULES:
            foreign |= not _of_jax(equation.params)
        for variable in equation.outvars:
            numbers[variable] = len(numbers)
    for atom in jaxpr.outvars:
        say(atom)
    return foreign


def _setting(value: Any, pieces: list[Any]) -> bool:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return _describe(value, pieces)
    if isinstance(value, tuple | list):
        pieces.append(len(value))
        found = [_setting(inner, pieces) for inner in value]
        return any(found)
    pieces.append(_constant(value))
    return False


def _of_jax(params: dict[str, Any]) -> bool:
    """Whether a rule is JAX's or of our operations, and so known by its function; others are followed.

    That a function is JAX's does not say it: `jax.custom_jvp(jnp.sign)` has the user's rule, as has, inside of JAX's
    code, `jax.custom_gradient` and `jax.lax.custom_root`. JAX's lie beside their function but for some activations'; a
    rule around one of these is the user's.
    """
    called, rule = params.get("call_jaxpr"), _file(params.get("jvp_jaxpr_fun"))
    function = _file(called)
    if rule.startswith(_OURS):
        return True
    if not (function.startswith(_JAX) and rule.startswith(_JAX)) or function.endswith(_OF_USERS):
        return False
    return function == rule or (
        called.jaxpr.debug_info.func_name in _BY_FORMULAS and not holds(called.jaxpr, *_RULES)  # type: ignore[union-attr]
    )


def _file(function: Any) -> str:
    return str(getattr(getattr(function, "debug_info", None), "func_filename", None)).replace("\\", "/")


def _constant(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return _of_array(value)
    if isinstance(value, np.ndarray | np.generic):
        return _digest(np.asarray(value))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    # 1, 1.0 and True are equal, and −0.0 and 0.0.
    return (type(value), repr(value)) if isinstance(value, bool | int | float) else value


def _digest(array: np.ndarray) -> tuple[Any, ...]:
    content = np.ascontiguousarray(array)
    return array.shape, array.dtype, hashlib.blake2b(content.reshape(-1).view(np.uint8).data, digest_size=16).digest()


_KNOWN: dict[int, tuple[Any, Any]] = {}


def _of_array(array: jax.Array) -> Any:
    """A constant of JAX: by content, read once in its life, and large ones as the objects that they are."""
    known = _KNOWN.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    if is_traced(array) or array.nbytes > _BY_CONTENT:
        return _Same(array)
    is_key = jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key)
    digest = (str(array.dtype), _digest(np.asarray(jax.random.key_data(array) if is_key else array)))
    identity = id(array)
    _KNOWN[identity] = (weakref.ref(array, lambda _: _KNOWN.pop(identity, None)), digest)
    return digest
