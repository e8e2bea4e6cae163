"""Layers of image networks, each with two ways through: a value, and a difference of two values.

The value is `forward(params, x, gate=None) -> (y, gate)`: the gate is the activation pattern (signs of a ReLU, the
place of a maximum), imposed where one is given. The difference is what makes large output scales exact in float32.
With e = 1/alpha and weights w0 + e·u, the outputs alpha·(h(w0 + e·u) − h(w0)) subtract two nearly equal numbers and
multiply the rounding by alpha. Instead a layer takes x at w0 and the scaled difference dx = (x' − x)/e, and gives y
and dy = (y' − y)/e without subtracting: nothing cancels at any e, and e -> 0 is the linearised net.

Images are `(n, height, width, channels)`; shapes passed to `init` leave the batch axis out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

Shape = tuple[int, ...]
SMALL_SIDE = 2  # XLA's CPU convolution of images up to this side is ~70 times slower than shifts and one product


class Passed(NamedTuple):
    """What leaves a layer: value at w0, scaled difference, and the gates at both ends."""

    y: Array
    dy: Array
    gate0: PyTree
    gate: PyTree


class Layer(NamedTuple):
    """`init(key, shape, gain) -> (params, shape)`; `forward` and `difference` as the module says.

    `difference(params0, u, x, dx, e, frozen) -> Passed`; with `frozen` the gates of w0 are imposed on w0 + e·u, too.
    `dx` is None for the images themselves, which do not move.
    """

    init: Callable[[Key[Array, ""], Shape, float | Array], tuple[PyTree, Shape]]
    forward: Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]]
    difference: Callable[[PyTree, PyTree, Array, Array | None, Array, bool], Passed]


def _linear(init: Callable[..., Any], product: Callable[[Array, Array], Array]) -> Layer:
    """A layer product(x, w) + b, for a product linear in each: dy = u_w x + (w0 + e·u_w) dx + u_b."""

    # The reverse rule by hand: automatic differentiation needs three products for what two give.
    @jax.custom_vjp
    def moved(u: Array, dx: Array, w0: Array, x: Array, e: Array) -> Array:
        return product(x, u) + product(dx, w0 + e * u)

    def keep(u: Array, dx: Array, w0: Array, x: Array, e: Array) -> tuple[Array, tuple[Array, Array]]:
        return moved(u, dx, w0, x, e), (w0 + e * u, x + e * dx)

    def pull(kept: tuple[Array, Array], g: Array) -> tuple[Array | None, ...]:
        w, x = kept
        by_u, by_dx = jax.vjp(lambda u: product(x, u), w)[1], jax.vjp(lambda dx: product(dx, w), x)[1]
        return by_u(g)[0], by_dx(g)[0], None, None, None

    moved.defvjp(keep, pull)

    def forward(params: PyTree, x: Array, gate: PyTree) -> tuple[Array, PyTree]:
        y = product(x, params["w"])
        return (y + _row(params["b"], y) if "b" in params else y), gate

    def difference(params0: PyTree, u: PyTree, x: Array, dx: Array | None, e: Array, frozen: bool) -> Passed:  # noqa: ARG001
        dy = product(x, u["w"]) if dx is None else moved(u["w"], dx, params0["w"], x, e)
        return Passed(forward(params0, x, None)[0], dy + _row(u["b"], dy) if "b" in u else dy, None, None)

    return Layer(init, forward, difference)


def conv(channels: int, *, size: int = 3, stride: int = 1, bias: bool = True) -> Layer:
    """A square convolution with padding size//2; Xavier-normal weights (Glorot & Bengio 2010) times gain, zero bias."""

    def init(key: Key[Array, ""], shape: Shape, gain: float | Array) -> tuple[PyTree, Shape]:
        height, width, before = shape
        deviation = gain * math.sqrt(2 / (size * size * (before + channels)))
        params = {"w": deviation * jax.random.normal(key, (size, size, before, channels))}
        if bias:
            params["b"] = jnp.zeros(channels)
        return params, (-(-height // stride), -(-width // stride), channels)

    def product(x: Float[Array, "n h w c"], w: Float[Array, "s s c k"]) -> Array:
        pad = size // 2
        if size == 1:
            return x[:, ::stride, ::stride] @ w[0, 0]
        if max(x.shape[1:3]) <= SMALL_SIDE:
            return _shifted(x, w, stride)
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return _linear(init, product)


def dense(outputs: int, *, bias: bool = True) -> Layer:
    """A fully connected layer on everything but the batch axis; initialised as `conv`."""

    def init(key: Key[Array, ""], shape: Shape, gain: float | Array) -> tuple[PyTree, Shape]:
        before = math.prod(shape)
        params = {"w": gain * math.sqrt(2 / (before + outputs)) * jax.random.normal(key, (before, outputs))}
        return (params | {"b": jnp.zeros(outputs)} if bias else params), (outputs,)

    return _linear(init, lambda x, w: x.reshape(x.shape[0], -1) @ w)


def _row(b: Array, y: Array) -> Array:
    return b.reshape((1,) * (y.ndim - 1) + b.shape)


def _shifted(x: Array, w: Array, stride: int) -> Array:
    """The convolution as one matrix product over the stacked shifts of x."""
    size, height, width = w.shape[0], x.shape[1], x.shape[2]
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shifts = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifts, axis=-1) @ w.reshape(-1, w.shape[-1])


def _without_parameters(
    forward: Callable[[Array, PyTree], tuple[Array, PyTree]],
    difference: Callable[[Array, Array, Array, bool], Passed],
    shape_after: Callable[[Shape], Shape] = lambda shape: shape,
) -> Layer:
    def through(_params0: PyTree, _u: PyTree, x: Array, dx: Array | None, e: Array, frozen: bool) -> Passed:
        return difference(x, jnp.zeros_like(x) if dx is None else dx, e, frozen)

    return Layer(
        lambda _key, shape, _gain: ({}, shape_after(shape)), lambda _params, x, gate: forward(x, gate), through
    )


def relu() -> Layer:
    """max(x, 0), of derivative 0 at 0. Gates: x > 0."""

    def forward(x: Array, gate: Any) -> tuple[Array, Array]:
        gate = x > 0 if gate is None else gate
        return jnp.where(gate, x, 0), gate

    def difference(x: Array, dx: Array, e: Array, frozen: bool) -> Passed:
        on = x > 0
        then = on if frozen else x + e * dx > 0
        # Where a gate turns, the step across the kink is part of the difference: ±x/e.
        crossed = jnp.where(then, x, -x) / jnp.where(e == 0, 1, e)
        dy = jnp.where(then, dx, 0) + jnp.where(on == then, 0, crossed)
        return Passed(jnp.where(on, x, 0), dy, on, then)

    return _without_parameters(forward, difference)


def smooth(function: Callable[[Array], Array], difference: Callable[[Array, Array], Array]) -> Layer:
    """A smooth activation; `difference(x, step)` is function(x + step) − function(x) to full relative accuracy."""

    def through(x: Array, dx: Array, e: Array, frozen: bool) -> Passed:  # noqa: ARG001
        _, slope = jax.jvp(function, (x,), (dx,))
        dy = jnp.where(e == 0, slope, difference(x, e * dx) / jnp.where(e == 0, 1, e))
        return Passed(function(x), dy, None, None)

    return _without_parameters(lambda x, gate: (function(x), gate), through)


def softplus() -> Layer:
    """log(1 + eˣ); log((1 + e^(x+s))/(1 + eˣ)) = log1p(σ(x)·expm1(s)), and plainly for steps that cancel nothing."""

    def difference(x: Array, step: Array) -> Array:
        small = jnp.abs(step) < 1
        near = jnp.log1p(jax.nn.sigmoid(x) * jnp.expm1(jnp.where(small, step, 0)))
        return jnp.where(small, near, jax.nn.softplus(x + step) - jax.nn.softplus(x))

    return smooth(jax.nn.softplus, difference)


def tanh() -> Layer:
    """Hyperbolic tangent: with T = tanh s and y = tanh x, the difference over a step s is T(1 − y²)/(1 + yT)."""

    def difference(x: Array, step: Array) -> Array:
        y, t = jnp.tanh(x), jnp.tanh(step)
        return t * (1 - y**2) / (1 + y * t)

    return smooth(jnp.tanh, difference)


def max_pool() -> Layer:
    """The largest of each 2 x 2 square. Gates: which of the four it is, the first on a tie."""

    def forward(x: Array, gate: Any) -> tuple[Array, Array]:
        corners = _corners(x)
        gate = _largest(corners) if gate is None else gate
        return _choose(corners, gate), gate

    def difference(x: Array, dx: Array, e: Array, frozen: bool) -> Passed:
        corners, steps = _corners(x), _corners(dx)
        first = _largest(corners)
        then = first if frozen else _largest([x + e * dx for x, dx in zip(corners, steps, strict=True)])
        y = _choose(corners, first)
        crossed = (_choose(corners, then) - y) / jnp.where(e == 0, 1, e)
        return Passed(y, _choose(steps, then) + jnp.where(first == then, 0, crossed), first, then)

    return _without_parameters(forward, difference, _halved)


def mean_pool() -> Layer:
    """The mean of each 2 x 2 square."""

    def pool(x: Array) -> Array:
        return sum(_corners(x)) / 4  # type: ignore[return-value]

    return _without_parameters(
        lambda x, gate: (pool(x), gate), lambda x, dx, _e, _frozen: Passed(pool(x), pool(dx), None, None), _halved
    )


def global_mean() -> Layer:
    """The mean over height and width."""

    def pool(x: Array) -> Array:
        return jnp.mean(x, axis=(1, 2))

    return _without_parameters(
        lambda x, gate: (pool(x), gate),
        lambda x, dx, _e, _frozen: Passed(pool(x), pool(dx), None, None),
        lambda shape: shape[2:],
    )


def _halved(shape: Shape) -> Shape:
    height, width, channels = shape
    if height % 2 or width % 2:
        raise ValueError(f"pooling by 2 needs images of even sides, got {height} x {width}: pad or resize them")
    return height // 2, width // 2, channels


def _corners(x: Array) -> list[Array]:
    # Strided slices: their derivative is some 50 times cheaper on CPU than that of reduce_window.
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _largest(corners: list[Array]) -> Array:
    best, which = corners[0], jnp.zeros(corners[0].shape, jnp.int8)
    for i, corner in enumerate(corners[1:], 1):
        more = corner > best
        best, which = jnp.where(more, corner, best), jnp.where(more, jnp.int8(i), which)
    return which


def _choose(corners: list[Array], which: Array) -> Array:
    pairs = [jnp.where(which % 2 == 0, corners[i], corners[i + 1]) for i in (0, 2)]
    return jnp.where(which < 2, *pairs)


def sequence(layers: Sequence[Layer]) -> Layer:
    """One layer after the other; params and gates are lists with an entry each."""

    def init(key: Key[Array, ""], shape: Shape, gain: float | Array) -> tuple[PyTree, Shape]:
        params = []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            made, shape = layer.init(layer_key, shape, gain)
            params.append(made)
        return params, shape

    def forward(params: PyTree, x: Array, gate: Any) -> tuple[Array, PyTree]:
        used = []
        for i, layer in enumerate(layers):
            x, g = layer.forward(params[i], x, None if gate is None else gate[i])
            used.append(g)
        return x, used

    def difference(params0: PyTree, u: PyTree, x: Array, dx: Array | None, e: Array, frozen: bool) -> Passed:
        before, after = [], []
        for i, layer in enumerate(layers):
            x, dx, gate0, gate = layer.difference(params0[i], u[i], x, dx, e, frozen)
            before.append(gate0)
            after.append(gate)
        return Passed(x, jnp.zeros_like(x) if dx is None else dx, before, after)

    return Layer(init, forward, difference)


def residual(body: Layer, shortcut: Layer | None = None) -> Layer:
    """body(x) + shortcut(x), the shortcut the identity where there is none; params `{"body", "shortcut"}`."""
    other = sequence([]) if shortcut is None else shortcut

    def init(key: Key[Array, ""], shape: Shape, gain: float | Array) -> tuple[PyTree, Shape]:
        key_body, key_other = jax.random.split(key)
        made, after = body.init(key_body, shape, gain)
        around, same = other.init(key_other, shape, gain)
        if after != same:
            raise ValueError(f"both ways of a residual block must end in one shape, got {after} and {same}")
        return {"body": made, "shortcut": around}, after

    def forward(params: PyTree, x: Array, gate: Any) -> tuple[Array, PyTree]:
        gates = (None, None) if gate is None else gate
        y, inner = body.forward(params["body"], x, gates[0])
        z, outer = other.forward(params["shortcut"], x, gates[1])
        return y + z, (inner, outer)

    def difference(params0: PyTree, u: PyTree, x: Array, dx: Array | None, e: Array, frozen: bool) -> Passed:
        one = body.difference(params0["body"], u["body"], x, dx, e, frozen)
        two = other.difference(params0["shortcut"], u["shortcut"], x, dx, e, frozen)
        return Passed(one.y + two.y, one.dy + two.dy, (one.gate0, two.gate0), (one.gate, two.gate))

    return Layer(init, forward, difference)
