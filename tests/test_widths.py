"""The cells over width and the solutions of the landscape figures, against independent computations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from lazyscope import gradient_descent, linearized_descent, tangent_kernel, two_layer
from lazyscope.papers.figure import Trials
from lazyscope.papers.student import held_out
from lazyscope.papers.surfaces import projections, solutions
from lazyscope.papers.width import training
from lazyscope.papers.width.training import MEAN, SQRT, WidthProtocol

SMALL = WidthProtocol(n=20, n_test=15, d=5, target_scale=3.0, num_steps=60)
KEY = jax.random.key(0)
SPEC = solutions.Solutions(SMALL, (4, 6), inits=3, resolution=3)


@pytest.mark.slow
def test_the_two_layer_kernel_is_the_tangent_kernel():
    model, params, problem = training.setup(KEY, 7, SMALL)
    x_test, _ = held_out(problem)
    dense = tangent_kernel(model.apply, params, problem.x, x_test)
    np.testing.assert_allclose(training.two_layer_kernel(params, problem.x, x_test), dense, rtol=1e-10)


@pytest.mark.slow
def test_the_linearised_outputs_are_those_of_the_closed_form():
    model, params, problem = training.setup(KEY, 7, SMALL)
    found = compiled(lambda a, s: training.linearised_outputs(model, params, problem, alpha=a, eta=s, num_steps=60))
    for exponent in (SQRT, MEAN):
        alpha, eta = (f(7, jnp.asarray(exponent)) for f in (training.output_scale, training.step_size))
        run = linearized_descent(model.apply, params, problem, alpha=alpha, step_size=eta, steps=[60])
        np.testing.assert_allclose(found(alpha, eta), run.observed[1][-1], rtol=1e-9)


def test_step_sizes_give_the_two_scales_kernel_times_in_the_ratio_20():
    for exponent, expected in ((SQRT, (1 / 3, 1 / 9)), (MEAN, (1 / 9, 0.05 / 9))):
        assert float(training.output_scale(9, jnp.asarray(exponent))) == pytest.approx(expected[0])
        assert float(training.step_size(9, jnp.asarray(exponent))) == pytest.approx(expected[1])
    assert SMALL.equal_time_step == 3
    assert {0, 3, 60} <= set(SMALL.record)


@pytest.fixture(scope="module")
def solved():
    return solutions.solutions(SPEC, Trials(KEY, 2))


@pytest.mark.slow
def test_padded_solutions_with_alpha_absorbed_are_the_trained_nets(solved):
    width, seed = 4, 1
    cell_key = jax.random.fold_in(KEY, seed)
    problem = solutions.problem_of(KEY, seed, SPEC)
    loss = solutions.relative_test_loss(KEY, seed, SPEC)
    model = two_layer(width, SMALL.d)
    params0 = model.init(jax.random.split(jax.random.split(cell_key)[1], SPEC.inits)[2])
    run = gradient_descent(
        model.apply, params0, problem, alpha=1 / width, step_size=0.05 / width, num_steps=SMALL.num_steps
    )
    net = solutions.nets(solved, width=width, exponent=MEAN, seed=seed)[2]
    assert net["b"].shape == (6, SMALL.d)
    np.testing.assert_allclose(net["b"][:width], run.params["b"], rtol=1e-9)
    np.testing.assert_array_equal(net["b"][width:], 0)
    assert problem.y_test is not None
    zero = 0.5 * jnp.mean(problem.y_test**2)
    np.testing.assert_allclose(loss(solutions.absorb(net, width, MEAN)), run.test_loss[-1] / zero, rtol=1e-9)


@pytest.mark.slow
def test_reordering_keeps_the_loss_and_the_padding_last(solved):
    loss = solutions.relative_test_loss(KEY, 0, SPEC)
    points = solutions.nets(solved, width=4, exponent=SQRT, seed=0)
    orders = solutions.orders_to_first(points, 4)
    np.testing.assert_array_equal(orders[0], np.arange(4))
    moved = solutions.reorder(points[1], orders[1])
    np.testing.assert_array_equal(moved["b"][4:], 0)
    np.testing.assert_allclose(loss(moved), loss(points[1]), rtol=1e-12)


@pytest.mark.slow
def test_a_step_has_the_length_asked_for_and_leaves_the_padding(solved):
    center = solutions.nets(solved, width=4, exponent=SQRT, seed=0)[0]
    moved = projections._step(center, KEY, 2.5)
    change = jax.tree.map(jnp.subtract, moved, center)
    assert float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in change.values()))) == pytest.approx(2.5)
    np.testing.assert_array_equal(moved["a"][4:], 0)


def test_problems_do_not_depend_on_width():
    ys = [training.setup(KEY, width, SMALL)[2].y for width in (1, 9)]
    np.testing.assert_array_equal(ys[0], ys[1])
    other = training.setup(KEY, 1, replace(SMALL, target_scale=6.0))[2].y
    np.testing.assert_allclose(other, 2 * ys[0])
