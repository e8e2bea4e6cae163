"""The one door through which a caller's models, weights and data come in.

What an argument is follows from its name, which means the same in every public function. A function behind the door
meets programs (`program`) instead of functions, parameters and what is held fixed (`leaves`) instead of any pytree,
all parameters in one type, and batches of JAX arrays (`lazyscope.examples`); it computes under `our_switches`. What
it returns has the caller's own structure and types.
"""

import functools
import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lazyscope import examples
from lazyscope.door.leaves import Seen, as_came, as_type, callable_of, sealed, types, unsealed, without_scalars
from lazyscope.door.modes import told
from lazyscope.door.outputs import checked_outputs, real_outputs
from lazyscope.door.program import Program, program
from lazyscope.door.switches import our_switches

_PARAMS = ("params0", "params", "center", "first", "second", "third", "reference", "direction")
_ARRAYS = ("x", "x2", "y", "v", "f", "f_linear", "f0", "k", "l", "matrix", "kernel")
_LISTS = ("directions", "points")
_CALLABLES = ("loss", "observe", "gates", "batches", "optimizer", "function")
_STEERED = (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError)
P = ParamSpec("P")
R = TypeVar("R")


def entrance(function: Callable[P, R]) -> Callable[P, R]:
    """A public function behind the door."""
    signature = inspect.signature(function)
    takes_model = "apply" in signature.parameters
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        if takes_model and isinstance(args[0] if args else kwargs.get("apply"), Program):
            return function(*args, **kwargs)  # from within: all has been seen to
        given = signature.bind(*args, **kwargs).arguments
        if rest is not None:
            given |= given.pop(rest, {})
        with our_switches(), told():
            return _returned(function(**_prepared(given)), given)  # type: ignore[arg-type]

    return entered


def as_key(name: str, key: Any) -> Any:
    """A typed random key; those of uint32 are wrapped, anything else is refused."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
            return key
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(jnp.asarray(key))
    got = f"{key.dtype} of shape {tuple(key.shape)}" if hasattr(key, "dtype") else repr(key)[:60]
    raise ValueError(f"{name} must be a random key of JAX, got {got}: pass jax.random.key(0)")


def _prepared(given: dict[str, Any]) -> dict[str, Any]:
    found = {name: _argument(name, value) for name, value in given.items()}
    for model in ("apply", "function"):
        if found.get(model) is not None:
            _as_program(found, model)
    for name in ("observe", "gates"):
        if "params0" in given and callable(found.get(name)):
            found[name] = Seen(found[name], types(given["params0"]))
    return found


def _argument(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None:
        return None
    if name in _PARAMS:
        return sealed(value)
    if name in _LISTS:
        return [sealed(point) for point in value]
    if name in _ARRAYS:
        return examples.as_batch(name, value)
    if name == "key":
        return as_key(name, value)
    if name in _CALLABLES and callable(value):
        return callable_of(value)
    if name == "apply" and not callable(value):
        raise ValueError(
            f"apply must be a function apply(params, x) -> outputs, got a {type(value).__name__}: pass model.apply"
        )
    if name == "problem" and not hasattr(value, "num_examples"):
        raise ValueError(f"problem must be a Problem, got a {type(value).__name__}: build ls.Problem(x, y)")
    return value


def _as_program(found: dict[str, Any], model: str) -> None:
    """The model as a program on the arguments at hand, and all its parameters in one type."""
    inputs = _inputs(found, model)
    names = [name for name in _PARAMS if found.get(name) is not None]
    if inputs is None or not names:
        return
    try:
        traced = program(found[model], found[names[0]], *inputs)
    except _STEERED:
        for name in names:
            found[name] = without_scalars(found[name])
        traced = program(found[model], found[names[0]], *inputs)
    widest = _widest([found[name] for name in names], traced.outputs, found.get("problem"))
    if widest is not None:
        for name in names:
            found[name] = as_type(found[name], widest)
        traced = _widened(traced.function, found[names[0]], inputs, widest)
    found[model] = traced
    if model == "apply":
        # A loss of the caller's own may take other rows than one an example; what is measured on `x` may not.
        (checked_outputs if "x" in found else real_outputs)(traced, found[names[0]], *inputs)
        _losses_as_programs(found, traced.outputs)


def _widened(model: Callable, params: PyTree, inputs: tuple[PyTree, ...], widest: Any) -> Program:
    try:
        return program(model, params, *inputs)
    except (TypeError, ValueError) as error:
        said = str(error).partition("\n")[0].rstrip(": ")
        raise ValueError(
            f"a model must run with its parameters in {np.dtype(widest).name}, the type of outputs and targets, got "
            f"from it: {said}: give parameters, inputs and targets in one type"
        ) from error


def _losses_as_programs(found: dict[str, Any], outputs: PyTree) -> None:
    """A loss of the caller's own, like the model, as the program that it is now."""
    problem = found.get("problem")
    if problem is not None:
        problem.check_labels(outputs)
        loss = _loss(problem.loss, outputs, problem.y)
        if loss is not problem.loss:
            found["problem"] = copy(problem)
            object.__setattr__(found["problem"], "loss", loss)
    elif "loss" in found and "batches" in found:
        found["loss"] = _loss(found["loss"], outputs, jax.eval_shape(found["batches"], found["key"])[1])


def _loss(loss: Callable, outputs: PyTree, y: PyTree) -> Callable:
    if isinstance(loss, Program) or str(getattr(loss, "__module__", "")).startswith("lazyscope."):
        return loss  # one of ours is known by its name
    try:
        return program(loss, outputs, y)
    except Exception:  # what is wrong with it shows where it is called
        return callable_of(loss)


def _inputs(found: dict[str, Any], model: str) -> tuple[PyTree, ...] | None:
    """What the model takes beside its parameters: `x`, that of the problem or of a batch; nothing for a `function`."""
    if model == "function":
        return ()
    if found.get("x") is not None:
        return (found["x"],)
    if found.get("problem") is not None:
        return (found["problem"].x,)
    if found.get("batches") is not None:
        return (jax.eval_shape(found["batches"], found["key"])[0],)
    return None


def _widest(params: list[PyTree], outputs: PyTree, problem: Any) -> Any:
    """The one type of outputs, targets and parameters; None where all parameters have it."""
    own = {dtype for tree in params for dtype in types(tree)}
    others = {leaf.dtype for leaf in jax.tree.leaves((outputs, getattr(problem, "y", None))) if _is_float(leaf)}
    if len(own | others) < 2:
        return None
    widest = functools.reduce(np.promote_types, own | others)
    return None if own == {widest} else widest


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize >= 4


def _returned(result: Any, given: dict[str, Any]) -> Any:
    if "params0" in given and "params" in getattr(result, "_fields", ()):
        result = result._replace(params=as_came(result.params, types(given["params0"])))
    return unsealed(result)
