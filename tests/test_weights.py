"""Where weights are recognised, and the kernels that follow from it against those of whole Jacobians."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from hypothesis import given, settings

from lazyscope import blocked_tangent_kernel, center, linearize, mlp, tangent_kernel, two_layer
from lazyscope.tangent import group_kernels, jacobian, squares, weights
from lazyscope.tangent.derivatives import Factors, Outputs, Turns, cheaper, contract, derivatives, multiplied
from lazyscope.vision import layers, network, resnet18, vgg11

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def found(apply, params, x):
    """Positions, fan-in and units of every leaf that is recognised."""
    theta, structure = jax.tree.flatten(params)

    def single(th, example):
        return apply(jax.tree.unflatten(structure, th), example[None])[0].reshape(-1)

    places = weights.places(single, theta, x[0])
    return [place[:3] if isinstance(place, weights.Place) else None for place in places]


def expected(apply, params, x):
    """The kernel (n, n, k, k) from whole Jacobians."""
    rows = np.asarray(compiled(partial(jacobian, apply))(params, x))
    return np.einsum("ikp,jlp->ijkl", rows, rows)


def check(apply, params, x):
    """The kernel is that of whole Jacobians: as it is chosen, by factors alone, by Jacobians alone, and all of it."""
    kernel = expected(apply, params, x)
    right: dict[Outputs, np.ndarray] = {
        "all": kernel,
        "diagonal": np.einsum("ijcc->ijc", kernel),
        "trace": np.einsum("ijcc->ij", kernel),
    }

    def by(found, outputs):
        return sum(contract(found, found, outputs))

    def forms(params, x):
        found = derivatives(apply, params, x)
        rows = [multiplied(leaf) if isinstance(leaf, Factors) else leaf for leaf in found]
        return {
            outputs: [by(found, outputs), by(rows, outputs), by(cheaper(found, outputs), outputs)] for outputs in right
        }

    for outputs, kernels in compiled(forms)(params, x).items():
        for found in kernels:
            np.testing.assert_allclose(found, right[outputs], rtol=1e-10, atol=1e-11 * np.abs(kernel).max())


X = normal(0, 5, 4)
IMAGES = normal(1, 4, 7, 6, 2)
NHWC = ("NHWC", "HWIO", "NHWC")
W, V, U = normal(2, 4, 3), normal(3, 3, 2), normal(4, 4, 4)
KERNEL = normal(5, 3, 2, 2, 5)


@jax.custom_vjp
def doubled_slope(y):
    """A function whose derivative is not that of its value."""
    return jnp.sin(y)


doubled_slope.defvjp(lambda y: (jnp.sin(y), y), lambda y, g: (2 * g * jnp.cos(y),))

RECOGNISED = {
    "before a derivative of its own": (lambda w, x: doubled_slope(x @ w), W, X, [(1, 4, 3)]),
    "x W": (lambda w, x: jnp.tanh(x @ w), W, X, [(1, 4, 3)]),
    "W x": (lambda w, x: jnp.tanh(w.T @ x.T).T, W, X, [(1, 4, 3)]),
    "scaled": (lambda w, x: jnp.tanh(x @ (0.5 * -w / jnp.sqrt(4.0))), W, X, [(1, 4, 3)]),
    "two layers and a jit": (lambda p, x: jax.jit(jnp.tanh)(x @ p[0]) @ p[1], [W, V], X, [(1, 4, 3), (1, 3, 2)]),
    "squared": (lambda w, x: jnp.einsum("nd,de,ne->n", x, w, x @ w), W, X, [(2, 4, 3)]),
    "heads": (
        lambda w, x: jnp.sin(jnp.einsum("nd,dhk->nhk", x, w.reshape(4, 2, 2))),
        U,
        X,
        [(1, 4, 4)],
    ),
    "low-rank update": (
        lambda p, x: jnp.tanh(x @ p[0] + (x @ p[1]) @ p[2]),
        [U, W, normal(6, 3, 4)],
        X,
        [(1, 4, 4), (1, 4, 3), (1, 3, 4)],
    ),
    "tokens": (lambda w, x: jnp.tanh(x.reshape(-1, 2, 2) @ w).sum(axis=1), normal(7, 2, 3), X, [(2, 2, 3)]),
    "at two places": (lambda w, x: jnp.tanh(x @ w) + jnp.sin(2 * x @ w), W, X, [(2, 4, 3)]),
    "a convolution of small images": (
        lambda w, x: jnp.tanh(
            jax.lax.conv_general_dilated(x[:, :2, :2], w, (1, 1), "SAME", dimension_numbers=NHWC)
        ).sum(axis=(1, 2)),
        KERNEL,
        IMAGES,
        [(4, 12, 5)],
    ),
    "a convolution with a large filter": (
        lambda w, x: jnp.tanh(jax.lax.conv_general_dilated(x, w, (1, 2), [(4, 3), (5, 4)], dimension_numbers=NHWC)).sum(
            axis=(1, 2)
        ),
        normal(13, 8, 9, 2, 3),
        IMAGES,
        [(7 * 4, 144, 3)],
    ),
    "recomputed": (lambda w, x: jax.checkpoint(lambda w: jnp.tanh(x @ w))(w), W, X, [(1, 4, 3)]),
    "in a loop": (lambda w, x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ w), x), U, X, [(3, 4, 4)]),
    "in a loop that gives its steps, from the last on": (
        lambda p, x: jax.lax.scan(
            lambda y, b: (z := jnp.tanh(y @ p[0] + b[None]), z @ p[1]), x, normal(17, 3, 4), reverse=True
        )[1].sum(axis=0),
        [U, W],
        X,
        [(3, 4, 4), (3, 4, 3)],
    ),
    "in a loop, and handed on": (
        lambda w, x: jax.lax.scan(lambda c, _: ((jnp.tanh(c[0] @ c[1]), c[1]), None), (x, w), length=2)[0][0],
        U,
        X,
        [(2, 4, 4)],
    ),
    "stacked": (lambda p, x: jnp.einsum("nd,sde->nse", x, jnp.stack(p)), [U, 2 * U], X, [(1, 4, 4)] * 2),
    "stacked along the last axis, second": (
        lambda p, x: jnp.tanh(jnp.einsum("des,nd->esn", jnp.stack(p, axis=2), x)).transpose(2, 0, 1),
        [W, 2 * W],
        X,
        [(1, 4, 3)] * 2,
    ),
    "stacked, each with its inputs": (
        lambda p, x: jnp.tanh(jnp.einsum("nsd,sde->nse", x.reshape(-1, 2, 2), jnp.stack(p))),
        [normal(7, 2, 3), normal(18, 2, 3)],
        X,
        [(1, 2, 3)] * 2,
    ),
    "joined along a new axis, and scaled": (
        lambda p, x: jnp.tanh(jnp.einsum("sed,nd->nse", jnp.concatenate([2 * p[0][None], p[1][None]]), x)),
        [U, 3 * U],
        X,
        [(1, 4, 4)] * 2,
    ),
    "stacked with itself": (lambda w, x: jnp.tanh(jnp.einsum("nd,sde->nse", x, jnp.stack([w, w]))), W, X, [(2, 4, 3)]),
    "stacked, and used twice": (
        lambda p, x: jnp.einsum("nd,sde,seg->nsg", x, jnp.stack(p), jnp.stack(p)),
        [U, 2 * U],
        X,
        [(2, 4, 4)] * 2,
    ),
    "stacked, turn by turn": (
        lambda p, x: jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, jnp.stack(p))[0],
        [U, 2 * U, U.T],
        X,
        [(1, 4, 4)] * 3,
    ),
    "convolution": (
        lambda w, x: jnp.tanh(
            jax.lax.conv_general_dilated(x, w, (2, 1), [(1, 0), (2, 1)], rhs_dilation=(1, 2), dimension_numbers=NHWC)
        ).sum(axis=(1, 2)),
        KERNEL,
        IMAGES,
        [(3 * 7, 12, 5)],
    ),
    "transposed convolution, channels first": (
        lambda w, x: jnp.tanh(
            jax.lax.conv_general_dilated(x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), (1, 1), [(0, 0)] * 2, (2, 2))
        ).sum(axis=(2, 3)),
        KERNEL,
        IMAGES,
        [(11 * 10, 12, 5)],
    ),
    "one dimension": (
        lambda w, x: jnp.tanh(jax.lax.conv_general_dilated(x[:, None], w, (1,), "SAME")).sum(axis=1),
        normal(8, 2, 1, 3),
        X,
        [(4, 3, 2)],
    ),
}

LEFT_ALONE = {
    "held fixed": (lambda w, x: jnp.tanh(x @ jax.lax.stop_gradient(w)) + w.sum(), W, X),
    "held fixed and nothing else": (lambda p, x: jnp.tanh(x @ jax.lax.stop_gradient(p[0])) @ p[1], [W, V], X),
    "used twice": (lambda w, x: jnp.tanh(x @ w) @ w.T, W, X),
    "used in a product and elsewhere": (lambda w, x: jnp.tanh(x @ w) + w.sum(), W, X),
    "a product of weights": (lambda p, x: x @ (p[0] @ p[1]), [W, V], X),
    "a function of weights": (lambda w, x: x @ jnp.tanh(w), W, X),
    "scaled by entry": (lambda w, x: x @ (w * jnp.arange(1.0, 4.0)[None]), W, X),
    "in a longer loop": (lambda w, x: jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ w), x), U, X),
    "in a loop over them and elsewhere": (
        lambda w, x: jax.lax.scan(lambda y, v: (jnp.tanh(y @ v), None), x, w)[0] + w.sum(),
        normal(9, 3, 4, 4),
        X,
    ),
    "stacked and summed over": (lambda p, x: jnp.einsum("nd,sde->ne", x, jnp.stack(p)), [U, 2 * U], X),
    "stacked and returned": (lambda p, x: x[:, None] * jnp.stack(p)[None], [U[0], U[1]], X),
    "joined": (lambda p, x: jnp.tanh(x @ jnp.concatenate(p, axis=1)), [U, W], X),
    "in groups": (
        lambda w, x: jax.lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=NHWC, feature_group_count=2
        ).sum(axis=(1, 2)),
        normal(10, 3, 2, 1, 4),
        IMAGES,
    ),
    "the image of a convolution": (
        lambda w, x: jnp.moveaxis(
            jax.lax.conv_general_dilated(w, x.transpose(1, 2, 3, 0), (1, 1), "VALID", dimension_numbers=NHWC)[0], -1, 0
        ).reshape(len(x), -1),
        normal(11, 1, 8, 7, 2),
        IMAGES,
    ),
    "returned": (lambda w, x: x * w[None], normal(12, 4), X),
    "not used": (lambda p, x: x @ p[0][:, 0], [W, V], X),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_weights_of_one_product_are_recognised_and_their_kernels_are_those_of_jacobians(name):
    apply, params, x, shapes = RECOGNISED[name]
    assert found(apply, params, x) == shapes
    check(apply, params, x)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_weights_that_enter_otherwise_are_left_to_their_jacobians(name):
    apply, params, x = LEFT_ALONE[name]
    assert set(found(apply, params, x)[:1]) == {None}
    check(apply, params, x)


B = normal(14, 3)
JOINED = {
    "a dense layer": (lambda p, x: jnp.tanh(x @ p[0] + p[1][None]), [W, B], X),
    "by columns": (lambda p, x: jnp.tanh(p[0].T @ x.T + p[1][:, None]).T, [W, B], X),
    "after a jit": (lambda p, x: jnp.tanh(p[1][None] + jax.jit(jnp.matmul)(x, p[0])), [W, B], X),
    "all tokens": (
        lambda p, x: jnp.tanh(x.reshape(-1, 2, 2) @ p[0] + p[1].reshape(1, 1, -1)).sum(axis=1),
        [normal(7, 2, 3), B],
        X,
    ),
    "both uses": (lambda p, x: jnp.tanh(x @ p[0] + p[1][None]) + jnp.sin(2 * x @ p[0] + p[1][None]), [W, B], X),
    "a convolution": (
        lambda p, x: jnp.tanh(
            jax.lax.conv_general_dilated(x, p[0], (2, 1), "SAME", dimension_numbers=NHWC) + p[1][None, None, None]
        ).sum(axis=(1, 2)),
        [KERNEL, normal(15, 5)],
        IMAGES,
    ),
}
APART = {
    "once more elsewhere": (lambda p, x: jnp.tanh(x @ p[0] + p[1][None]) * p[1][None], [W, B], X),
    "a product used before it": (lambda p, x: (y := x @ p[0]) * jnp.tanh(y + p[1][None]), [W, B], X),
    "a product used twice within a jit": (
        lambda p, x: jax.jit(lambda y, b: jnp.tanh(y + b) * y)(x @ p[0], p[1][None]),
        [W, B],
        X,
    ),
    "in another order": (
        lambda p, x: jnp.tanh(x @ p[0] + p[1][None]) + jnp.sin(2 * x @ p[0] + p[1][::-1][None]),
        [W, B],
        X,
    ),
    "one use of two": (lambda p, x: jnp.tanh(x @ p[0] + p[1][None]) + jnp.sin(2 * x @ p[0]), [W, B], X),
    "scaled": (lambda p, x: jnp.tanh(x @ p[0] + 0.5 * p[1][None]), [W, B], X),
    "a number": (lambda p, x: jnp.tanh(x @ p[0] + p[1]), [W, B[0]], X),
    "by position": (
        lambda p, x: jnp.tanh(x.reshape(-1, 2, 2) @ p[0] + p[1][None, :, None]).sum(axis=1),
        [normal(7, 2, 3), normal(16, 2)],
        X,
    ),
}


@pytest.mark.parametrize("name", [*JOINED, *APART])
def test_a_bias_is_one_more_input_of_its_weights_where_it_is_added_to_their_product_alone(name):
    apply, params, x = {**JOINED, **APART}[name]
    together = compiled(partial(derivatives, apply, by_leaf=False))(params, x)
    assert len(together) == (1 if name in JOINED else 2)
    np.testing.assert_allclose(
        sum(contract(together, together, "all")), expected(apply, params, x), rtol=1e-10, atol=1e-11
    )


def test_a_product_that_every_turn_of_a_loop_adds_to_has_no_bias_among_its_inputs():
    def apply(params, x):
        y = x @ params["w"]

        def turn(before, bias):
            return before * jnp.tanh(y + bias[None]), None

        return jax.lax.scan(turn, jnp.ones_like(y), jnp.stack([params["first"], params["second"]]))[0]

    params = {"first": B, "second": 2 * B, "w": W}
    assert len(derivatives(apply, params, X, by_leaf=False)) == 3
    check(apply, params, X)


SQUARES, BIASES = [normal(40 + i, 3, 3) for i in range(2)], [normal(50 + i, 3) for i in range(2)]
FIRST = ("product", "transposed", "layers", "halves")
SECOND = (*FIRST, "scaled", "bias", "bias inside", "bias in turns", "again", "times")


def move(name, y, z, w, v, bias, biases):
    """A value from y and z and leaves, by one use of these."""
    made = {
        "product": lambda: y @ w,
        "transposed": lambda: jax.checkpoint(jnp.matmul)(y, w.T),
        "scaled": lambda: jnp.tanh(y @ (0.5 * w)),
        "bias": lambda: y + bias[None],
        "bias inside": lambda: jax.jit(lambda s, t, u: jnp.tanh(s + u) + t * s)(y, z, bias[None]),
        "times": lambda: y * jnp.tanh(z),
        "layers": lambda: jax.lax.scan(lambda h, u: (jnp.tanh(h @ u), None), y, jnp.stack([w, v]))[0],
        "bias in turns": lambda: jax.lax.scan(
            lambda h, u: (h * jnp.tanh(y + u[None]), h), z, jnp.stack(biases), reverse=True
        )[1].sum(axis=0),
        "again": lambda: jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ w + bias[None]), y),
        "halves": lambda: jax.vmap(lambda u: jnp.tanh(y @ u))(jnp.stack([w, v])).sum(axis=0),
    }
    return made[name]()


@pytest.mark.slow
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_two_moves_that_use_leaves_have_the_kernel_of_their_jacobian(first, second):
    def apply(params, x):
        (w, v), (bias, other) = params
        start = jnp.tanh(x)
        once = move(first, start, start, w, v, other, [bias, other])
        return move(second, once, start, v, w, bias, [bias, other]) * jnp.tanh(start)

    params, x = (SQUARES, BIASES), X[:3, :3]
    kernel = expected(apply, params, x)
    for by_leaf in (True, False):
        found = compiled(partial(derivatives, apply, by_leaf=by_leaf))(params, x)
        np.testing.assert_allclose(
            sum(contract(found, found, "all")), kernel, rtol=1e-9, atol=1e-10 * max(1, np.abs(kernel).max())
        )


@pytest.mark.parametrize("n", [12, 13, 30])
def test_a_kernel_of_a_batch_with_itself_is_that_of_jacobians_in_any_number_of_pieces(n):
    model = mlp((4, 6, 12), bias=True)
    params, x = model.init(KEY, 0.7), normal(24, n, 4)
    kernel = expected(model.apply, params, x)
    np.testing.assert_allclose(
        tangent_kernel(model.apply, params, x), kernel, rtol=1e-10, atol=1e-12 * np.abs(kernel).max()
    )


def deep(params, x):
    """A net whose layers are the turns of a loop, with biases, and a head."""

    def layer(y, own):
        return jnp.tanh(y @ own["w"] + own["b"][None]), None

    return jax.lax.scan(layer, x, params["layers"])[0] @ params["head"]


DEEP = {"layers": {"w": normal(9, 3, 4, 4), "b": normal(19, 3, 4)}, "head": W}


def layers_apart(params, x):
    """The same, with a leaf for each layer."""
    for w, b in zip(params["w"], params["b"], strict=True):
        x = jnp.tanh(x @ w + b[None])
    return x @ params["head"]


def test_the_layers_of_a_loop_are_recognised_each_and_are_one_leaf_still():
    check(deep, DEEP, X)
    head, biases, layers = derivatives(deep, DEEP, X)
    assert isinstance(head, Factors)
    assert isinstance(biases, Turns)
    assert isinstance(layers, Turns)
    assert [layer.slopes.shape for layer in layers.each if isinstance(layer, Factors)] == [(5, 3, 1, 4)] * 3
    assert len(derivatives(deep, DEEP, X, by_leaf=False)) == 4  # three layers, biases among their inputs, and a head
    kernels = group_kernels(deep, DEEP, X)
    rows = np.split(np.asarray(jacobian(deep, DEEP, X)), [12, 24], axis=2)
    for kernel, own in zip(kernels.values(), rows, strict=True):
        np.testing.assert_allclose(kernel, np.einsum("ikp,jlp->ijkl", own, own), rtol=1e-10, atol=1e-12)


def test_squares_of_a_loop_over_layers_are_the_sums_of_those_of_its_layers():
    moved = jax.tree.map(lambda leaf: leaf + 0.01 * normal(leaf.size, *leaf.shape), DEEP)
    before, after = (
        {name: list(leaf) for name, leaf in params["layers"].items()} | {"head": params["head"]}
        for params in (DEEP, moved)
    )
    unit, *found = squares.squares(deep, DEEP, moved, X)
    other, *right = squares.squares(layers_apart, before, after, X)
    for squares_, each in zip(found, right, strict=True):  # leaves in the order of their names
        b, head, w = each[:, :, :3].sum(axis=2), each[:, :, 3], each[:, :, 4:].sum(axis=2)
        np.testing.assert_allclose(unit**2 * squares_, other**2 * np.stack([head, b, w], axis=2), rtol=1e-10)


@pytest.mark.parametrize("make", [lambda: two_layer(6, 4), lambda: mlp((4, 6, 5, 3), bias=True)], ids=["two", "deep"])
def test_both_halves_of_a_doubled_net_are_recognised_and_their_kernels_are_those_of_jacobians(make):
    model = make()
    params = model.init(KEY, 0.7, doubled=True)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.size, *leaf.shape), params)
    places = found(model.apply, moved, X)
    assert places == 2 * found(model.apply, params.plus, X)
    assert {place is None for place, leaf in zip(places, jax.tree.leaves(params), strict=True) if leaf.ndim > 1} == {
        False
    }
    check(model.apply, moved, X)


SMALL = network(
    layers.sequence([layers.conv(3), layers.relu(), layers.max_pool(), layers.conv(4, stride=2), layers.dense(2)]),
    (4, 4, 2),
)


@pytest.mark.parametrize(
    "model",
    [SMALL, pytest.param(resnet18(factor=1 / 64, classes=2, shape=(4, 4, 2)), marks=pytest.mark.slow)],
    ids=["small", "resnet18"],
)
def test_every_weight_of_our_image_nets_is_recognised_and_their_kernels_are_those_of_jacobians(model):
    params, x = model.init(KEY, 2.0), normal(20, 3, 4, 4, 2)
    places = found(model.apply, params, x)
    assert [leaf.ndim > 1 for leaf in jax.tree.leaves(params)] == [place is not None for place in places]
    check(model.apply, params, x)


def test_the_weights_of_vgg_have_the_positions_of_its_feature_maps():
    model = vgg11(factor=1 / 16)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, KEY))
    places = [place for place in found(model.apply, params, jnp.zeros((1, 32, 32, 3))) if place]
    assert [place[0] for place in places] == [1024, 256, 64, 64, 16, 16, 4, 4, 1]
    assert [place[1] * place[2] for place in places] == [w.size for w in jax.tree.leaves(params) if w.ndim > 1]


def test_a_centred_model_is_seen_through_and_a_linearised_one_is_left_to_its_jacobian():
    model = mlp((4, 6, 3), bias=True)
    params = model.init(KEY, 0.7)
    moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.01, params)
    assert found(center(model.apply, params), moved, X) == [None, (1, 4, 6), None, (1, 6, 3)]
    check(center(model.apply, params), moved, X)
    linear = linearize(model.apply, params)
    assert found(linear, moved, X) == [None] * 4
    check(linear, moved, X)
    np.testing.assert_allclose(
        tangent_kernel(linear, moved, X), tangent_kernel(model.apply, params, X), rtol=1e-11, atol=1e-13
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    numbers=st.sampled_from([NHWC, ("NCHW", "OIHW", "NCHW"), ("NHWC", "OHWI", "NCHW"), ("NCHW", "HWIO", "NHWC")]),
)
def test_any_convolution_has_the_kernel_of_its_jacobian(size, stride, pad, dilation, numbers):
    shape = dict(zip("HWIO", (*size, 2, 3), strict=True))
    w = normal(30, *(shape[axis] for axis in numbers[1]))
    images = IMAGES.transpose(*("NHWC".index(axis) for axis in numbers[0]))

    def apply(w, x):
        padding = [(pad[0], pad[1]), (pad[1], pad[0])]
        y = jax.lax.conv_general_dilated(x, w, stride, padding, rhs_dilation=dilation, dimension_numbers=numbers)
        return jnp.tanh(y).reshape(len(x), -1)[:, :3]

    assert found(apply, w, images)[0] is not None
    factors = derivatives(apply, w, images)
    np.testing.assert_allclose(contract(factors, factors, "all")[0], expected(apply, w, images), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("loop", ["compiled", "in Python"])
def test_blocks_of_factors_give_the_dense_kernel_in_both_loops(loop):
    model = mlp((4, 6, 3), bias=True)
    params, x = model.init(KEY, 0.7), normal(23, 11, 4)
    dense = tangent_kernel(model.apply, params, x)

    def blocked(params, x):
        return blocked_tangent_kernel(model.apply, params, x, memory_budget=8 * (2 * 121 * 9 + 1000))

    np.testing.assert_allclose(
        (compiled(blocked) if loop == "compiled" else blocked)(params, x), dense, rtol=1e-12, atol=1e-13
    )
