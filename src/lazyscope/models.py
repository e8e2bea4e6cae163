"""Models as pairs of pure functions, and the two devices that make the output vanish at initialisation.

The two-layer net of both papers (Chizat et al. 2019, §3.1; note §4.1), without biases and without a scale:

    h(w, x) = Σ_i a_i φ(b_i·x),   w = (a, b),   a in R^width, b in R^(width x d).

The output scale alpha is never part of a model (`docs/notation.md`). With φ = relu, h is 2-homogeneous.

>>> import jax
>>> model = two_layer(width=50, d=100)
>>> params = model.init(jax.random.key(0), tau=0.1, doubled=True)
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.door import as_key, entrance, real, unsealed, without_scalars
from lazyscope.examples import Batch

Apply = Callable[..., Array]


class Model(NamedTuple):
    """A parametric model.

    `init(key, tau=1.0, doubled=False) -> params` draws weights of standard deviation `tau`.
    `apply(params, x) -> outputs` maps a batch `(n, ...)` to outputs `(n, ...)`, each example on its own.
    `gates(params, x)`, where there is one, gives the activation pattern as a pytree of booleans, and then
    `apply(params, x, gates=pattern)` evaluates the model with that pattern imposed.
    `difference(params0, u, x, e, frozen=False) -> (d, kept)`, where there is one, gives d = (h(params0 + e·u) −
    h(params0))/e without cancellation, so that float32 suffices at e = 1/alpha = 1e-7; at e = 0 it is the linearised
    model, with `frozen` that of the activation pattern of `params0`. `kept` marks the gates equal at both ends.
    """

    init: Callable[..., PyTree]
    apply: Apply
    gates: Callable[[PyTree, Array], PyTree] | None = None
    difference: Callable[..., tuple[Array, PyTree]] | None = None


class Doubled(NamedTuple):
    """Parameters of h(plus) − h(minus): two copies that start equal (Chizat et al. 2019, §2.1)."""

    plus: PyTree
    minus: PyTree


@cache
def two_layer(width: int, d: int, activation: Callable[[Array], Array] = jax.nn.relu) -> Model:
    """The two-layer net h(w, x) = Σ_i a_i φ(b_i·x), params `{"a": (width,), "b": (width, d)}`, outputs `(n,)`.

    `init(key, tau, doubled)`: every weight N(0, tau²). With `doubled`, the first half of the units is paired with a
    second half of equal b and opposite a, written `Doubled(plus, minus)` of width/2 units each, so that the output at
    initialisation is exactly 0. The law equals that of the papers' code (a = |a| on one half, −|a| on the other).

    Raises ValueError for a width or d below 1, and from `init` for an odd width with `doubled` and for a negative tau.
    """
    if width < 1 or d < 1:
        raise ValueError(f"a two-layer net needs width >= 1 and d >= 1, got width={width}, d={d}")

    def init(key: Key[Array, ""], tau: float | Array = 1.0, doubled: bool = False) -> PyTree:
        if doubled and width % 2:
            raise ValueError(f"a doubled net pairs its units, so the width must be even, got {width}: use {width + 1}")
        _check_tau(tau)
        units = width // 2 if doubled else width
        key_a, key_b = jax.random.split(as_key("key", key))
        net = {"a": tau * jax.random.normal(key_a, (units,)), "b": tau * jax.random.normal(key_b, (units, d))}
        return Doubled(net, net) if doubled else net

    def hidden(net: dict[str, Array], x: Array) -> Float[Array, "units n"]:
        # (units, n) rather than (n, units): the layout in which the two products of a step run at the matrix rate.
        return net["b"] @ x.T

    def single(net: dict[str, Array], x: Array, gates: Array | None = None) -> Float[Array, " n"]:
        before = hidden(net, x)
        return net["a"] @ (activation(before) if gates is None else jnp.where(gates, before, 0))

    # vmap, not two calls: both halves are rows of one product, so that equal weights cancel to exactly 0.
    def apply(params: PyTree, x: Float[Array, "n d"], gates: PyTree | None = None) -> Float[Array, " n"]:
        _check_inputs(x, d)
        if not isinstance(params, Doubled):
            return single(params, x, gates)
        if gates is None:
            halves = jax.vmap(lambda net: single(net, x))(_stack(params))
        else:
            halves = jax.vmap(lambda net, g: single(net, x, g))(_stack(params), _stack(gates))
        return halves[0] - halves[1]

    def gates(params: PyTree, x: Float[Array, "n d"]) -> PyTree:
        if isinstance(params, Doubled):
            return Doubled(hidden(params.plus, x) > 0, hidden(params.minus, x) > 0)
        return hidden(params, x) > 0

    return Model(init, apply, gates if activation is jax.nn.relu else None)


@cache
def two_layer_linear(width: int, d: int, outputs: int = 1) -> Model:
    """The two-layer linear net h(w, x) = A B x, params `{"a": (outputs, width), "b": (width, d)}`, 2-homogeneous.

    Outputs `(n,)` for `outputs=1`, else `(n, outputs)`. `init(key, tau, doubled)` as for `two_layer`: every weight
    N(0, tau²), and with `doubled` two equal halves of width/2 units. Gradient flow keeps B Bᵀ − Aᵀ A (Varre et al.
    2023), which makes it a test of integrators. Raises ValueError as `two_layer` does.
    """
    if width < 1 or d < 1 or outputs < 1:
        raise ValueError(
            "a two-layer linear net needs width, d and outputs >= 1, "
            f"got width={width}, d={d}, outputs={outputs}: make them positive"
        )

    def init(key: Key[Array, ""], tau: float | Array = 1.0, doubled: bool = False) -> PyTree:
        if doubled and width % 2:
            raise ValueError(f"a doubled net pairs its units, so the width must be even, got {width}: use {width + 1}")
        _check_tau(tau)
        units = width // 2 if doubled else width
        key_a, key_b = jax.random.split(as_key("key", key))
        net = {"a": tau * jax.random.normal(key_a, (outputs, units)), "b": tau * jax.random.normal(key_b, (units, d))}
        return Doubled(net, net) if doubled else net

    def apply(net: PyTree, x: Float[Array, "n d"]) -> Array:
        _check_inputs(x, d)
        values = (net["a"] @ (net["b"] @ x.T)).T
        return values[:, 0] if outputs == 1 else values

    return _accept_doubled(Model(init, apply))


def mlp(widths: Sequence[int], activation: Callable[[Array], Array] = jax.nn.relu, *, bias: bool = False) -> Model:
    """The fully connected net h(w, x) = W_L φ(… φ(W_1 x + c_1) …) + c_L with `widths` = (d, m_1, …, m_{L-1}, k).

    Params `{"layers": [{"w": (m_l, m_{l-1})}, …]}`, with a `"b": (m_l,)` each where `bias`; outputs `(n,)` for k = 1,
    else `(n, k)`. Without biases and with φ = relu it is homogeneous of degree L, the number of layers.

    `init(key, tau, doubled)`: every weight N(0, tau²), biases 0. `tau` may be an array of one standard deviation per
    layer: `jnp.sqrt(2 / jnp.array(widths[:-1]))` is the usual choice for ReLU (He et al. 2015), and one number is not
    for wide deep nets. With `doubled`, `Doubled(net, net)`: two nets of the full `widths`, by `double`, so twice
    the parameters (`two_layer` halves its width instead). `gates` (ReLU only) lists one `(m_l, n)` array per
    hidden layer.

    Raises ValueError for fewer than two widths or a width below 1.
    """
    return _mlp(tuple(widths), activation, bias)


@cache
def _mlp(widths: tuple[int, ...], activation: Callable[[Array], Array], bias: bool) -> Model:
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be (d, ..., outputs), two or more numbers >= 1, got {widths}: e.g. (8, 64, 1)")
    depth = len(widths) - 1

    def init(key: Key[Array, ""], tau: float | Array = 1.0, doubled: bool = False) -> PyTree:
        _check_tau(tau)
        scale = jnp.broadcast_to(jnp.asarray(tau, float), (depth,))
        layers = []
        for i, layer_key in enumerate(jax.random.split(as_key("key", key), depth)):
            layer = {"w": scale[i] * jax.random.normal(layer_key, (widths[i + 1], widths[i]))}
            layers.append(layer | {"b": jnp.zeros(widths[i + 1])} if bias else layer)
        net = {"layers": layers}
        return Doubled(net, net) if doubled else net

    def affine(layer: dict[str, Array], before: Array) -> Float[Array, "units n"]:
        after = layer["w"] @ before
        return after + layer["b"][:, None] if bias else after

    def forward(net: PyTree, x: Float[Array, "n d"], gates: PyTree | None) -> tuple[Array, list[Array]]:
        _check_inputs(x, widths[0])
        hidden, signs = x.T, []
        for i, layer in enumerate(net["layers"][:-1]):
            before = affine(layer, hidden)
            signs.append(before > 0)
            hidden = activation(before) if gates is None else jnp.where(gates[i], before, 0)
        outputs = affine(net["layers"][-1], hidden).T
        return outputs[:, 0] if widths[-1] == 1 else outputs, signs

    def apply(net: PyTree, x: Array, gates: PyTree | None = None) -> Array:
        return forward(net, x, gates)[0]

    def gates(net: PyTree, x: Array) -> list[Array]:
        return forward(net, x, None)[1]

    return _accept_doubled(Model(init, apply, gates if activation is jax.nn.relu else None))


def _accept_doubled(single: Model) -> Model:
    """`single`, whose `apply` and `gates` take `Doubled` parameters, too: then the model is `double(single)`."""
    pair = double(single)

    def chosen(params: PyTree) -> Model:
        return pair if isinstance(params, Doubled) else single

    def apply(params: PyTree, x: Array, **options: Any) -> Array:
        return chosen(params).apply(params, x, **options)

    if single.gates is None:
        return Model(single.init, apply)
    return Model(single.init, apply, lambda params, x: chosen(params).gates(params, x))  # type: ignore[misc]


def double(model: Model) -> Model:
    """h(plus) − h(minus) for any model, exactly 0 at initialisation, of degree q where `model` has degree q.

    The halves run through one sub-program in turn (`lax.map`), so that the difference of equal weights is 0 to the
    last bit. A second-order difference from `center`: the pairing cancels the second-order term of the outputs.
    """

    def init(key: Key[Array, ""], tau: float | Array = 1.0, doubled: bool = False) -> PyTree:
        half = model.init(key, tau, doubled)
        return Doubled(half, half)

    @entrance
    def apply(params: PyTree, x: Batch, gates: PyTree | None = None) -> Array:
        if gates is None:
            halves = jax.lax.map(lambda net: model.apply(unsealed(net), x), _stack(without_scalars(params)))
        else:
            pairs = (_stack(without_scalars(params)), _stack(gates))
            halves = jax.lax.map(lambda pair: model.apply(unsealed(pair[0]), x, gates=pair[1]), pairs)
        return halves[0] - halves[1]

    inner = model.gates
    if inner is None:
        return Model(init, apply)
    return Model(init, apply, lambda params, x: Doubled(inner(params.plus, x), inner(params.minus, x)))


@entrance
def center(apply: Apply, params0: PyTree) -> Apply:
    """H − h(params0): the same tangent kernel, output 0 at `params0` (Chizat et al. 2019, §3.2).

    Not 0-homogeneous in anything: h(params0) is a constant function, so homogeneity in the parameters is lost. What
    becomes of `params0` afterwards (an update in place, a donation) does not matter. Keywords are handed on to both.
    """
    start = tree.copy(params0)

    @entrance
    def centered(params: PyTree, x: Batch, **options: Any) -> Array:
        outputs, at_start = (apply(unsealed(point), x, **options) for point in (params, start))
        return real(outputs) - jax.lax.stop_gradient(at_start)

    return centered


def _stack(pair: PyTree) -> PyTree:
    return jax.tree.map(lambda u, v: jnp.stack([u, v]), pair.plus, pair.minus)


def _check_tau(tau: float | Array) -> None:
    if isinstance(tau, int | float) and not 0 <= tau < math.inf:
        raise ValueError(f"tau is a standard deviation, finite and not negative, got {tau}: pass tau >= 0")


def _check_inputs(x: Array, d: int) -> None:
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"inputs must have shape (n, {d}), got {tuple(x.shape)}: build the model with d={x.shape[-1]}")
