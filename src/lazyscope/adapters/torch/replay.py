"""An exported graph that PyTorch runs again: in its own types, or with every real number in float64 on the CPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lazyscope.adapters.torch.operations.products import grouping
from lazyscope.adapters.torch.standing import named


@dataclass(frozen=True)
class Graph:
    """An exported module: inputs of its graph that are trained (with their names), fixed, the batch; its result.

    `buffers` are the names of those fixed inputs that are buffers of the module.
    """

    exported: Any
    leaves: dict[str, str]
    fixed: dict[str, Any]
    sources: list[str]
    result: str
    buffers: dict[str, str]

    @cached_property
    def narrow(self) -> Callable[..., Any]:
        """The graph as a function of its inputs, in its own types."""
        return _function(self.exported.graph_module, _as_it_is)

    @cached_property
    def wide(self) -> Callable[..., Any]:
        """The same with every real number in float64, on the CPU."""
        return _function(self.exported.graph_module, widened)

    @cached_property
    def relaid(self) -> Callable[..., Any]:
        """The same as `wide`, where each gradient on the way back is copied to lie in memory in its axes' order.

        No derivative may depend on that; PyTorch's of a BatchNorm of one example does.
        """
        return _function(self.exported.graph_module, _relaid)


def replayed(graph: Graph, function: Callable[..., Any], params: Mapping[str, Any], rows: Sequence[Any]) -> Any:
    """The result of one of the graph's functions on `rows`, by parameters keyed as the module's.

    Buffers are copied: the graph may write into them.
    """
    from torch.export.graph_signature import OutputKind  # pyright: ignore[reportMissingImports]

    fixed = {name: tensor.detach().clone() for name, tensor in graph.fixed.items()}
    values = {name: params[leaf] for name, leaf in graph.leaves.items()} | fixed
    values |= dict(zip(graph.sources, rows, strict=True))
    signature = graph.exported.graph_signature
    inputs = [values[spec.arg.name] for spec in signature.input_specs]
    results = function(*inputs)
    outputs = zip(signature.output_specs, results, strict=True)
    return next(v for s, v in outputs if s.kind == OutputKind.USER_OUTPUT and s.arg.name == graph.result)


def _function(module: Any, cast: Callable[[Any], Any]) -> Callable[..., Any]:
    """A graph as a function of its inputs; casts these, the constants in it, and every result.

    What is the same in each call is done once: an interpreter of PyTorch's takes longer than a small operation.
    """
    from torch.fx.node import map_aggregate, map_arg  # pyright: ignore[reportMissingImports]

    sources = [node for node in module.graph.nodes if node.op == "placeholder"]
    held: dict[Any, Any] = {
        node: cast(part) if hasattr(part, "dtype") else _function(part, cast)
        for node in module.graph.nodes
        if node.op == "get_attr"
        for part in [getattr(module, node.target)]
    }
    calls, results = [], module.graph.output_node()
    seen = set(results.all_input_nodes) | set(sources) | set(held)
    for node in reversed([node for node in module.graph.nodes if node.op == "call_function"]):
        done = [*{node, *node.all_input_nodes} - seen]  # not needed by later ones
        seen |= set(done)
        calls.append(
            (node, _called(node, cast), map_aggregate(node.args, cast), map_aggregate(node.kwargs, cast), done)
        )

    def function(*inputs: Any) -> Any:
        values: dict[Any, Any] = held | dict(zip(sources, map(cast, inputs), strict=True))
        for node, call, args, kwargs, done in reversed(calls):
            value = call(*map_arg(args, values.__getitem__), **map_arg(kwargs, values.__getitem__))
            values[node] = map_aggregate(value, cast) if isinstance(value, list | tuple) else cast(value)
            for one in done:
                del values[one]
        return map_arg(results.args[0], values.__getitem__)

    return function


def _called(node: Any, cast: Callable[[Any], Any]) -> Any:
    """What a node calls; for kernels of float32 alone, something else in float64."""
    operation = named(node.target)
    if operation in _SWITCHES:
        return _SWITCHES[operation]
    return node.target if cast is _as_it_is else _WIDE.get(operation, node.target)


def _with_gradients(enabled: bool, block: Callable[..., Any], *operands: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    with torch.set_grad_enabled(enabled):
        return block(*operands)


def _with_autocast(
    device: str, dtype: Any, enabled: bool, cached: bool | None, block: Callable[..., Any], *operands: Any
) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    if dtype == torch.float64:  # widened: there is nothing to cast
        return block(*operands)
    with torch.autocast(device, dtype, enabled, cached):
        return block(*operands)


def _branch(predicate: Any, yes: Callable[..., Any], no: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    return (yes if predicate else no)(*operands)


def _grouped(a: Any, b: Any, offs: Any = None, bias: Any = None, **_: Any) -> Any:
    """A product in groups, by the places that belong to each."""
    import torch  # pyright: ignore[reportMissingImports]

    if offs is None:
        product = a @ b
    else:
        sums, size = grouping(a, b)
        group = (offs[:, None] <= torch.arange(size)).sum(0)
        member = (group == torch.arange(len(offs))[:, None]).to(a.dtype)
        product = torch.einsum(sums, member, a, b)
    return product if bias is None else product + bias


def _hardsigmoid(x: Any) -> Any:
    """PyTorch's own has a sixth of float32."""
    from torch.nn.functional import relu6  # pyright: ignore[reportMissingImports]

    return relu6(x + 3) / 6


def _viewed(x: Any, shape: Sequence[int]) -> Any:
    """Kernels of float64 may lay their results out otherwise, so that there is no view of this shape."""
    return x.reshape(shape)


_SWITCHES = {"wrap_with_set_grad_enabled": _with_gradients, "wrap_with_autocast": _with_autocast, "cond": _branch}
_WIDE: dict[str, Callable[..., Any]] = {
    "view.default": _viewed,
    "_grouped_mm.default": _grouped,
    "hardsigmoid.default": _hardsigmoid,
    "transformers.grouped_mm_fallback.default": _grouped,
}


def widened(value: Any) -> Any:
    """A tensor, a type or a device of PyTorch with float64 for every real type, on the CPU; anything else as it is."""
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(value, torch.Tensor):
        return value if value.dtype == torch.float64 and value.is_cpu else value.to("cpu", widened(value.dtype))
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, torch.dtype):
        return torch.complex128 if value.is_complex else torch.float64 if value.is_floating_point else value
    return value


def _relaid(value: Any) -> Any:
    from torch import Tensor, contiguous_format  # pyright: ignore[reportMissingImports]

    value = widened(value)
    if isinstance(value, Tensor) and value.requires_grad:
        value.register_hook(lambda gradient: gradient.clone(memory_format=contiguous_format))
    return value


def _as_it_is(value: Any) -> Any:
    return value
