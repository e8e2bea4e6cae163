"""Whether a module, its graph in PyTorch, and its program in JAX agree."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.differences import slope
from lazyscope.adapters.torch.probing import Gradients, Probe
from lazyscope.adapters.torch.tracing import first_line
from lazyscope.adapters.torch.widening import BY_DIFFERENCES, Derivatives, Wide
from lazyscope.models import Apply

_DECIDED = 1e-3  # of how JAX and PyTorch differ: so near differences must be to JAX's
_PARTS = 0.03  # of what adds up to the outputs: below it they are what is left of larger numbers, and of their rounding


def verify_graph(name: str, found: Probe, outputs: np.ndarray, gradients: Gradients, floor: float) -> None:
    """The module on a batch, on rows alone, and its graph on the first, all in PyTorch and in the module's type.

    Outputs are compared as if none were smaller than the floor. A derivative that tracing does not see shows here.
    """
    loose, looser = (1e-4, 1e-3) if found.outputs.dtype == np.float32 else (1e-9, 1e-7)
    together, alone = found.outputs, np.stack(found.alone).reshape(found.outputs.shape)
    if not _close(together, alone, loose, floor):
        raise ValueError(
            f"{name} must do the same with a row in a batch and alone, got {_differ('outputs', together, alone)}: "
            "examples of a batch must not see each other, nor draw numbers"
        )
    if not _close(outputs, found.alone[0], loose, floor):
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
    try:
        both = products(apply)
        # Arrays of NumPy: one by one, JAX would compile how to take each.
        (gradients, _, values), (_, changes, _) = (
            jax.device_get(both(start, x, wide.cotangent, wide.direction)) for start in (wide.params, wide.moved)
        )
    except Exception as error:
        raise ValueError(
            f"from_torch must run {name} in JAX, got: {first_line(error)}: write that part in JAX"
        ) from error
    if not _close(values, wide.outputs, 1e-9, left_of_parts(wide.own.gradients, wide.params)):
        raise _refused(name, _differ("outputs", values, wide.outputs))
    pytorch, first = wide.own, _first(gradients, wide.own)
    if first:
        pytorch = wide.relaid()
        if _first(gradients, pytorch) or not all(_by_differences(wide, *each) for each in first):
            raise _refused(name, _differ(f"derivatives by {first[0][0]}", *first[0][1:]))
        _, jax_has, pytorch_has = max(first, key=lambda each: float(np.max(np.abs(each[1] - each[2]))))
        warnings.warn(
            f"PyTorch's derivative of {name} by {_named(first)} is wrong, by {_by(pytorch_has, jax_has)}: where "
            "gradients are contiguous in memory it has JAX's, which differences of the outputs confirm",
            stacklevel=4,
        )
    if pytorch.lacks:
        warnings.warn(
            f"PyTorch has no second derivative of {name} ({pytorch.lacks}): it is checked by differences of the first",
            stacklevel=4,
        )
    # What is 0 but for rounding is as large as the digits of first derivatives.
    floor = 1e-6 * _whole(pytorch.gradients)
    second = _apart_in_all(changes, pytorch.changes, pytorch.tolerance, floor)
    if second and _apart_in_all(changes, pytorch.differences(), BY_DIFFERENCES, floor):
        raise _refused(name, _differ(f"second derivatives by {second[0][0]}", *second[0][1:]))
    if second:
        warnings.warn(
            f"PyTorch's second derivative of {name} by {_named(second)} is not what differences of its first ones "
            "give; that of JAX is",
            stacklevel=4,
        )


def left_of_parts(gradients: Mapping[str, np.ndarray | None], weights: Mapping[str, np.ndarray]) -> float:
    """The norm of outputs below which they are a difference of larger numbers, as those of a centred model are.

    With Dhᵀc at random c, ‖Dhᵀc ∘ w‖ is how large the parts are that weights add to the outputs.
    """
    parts = [_norm(g.astype(float) * weights[key]) for key, g in gradients.items() if g is not None]
    return _PARTS * float(np.linalg.norm(parts))


def verify_in_32_bits(apply: Apply, name: str, params: PyTree, x: PyTree, outputs: np.ndarray, floor: float) -> None:
    """Compare outputs, as above, where JAX, as it is set, takes 64 bits of the module for 32."""
    try:
        found = np.asarray(jax.jit(apply)(params, x))
        said = None if _close(found, outputs, 1e-3, floor) else _differ("outputs", found, outputs)
    except Exception as error:
        said = first_line(error)
    if said is not None:
        raise ValueError(
            f"{name} needs its 64-bit numbers, which JAX makes 32-bit ones unless it is told, got {said}: "
            'add `jax.config.update("jax_enable_x64", True)`'
        )


def products(apply: Apply) -> Callable[..., tuple[dict[str, Array], dict[str, Array], Array]]:
    """The function of w, x, c and v that returns Dhᵀ c, D(Dhᵀ c)·v and h."""

    # The lowest level: nearly all time is compilation. Older emitters of loops, twice as quick for shallow nets, take
    # time and memory that grow faster than the depth.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(
        params: dict[str, Array], x: PyTree, c: Array, v: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], Array]:
        def pulled(p: dict[str, Array]) -> tuple[dict[str, Array], Array]:
            values, pull = jax.vjp(lambda q: apply(q, x), p)
            return pull(c)[0], values

        return jax.jvp(pulled, (params,), (v,), has_aux=True)

    return both


def _first(gradients: Gradients, pytorch: Derivatives) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return _apart(gradients, pytorch.gradients, 1e-7, 0.0)


def _by_differences(wide: Wide, key: str, jax_has: np.ndarray, pytorch_has: np.ndarray) -> bool:
    """Whether differences of the outputs give JAX's derivative by a parameter, along that in which the two differ."""
    apart, size = jax_has - pytorch_has, float(np.linalg.norm(wide.params[key].ravel())) or 1.0
    way = apart * (size / float(np.linalg.norm(apart.ravel())))
    wanted = _DECIDED * abs(float(np.sum(apart * way)))
    found, error = slope(wide.along({key: way}), wanted / 2)
    return abs(found - float(np.sum(jax_has * way))) + error <= wanted


def _refused(name: str, what: str) -> ValueError:
    return ValueError(
        f"JAX and PyTorch must agree on {name}, got {what} in float64: "
        "convert it at other weights if these are at a kink, or write that part in JAX"
    )


def _named(apart: list[tuple[str, np.ndarray, np.ndarray]]) -> str:
    keys = [key for key, _, _ in apart]
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} others" if len(keys) > 3 else "")


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
    return float(np.linalg.norm([_norm(g) for g in gradients.values() if g is not None]))


def _norm(v: np.ndarray | np.floating) -> float:
    # NumPy makes a number of the difference of two arrays without axes.
    flat = v.astype(float, copy=False).ravel()
    return float(np.sqrt(np.vdot(flat, flat)))


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float, floor: float) -> bool:
    # Norms, not elements: near 0 an element is rounding noise. `not >` would pass NaN.
    return _norm(found - expected) <= tolerance * max(_norm(expected), floor)


def _differ(what: str, found: np.ndarray, expected: np.ndarray) -> str:
    return f"{what} that differ by {_by(found, expected)}"


def _by(found: np.ndarray, expected: np.ndarray) -> str:
    error, size = (float(np.max(np.abs(v), initial=0.0)) for v in (found - expected, expected))
    return f"{error:.1e} where the largest is {size:.1e}"
