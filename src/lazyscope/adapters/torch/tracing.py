"""The graph of a module, by `torch.export`."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from lazyscope.adapters.torch.graph import Block, Program, Reference, Step, needed, referred, rule, within
from lazyscope.adapters.torch.operations.composites import OPERATIONS as WHOLE
from lazyscope.adapters.torch.operations.composites import is_other
from lazyscope.adapters.torch.replay import Graph
from lazyscope.adapters.torch.squares import smooth_squares
from lazyscope.adapters.torch.standing import NotAsItStandsError, Reader, named

# Kept whole. Decomposed, derivatives overflow or are lost at 0, and a detached value would be differentiated.
_WHOLE = {
    "_safe_softmax.default",
    "binary_cross_entropy.default",
    "binary_cross_entropy_with_logits.default",
    "celu.default",
    "detach.default",
    "hardsigmoid.default",
    "hardswish.default",
    "huber_loss.default",
    "log_sigmoid.default",
    "logsumexp.default",
    "mish.default",
    "sinc.default",
    "smooth_l1_loss.default",
    "soft_margin_loss.default",
    "softplus.default",
    "special_log_ndtr.default",
    "special_xlog1py.default",
    "special_xlog1py.other_scalar",
    "special_xlog1py.self_scalar",
    "std.correction",
    "std_mean.correction",
    "upsample_bicubic2d.vec",
    "upsample_linear1d.vec",
    "upsample_trilinear3d.vec",
    "xlogy.Scalar_Other",
    "xlogy.Scalar_Self",
    "xlogy.Tensor",
}
# Types are cast to what the graph states; where and how an array lies in memory is JAX's business.
_STORAGE = {"device", "dtype", "layout", "memory_format", "non_blocking", "pin_memory"}


def export(module: Any, name: str, trained: dict[str, Any], rows: tuple[Any, ...]) -> Graph:
    """The module on a few examples as `torch.export` sees it."""
    import torch  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its internals
        try:
            exported = torch.export.export(module, rows)
        except Exception as error:
            raise _untraceable(name, error) from error
    _detach_without_gradient(exported)
    return _graph(exported, module, trained)


def trace(graph: Graph, name: str, module: Any, trained: dict[str, Any], *, whole: bool = True) -> Program:
    """The graph in operations that are known: as it stands where it can be (`whole`), else in PyTorch's core ones."""
    found, steps, result = graph, None, Reference(graph.result)
    if whole:
        steps, result = _as_it_stands(graph) or (None, result)
    if steps is None:
        found = _decomposed(graph, name, module, trained)
        result = Reference(found.result)
        steps = needed(smooth_squares(_steps(found.exported.graph_module)), [result])
    unknown = sorted({s.operation for s in within(steps) if not _is_known(s)})
    unknown += sorted({f"{s.operation} in complex32" for s in within(steps) if str(s.dtype) == "complex32"})
    if unknown:
        raise ValueError(
            f"from_torch has no JAX rule for {', '.join(unknown)} in {name}: "
            "replace it by other operations, or write that part in JAX"
        )
    used = {reference.name for step in steps for reference in referred(step)} | {result.name}
    constants = {key: np.array(tensor.numpy(force=True)) for key, tensor in found.fixed.items() if key in used}
    sources = [source if source in used else None for source in found.sources]
    buffers = {key: name for key, name in found.buffers.items() if key in constants}
    return Program(steps, found.leaves, constants, sources, result.name, buffers)


def _as_it_stands(graph: Graph) -> tuple[list[Step], Reference] | None:
    """The steps of the graph without decompositions, and its result; None where an operation has no rule then."""
    part, decomposed = graph.exported.graph_module, _decomposable()
    reader = Reader(decomposed, _step)
    try:
        steps = list(reader.steps(part))
    except NotAsItStandsError:
        return None
    result = reader.known(next(node for node in part.graph.nodes if node.name == graph.result))
    steps = needed(smooth_squares(steps), [result])

    known = all(_is_known(s) and (s.operation not in decomposed or s.operation in WHOLE) for s in steps)
    return (steps, result) if known else None


def _is_known(step: Step) -> bool:
    if is_other(step.operation, step.args, step.kwargs):
        return False
    return step.operation == "getitem" or rule(step.operation) is not None


@cache
def _decomposable() -> frozenset[str]:
    return frozenset(named(key) for key in _table())


def _table() -> dict[Any, Any]:
    """The decompositions that are made where a graph is decomposed."""
    from torch.export import default_decompositions  # pyright: ignore[reportMissingImports]

    return {key: how for key, how in default_decompositions().items() if named(key) not in _WHOLE}


