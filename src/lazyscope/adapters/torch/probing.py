"""What PyTorch gives: a module as it is, and its graph in the module's type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyscope.adapters.torch.outputs import OutputError
from lazyscope.adapters.torch.replay import Graph, replayed
from lazyscope.adapters.torch.tracing import first_line

Gradients = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Probe:
    """Outputs on all rows in one batch, and on each (or block) alone; on the first alone a direction c and Dhᵀ c."""

    outputs: np.ndarray
    alone: list[np.ndarray]
    cotangent: Any
    gradients: Gradients
    depends: bool


def probe(module: Any, name: str, trained: dict[str, Any], rows: Sequence[Any], block: int) -> Probe:
    """The module as it is on rows of its own type. Refuses outputs that are not one finite tensor of real rows."""
    import torch  # pyright: ignore[reportMissingImports]

    try:
        outputs = module(*rows)
        starts = range(0, len(rows[0]), block)
        # The first at last: a call may write into buffers that the derivatives of the one before it need.
        alone = [module(*(row[i : i + block] for row in rows)) for i in reversed(starts)][::-1]
    except OutputError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(row.shape)) for row in rows)
        raise ValueError(f"{name} must run on the example of shape {shapes}, got: {first_line(error)}") from error
    if outputs.ndim == 0 or len(outputs) != len(rows[0]):
        raise ValueError(
            f"{name} must return one tensor with a row per example, got shape {tuple(outputs.shape)} for "
            f"{len(rows[0])} examples: take another with output=, a name, an index or a function"
        )
    if not outputs.is_floating_point():
        raise ValueError(f"{name} must return floating-point numbers, got {outputs.dtype}: return what they come from")
    if outputs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must compute in float32 or float64, got outputs in {outputs.dtype}: leave out the autocast within "
            "it, or cast its outputs there, output=lambda found: found.float() say"
        )
    values = outputs.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"the outputs of {name} must be finite on the example, got {_bad(values)}: "
            "convert it on other rows, or mend the module (an attention row without a key, say)"
        )
    first = alone[0]
    c = np.random.default_rng(0).standard_normal(first.shape)
    cotangent = torch.tensor(c, dtype=first.dtype, device=first.device)
    try:
        gradients = arrays(pulled(first, trained, cotangent), trained)
    except RuntimeError as error:
        raise ValueError(
            f"PyTorch must have derivatives of {name}, got: {first_line(error)}: write that part in JAX"
        ) from error
    for key, gradient in gradients.items():
        if gradient is not None and not np.isfinite(gradient).all():
            raise ValueError(
                f"the derivatives of {name} must be finite on the example, got {_bad(gradient)} by {key} from PyTorch: "
                "convert it on other rows or weights, or mend the module"
            )
    return Probe(values, [one.detach().cpu().numpy() for one in alone], cotangent, gradients, outputs.requires_grad)


def retraced(
    graph: Graph, trained: dict[str, Any], rows: Sequence[Any], cotangent: Any
) -> tuple[np.ndarray, Gradients]:
    """Outputs and Dhᵀ c of the graph on one row in its own types, by the kernels that the module runs on."""
    outputs = replayed(graph, graph.narrow, trained, rows)
    return outputs.detach().cpu().numpy(), arrays(pulled(outputs, trained, cotangent), trained)


def leading(rows: Sequence[Any], number: int) -> list[Any]:
    """The first examples of a batch."""
    return [row[:number] for row in rows]


def pulled(outputs: Any, params: Mapping[str, Any], cotangent: Any, again: bool = False) -> list[Any]:
    """Dhᵀ c by parameter, None where the outputs do not depend on it; differentiable if `again`."""
    from torch.autograd import grad  # pyright: ignore[reportMissingImports]

    if not outputs.requires_grad:
        return [None] * len(params)
    return list(grad(outputs, list(params.values()), cotangent, allow_unused=True, create_graph=again))


def arrays(tensors: list[Any], params: Mapping[str, Any]) -> Gradients:
    """Tensors by parameter as arrays."""
    return {k: None if t is None else t.numpy(force=True) for k, t in zip(params, tensors, strict=True)}


def _bad(v: np.ndarray) -> str:
    return f"{np.count_nonzero(~np.isfinite(v))} of {v.size} entries NaN or infinite"
