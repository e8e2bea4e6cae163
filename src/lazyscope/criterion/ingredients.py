"""What kappa is made of, as pure functions of arrays: to be jitted, mapped over seeds and scales, or differentiated.

`criterion` runs a search from Python under a budget and says how far to trust it. Here the number of steps is fixed, so
that a figure can have kappa in the program of its cell; what is known of a model in closed form takes their place.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope import passes, tree
from lazyscope.criterion.products import normalized_outputs, second_derivative
from lazyscope.door import entrance, linearized
from lazyscope.krylov import lanczos
from lazyscope.models import Apply
from lazyscope.problems import Problem, square_loss


class Ingredients(NamedTuple):
    """h(w0) and y on n examples, ‖Dh(w0)‖ and ‖D²h(w0)‖: kappa at every output scale, for the square loss."""

    outputs: Float[Array, "n *out"]
    targets: Float[Array, "n *out"]
    jacobian_norm: Float[Array, ""]
    hessian_norm: Float[Array, ""]

    def residual_norm(self, alpha: float | Array = 1.0) -> Float[Array, ""]:
        """‖αh − y‖ in function space."""
        return _size(alpha * self.outputs - self.targets)

    def kappa(self, alpha: float | Array = 1.0) -> Float[Array, ""]:
        """‖αh − y‖ ‖D²h‖/(α‖Dh‖²) (note, §1.1); 0 where residual or D²h is 0, inf where Dh alone is."""
        return _ratio(self.residual_norm(alpha) * self.hessian_norm, alpha * self.jacobian_norm**2)

    @property
    def kappa_inf(self) -> Float[Array, ""]:
        """‖h‖ ‖D²h‖/‖Dh‖², the limit of kappa at large alpha."""
        return _ratio(_size(self.outputs) * self.hessian_norm, self.jacobian_norm**2)


@entrance
def ingredients(
    apply: Apply,
    params: PyTree,
    problem: Problem,
    *,
    jacobian_steps: int = 9,
    climbs: int = 3,
    climb_steps: int = 6,
) -> Ingredients:
    """The ingredients of kappa at `params`, as one program.

    ‖Dh‖ by `jacobian_steps` steps of Lanczos; ‖D²h‖ by one ascent of `climbs` rounds, `climb_steps` steps each, from
    the kernel's top direction (`hessian_norm` says how). Both are lower bounds. Raises ValueError for another loss than
    the square loss, for which kappa(alpha) follows from no norms at w0 alone.
    """
    if problem.loss is not square_loss:
        raise ValueError("ingredients need the square loss, got another: use ls.criterion, which takes any")
    f, vector = normalized_outputs(passes.in_blocks(apply, params, problem.x), params, problem.x)
    value, push, pull = linearized(f, vector)
    # No random start, and so no key: this one has a part along every direction.
    start = 1.0 + jnp.cos(jnp.arange(value.size, dtype=value.dtype) ** 2)
    kernel = lanczos(lambda z: push(pull(z)), start, depth=jacobian_steps)
    z = kernel.vectors[-1]

    def round_(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        z, u, size = _climb(f, vector, *carry, depth=climb_steps)
        return (z, u), size

    _, sizes = jax.lax.scan(round_, (z, pull(z)), None, length=climbs)
    outputs = apply(params, problem.x)
    return Ingredients(outputs, problem.y, jnp.sqrt(jnp.maximum(kernel.values[-1], 0)), jnp.max(sizes))


def _climb(
    f: Callable[[Float[Array, " p"]], Float[Array, " nk"]],
    vector: Float[Array, " p"],
    z: Float[Array, " nk"],
    u: Float[Array, " p"],
    *,
    depth: int,
) -> tuple[Float[Array, " nk"], Float[Array, " p"], Float[Array, ""]]:
    """The eigenvector u of H_z of largest |eigenvalue|, by Lanczos from `u`; z, the direction of B(u, u); ‖B(u, u)‖."""
    _, product = jax.linearize(jax.grad(lambda w: jnp.vdot(z, f(w))), vector)
    u = lanczos(product, u, depth=depth, wanted=lambda values: jnp.argmax(jnp.abs(values))).vectors[0]
    image = second_derivative(f, vector, u)
    size = tree.norm(image)
    return image / jnp.where(size > 0, size, 1), u, size


def _size(outputs: Array) -> Float[Array, ""]:
    return jnp.linalg.norm(outputs.reshape(-1)) / jnp.sqrt(jnp.asarray(outputs.shape[0], outputs.dtype))


def _ratio(above: Array, below: Array) -> Float[Array, ""]:
    return jnp.where(above == 0, 0, above / below)
