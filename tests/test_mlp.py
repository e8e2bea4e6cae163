"""The fully connected and the two-layer linear net against loops over layers, and their symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyscope import Doubled, double, freeze_activations, linearize, mlp, two_layer, two_layer_linear

X = jax.random.normal(jax.random.key(5), (7, 5))


def away(params, distance, seed=7):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + distance * jax.random.normal(next(keys), leaf.shape), params)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_mlp_is_the_composition_of_its_layers_example_by_example(bias, outputs):
    model = mlp((5, 4, 6, outputs), jnp.tanh, bias=bias)
    params = away(model.init(jax.random.key(1)), 0.5)
    expected = []
    for hidden in np.asarray(X):
        for i, layer in enumerate(params["layers"]):
            hidden = np.asarray(layer["w"]) @ hidden + (np.asarray(layer["b"]) if bias else 0)
            hidden = np.tanh(hidden) if i < 2 else hidden
        expected.append(hidden[0] if outputs == 1 else hidden)
    np.testing.assert_allclose(model.apply(params, X), np.array(expected), rtol=1e-12)


def test_the_linear_net_is_the_product_of_its_matrices():
    model = two_layer_linear(4, 5, outputs=3)
    params = model.init(jax.random.key(0))
    expected = np.asarray(X) @ (np.asarray(params["a"]) @ np.asarray(params["b"])).T
    np.testing.assert_allclose(model.apply(params, X), expected, rtol=1e-12)
    scalar = two_layer_linear(4, 5)
    assert scalar.apply(scalar.init(jax.random.key(0)), X).shape == (7,)


def test_the_scalar_linear_net_is_the_two_layer_net_with_the_identity():
    linear, net = two_layer_linear(4, 5), two_layer(4, 5, lambda v: v)
    params = net.init(jax.random.key(0))
    as_linear = {"a": params["a"][None], "b": params["b"]}
    np.testing.assert_allclose(linear.apply(as_linear, X), net.apply(params, X), rtol=1e-12)


def test_the_one_hidden_layer_mlp_is_the_two_layer_net():
    net = two_layer(4, 5)
    params = net.init(jax.random.key(0))
    as_mlp = {"layers": [{"w": params["b"]}, {"w": params["a"][None]}]}
    model = mlp((5, 4, 1))
    np.testing.assert_allclose(model.apply(as_mlp, X), net.apply(params, X), rtol=1e-12)
    assert model.gates is not None
    assert net.gates is not None
    assert jnp.array_equal(model.gates(as_mlp, X)[0], net.gates(params, X))


@given(st.floats(0.01, 100), st.integers(1, 4))
def test_a_relu_mlp_without_biases_is_homogeneous_of_degree_its_depth(scale, depth):
    model = mlp((5, *[6] * (depth - 1), 1))
    params = model.init(jax.random.key(0))
    scaled = jax.tree.map(lambda leaf: scale * leaf, params)
    expected = scale**depth * model.apply(params, X)
    np.testing.assert_allclose(model.apply(scaled, X), expected, rtol=1e-10)


def test_initialisation_has_standard_deviation_tau_per_layer_and_zero_biases():
    widths = (100, 200, 100)
    layers = mlp(widths, bias=True).init(jax.random.key(0), tau=jnp.array([0.3, 2.0]))["layers"]
    for layer, tau in zip(layers, (0.3, 2.0), strict=True):
        assert abs(float(jnp.std(layer["w"])) / tau - 1) < 0.02
        assert not layer["b"].any()


@pytest.mark.parametrize("model", [mlp((5, 6, 6, 2), bias=True), mlp((5, 6, 1), jnp.tanh), two_layer_linear(6, 5, 2)])
def test_doubled_output_is_exactly_zero_at_any_scale(model):
    params = model.init(jax.random.key(0), tau=1e6, doubled=True)
    assert isinstance(params, Doubled)
    assert bool(jnp.all(jax.jit(model.apply)(params, X) == 0))


def test_doubled_is_the_difference_of_two_nets_of_the_given_widths():
    model = mlp((5, 4, 4, 1))
    plus, minus = (model.init(jax.random.key(s)) for s in (0, 1))
    expected = model.apply(plus, X) - model.apply(minus, X)
    for whole in (model, double(model)):
        np.testing.assert_allclose(whole.apply(Doubled(plus, minus), X), expected, rtol=1e-12, atol=1e-13)
    shapes = jax.tree.map(jnp.shape, model.init(jax.random.key(0), doubled=True))
    assert shapes == jax.tree.map(jnp.shape, Doubled(plus, minus))


def test_the_doubled_linear_net_keeps_its_width():
    params = two_layer_linear(6, 5).init(jax.random.key(0), doubled=True)
    assert params.plus["b"].shape == (3, 5)


@pytest.mark.parametrize("doubled", [False, True])
def test_gates_of_the_current_weights_give_the_model(doubled):
    model = mlp((5, 6, 4, 2), bias=True)
    params = away(model.init(jax.random.key(0), doubled=doubled), 0.3)
    assert model.gates is not None
    imposed = model.apply(params, X, gates=model.gates(params, X))
    np.testing.assert_allclose(imposed, model.apply(params, X), atol=1e-13)
    layers = model.gates(params, X).plus if doubled else model.gates(params, X)
    assert [gate.shape for gate in layers] == [(6, 7), (4, 7)]
    assert all(gate.dtype == bool for gate in layers)


def test_the_frozen_mlp_is_multilinear_in_its_layers_and_not_the_linearisation():
    model = mlp((5, 6, 4, 1))
    params0 = model.init(jax.random.key(0))
    frozen = freeze_activations(model, params0)
    first, second, last = params0["layers"]
    flipped = {"layers": [{"w": -2 * first["w"]}, {"w": 3 * second["w"]}, last]}
    np.testing.assert_allclose(frozen(flipped, X), -6 * model.apply(params0, X), rtol=1e-12, atol=1e-12)
    assert float(jnp.linalg.norm(frozen(flipped, X) - linearize(model.apply, params0)(flipped, X))) > 1


def test_smooth_mlps_have_no_gates_and_equal_settings_share_one_model():
    assert mlp((5, 6, 1), jnp.tanh).gates is None
    assert mlp([5, 6, 1]).apply is mlp((5, 6, 1)).apply


@pytest.mark.parametrize("widths", [(5,), (5, 0, 1), ()])
def test_widths_that_make_no_net_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths must be \(d, ..., outputs\)"):
        mlp(widths)


def test_linear_nets_without_units_and_odd_doubled_widths_are_refused():
    with pytest.raises(ValueError, match="width, d and outputs >= 1, got width=4, d=5, outputs=0"):
        two_layer_linear(4, 5, 0)
    with pytest.raises(ValueError, match="must be even, got 5: use 6"):
        two_layer_linear(5, 3).init(jax.random.key(0), doubled=True)


def test_inputs_of_another_dimension_are_refused():
    model = mlp((5, 4, 1))
    with pytest.raises(ValueError, match=r"inputs must have shape \(n, 5\), got \(7, 6\)"):
        model.apply(model.init(jax.random.key(0)), jnp.zeros((7, 6)))
