"""Whether a module, its graph in PyTorch, and its program in JAX agree."""

import warnings
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.probing import BY_DIFFERENCES, Gradients, Probe, Wide
from lazyscope.adapters.torch.tracing import first_line
from lazyscope.models import Apply


def verify_graph(name: str, found: Probe, outputs: np.ndarray, gradients: Gradients) -> None:
    """The module on a batch, on rows alone, and its graph on the first, all in PyTorch and in the module's type.

    A derivative that tracing does not see shows here.
    """
    loose, looser = (1e-4, 1e-3) if found.outputs.dtype == np.float32 else (1e-9, 1e-7)
    together, alone = found.outputs, np.stack(found.alone).reshape(found.outputs.shape)
    if not _close(together, alone, loose, 0.0):
        raise ValueError(
            f"{name} must do the same with a row in a batch and alone, got {_differ('outputs', together, alone)}: "
            "examples of a batch must not see each other, nor draw numbers"
        )
    if not _close(outputs, found.alone[0], loose, 0.0):
        raise ValueError(
            f"{name} must be what torch.export sees of it, got {_differ('outputs', outputs, found.alone[0])}: "
            "it must neither draw numbers nor depend on earlier calls"
        )
    for key, traced, expected in _apart(gradients, found.gradients, looser, 0.0):
        difference = _differ(f"derivatives by {key}", traced, expected)
        raise ValueError(
            f"{name} must be what torch.export sees of it, got {difference}: "
            "write custom derivatives as .detach() and operations of PyTorch"
        )


def verify(apply: Apply, name: str, wide: Wide, x: PyTree) -> None:
    """Compare outputs on the batch x, Dhᵀ c and one second-order product, in float64.

    Transposed products rather than forward ones: they show each parameter by itself, so that a derivative lost in a
    small layer does not hide behind a large one.
    """

    # The lowest level: nearly all time is compilation.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def products(
        params: dict[str, Array], x: PyTree, c: Array, v: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], Array]:
        def pulled(p: dict[str, Array]) -> tuple[dict[str, Array], Array]:
            values, pull = jax.vjp(lambda q: apply(q, x), p)
            return pull(c)[0], values

        return jax.jvp(pulled, (params,), (v,), has_aux=True)

    try:
        # Arrays of NumPy: one by one, JAX would compile how to take each.
        (gradients, _, values), (_, changes, _) = (
            jax.device_get(products(start, x, wide.cotangent, wide.direction)) for start in (wide.params, wide.moved)
        )
    except Exception as error:
        raise ValueError(
            f"from_torch must run {name} in JAX, got: {first_line(error)}: write that part in JAX"
        ) from error
    # What is 0 but for rounding is as large as the digits of first derivatives.
    floor = 1e-6 * _whole(wide.gradients)
    second = _apart_in_all(changes, wide.changes, wide.tolerance, floor)
    if second and not _apart_in_all(changes, wide.differences(), BY_DIFFERENCES, floor):
        warnings.warn(
            f"PyTorch's second derivative of {name} by {', '.join(key for key, _, _ in second)} is not what "
            "differences of its first ones give; that of JAX is",
            stacklevel=4,
        )
        second = []
    wrong: list[tuple[str, Any, Any]] = (
        [("outputs", values, wide.outputs)] if not _close(values, wide.outputs, 1e-9, 0.0) else []
    )
    wrong += [(f"derivatives by {key}", one, other) for key, one, other in _apart(gradients, wide.gradients, 1e-7, 0.0)]
    wrong += [(f"second derivatives by {key}", one, other) for key, one, other in second]
    if wrong:
        raise ValueError(
            f"JAX and PyTorch must agree on {name}, got {_differ(*wrong[0])} in float64: "
            "convert it at other weights if these are at a kink, or write that part in JAX"
        )


def _apart(
    found: Gradients, expected: Gradients, tolerance: float, floor: float
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Parameters whose derivatives differ, with both; None stands for 0."""
    floor, apart = max(floor, 1e-3 * _whole(expected)), []
    for key, leaf in expected.items():
        if (one := found[key]) is not None or leaf is not None:
            left, right = (np.zeros_like(other) if v is None else v for v, other in ((one, leaf), (leaf, one)))
            apart += [] if _close(left, right, tolerance, floor) else [(key, left, right)]
    return apart


def _apart_in_all(
    found: Gradients, expected: list[Gradients], tolerance: float, floor: float
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Nothing where one of `expected` agrees; else what differs from the first."""
    apart = [_apart(found, other, tolerance, floor) for other in expected]
    return apart[0] if all(apart) else []


def _whole(gradients: Gradients) -> float:
    return float(np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in gradients.values() if g is not None)))


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float, floor: float) -> bool:
    # Norms, not elements: near 0 an element is rounding noise. `not >` would pass NaN.
    error, size = (float(np.linalg.norm(v.astype(float).ravel())) for v in (found - expected, expected))
    return error <= tolerance * max(size, floor)


def _differ(what: str, found: np.ndarray, expected: np.ndarray) -> str:
    error, size = (float(np.max(np.abs(v), initial=0.0)) for v in (found - expected, expected))
    return f"{what} that differ by {error:.1e} where the largest is {size:.1e}"
