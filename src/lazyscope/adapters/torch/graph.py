"""A traced module without any of PyTorch, and how it is run."""

from collections.abc import Iterator, Sequence
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
class Block:
    """A graph within a step, a branch of control flow: a function of `sources` that returns `results`."""

    steps: list[Step]
    sources: list[str]
    results: list[Any]


@dataclass(frozen=True)
class Program:
    """A traced module without any of PyTorch.

    `leaves` maps graph inputs to parameter names; `sources` are the graph inputs of the batch, None where unused;
    `buffers` names those constants that are buffers.
    """

    steps: list[Step]
    leaves: dict[str, str]
    constants: dict[str, np.ndarray]
    sources: list[str | None]
    result: str
    buffers: dict[str, str]


def run(program: Program, values: dict[str, Any]) -> Array:
    """The result of the program on `values`: its parameters and its inputs, by the names of the graph."""
    constants = {key: jnp.asarray(value) for key, value in program.constants.items()}
    return _computed(program.steps, constants | values)[program.result]


def needed(steps: Sequence[Step], results: Sequence[Any]) -> list[Step]:
    """The steps that the results are made of: no assertions, no loss beside the logits."""
    wanted, kept = {reference.name for reference in _references(results)}, []
    for step in reversed(steps):
        if step.name in wanted:
            kept.append(step)
            wanted |= _names(step)
    return kept[::-1]


def referred(step: Step) -> Iterator[Reference]:
    """What a step refers to."""
    return _references([step.args, step.kwargs])


def within(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps and those of the blocks in them."""
    for step in steps:
        yield step
        for block in _parts([step.args, step.kwargs], Block):
            yield from within(block.steps)


def doubled(program: Program) -> Program:
    """The same program with float64 for every real type."""
    constants = {key: value.astype(_double(value.dtype)) for key, value in program.constants.items()}
    return replace(program, steps=_doubled(program.steps), constants=constants)


def _doubled(argument: Any) -> Any:
    if isinstance(argument, Step):
        dtype = None if argument.dtype is None else _double(argument.dtype)
        return replace(argument, args=_doubled(argument.args), dtype=dtype)
    if isinstance(argument, Block):
        return replace(argument, steps=_doubled(argument.steps))
    return [_doubled(part) for part in argument] if isinstance(argument, list) else argument


def _double(dtype: np.dtype) -> np.dtype:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype("complex128")
    return np.dtype("float64") if jnp.issubdtype(dtype, jnp.floating) else dtype


def unreached(program: Program) -> str:
    """Why no derivative by a trained parameter reaches the result of the program, and what to do."""
    carrying, wanted, lost = set(program.leaves), {program.result}, {}
    operations = {step.name: step.operation for step in program.steps}
    for step in program.steps:
        if carrying & _names(step):
            if step.operation.startswith("detach.") or (step.dtype is not None and step.dtype.kind in "biu"):
                lost[step.name] = operations[step.args[0].name] if step.operation == "getitem" else step.operation
            else:
                carrying.add(step.name)
    for step in reversed(program.steps):
        wanted |= _names(step) if step.name in wanted else set()
    ends = [operation for name, operation in lost.items() if name in wanted]
    if not ends:
        return "none that takes part in them: train those that do, requires_grad_(True)"
    if ends[-1].startswith("detach."):
        return "them detached: leave out .detach(), .data, .item() or torch.no_grad on the way"
    return f"their derivatives lost in {ends[-1]}, which has none: return what it is computed from"


def _names(step: Step) -> set[str]:
    return {reference.name for reference in referred(step)}


def rule(operation: str) -> Any:
    """The function of `"max.dim"`: the overload's own where there is one, else the operation's; None for neither."""
    return OPERATIONS.get(operation, OPERATIONS.get(operation.split(".")[0]))


def canonical(dtype: np.dtype) -> np.dtype:
    """The type that JAX gives to arrays of `dtype`: without 64 bits, a 32-bit one."""
    return jax.dtypes.canonicalize_dtype(dtype)


def _computed(steps: Sequence[Step], values: dict[str, Any]) -> dict[str, Any]:
    values = dict(values)
    for step in steps:
        args, kwargs = _filled(step.args, values), _filled(step.kwargs, values)
        value = args[0][args[1]] if step.operation == "getitem" else rule(step.operation)(*args, **kwargs)
        values[step.name] = value if step.dtype is None else _typed(value, canonical(step.dtype))
    return values


def _typed(value: Any, dtype: np.dtype) -> Array:
    if isinstance(value, jax.Array) and value.dtype == dtype and not value.weak_type:
        return value
    return jnp.asarray(value, dtype)


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, Block):
        return _function(argument)
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(part, values) for part in argument)
    return {key: _filled(part, values) for key, part in argument.items()} if isinstance(argument, dict) else argument


def _function(block: Block) -> Any:
    def function(*operands: Any) -> list[Any]:
        values = _computed(block.steps, dict(zip(block.sources, operands, strict=True)))
        return _filled(block.results, values)

    return function


def _references(argument: Any) -> Iterator[Reference]:
    return _parts(argument, Reference)


def _parts(argument: Any, kind: type) -> Iterator[Any]:
    if isinstance(argument, kind):
        yield argument
    elif isinstance(argument, list | tuple | dict):
        for part in argument.values() if isinstance(argument, dict) else argument:
            yield from _parts(part, kind)
