"""Digits, and the initialisations of note-s5.3 against their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from lazyscope import criterion, ingredients, square_loss, tangent_kernel
from lazyscope.datasets import digits
from lazyscope.papers.practice import networks
from lazyscope.problems import Problem

KEY = jax.random.key(0)
NUMBERS = {name: jnp.asarray(i) for i, name in enumerate(networks.INITIALISATIONS)}
WIDTH = 64
NETS = ["MLP", *(pytest.param(net, marks=pytest.mark.slow) for net in ("conv net", "attention"))]


def everything(problem):
    return np.concatenate([problem.x, problem.x_test]), np.concatenate([problem.y, problem.y_test])


def test_digits_are_split_without_overlap_and_one_hot():
    images, targets = everything(digits(KEY, n=900, n_test=897))
    ink = np.sort(images.reshape(1797, -1).sum(axis=1))
    original, _ = load_digits(return_X_y=True)
    sums = np.sort(np.asarray(original).sum(axis=1))
    np.testing.assert_allclose(ink, (sums - sums.mean()) / np.std(original), atol=1e-9)
    np.testing.assert_allclose(images.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(images.std(), 1, atol=1e-12)
    np.testing.assert_array_equal(targets.sum(axis=1), 1)


def test_digits_of_some_classes_are_labelled_in_the_order_named():
    _, labels = load_digits(return_X_y=True)
    both = int(np.sum(np.isin(labels, (3, 7))))
    _, targets = everything(digits(KEY, n=300, n_test=both - 300, classes=(3, 7)))
    np.testing.assert_array_equal(targets.sum(axis=0), [np.sum(labels == 3), np.sum(labels == 7)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1700, "n_test": 98}, "together at most 1797, got 1700 and 98"),
        ({"n": 0, "n_test": 5}, "at least 1"),
        ({"n": 5, "n_test": 5, "classes": (3, 11)}, r"digits from 0 to 9, got \(3, 11\)"),
    ],
)
def test_impossible_splits_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        digits(KEY, **options)


@pytest.mark.parametrize("net", NETS)
def test_weights_have_the_deviation_of_their_initialisation(net):
    for name, expected in (
        ("He", lambda f, g: 2 / f),
        ("Xavier", lambda f, g: 2 / (f + g)),
        ("LeCun", lambda f, g: 1 / f),
    ):
        params = networks.initial(KEY, networks.NETS[net], 256, NUMBERS[name])
        for key, shape in networks.NETS[net].weights(256).items():
            w = params["weights"][key]
            assert w.shape == shape.shape
            ratio = float(jnp.mean(w**2)) / expected(shape.fan_in, shape.fan_out)
            assert abs(ratio - 1) < 6 * np.sqrt(2 / w.size)


@pytest.mark.parametrize("net", NETS)
def test_ntk_and_he_start_as_the_same_function_and_mup_is_he_at_its_base_width(net):
    apply, x = networks.model(networks.NETS[net], WIDTH), digits(KEY, n=3, n_test=1).x
    start = {name: networks.initial(KEY, networks.NETS[net], WIDTH, NUMBERS[name]) for name in ("He", "NTK", "muP")}
    outputs = {name: apply(params, x) for name, params in start.items()}
    np.testing.assert_allclose(outputs["NTK"], outputs["He"], rtol=1e-10)
    np.testing.assert_allclose(outputs["muP"], outputs["He"], rtol=1e-10)


def test_the_initialisation_number_is_no_parameter_and_multipliers_square_in_the_kernel():
    net, x = networks.NETS["MLP"], digits(KEY, n=3, n_test=1).x
    apply = networks.model(net, WIDTH)
    start = {name: networks.initial(KEY, net, WIDTH, NUMBERS[name]) for name in ("He", "NTK")}
    shapes = net.weights(WIDTH)
    for name in shapes:
        kernels = {k: tangent_kernel(partial(_one, apply, p, name), p["weights"][name], x) for k, p in start.items()}
        np.testing.assert_allclose(kernels["NTK"], 2 / shapes[name].fan_in * kernels["He"], rtol=1e-9, atol=1e-12)


def _one(apply, params, name, w, x):
    return apply(params | {"weights": params["weights"] | {name: w}}, x)


@pytest.mark.slow
def test_kappa_of_a_cell_is_that_of_the_criterion():
    net, data = networks.NETS["MLP"], digits(KEY, n=12, n_test=1)
    apply, params = networks.model(net, 16), networks.initial(KEY, net, 16, NUMBERS["He"])
    problem = Problem(data.x, data.y)
    found = float(ingredients(apply, params, problem).kappa())
    searched = criterion(apply, params, problem, key=KEY).kappa
    assert 0.9 * searched < found < 1.001 * searched


@pytest.mark.slow
@pytest.mark.parametrize("adam", [0, 1])
def test_training_is_that_of_optax_by_the_same_batches(adam):
    net, settings = networks.NETS["MLP"], networks.Practice(n=20, n_test=4, batch=8, num_steps=5)
    problem = digits(KEY, n=20, n_test=4)
    apply, params = networks.model(net, 16), networks.initial(KEY, net, 16, NUMBERS["He"])
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        found, expected = _both(apply, params, problem, settings, adam)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), found, expected)


def _both(apply, params, problem, settings, adam):
    rates, one = dict.fromkeys(params["weights"], jnp.ones(())), jnp.asarray(0.01)
    found = networks._train(apply, params, problem, rates, one, jnp.asarray(adam), settings, KEY)["weights"]
    optimizer = optax.adam(0.01) if adam else optax.sgd(0.01, momentum=0.9)
    weights = params["weights"]
    memory = optimizer.init(weights)
    for key in jax.random.split(KEY, 5):
        rows = jax.random.randint(key, (8,), 0, 20)
        x, y = problem.x[rows], problem.y[rows]
        gradient = jax.grad(lambda w, x=x, y=y: square_loss(apply(params | {"weights": w}, x), y))(weights)
        updates, memory = optimizer.update(gradient, memory)
        weights = optax.apply_updates(weights, updates)
    return found, weights


@pytest.mark.slow
def test_a_place_means_the_name_that_stands_there():
    settings = networks.Practice(n=20, n_test=4, batch=8, num_steps=3, norm_examples=8, kernel_examples=2)
    found = [
        networks.trained(
            KEY,
            initialisation=jnp.asarray(names.index("NTK")),
            optimiser=jnp.asarray(0),
            initialisations=names,
            optimisers=("SGD",),
            net="MLP",
            width=16,
            settings=settings,
        )
        for names in (("NTK",), ("Xavier", "NTK"))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
