"""Special functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array


def _erfcx(x: Array) -> Array:
    """exp(x²)·erfc(x), and its asymptotic series where one overflows and the other is nothing."""
    bound = 10 if x.dtype == jnp.float64 else 5
    far = x > bound
    near, y = jnp.where(far, 0, x), jnp.where(far, x, bound)
    series = jnp.ones_like(x)
    for k in range(12, 0, -1):
        series = 1 - (2 * k - 1) / (2 * y * y) * series
    return jnp.where(
        far, series / (y * jnp.sqrt(jnp.asarray(jnp.pi, x.dtype))), jnp.exp(near * near) * jax.lax.erfc(near)
    )


def _log_ndtr_value(x: Array) -> Array:
    """The logarithm of Φ by erfcx to the left, whose digits JAX's own loses below -20."""
    root, left = jnp.sqrt(jnp.asarray(2, x.dtype)), x < -1
    z = jnp.where(left, x, -1)
    right = jnp.log1p(-jax.lax.erfc(jnp.where(left, -1, x) / root) / 2)
    return jnp.where(left, jnp.log(_erfcx(-z / root) / 2) - z * z / 2, right)


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
_log_ndtr = _with_derivative(
    _log_ndtr_value,
    lambda x: jnp.exp(-x * x / 2 - _log_ndtr(x)) / jnp.sqrt(jnp.asarray(2 * jnp.pi, x.dtype)),
)
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
    "special_erfcx": _erfcx,
    "special_i0e": special.i0e,
    "special_i1": _i1,
    "special_i1e": special.i1e,
    "special_log_ndtr": _log_ndtr,
    "special_ndtri": special.ndtri,
    "special_zeta": special.zeta,
}
