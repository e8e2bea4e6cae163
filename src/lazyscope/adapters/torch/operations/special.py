"""Special functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array


def _erfcx(x: Array) -> Array:
    return jnp.exp(x * x) * jax.lax.erfc(x)


def _with_derivative(function: Callable[..., Array], derivative: Callable[..., Array]) -> Callable[..., Array]:
    """A function of one array, with a derivative of our own."""
    own = jax.custom_jvp(function)
    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0] * derivative(*primals)))
    return own


def _over(x: Array) -> Array:
    """I₁(x)/x, which is even."""
    none = x == 0
    return jnp.where(none, 0.5, special.i1(jnp.where(none, 1, x)) / jnp.where(none, 1, x))


def _trigamma(x: Array) -> Array:
    """ψ′, left of 1/2 by its reflection."""
    left = x < 0.5
    right = special.polygamma(jnp.asarray(1), jnp.where(left, 1 - x, x))
    return jnp.where(left, (jnp.pi / jnp.sin(jnp.pi * jnp.where(left, x, 0.5))) ** 2 - right, right)


# JAX's of Bessel functions contain |x|, which has derivative 1 at 0.
_i1 = _with_derivative(special.i1, lambda x: _i0(x) - _over(x))
_i0 = _with_derivative(special.i0, _i1)
_digamma = _with_derivative(special.digamma, _trigamma)
_lgamma = _with_derivative(special.gammaln, _digamma)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "digamma": _digamma,
    "erfc": jax.lax.erfc,
    "erfinv": jax.lax.erf_inv,
    "i0": _i0,
    "igamma": special.gammainc,
    "igammac": special.gammaincc,
    "lgamma": _lgamma,
    "polygamma": lambda n, x: special.polygamma(jnp.asarray(n), x),
    "special_entr": special.entr,
    "special_erfcx": _erfcx,
    "special_i0e": special.i0e,
    "special_i1": _i1,
    "special_i1e": special.i1e,
    "special_log_ndtr": special.log_ndtr,
    "special_ndtr": special.ndtr,
    "special_ndtri": special.ndtri,
    "special_zeta": special.zeta,
}