def _decomposed(graph: Graph, name: str, module: Any, trained: dict[str, Any]) -> Graph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _graph(graph.exported.run_decompositions(_table()), module, trained)
        except Exception as error:
            raise _untraceable(name, error) from error


def _steps(part: Any) -> list[Step]:
    nodes = [node for node in part.graph.nodes if node.op == "call_function"]
    return [_step(node, part, node.name, named(node.target), _by_name) for node in nodes]


def _block(part: Any) -> Block:
    (result,) = part.graph.output_node().args
    results = _referred(list(result) if isinstance(result, list | tuple) else [result], part, _by_name)
    sources = [node.name for node in part.graph.nodes if node.op == "placeholder"]
    return Block(needed(smooth_squares(_steps(part)), results), sources, results)


def _by_name(node: Any) -> Reference:
    return Reference(node.name)


def _untraceable(name: str, error: Exception) -> ValueError:
    return ValueError(f"from_torch needs a module that torch.export can trace, got from {name}: {first_line(error)}")


def _detach_without_gradient(exported: Any) -> None:
    """What a module computes under `torch.no_grad` is a constant: say so in the graph, which forgets the switch."""
    import torch  # pyright: ignore[reportMissingImports]

    for part in exported.graph_module.modules():
        for node in [n for n in part.graph.nodes if named(n.target) == "wrap_with_set_grad_enabled" and not n.args[0]]:
            graph = getattr(part, node.args[1].target).graph
            result = graph.output_node()
            with graph.inserting_before(result):
                detached = [graph.call_function(torch.ops.aten.detach.default, (value,)) for value in result.args[0]]
            result.args = (tuple(detached),)


def _graph(exported: Any, module: Any, trained: dict[str, Any]) -> Graph:
    from torch.export.graph_signature import InputKind, OutputKind  # pyright: ignore[reportMissingImports]

    first = {id(parameter): key for key, parameter in trained.items()}
    everything = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    everything |= dict(exported.constants)
    leaves, fixed, sources = {}, {}, []
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.TOKEN:
            continue
        if spec.kind == InputKind.USER_INPUT:
            sources.append(spec.arg.name)
        elif id(tensor := everything[spec.target]) in first:
            leaves[spec.arg.name] = first[id(tensor)]
        else:
            fixed[spec.arg.name] = tensor
    results = [spec for spec in exported.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    named = {id(tensor): name for name, tensor in module.named_buffers()}
    buffers = {key: named[id(tensor)] for key, tensor in fixed.items() if id(tensor) in named}
    return Graph(exported, leaves, fixed, sources, results[0].arg.name, buffers)


def _step(node: Any, part: Any, name: str, operation: str, known: Callable[[Any], Any]) -> Step:
    kwargs = {key: _referred(value, part, known) for key, value in node.kwargs.items() if key not in _STORAGE}
    value = node.meta.get("val")
    dtype = jnp.dtype(str(value.dtype).removeprefix("torch.")) if hasattr(value, "dtype") else None
    if operation == "as_strided.default":
        places = _places(node)
        operation = "as_strided beyond its array" if places is None else operation
        return Step(name, operation, [_referred(node.args[0], part, known), places], {}, dtype)
    return Step(name, operation, _referred(node.args, part, known), kwargs, dtype)


def _places(node: Any) -> np.ndarray | None:
    """Which entries of an array `as_strided` reads, counted in the array's own order; None for others than its own."""
    source, (sizes, strides) = node.args[0].meta["val"], node.args[1:3]
    offset = node.args[3] if len(node.args) > 3 and node.args[3] is not None else source.storage_offset()
    held = _memory(source.shape, source.stride(), source.storage_offset()).ravel()
    read = _memory(sizes, strides, offset)
    order = np.argsort(held, kind="stable")
    found = np.minimum(np.searchsorted(held[order], read), max(held.size - 1, 0))
    return order[found] if held.size and (held[order][found] == read).all() else None


def _memory(sizes: Any, strides: Any, offset: int) -> np.ndarray:
    places = np.full((1,) * len(sizes), offset)
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        places = places + np.arange(size).reshape((-1,) + (1,) * (len(sizes) - axis - 1)) * stride
    return places


def _referred(argument: Any, part: Any, known: Callable[[Any], Any]) -> Any:
    from torch.fx import Node  # pyright: ignore[reportMissingImports]

    if isinstance(argument, Node):
        # A branch of control flow is a graph of its own.
        return _block(getattr(part, str(argument.target))) if argument.op == "get_attr" else known(argument)
    if isinstance(argument, list | tuple):
        return [_referred(inner, part, known) for inner in argument]
    return argument


def first_line(error: Exception) -> str:
    """The first line of what PyTorch or JAX says, or the name of the error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
