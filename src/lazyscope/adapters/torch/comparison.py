"""Outputs and derivatives of PyTorch, and whether JAX has the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.outputs import OutputError
from lazyscope.adapters.torch.tracing import first_line
from lazyscope.models import Apply


def probe(
    module: Any, name: str, trained: dict[str, Any], rows: tuple[Any, ...]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Outputs of the module, a direction c in output space and Dhᵀ c."""
    import torch  # pyright: ignore[reportMissingImports]

    try:
        outputs = module(*rows)
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
    if not outputs.requires_grad:
        raise ValueError(
            f"the output of {name} must depend on its trained parameters, got none it depends on: "
            "compute it outside torch.no_grad and without .detach()"
        )
    values = outputs.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"the outputs of {name} must be finite on the example, got {_bad(values)}: "
            "convert it on other rows, or mend the module (an attention row without a key, say)"
        )
    cotangent = np.random.default_rng(0).standard_normal(values.shape).astype(values.dtype)
    direction = torch.tensor(cotangent, device=outputs.device)
    found = torch.autograd.grad(outputs, list(trained.values()), direction, allow_unused=True)
    gradients = [None if g is None else g.cpu().numpy() for g in found]
    for key, gradient in zip(trained, gradients, strict=True):
        if gradient is not None and not np.isfinite(gradient).all():
            raise ValueError(
                f"the derivatives of {name} must be finite on the example, got {_bad(gradient)} by {key} from PyTorch: "
                "convert it on other rows or weights, or mend the module"
            )
    return values, cotangent, dict(zip(trained, gradients, strict=True))


def verify(
    apply: Apply,
    name: str,
    params0: dict[str, Array],
    rows: PyTree,
    outputs: np.ndarray,
    cotangent: np.ndarray,
    gradients: dict[str, Any],
) -> None:
    """Compare outputs and Dhᵀ c with PyTorch's.

    The transposed product rather than a forward one: it shows each parameter by itself, so that a derivative lost in a
    small layer does not hide behind a large one.
    """
    # In float64, some constants of PyTorch's derivatives are of float32 (nn.Hardsigmoid).
    loose, looser = (1e-4, 1e-3) if outputs.dtype == np.float32 else (1e-9, 1e-7)

    @jax.jit
    def both(params: dict[str, Array], x: PyTree, c: Array) -> tuple[Array, dict[str, Array]]:
        values, pull = jax.vjp(lambda p: apply(p, x), params)
        return values, pull(c)[0]

    try:
        values, pulled = jax.device_get(both(params0, jax.tree.map(jnp.asarray, rows), jnp.asarray(cotangent)))
    except Exception as error:
        raise ValueError(
            f"from_torch must run {name} in JAX, got: {first_line(error)}: write that part in JAX"
        ) from error
    if not _close(values, outputs, loose, 0.0):
        raise ValueError(
            f"JAX and PyTorch must agree on {name}, got outputs that differ by {_largest(values - outputs):.1e} where "
            f"the largest is {_largest(outputs):.1e}: examples of a batch must not see each other, nor draw numbers"
        )
    whole = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in gradients.values() if g is not None))
    for key, found in pulled.items():
        expected = np.zeros_like(found) if gradients[key] is None else gradients[key]
        if not _close(found, expected, looser, 1e-3 * float(whole)):
            raise ValueError(
                f"JAX and PyTorch must agree on {name}, got derivatives by {key} that differ by "
                f"{_largest(found - expected):.1e} where the largest is {_largest(expected):.1e}: convert it at other "
                "weights if these are at a kink, write custom derivatives as .detach() and operations of PyTorch"
            )


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float, floor: float) -> bool:
    # Norms, not elements: near 0 an element is rounding noise. `not >` would pass NaN.
    error, size = (float(np.linalg.norm(v.astype(float).ravel())) for v in (found - expected, expected))
    return error <= tolerance * max(size, floor)


def _bad(v: np.ndarray) -> str:
    return f"{np.count_nonzero(~np.isfinite(v))} of {v.size} entries NaN or infinite"


def _largest(v: np.ndarray) -> float:
    return float(np.max(np.abs(v), initial=0.0))
