"""Arithmetic, comparisons and functions of one entry."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyscope.adapters.torch.operations.axes import norm_of_square, size, square


def _add(a: Any, b: Any, alpha: Any = 1) -> Array:
    return a + b if alpha == 1 else a + alpha * b


def _sub(a: Any, b: Any, alpha: Any = 1) -> Array:
    return a - b if alpha == 1 else a - alpha * b


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Array:
    if rounding_mode is None:
        return a / b
    return jnp.floor_divide(a, b) if rounding_mode == "floor" else jnp.trunc(a / b)


def _pow(a: Any, b: Any) -> Array:
    return a ** (int(b) if isinstance(b, float) and b.is_integer() else b)


def _clamp(x: Array, low: Any = None, high: Any = None) -> Array:
    if low is not None:
        x = jnp.where(x < low, low, x)  # derivative 1 at the bounds
    return x if high is None else jnp.where(x > high, high, x)


def _copysign(a: Array, b: Any) -> Array:
    """|a| with the sign of b; derivative 0 by a where it is 0."""
    return a * jnp.where(a == 0, 0, jnp.where(jnp.signbit(a) == jnp.signbit(jnp.asarray(b, a.dtype)), 1, -1))


def _either(choose: Callable[[Any, Any], Any]) -> Callable[[Array, Array], Array]:
    """The extremum of two, or the one that is a number; on a tie half the derivative each."""
    return lambda a, b: jnp.where(jnp.isnan(a), b, jnp.where(jnp.isnan(b), a, choose(a, b)))


def _frexp(x: Array) -> tuple[Array, Array]:
    exponent = jnp.frexp(jax.lax.stop_gradient(x))[1]
    return x * 2.0 ** -exponent.astype(x.dtype), exponent


def _hypot(a: Array, b: Array) -> Array:
    return norm_of_square(a * a + b * b)


def _nextafter(a: Array, b: Array) -> Array:
    """With derivative 1 by a, 0 where they are equal, as in PyTorch; JAX has none."""
    moving = jnp.where((a == b) | ~jnp.isfinite(a), 0, a)
    return jnp.nextafter(*jax.lax.stop_gradient((a, b))) + (moving - jax.lax.stop_gradient(moving))


def _sinc(x: Array) -> Array:
    y = jnp.pi * x
    near = jnp.abs(y) < 1
    square = jnp.where(near, y * y, 0)
    series = jnp.ones_like(x)
    for k in range(11, 0, -1):  # sin(y)/y by its Taylor series: the quotient loses its derivatives near 0
        series = 1 - square / (2 * k * (2 * k + 1)) * series
    away = jnp.where(near, 1, y)
    return jnp.where(near, series, jnp.sin(away) / away)


def _times_log(log: Callable[[Any], Array], lowest: float) -> Callable[[Any, Any], Array]:
    """x·log(y), 0 where x is, with derivative log(y) by x there too: 0 where log(y) is none."""

    @jax.custom_jvp
    def function(x: Array, y: Array) -> Array:
        return jnp.where((x == 0) & ~jnp.isnan(y), 0, x * log(y))

    @function.defjvp
    def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (x, y), (dx, dy) = primals, tangents
        defined = jnp.where((x == 0) & (y <= lowest), 1 + lowest, y)
        return function(x, y), dx * log(defined) + dy * (x / (y - lowest))

    def promoted(x: Any, y: Any) -> Array:
        dtype = jnp.result_type(x, y, float if jnp.result_type(x, y).kind in "ib" else x)
        return function(jnp.asarray(x, dtype), jnp.asarray(y, dtype))

    return promoted


OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": size,
    "abs.squared": square,
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "add": _add,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "atanh": jnp.arctanh,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_not": jnp.bitwise_not,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "ceil": jnp.ceil,
    "clamp": _clamp,
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_right_shift": jnp.right_shift,
    "copysign": _copysign,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "div": _div,
    "eq": jnp.equal,
    "erf": jax.lax.erf,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "fmax": _either(jnp.maximum),
    "fmin": _either(jnp.minimum),
    "fmod": jnp.fmod,
    "frexp": _frexp,
    "gcd": jnp.gcd,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "hypot": _hypot,
    "hypot.squared": lambda a, b: a * a + b * b,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "lcm": jnp.lcm,
    "ldexp": lambda x, n: x * 2.0**n,
    "le": jnp.less_equal,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logical_and": jnp.logical_and,
    "logical_not": jnp.logical_not,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": jnp.less,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": jnp.multiply,
    "ne": jnp.not_equal,
    "neg": jnp.negative,
    "nextafter": _nextafter,
    "pow": _pow,
    "reciprocal": lambda x: 1 / x,
    "remainder": jnp.remainder,
    "round": jnp.round,
    "rsqrt": jax.lax.rsqrt,
    "sign": jnp.sign,
    "signbit": jnp.signbit,
    "sin": jnp.sin,
    "sinc": _sinc,
    "sinh": jnp.sinh,
    "special_xlog1py": _times_log(jnp.log1p, -1.0),
    "sqrt": jnp.sqrt,
    "sqrt.squared": lambda x: jnp.where(x < 0, jnp.nan, x),
    "sub": _sub,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "trunc": jnp.trunc,
    "where": jnp.where,
    "xlogy": _times_log(jnp.log, 0.0),
}
