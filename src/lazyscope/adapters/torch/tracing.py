"""The graph of a module, by `torch.export`."""

import warnings
from typing import Any

import numpy as np

from lazyscope.adapters.torch.graph import Program, Reference, Step, rule

# Kept whole. Decomposed, the derivative of the activations overflows, and a detached value would be differentiated.
_WHOLE = ("aten.celu.default", "aten.detach.default", "aten.mish.default", "aten.softplus.default")
# Types are cast to what the graph states; where and how an array lies in memory is JAX's business.
_STORAGE = {"device", "dtype", "layout", "memory_format", "non_blocking", "pin_memory"}


def trace(module: Any, name: str, trained: dict[str, Any], one: Any) -> Program:
    """The graph of the module on one example, checked to consist of known operations."""
    import torch  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its internals
        try:
            exported = torch.export.export(module, (one,))
            table = {key: how for key, how in torch.export.default_decompositions().items() if str(key) not in _WHOLE}
            exported = exported.run_decompositions(table)
        except Exception as error:
            raise ValueError(
                f"from_torch needs a module that torch.export can trace, got from {name}: {first_line(error)}"
            ) from error
    steps = [_step(node) for node in exported.graph.nodes if node.op == "call_function"]
    unknown = sorted({s.operation for s in steps if s.operation != "getitem" and rule(s.operation) is None})
    if unknown:
        raise ValueError(
            f"from_torch has no JAX rule for {', '.join(unknown)} in {name}: "
            "replace it by other operations, or write that part in JAX"
        )
    return Program(steps, *_inputs(exported, module, trained))


def _inputs(exported: Any, module: Any, trained: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], str, str]:
    from torch.export.graph_signature import InputKind, OutputKind  # pyright: ignore[reportMissingImports]

    first = {id(parameter): key for key, parameter in trained.items()}
    everything = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    everything |= dict(exported.constants)
    leaves, constants, source = {}, {}, ""
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            source = spec.arg.name
        elif id(tensor := everything[spec.target]) in first:
            leaves[spec.arg.name] = first[id(tensor)]
        else:
            constants[spec.arg.name] = np.array(tensor.detach().cpu().numpy())
    results = [spec for spec in exported.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    return leaves, constants, source, results[0].arg.name


def _step(node: Any) -> Step:
    kwargs = {key: _referred(value) for key, value in node.kwargs.items() if key not in _STORAGE}
    value = node.meta.get("val")
    dtype = np.dtype(str(value.dtype).removeprefix("torch.")) if hasattr(value, "dtype") else None
    operation = str(getattr(node.target, "__name__", node.target))
    operation = operation if operation == "getitem" else str(node.target).removeprefix("aten.")
    return Step(node.name, operation, _referred(node.args), kwargs, dtype)


def _referred(argument: Any) -> Any:
    from torch.fx import Node  # pyright: ignore[reportMissingImports]

    if isinstance(argument, Node):
        return Reference(argument.name)
    if isinstance(argument, list | tuple):
        return [_referred(part) for part in argument]
    return argument


def first_line(error: Exception) -> str:
    """The first line of what PyTorch or JAX says, or the name of the error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
