"""An exported graph that PyTorch runs again: in its own types, or with every real number in float64 on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazyscope.adapters.torch.operations.products import grouping


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


def replayed(graph: Graph, params: Mapping[str, Any], rows: Sequence[Any], wide: bool) -> Any:
    """The result on `rows`, by parameters keyed as the module's. Buffers are copied: the graph may write into them."""
    from torch.export.graph_signature import OutputKind  # pyright: ignore[reportMissingImports]

    fixed = {name: tensor.detach().clone() for name, tensor in graph.fixed.items()}
    values = {name: params[leaf] for name, leaf in graph.leaves.items()} | fixed
    values |= dict(zip(graph.sources, rows, strict=True))
    signature = graph.exported.graph_signature
    inputs = [values[spec.arg.name] for spec in signature.input_specs]
    results = _interpreter(graph.exported.graph_module, wide).run(*inputs)
    named = zip(signature.output_specs, results, strict=True)
    return next(v for s, v in named if s.kind == OutputKind.USER_OUTPUT and s.arg.name == graph.result)


def _interpreter(module: Any, wide: bool) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils._pytree import tree_map  # pyright: ignore[reportMissingImports]

    class Interpreter(torch.fx.Interpreter):
        def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
            value = super().placeholder(target, args, kwargs)
            return tree_map(widened, value) if wide else value

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            named = str(target).removeprefix("aten.")
            if named == "wrap_with_set_grad_enabled":
                with torch.set_grad_enabled(args[0]):
                    return _interpreter(args[1], wide).run(*args[2:])
            if named == "wrap_with_autocast":
                with torch.autocast(*args[:4]):
                    return _interpreter(args[4], wide).run(*args[5:])
            if named == "cond":
                return _interpreter(args[1] if args[0] else args[2], wide).run(*args[3])
            if not wide:
                return super().call_function(target, args, kwargs)
            if named in ("_grouped_mm.default", "transformers.grouped_mm_fallback.default"):
                # Kernels of float32 without second derivatives.
                return _grouped(*(widened(value) for value in args), **kwargs)
            if named == "hardsigmoid.default":  # its sixth is one of float32
                return torch.nn.functional.relu6(args[0] + 3) / 6
            args, kwargs = tree_map(widened, (args, kwargs))
            return tree_map(widened, super().call_function(target, args, kwargs))

    return Interpreter(module)


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


def widened(value: Any) -> Any:
    """A tensor, a type or a device of PyTorch with float64 for every real type, on the CPU; anything else as it is."""
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(value, torch.Tensor):
        return value.to("cpu", widened(value.dtype))
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, torch.dtype):
        return torch.complex128 if value.is_complex else torch.float64 if value.is_floating_point else value
    return value
