"""A traced module without any of PyTorch, and how it is run."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations import OPERATIONS


@dataclass(frozen=True)
class Reference:
    """An argument that is the result of an earlier step."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation; its result is cast to `dtype` where it is one array."""

    name: str
    operation: str
    args: Any
    kwargs: Any
    dtype: np.dtype | None


@dataclass(frozen=True)
class Program:
    """A traced module without any of PyTorch: `leaves` maps graph inputs to parameter names."""

    steps: list[Step]
    leaves: dict[str, str]
    constants: dict[str, np.ndarray]
    source: str
    result: str


def run(program: Program, values: dict[str, Any]) -> Array:
    """The result of the program on `values`: its parameters and its input, by the names of the graph."""
    values = {key: jnp.asarray(value) for key, value in program.constants.items()} | values
    for step in program.steps:
        args, kwargs = _filled(step.args, values), _filled(step.kwargs, values)
        value = args[0][args[1]] if step.operation == "getitem" else rule(step.operation)(*args, **kwargs)
        values[step.name] = value if step.dtype is None else jnp.asarray(value, canonical(step.dtype))
    return values[program.result]


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(part, values) for part in argument)
    return {key: _filled(part, values) for key, part in argument.items()} if isinstance(argument, dict) else argument


def doubled(program: Program) -> Program:
    """The same program with float64 for every real type."""
    steps = [step if step.dtype is None else replace(step, dtype=_double(step.dtype)) for step in program.steps]
    constants = {key: value.astype(_double(value.dtype)) for key, value in program.constants.items()}
    return replace(program, steps=steps, constants=constants)


def _double(dtype: np.dtype) -> np.dtype:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype("complex128")
    return np.dtype("float64") if jnp.issubdtype(dtype, jnp.floating) else dtype


def unreached(program: Program) -> str:
    """Why no derivative by a trained parameter reaches the result of the program, and what to do."""
    carrying, needed, lost = set(program.leaves), {program.result}, {}
    operations = {step.name: step.operation for step in program.steps}
    for step in program.steps:
        if carrying & _names([step.args, step.kwargs]):
            if step.operation.startswith("detach.") or (step.dtype is not None and step.dtype.kind in "biu"):
                lost[step.name] = operations[step.args[0].name] if step.operation == "getitem" else step.operation
            else:
                carrying.add(step.name)
    for step in reversed(program.steps):
        needed |= _names([step.args, step.kwargs]) if step.name in needed else set()
    ends = [operation for name, operation in lost.items() if name in needed]
    if not ends:
        return "none that takes part in them: train those that do, requires_grad_(True)"
    if ends[-1].startswith("detach."):
        return "them detached: leave out .detach(), .data, .item() or torch.no_grad on the way"
    return f"their derivatives lost in {ends[-1]}, which has none: return what it is computed from"


def _names(argument: Any) -> set[str]:
    if isinstance(argument, Reference):
        return {argument.name}
    parts = argument.values() if isinstance(argument, dict) else argument if isinstance(argument, list | tuple) else ()
    return set().union(*map(_names, parts))


def rule(operation: str) -> Any:
    """The function of `"max.dim"`: the overload's own where there is one, else the operation's; None for neither."""
    return OPERATIONS.get(operation, OPERATIONS.get(operation.split(".")[0]))


def canonical(dtype: np.dtype) -> np.dtype:
    """The type that JAX gives to arrays of `dtype`: without 64 bits, a 32-bit one."""
    return jax.dtypes.canonicalize_dtype(dtype)
