"""What PyTorch gives by the graph of a module in float64, and differences of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lazyscope.adapters.torch.probing import Gradients, arrays, leading, pulled
from lazyscope.adapters.torch.replay import Graph, replayed, widened
from lazyscope.adapters.torch.tracing import first_line

_MOVE = 1e-3  # of a leaf's size: away from the kinks of a start at 0, where PyTorch's second derivatives are wrong
BY_DIFFERENCES = 1e-4  # how exactly differences are known
_STEPS = (1e-6, 1e-7, 1e-8)  # of differences: small, since each gate that turns in between adds to them
_ROWS = 2  # in float64


@dataclass(frozen=True)
class Derivatives:
    """At weights w, Dhᵀ c; at weights moved along v, D(Dhᵀ c)·v.

    `changes` is one product, good to `tolerance`, or where PyTorch has none (it `lacks` it, says why) its differences
    over several steps, one of which must do. `differences()` are those for any module.
    """

    gradients: Gradients
    changes: list[Gradients]
    tolerance: float
    lacks: str
    differences: Callable[[], list[Gradients]]


@dataclass(frozen=True)
class Wide:
    """In float64: some rows, parameters w, outputs, c, the moved weights, v, and PyTorch's own derivatives.

    `relaid()` are those where the gradients lie in memory in their axes' order. `along(d)` is t ↦ ⟨c, h(w + t d)⟩.
    """

    rows: list[np.ndarray]
    params: dict[str, np.ndarray]
    outputs: np.ndarray
    cotangent: np.ndarray
    moved: dict[str, np.ndarray]
    direction: dict[str, np.ndarray]
    own: Derivatives
    relaid: Callable[[], Derivatives]
    along: Callable[[Mapping[str, np.ndarray]], Callable[[float], float]]


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

    def outputs(at: Mapping[str, Any], function: Callable[..., Any] = graph.wide) -> Any:
        starts = range(0, n, block)
        parts = [replayed(graph, function, at, [row[i : i + block] for row in rows]) for i in starts]
        return torch.cat([part.reshape(block, *shape) for part in parts])

    with _exactly():
        try:
            values = outputs(params)
        except Exception as error:
            raise ValueError(
                f"from_torch must run the graph of {name} in float64, got: {first_line(error)}: write that part in JAX"
            ) from error
        cotangent = torch.tensor(random.standard_normal(values.shape))
        first = arrays(pulled(values, params, cotangent), params)
        moved, direction = _along(params, drawn(), _MOVE), drawn()
        there = outputs(moved)
        if not bool(there.isfinite().all()):  # out of what the module is defined on
            moved, there = params, outputs(params)
        own = _derivatives(outputs, first, there, moved, cotangent, direction)

    def relaid() -> Derivatives:
        by = partial(outputs, function=graph.relaid)
        with _exactly():
            gradients = arrays(pulled(by(params), params, cotangent), params)
            return _derivatives(by, gradients, by(moved), moved, cotangent, direction)

    def along(way: Mapping[str, np.ndarray]) -> Callable[[float], float]:
        def value(t: float) -> float:
            at = params | {key: params[key].detach() + t * torch.tensor(d) for key, d in way.items()}
            with _exactly(), torch.no_grad():
                return float((outputs(at) * cotangent).sum())

        return value

    start, end, v = ({key: p.detach().numpy() for key, p in tree.items()} for tree in (params, moved, direction))
    blocks = [row.numpy() for row in rows]
    return Wide(blocks, start, values.detach().numpy(), cotangent.numpy(), end, v, own, relaid, along)


@contextmanager
def _exactly() -> Iterator[None]:
    """Float64 where a graph leaves the type open; attention in parts, since fused it has no second derivative."""
    import torch  # pyright: ignore[reportMissingImports]

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with attention, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(default)


def _derivatives(
    outputs: Callable[..., Any],
    gradients: Gradients,
    values: Any,
    moved: dict[str, Any],
    cotangent: Any,
    direction: dict[str, Any],
) -> Derivatives:
    """With first ones as they are given; `values` are the outputs at the moved weights."""

    def differences() -> list[Gradients]:
        with _exactly():
            return _differences(outputs, moved, cotangent, direction)

    try:
        change = arrays(_changed(values, moved, cotangent, direction), moved)
        if all(v is None or np.isfinite(v).all() for v in change.values()):
            return Derivatives(gradients, [change], 1e-6, "", differences)
        lacks = "it is NaN or infinite"
    except RuntimeError as error:
        lacks = first_line(error)
    return Derivatives(gradients, differences(), BY_DIFFERENCES, lacks, differences)


def _differences(
    outputs: Callable[..., Any], params: dict[str, Any], cotangent: Any, direction: dict[str, Any]
) -> list[Gradients]:
    """D(Dhᵀ c)·v by central differences of first derivatives, a few steps wide."""
    changes = []
    for step in _STEPS:
        ends = [_along(params, direction, s) for s in (step, -step)]
        high, low = (pulled(outputs(end), end, cotangent) for end in ends)
        pairs = zip(high, low, strict=True)
        changes.append(arrays([None if a is None else (a - b) / (2 * step) for a, b in pairs], params))
    return changes


def _along(params: Mapping[str, Any], direction: Mapping[str, Any], step: float) -> dict[str, Any]:
    return {key: (p.detach() + step * direction[key]).requires_grad_() for key, p in params.items()}


def _changed(outputs: Any, params: Mapping[str, Any], cotangent: Any, direction: Mapping[str, Any]) -> list[Any]:
    pairs = zip(pulled(outputs, params, cotangent, again=True), direction.values(), strict=True)
    slopes = [(g * v).sum() for g, v in pairs if g is not None and g.requires_grad]
    return pulled(sum(slopes), params, None) if slopes else [None] * len(params)
