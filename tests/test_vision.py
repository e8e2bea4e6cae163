"""VGG-11 and ResNet-18 against independent counts and PyTorch; their differences at any scale against float64."""

from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from lazyscope import center, freeze_activations, linearize, square_loss, tree
from lazyscope.dynamics import centred_training
from lazyscope.vision import layers, network, resnet18, vgg11

KEY = jax.random.key(0)
SHAPE = (8, 8, 2)
IMAGES = jax.random.normal(jax.random.key(1), (5, *SHAPE))
LABELS = jax.nn.one_hot(jnp.arange(5), 3)


def small(activation=layers.relu, pool=layers.max_pool):
    """Every kind of layer once: convolutions of both sides of SMALL_SIDE, strides, residuals with both shortcuts."""
    block = layers.residual(layers.sequence([layers.conv(4), activation(), layers.conv(4)]))
    strided = layers.residual(
        layers.sequence([layers.conv(6, stride=2), activation(), layers.conv(6)]), layers.conv(6, size=1, stride=2)
    )
    parts = [layers.conv(4), activation(), pool(), block, activation(), strided, activation(), layers.conv(5)]
    return network(layers.sequence([*parts, activation(), pool(), layers.dense(3)]), SHAPE)


SMOOTH = [pytest.param(name, marks=pytest.mark.slow) for name in ("tanh", "softplus")]
NETS = {"relu": small(), "tanh": small(layers.tanh, layers.mean_pool), "softplus": small(layers.softplus)}


@cache
def fast(function):
    return compiled(function)


@cache
def start(model):
    """Parameters with biases that are not 0, and a direction."""
    params = model.init(KEY, 1.4)
    keys = iter(jax.random.split(jax.random.key(2), 1000))
    u = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape), params)
    return jax.tree.map(lambda leaf, du: leaf + 0.1 * du, params, u), u


def moved(params, u, e):
    return jax.tree.map(lambda leaf, du: leaf + e * du, params, u)


def narrow(values):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), values)


