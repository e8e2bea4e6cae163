import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyscope import Doubled, center, double, mlp, two_layer, two_layer_linear


def inputs(n=7, d=5, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, d))


def test_two_layer_is_the_sum_over_units():
    model, x = two_layer(4, 5), inputs()
    params = model.init(jax.random.key(1))
    a, b = np.asarray(params["a"]), np.asarray(params["b"])
    expected = [sum(a[i] * max(b[i] @ xi, 0) for i in range(4)) for xi in np.asarray(x)]
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-13)


def test_initialisation_has_standard_deviation_tau():
    params = two_layer(400, 100).init(jax.random.key(0), tau=0.3)
    assert abs(float(jnp.std(params["b"])) / 0.3 - 1) < 0.02
    assert abs(float(jnp.std(params["a"])) / 0.3 - 1) < 0.15


@settings(max_examples=5)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 50), st.sampled_from([0.1, 1.0, 1e6]))
def test_doubled_output_is_exactly_zero(half, d, n, tau):
    model = two_layer(2 * half, d)
    params = model.init(jax.random.key(half), tau=tau, doubled=True)
    assert bool(jnp.all(jax.jit(model.apply)(params, inputs(n, d)) == 0))


def test_double_of_any_model_is_exactly_zero_and_has_twice_the_kernel_scale():
    model = double(two_layer(6, 5, jnp.tanh))
    params = model.init(jax.random.key(0), tau=1e6)
    assert bool(jnp.all(jax.jit(model.apply)(params, inputs()) == 0))
    assert isinstance(params, Doubled)


def test_doubled_is_the_difference_of_its_halves():
    model, x = two_layer(8, 5), inputs()
    plus, minus = (two_layer(4, 5).init(jax.random.key(s)) for s in (0, 1))
    expected = two_layer(4, 5).apply(plus, x) - two_layer(4, 5).apply(minus, x)
    np.testing.assert_allclose(model.apply(Doubled(plus, minus), x), expected, rtol=1e-13)
    generic = double(two_layer(4, 5)).apply(Doubled(plus, minus), x)
    np.testing.assert_allclose(generic, expected, rtol=1e-13)


@given(st.floats(0.01, 100))
def test_relu_net_is_two_homogeneous(scale):
    model, x = two_layer(6, 5), inputs()
    params = model.init(jax.random.key(0))
    scaled = jax.tree.map(lambda leaf: scale * leaf, params)
    np.testing.assert_allclose(model.apply(scaled, x), scale**2 * model.apply(params, x), rtol=1e-11, atol=1e-12)


def test_permuting_hidden_units_changes_nothing():
    model, x = two_layer(6, 5), inputs()
    params = model.init(jax.random.key(0))
    order = jnp.array([3, 1, 5, 0, 2, 4])
    permuted = jax.tree.map(lambda leaf: leaf[order], params)
    np.testing.assert_allclose(model.apply(permuted, x), model.apply(params, x), rtol=1e-12)


@pytest.mark.parametrize("tau", [-1.0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "model", [two_layer(4, 3), two_layer_linear(4, 3), mlp((3, 4, 1))], ids=["relu", "linear", "mlp"]
)
def test_a_scale_that_is_no_standard_deviation_is_refused(model, tau):
    with pytest.raises(ValueError, match="tau is a standard deviation, finite and not negative, got"):
        model.init(jax.random.key(0), tau)


def test_odd_width_cannot_be_doubled():
    with pytest.raises(ValueError, match="must be even, got 5: use 6"):
        two_layer(5, 3).init(jax.random.key(0), doubled=True)


def test_inputs_of_another_dimension_are_refused():
    model = two_layer(4, 5)
    with pytest.raises(ValueError, match=r"inputs must have shape \(n, 5\), got \(7, 6\)"):
        model.apply(model.init(jax.random.key(0)), inputs(7, 6))


def test_widths_below_one_are_refused():
    with pytest.raises(ValueError, match="width >= 1 and d >= 1, got width=0, d=5"):
        two_layer(0, 5)


def test_center_is_zero_at_params0_and_keeps_the_derivative():
    model, x = two_layer(4, 5), inputs()
    params = model.init(jax.random.key(0))
    centered = center(model.apply, params)
    assert bool(jnp.all(centered(params, x) == 0))
    jacobian, expected = jax.jacobian(centered)(params, x), jax.jacobian(model.apply)(params, x)
    assert all(jax.tree.leaves(jax.tree.map(lambda u, v: bool(jnp.allclose(u, v, rtol=1e-12)), jacobian, expected)))


@pytest.mark.parametrize("doubled", [False, True])
def test_gates_of_the_current_weights_give_the_model(doubled):
    model, x = two_layer(6, 5), inputs()
    params = model.init(jax.random.key(0), doubled=doubled)
    assert model.gates is not None
    imposed = model.apply(params, x, gates=model.gates(params, x))
    np.testing.assert_allclose(imposed, model.apply(params, x), atol=1e-14)


@pytest.mark.parametrize("doubled", [False, True])
def test_a_unit_at_its_kink_is_closed(doubled):
    model = two_layer(6, 5)
    params = model.init(jax.random.key(0), doubled=doubled)
    assert model.gates is not None
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(model.gates(params, jnp.zeros((3, 5)))))


def test_smooth_activations_have_no_gates():
    assert two_layer(6, 5, jnp.tanh).gates is None


def test_a_linear_net_may_have_one_unit():
    model = two_layer_linear(1, 1)
    params = {"a": jnp.full((1, 1), 3.0), "b": jnp.full((1, 1), 2.0)}
    np.testing.assert_allclose(model.apply(params, jnp.ones((2, 1))), [6.0, 6.0])
