"""Upper bounds of ‖D²h‖: the spectral norm of a tensor is at most that of any of its matricisations.

With T[k, i, j] = ∂²f_k/∂w_i∂w_j (f the outputs over √n): ‖D²h‖ = max |T(z, u, v)| over unit z, u, v. Fusing two of the
three arguments enlarges the set over which the maximum is taken, hence a bound; so does taking the norm block by block
(parameter leaves) and then the norm of the matrix of block norms. On the two-layer ReLU net the leaf blocks are exact.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyscope import tree
from lazyscope.criterion.products import normalized_outputs
from lazyscope.examples import Batch
from lazyscope.models import Apply


class UpperBound(NamedTuple):
    """A bound on ‖D²h‖ from above, by name. `error` is 0 for the exact ones, else a standard error of `value`."""

    value: float
    error: float
    name: str
    products: int

    def __str__(self) -> str:
        if math.isinf(self.value):
            return self.name
        return f"{self.value:.6g} ({self.name})"


NO_BOUND = UpperBound(math.inf, 0.0, "no upper bound was computed", 0)


def dense_bound(apply: Apply, params: PyTree, x: Batch) -> UpperBound:
    """The least of the two matricisations of the whole tensor and the leaf-block bound. Needs nk·p² numbers.

    Costs nk·p products, in one compiled program.
    """
    tensor = np.asarray(dense_second_derivative(apply, params, x), np.float64)
    one = float(np.max(np.abs(tensor), initial=0.0)) or 1.0
    tensor = tensor / one
    ends = np.cumsum([leaf.size for leaf in tree.split(params)[0] if leaf.size])
    edges = list(zip([0, *ends[:-1]], ends, strict=True))
    blocks = np.array([[min(_matricisations(tensor[:, a:b, c:d])) for c, d in edges] for a, b in edges])
    whole = _matricisations(tensor)
    value, name = min(
        (whole[0], "outputs x parameter pairs, exact matricisation"),
        (whole[1], "parameters x (outputs, parameters), exact matricisation"),
        (float(np.linalg.norm(blocks, ord=2)), "exact matricisations of the parameter leaves' blocks"),
    )
    # Rounding of the singular values, so that a bound that is attained stays one.
    return UpperBound(one * value * (1 + 1e-12), 0.0, name, tensor.shape[0] * tensor.shape[1])


def frobenius_bound(probes: Float[np.ndarray, " probes"]) -> UpperBound:
    """‖D²h‖_F, which is at least ‖D²h‖, an estimate with its standard error: the root of the mean of ‖H_z v‖².

    Each probe is one ‖H_z v‖; the error is that of the mean of their squares, by the delta method.
    """
    largest = float(np.max(probes))
    if largest == 0:
        return UpperBound(0.0, 0.0, f"Frobenius norm, estimated from {len(probes)} probes", 0)
    squares = (probes / largest) ** 2
    root = math.sqrt(float(np.mean(squares)))
    value = largest * root
    error = largest * float(np.std(squares, ddof=1)) / math.sqrt(len(probes)) / (2 * root)
    name = (
        f"Frobenius norm, estimated from {len(probes)} probes, standard error {error:.2g}: no bound beyond that error"
    )
    return UpperBound(value, error, name, 0)


@partial(jax.jit, static_argnums=0)
def dense_second_derivative(apply: Apply, params: PyTree, x: Batch) -> Float[Array, "nk p p"]:
    """T[k, i, j] in the order of `tree.split`, row by row."""
    f, vector = normalized_outputs(apply, params, x)
    count = jax.eval_shape(f, vector).size

    def of_output(z: Array) -> Array:
        _, product = jax.linearize(jax.grad(lambda w: jnp.vdot(z, f(w))), vector)
        return jax.vmap(product)(jnp.eye(vector.size, dtype=vector.dtype))

    return jax.lax.map(of_output, jnp.eye(count, dtype=vector.dtype))


def _matricisations(block: np.ndarray) -> tuple[float, float, float]:
    """Norms of the three ways to fuse two of the three axes, by the Gram matrix of the one left alone."""
    norms = []
    for axis in range(3):
        rows = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
        norms.append(math.sqrt(max(float(np.linalg.eigvalsh(rows @ rows.T)[-1]), 0.0)))
    return norms[0], norms[1], norms[2]