def relative(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def counted(groups, channels, classes):
    count, before = 0, channels
    for group in groups:
        for after in group:
            count, before = count + 9 * before * after + after, after
    return count + before * classes + classes


@pytest.mark.parametrize("divisor", [1, 2, 8])
def test_vgg_has_the_parameters_of_an_independent_count(divisor):
    widths = [[c // divisor for c in g] for g in ([64], [128], [256, 256], [512, 512], [512, 512])]
    params = jax.eval_shape(vgg11(factor=Fraction(1, divisor)).init, KEY)
    assert tree.size(params) == counted(widths, 3, 10)
    assert divisor > 1 or tree.size(params) == 9_225_610


def test_resnet_has_the_parameters_of_an_independent_count():
    def conv(size, before, after):
        return size * size * before * after + after

    count, before = conv(3, 3, 64), 64
    for after in (64, 128, 256, 512):
        count += conv(3, before, after) + 3 * conv(3, after, after) + (conv(1, before, after) if before != after else 0)
        before = after
    assert tree.size(jax.eval_shape(resnet18().init, KEY)) == count + 5130


@pytest.mark.slow
def test_weights_are_xavier_normal_at_every_width():
    params = fast(vgg11(factor=Fraction(1, 4), shape=(32, 32, 1)).init)(KEY, 2.0)
    for layer in params:
        if "w" not in layer:
            continue
        *window, before, after = layer["w"].shape
        fans = np.prod(window, dtype=int) * (before + after)
        spread = float(layer["w"].std()) / (2 * np.sqrt(2 / fans))
        assert abs(spread - 1) < 5 / np.sqrt(2 * layer["w"].size)
        assert not layer["b"].any()


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_of_small_images_is_the_convolution(side, stride):
    x, w = jax.random.normal(KEY, (3, side, side, 4)), jax.random.normal(KEY, (3, 3, 4, 5))
    expected = jax.lax.conv_general_dilated(
        x, w, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layers._shifted(x, w, stride), expected, atol=1e-12)


def test_max_pool_is_the_windowed_maximum():
    x = jax.random.normal(KEY, (3, 6, 4, 2))
    pooled, which = layers.max_pool().forward({}, x, None)
    window = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(pooled, window)
    assert set(np.unique(which)) == {0, 1, 2, 3}


@pytest.mark.parametrize("e", [1.0, 1e-3])
@pytest.mark.parametrize("name", ["relu", *SMOOTH])
def test_difference_is_the_difference_of_two_evaluations(name, e):
    model = NETS[name]
    params, u = start(model)
    found, kept = fast(model.difference)(params, u, IMAGES, e)
    exact = (fast(model.apply)(moved(params, u, e), IMAGES) - fast(model.apply)(params, IMAGES)) / e
    assert relative(found, exact) < 1e-11 / e
    before, after = fast(model.gates)(params, IMAGES), fast(model.gates)(moved(params, u, e), IMAGES)
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(jnp.equal, before, after))
    assert name != "relu" or e < 0.1 or not all(bool(k.all()) for k in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", ["relu", *SMOOTH])
def test_at_e_0_the_difference_is_the_linearised_model(name):
    model = NETS[name]
    params, u = start(model)
    linear = jax.jvp(lambda p: fast(model.apply)(p, IMAGES), (params,), (u,))[1]
    assert relative(fast(model.difference)(params, u, IMAGES, 0.0)[0], linear) < 1e-13


def test_with_frozen_gates_the_difference_is_that_of_the_frozen_model():
    model = NETS["relu"]
    params, u = start(model)
    frozen = freeze_activations(model, params)
    expected = compiled(frozen)(moved(params, u, 1.0), IMAGES) - fast(model.apply)(params, IMAGES)
    found = compiled(lambda u: difference(model)(params, u, IMAGES, 1.0, frozen=True)[0])(u)
    assert relative(found, expected) < 1e-13


def test_frozen_and_linearised_nets_equal_the_net_at_w0_and_are_three_things_away_from_it():
    model = NETS["relu"]
    params, u = start(model)
    frozen, linear = freeze_activations(model, params), linearize(model.apply, params)
    for other in (frozen, linear):
        np.testing.assert_allclose(compiled(other)(params, IMAGES), fast(model.apply)(params, IMAGES), atol=1e-13)
    ends = [compiled(f)(moved(params, u, 1.0), IMAGES) for f in (model.apply, frozen, linear)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert all(relative(ends[i], ends[j]) > 1e-2 for i, j in pairs)


@pytest.mark.parametrize("alpha", [1e2, 1e4, 1e7])
@pytest.mark.parametrize("name", ["relu", *SMOOTH])
def test_float32_differences_are_those_of_float64(name, alpha):
    model = NETS[name]
    params, u = start(model)
    exact = fast(model.difference)(params, u, IMAGES, 1 / alpha)[0]
    found = fast(model.difference)(narrow(params), narrow(u), narrow(IMAGES), np.float32(1 / alpha))[0]
    assert found.dtype == jnp.float32
    assert relative(found, exact) < 3e-6


@pytest.mark.slow
def test_the_gradient_of_a_difference_is_that_of_the_centred_model():
    model, e = NETS["relu"], 0.3
    params, u = start(model)
    by_difference = compiled(jax.grad(lambda u: square_loss(difference(model)(params, u, IMAGES, e)[0], LABELS)))(u)
    centred = center(model.apply, params)
    plain = compiled(jax.grad(lambda u: square_loss(centred(moved(params, u, e), IMAGES) / e, LABELS)))(u)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), by_difference, plain)


def difference(model):
    assert model.difference is not None
    return model.difference


def run(model, params, images, labels, alpha, steps=10):
    training = centred_training(difference(model), loss=square_loss, optimizer=optax.sgd(0.003, momentum=0.9))
    state, losses = training.start(params), []
    for _ in range(steps):
        state, loss = training.advance(state, params, images, labels, jnp.asarray(1 / alpha, images.dtype))
        losses.append(float(loss))
    return state, losses


@pytest.mark.slow
def test_centred_training_is_descent_on_the_scaled_objective():
    model, alpha = NETS["tanh"], 3.0
    params, _ = start(model)
    state, losses = run(model, params, IMAGES, LABELS, alpha)
    centred = center(model.apply, params)
    optimizer, w, expected = optax.sgd(0.003, momentum=0.9), params, []
    memory = optimizer.init(w)
    step = compiled(jax.value_and_grad(lambda w: square_loss(alpha * centred(w, IMAGES), LABELS)))
    for _ in range(10):
        value, gradient = step(w)
        expected.append(float(value))
        updates, memory = optimizer.update(tree.scale(alpha**-2, gradient), memory)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), moved(params, state.u, 1 / alpha), w)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e2, 1e4, 1e7])
