"""Derivatives of models that have only one mode, and in one line what is missing where they have not enough."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, subjaxprs
from jaxtyping import Array, PyTree

from lazyscope.door.leaves import is_traced

_NO_REVERSE = (
    "a derivative of the model needs reverse mode, which a while loop with a number of steps that is not known does "
    "not have: use jax.lax.scan, or fori_loop with fixed bounds"
)
_NO_FORWARD = (
    "a derivative of the model needs forward mode, which a function with a jax.custom_vjp rule does not have here: "
    "use jax.custom_jvp, or in diffrax adjoint=diffrax.DirectAdjoint()"
)
_PRODUCTS = ("dot_general", "conv_general_dilated")
_SIGNS = (
    ("Reverse-mode differentiation does not work for lax.while_loop", _NO_REVERSE),
    ("can't apply forward-mode differentiation (jvp) to a custom_vjp", _NO_FORWARD),
    ("forward-mode autodiff", _NO_FORWARD),
    ("jvp not implemented", _NO_FORWARD),
    ("Differentiation rule for 'custom_lin' not implemented", _NO_FORWARD),
)


def linearized(
    function: Callable[[PyTree], Array], at: PyTree
) -> tuple[Array, Callable[[PyTree], Array], Callable[[Array], PyTree]]:
    """Outputs at `at`, the product v ↦ Df·v and its transpose z ↦ Dfᵀz.

    Where there is no forward mode (`jax.custom_vjp`) the first is the transpose of the second.
    """
    if not _reverse_only(function, at):
        outputs, push = jax.linearize(function, at)
        transpose = jax.linear_transpose(push, at)
        return outputs, push, lambda z: transpose(z)[0]
    outputs, pull = jax.vjp(function, at)
    transposed = jax.linear_transpose(lambda z: pull(z)[0], outputs)
    return outputs, lambda v: transposed(v)[0], lambda z: pull(z)[0]


def pushed(function: Callable[[PyTree], Array], at: PyTree, change: PyTree) -> tuple[Array, Array]:
    """Outputs at `at` and Df·change."""
    try:
        outputs, moved = jax.jvp(function, (at,), (change,))
    except TypeError as error:
        if _sign(error) is not _NO_FORWARD:
            raise
    else:
        # Values show at once where forward mode is missing, traced ones only when they are compiled.
        if not (is_traced(moved) and _reverse_only(function, at)):
            return outputs, moved
    outputs, push, _ = linearized(function, at)
    return outputs, push(change)


def _reverse_only(function: Callable[[PyTree], Array], at: PyTree) -> bool:
    return holds(jax.make_jaxpr(function)(at).jaxpr, "custom_vjp_call")


def holds(jaxpr: Jaxpr, *primitives: str) -> bool:
    """Whether one of these primitives is anywhere in a program."""
    return any(equation.primitive.name in primitives for equation in jaxpr.eqns) or any(
        holds(inner, *primitives) for inner in subjaxprs(jaxpr)
    )


def computed_in(function: Callable[..., Any], *args: PyTree) -> Any:
    """The coarsest float type of the products in a program, None where it has none."""
    found = _product_types(jax.make_jaxpr(function)(*args).jaxpr)
    return max(found, key=lambda dtype: jnp.finfo(dtype).eps, default=None)


def _product_types(jaxpr: Jaxpr) -> set[Any]:
    products = (equation for equation in jaxpr.eqns if equation.primitive.name in _PRODUCTS)
    types = {var.aval.dtype for equation in products for var in equation.invars}  # type: ignore[attr-defined]
    inner = (_product_types(part) for part in subjaxprs(jaxpr))
    return {dtype for dtype in types if jnp.issubdtype(dtype, jnp.floating)}.union(*inner)


@contextmanager
def told() -> Iterator[None]:
    """JAX's own words about a missing mode, in one line with what to do."""
    try:
        yield
    except Exception as error:
        line = _sign(error)
        if line is None:
            raise
        raise ValueError(line) from error


def _sign(error: Exception) -> Any:
    text = str(error)
    return next((line for sign, line in _SIGNS if sign in text), None)
