"""Products with the tangent kernel, and its largest eigenvalue, without the kernel."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from lazyscope import examples, passes, tree
from lazyscope.door import checked_outputs, concrete, entrance, linearized, outputs_of
from lazyscope.examples import Batch
from lazyscope.krylov import by_calls, lanczos, lanczos_by_calls
from lazyscope.models import Apply


@entrance
def kernel_product(
    apply: Apply, params: PyTree, x: Batch, x2: Batch | None = None
) -> Callable[[Float[Array, "n2 *out"]], Float[Array, "n *out"]]:
    """The function v ↦ K v without K: v of the outputs' shape on `x2` (default `x`), K v of that on `x`.

    One vector-Jacobian and one Jacobian-vector product each. Inside a jitted function, make the product there, from
    params and x that are its arguments: closed over, XLA tries to evaluate the model while compiling.
    """
    if concrete(params):
        params = tree.copy(params)  # the product outlives this call
    theta, merge = tree.split(params)
    checked_outputs(apply, params, x)
    sources, push, pull = linearized(lambda th: apply(merge(th), x), theta)
    if x2 is not None:
        sources, pull = jax.vjp(lambda th: apply(merge(th), x2), theta)

    @entrance
    def product(v: Array) -> Array:
        if jnp.shape(v) != sources.shape:
            raise ValueError(
                f"a kernel product takes a vector of the outputs' shape {tuple(sources.shape)}, "
                f"got {jnp.shape(v)}: reshape it"
            )
        back = pull(jnp.asarray(v, sources.dtype))
        return push(back if x2 is None else back[0])

    return product


@entrance
def largest_eigenvalue(
    apply: Apply, params: PyTree, x: Batch, *, num_products: int = 24, start: Array | None = None
) -> Float[Array, ""]:
    """λmax(K)/n, the squared operator norm of Dh on the batch, by Lanczos with full re-orthogonalisation.

    Converges from below; 24 products reach 1e-10 on the two-layer nets of the papers. `start`, of the outputs' shape,
    is by default a fixed vector, so that the value is a function of its arguments alone. Raises ValueError for a
    value beyond the largest or below the smallest float (NaN inside a transformation, which sees no values).
    """
    value, unit = largest_eigenvalue_in_units(apply, params, x, num_products=num_products, start=start)
    return representable(value * unit * unit, value > 0, "the largest eigenvalue of the kernel")


def largest_eigenvalue_in_units(
    apply: Apply, params: PyTree, x: Batch, *, num_products: int = 24, start: Array | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """λ and a power of two u with `largest_eigenvalue` = λ·u², where that may be no float: u has the scale of Dh."""
    outputs = checked_outputs(apply, params, x)
    first = start_vector(outputs.size, outputs.dtype) if start is None else start.reshape(-1)
    search = _largest_by_calls if concrete(params, x, first) and by_calls(apply, params, x) else _largest
    return search(apply, num_products, params, x, first)


def _largest_by_calls(
    apply: Apply, num_products: int, params: PyTree, x: Batch, first: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    shape = outputs_of(apply, params, x).shape

    def pull(v: Array) -> list[Array]:
        return passes.pull(apply, params, x, v.reshape(shape))

    unit = tree.unit(pull(first / tree.unit(first)))

    def product(v: Array) -> Array:
        pulled = [leaf / unit.astype(leaf.dtype) for leaf in pull(v)]
        return (passes.push(apply, params, x, pulled) / unit).reshape(-1).astype(v.dtype) / examples.count(x)

    return jnp.max(lanczos_by_calls(product, first, depth=num_products).values), unit


@partial(jax.jit, static_argnums=(0, 1))
def _largest(
    apply: Apply, num_products: int, params: PyTree, x: Batch, first: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    theta, merge = tree.split(params)
    outputs, push, pull = linearized(lambda th: apply(merge(th), x), theta)
    unit = tree.unit(pull((first / tree.unit(first)).reshape(outputs.shape)))

    def product(v: Array) -> Array:
        pulled = jax.tree.map(lambda leaf: leaf / unit, pull(v.reshape(outputs.shape)))
        return (push(pulled) / unit).reshape(-1).astype(v.dtype) / examples.count(x)

    return jnp.max(lanczos(product, first, depth=num_products).values), unit


def derivative_unit(apply: Apply, params: PyTree, x: Batch) -> Float[Array, ""]:
    """A power of two of the scale of Dh on the batch (1 for Dh = 0), by one vector-Jacobian product.

    Kernels over its square are near 1, whatever the scale of the outputs.
    """
    return tree.unit(derivative_size(apply, params, x))


def derivative_size(apply: Apply, params: PyTree, x: Batch) -> Float[Array, ""]:
    """The length of one product Dhᵀz on the batch, for a z that hides nothing: the scale of Dh, 0 for Dh = 0."""
    checked_outputs(apply, params, x)
    return _derivative_size(apply, params, x)


@partial(jax.jit, static_argnums=0)
def _derivative_size(apply: Apply, params: PyTree, x: Batch) -> Float[Array, ""]:
    theta, merge = tree.split(params)
    outputs, pull = jax.vjp(lambda th: apply(merge(th), x), theta)
    return tree.norm(pull(start_vector(outputs.size, outputs.dtype).reshape(outputs.shape))[0])


def representable(value: Float[Array, ""], exists: Bool[Array, ""], name: str) -> Float[Array, ""]:
    """`value`, refused where it `exists` and is no float, so 0 or inf: ValueError, or NaN inside a transformation."""
    lost = exists & ((value == 0) | jnp.isinf(value))
    try:
        if bool(lost):
            limits = jnp.finfo(value.dtype)
            raise ValueError(
                f"{name} must lie between {limits.tiny:.2g} and {limits.max:.2g} in {value.dtype}, got "
                f"{'less' if value == 0 else 'more'}: divide outputs and targets by their scale, or pass float64"
            )
    except jax.errors.TracerBoolConversionError:
        return jnp.where(lost, jnp.nan, value)
    return value


def start_vector(size: int, dtype: jnp.dtype) -> Float[Array, " size"]:
    """A fixed start for Lanczos, with no symmetry that could hide a direction."""
    # Ones carry the top direction of kernels with positive entries; the cosine keeps every other direction present.
    index = jnp.arange(size, dtype=dtype)
    return 1.0 + jnp.cos(index * index)