def test_float32_training_keeps_its_digits_where_plain_float32_loses_them(alpha):
    model = NETS["relu"]
    params, _ = start(model)
    exact = run(model, params, IMAGES, LABELS, alpha, 100)[0]
    found = run(model, narrow(params), narrow(IMAGES), narrow(LABELS), alpha, 100)[0]
    ends = [
        difference(model)(params, jax.tree.map(lambda v: v.astype(float), s.u), IMAGES, 1 / alpha)[0]
        for s in (exact, found)
    ]
    assert relative(ends[1], ends[0]) < 1e-5
    plain = narrow(moved(params, exact.u, 1 / alpha))
    change = fast(model.apply)(plain, narrow(IMAGES)) - fast(model.apply)(narrow(params), narrow(IMAGES))
    assert alpha < 1e4 or relative(alpha * change, ends[0]) > 1e-3


def test_bad_images_and_factors_are_one_line():
    with pytest.raises(ValueError, match=r"images must have shape \(n, 8, 8, 2\), got \(1, 4, 4, 2\)"):
        NETS["relu"].apply(start(NETS["relu"])[0], IMAGES[:1, ::2, ::2])
    with pytest.raises(ValueError, match="even sides, got 5 x 5"):
        network(layers.sequence([layers.max_pool()]), (5, 5, 1))
    with pytest.raises(ValueError, match="factor must leave at least one channel"):
        vgg11(factor=Fraction(1, 1000))
    with pytest.raises(ValueError, match="must end in one shape"):
        network(layers.residual(layers.conv(3)), (4, 4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("net", ["vgg", "resnet"])
def test_outputs_are_those_of_pytorch_with_the_same_weights(net):
    torch = pytest.importorskip("torch")

    def weights(layer):
        kernel = np.asarray(layer["w"])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        return torch.tensor(kernel.copy()), torch.tensor(np.asarray(layer["b"]).copy())

    def conv(layer, x, stride=1):
        kernel, bias = weights(layer)
        return torch.nn.functional.conv2d(x, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2)

    images = jax.random.normal(KEY, (3, 32, 32, 3))
    x = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())
    if net == "vgg":
        model = vgg11(factor=Fraction(1, 8))
        params, _ = start(model)
        for layer, p in zip("CrpCrpCrCrpCrCrpCrCrp", params, strict=False):
            x = conv(p, x) if layer == "C" else torch.relu(x) if layer == "r" else torch.nn.functional.max_pool2d(x, 2)
    else:
        model = resnet18(factor=Fraction(1, 8))
        params, _ = start(model)
        x = torch.relu(conv(params[0], x))
        for i, (residual, _) in enumerate(params[2:-2]):
            stride = 2 if i in (2, 4, 6) else 1
            first, _, second = residual["body"]
            inner = conv(second, torch.relu(conv(first, x, stride)))
            x = torch.relu(inner + (conv(residual["shortcut"], x, stride) if "w" in residual["shortcut"] else x))
        x = x.mean((2, 3))
    kernel, bias = weights(params[-1])
    expected = x.reshape(3, -1) @ kernel.T + bias
    np.testing.assert_allclose(fast(model.apply)(params, images), expected.numpy(), rtol=1e-5, atol=1e-8)
