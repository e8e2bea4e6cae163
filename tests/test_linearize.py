import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import center, freeze_activations, linearize, two_layer

X = jax.random.normal(jax.random.key(3), (9, 5))


def away(params, distance, seed=7):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + distance * jax.random.normal(next(keys), leaf.shape), params)


def test_linearisation_is_exact_to_second_order():
    model = two_layer(6, 5, jnp.tanh)
    params0 = model.init(jax.random.key(0))
    apply_lin = linearize(model.apply, params0)
    distances = np.array([1e-1, 1e-2, 1e-3])
    gaps = [float(jnp.linalg.norm(model.apply(p, X) - apply_lin(p, X))) for p in (away(params0, h) for h in distances)]
    slope = np.polyfit(np.log(distances), np.log(gaps), 1)[0]
    assert abs(slope - 2) < 0.05


def test_linearisation_is_affine_in_the_parameters():
    model = two_layer(6, 5)
    params0 = model.init(jax.random.key(0))
    apply_lin = linearize(model.apply, params0)
    p, q = away(params0, 1.0, 1), away(params0, 1.0, 2)
    middle = jax.tree.map(lambda u, v: 0.5 * (u + v), p, q)
    expected = 0.5 * (apply_lin(p, X) + apply_lin(q, X))
    np.testing.assert_allclose(apply_lin(middle, X), expected, rtol=1e-12, atol=1e-13)


def test_keywords_of_a_model_are_those_of_its_linearisation_and_of_what_is_centred():
    model = two_layer(6, 5, jnp.tanh)
    params0 = model.init(jax.random.key(0))
    params = away(params0, 0.3)

    def keyed(p, x, *, squared):
        return model.apply(p, x) ** (2 if squared else 1)

    for squared in (False, True):

        def fixed(p, x, squared=squared):
            return keyed(p, x, squared=squared)

        for wrapped in (linearize, center):
            outputs = wrapped(keyed, params0)(params, X, squared=squared)
            np.testing.assert_allclose(outputs, wrapped(fixed, params0)(params, X), rtol=1e-13)


@pytest.mark.parametrize("doubled", [False, True])
def test_frozen_and_linearised_nets_equal_the_net_at_w0_and_are_three_things_away_from_it(doubled):
    model = two_layer(8, 5)
    params0 = model.init(jax.random.key(0), doubled=doubled)
    frozen, taylor = freeze_activations(model, params0), linearize(model.apply, params0)
    np.testing.assert_allclose(frozen(params0, X), model.apply(params0, X), atol=1e-13)
    np.testing.assert_allclose(taylor(params0, X), model.apply(params0, X), atol=1e-13)
    params = away(params0, 0.7)
    outputs = [np.asarray(f(params, X)) for f in (model.apply, frozen, taylor)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(outputs[i] - outputs[j]) > 1e-2


def test_frozen_net_is_bilinear_in_its_two_layers():
    model = two_layer(8, 5)
    params0 = model.init(jax.random.key(0))
    frozen = freeze_activations(model, params0)
    doubled_b = {"a": params0["a"], "b": -2 * params0["b"]}  # would flip every gate of the net itself
    np.testing.assert_allclose(frozen(doubled_b, X), -2 * model.apply(params0, X), rtol=1e-12)


def test_a_model_without_gates_cannot_be_frozen():
    model = two_layer(8, 5, jnp.tanh)
    with pytest.raises(ValueError, match="needs a model with gates"):
        freeze_activations(model, model.init(jax.random.key(0)))
