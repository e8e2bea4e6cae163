"""What PyTorch gives: a module as it is, and its graph in float64."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyscope.adapters.torch.outputs import OutputError
from lazyscope.adapters.torch.replay import Graph, replayed, widened
from lazyscope.adapters.torch.tracing import first_line

_MOVE = 1e-3  # of a leaf's size: away from the kinks of a start at 0, where PyTorch's second derivatives are wrong
BY_DIFFERENCES = 1e-4  # how exactly differences are known
_STEPS = (1e-6, 1e-7, 1e-8)  # of differences: small, since each gate that turns in between adds to them
_ROWS = 2  # in float64

Gradients = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Probe:
    """Outputs on all rows in one batch, and on each (or block) alone; on the first alone a direction c and Dhᵀ c."""

    outputs: np.ndarray
    alone: list[np.ndarray]
    cotangent: Any
    gradients: Gradients
    depends: bool


@dataclass(frozen=True)
class Wide:
    """In float64: some rows, parameters w, outputs, c and Dhᵀ c; at weights moved along v, D(Dhᵀ c)·v.

    `changes` is one product, good to `tolerance`, or where PyTorch has none its differences over several steps, one of
    which must do. `differences()` are those for any module.
    """

    rows: list[np.ndarray]
    params: dict[str, np.ndarray]
    outputs: np.ndarray
    cotangent: np.ndarray
    gradients: Gradients
    moved: dict[str, np.ndarray]
    direction: dict[str, np.ndarray]
    changes: list[Gradients]
    tolerance: float
    differences: Callable[[], list[Gradients]]


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
        gradients = _arrays(_pulled(first, trained, cotangent), trained)
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
    outputs = replayed(graph, trained, rows, wide=False)
    return outputs.detach().cpu().numpy(), _arrays(_pulled(outputs, trained, cotangent), trained)


def widely(
    graph: Graph, name: str, trained: dict[str, Any], rows: Sequence[Any], shape: tuple[int, ...], block: int
) -> Wide:
    """The graph, with outputs of one shape a row, in float64 with one second-order product.

    In float32 one of a million gates is within rounding of its kink.
    """
    import torch  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(1)
    rows = [widened(row.detach()) for row in leading(rows, max(block, _ROWS))]
    n = len(rows[0])
    params = {key: widened(p.detach()).clone().requires_grad_() for key, p in trained.items()}
    sizes = {key: float(p.detach().square().mean().sqrt()) if p.numel() else 0.0 for key, p in params.items()}

    def drawn() -> dict[str, Any]:
        return {k: (sizes[k] or 1.0) * torch.tensor(random.standard_normal(p.shape)) for k, p in params.items()}

    def outputs(at: Mapping[str, Any]) -> Any:
        return torch.cat(
            [
                replayed(graph, at, [row[i : i + block] for row in rows], wide=True).reshape(block, *shape)
                for i in range(0, n, block)
            ]
        )

    with _exactly():
        try:
            values = outputs(params)
        except Exception as error:
            raise ValueError(
                f"from_torch must run the graph of {name} in float64, got: {first_line(error)}: write that part in JAX"
            ) from error
        cotangent = torch.tensor(random.standard_normal(values.shape))
        gradients = _arrays(_pulled(values, params, cotangent), params)
        moved, direction = _along(params, drawn(), _MOVE), drawn()
        there = outputs(moved)
        if not bool(there.isfinite().all()):  # out of what the module is defined on
            moved, there = params, outputs(params)
        changes, tolerance = _second(outputs, there, name, moved, cotangent, direction)

    def differences() -> list[Gradients]:
        with _exactly():
            return _differences(outputs, moved, cotangent, direction)

    start, end, v = ({key: p.detach().numpy() for key, p in tree.items()} for tree in (params, moved, direction))
    blocks, c = [row.numpy() for row in rows], cotangent.numpy()
    return Wide(blocks, start, values.detach().numpy(), c, gradients, end, v, changes, tolerance, differences)


@contextmanager
def _exactly() -> Iterator[None]:
    """Float64 where a graph leaves the type open; attention in parts, since fused it has no second derivative."""
    import torch  # pyright: ignore[reportMissingImports]

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.set_default_dtype(default)


def leading(rows: Sequence[Any], number: int) -> list[Any]:
    """The first examples of a batch."""
    return [row[:number] for row in rows]


def _second(
    outputs: Callable[..., Any],
    values: Any,
    name: str,
    params: dict[str, Any],
    cotangent: Any,
    direction: dict[str, Any],
) -> tuple[list[Gradients], float]:
    """What D(Dhᵀ c)·v may be, and how exactly; `values` are the outputs there."""
    try:
        change = _arrays(_changed(values, params, cotangent, direction), params)
        if all(v is None or np.isfinite(v).all() for v in change.values()):
            return [change], 1e-6
        lacks = "it is NaN or infinite"
    except RuntimeError as error:
        lacks = first_line(error)
    told = f"PyTorch has no second derivative of {name} ({lacks}): it is checked by differences of the first"
    warnings.warn(told, stacklevel=4)
    return _differences(outputs, params, cotangent, direction), BY_DIFFERENCES


def _differences(
    outputs: Callable[..., Any], params: dict[str, Any], cotangent: Any, direction: dict[str, Any]
) -> list[Gradients]:
    """D(Dhᵀ c)·v by central differences of first derivatives, a few steps wide."""
    changes = []
    for step in _STEPS:
        ends = [_along(params, direction, s) for s in (step, -step)]
        high, low = (_pulled(outputs(end), end, cotangent) for end in ends)
        pairs = zip(high, low, strict=True)
        changes.append(_arrays([None if a is None else (a - b) / (2 * step) for a, b in pairs], params))
    return changes


def _along(params: Mapping[str, Any], direction: Mapping[str, Any], step: float) -> dict[str, Any]:
    return {key: (p.detach() + step * direction[key]).requires_grad_() for key, p in params.items()}


def _pulled(outputs: Any, params: Mapping[str, Any], cotangent: Any, again: bool = False) -> list[Any]:
    """Dhᵀ c by parameter, None where the outputs do not depend on it; differentiable if `again`."""
    from torch.autograd import grad  # pyright: ignore[reportMissingImports]

    if not outputs.requires_grad:
        return [None] * len(params)
    return list(grad(outputs, list(params.values()), cotangent, allow_unused=True, create_graph=again))


def _changed(outputs: Any, params: Mapping[str, Any], cotangent: Any, direction: Mapping[str, Any]) -> list[Any]:
    pairs = zip(_pulled(outputs, params, cotangent, again=True), direction.values(), strict=True)
    slopes = [(g * v).sum() for g, v in pairs if g is not None and g.requires_grad]
    return _pulled(sum(slopes), params, None) if slopes else [None] * len(params)


def _arrays(tensors: list[Any], params: Mapping[str, Any]) -> Gradients:
    return {k: None if t is None else t.numpy(force=True) for k, t in zip(params, tensors, strict=True)}


def _bad(v: np.ndarray) -> str:
    return f"{np.count_nonzero(~np.isfinite(v))} of {v.size} entries NaN or infinite"
