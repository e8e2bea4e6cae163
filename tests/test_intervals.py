"""Intervals of root ratios: their coverage, their limits, and that they are numbers."""

import copy
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls
from lazyscope.diagnose.gap import gap
from lazyscope.diagnose.training import by_descent
from lazyscope.intervals import Interval, from_influences, reach, root_of_ratio


def test_an_interval_is_its_number():
    found = Interval(0.25, 0.2, 0.3)
    assert (found, found.value, found.low, found.high) == (0.25, 0.25, 0.2, 0.3)
    assert found < 0.3
    assert json.dumps(found) == "0.25"
    again = copy.deepcopy(found)
    assert (again, again.low, again.high) == (0.25, 0.2, 0.3)
    assert str(found) == "0.25 (0.2 to 0.3)"


def test_log_normal_ratios_are_covered_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        over, under = random.exponential(size=(2, 60))
        found = root_of_ratio(over, under)
        hits += found.low <= 1 <= found.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_few_examples_with_most_of_the_sum_widen_the_interval():
    even, uneven = np.tile([0.5, 1.5], 20), np.r_[np.full(38, 0.1), 15.0, 20.0]
    in_errors = [reach(u) / (np.std(u, ddof=1) / np.sqrt(40)) for u in (even, uneven)]
    assert in_errors[0] < 2.05  # Student's t with 39 degrees of freedom
    assert in_errors[1] > 2.5


def test_limits_of_intervals():
    zero, one = np.zeros(5), np.ones(5)
    assert (root_of_ratio(zero, one), root_of_ratio(zero, zero), root_of_ratio(one, zero)) == (0.0, 0.0, math.inf)
    alone = from_influences(0.3, np.zeros(1))
    assert (alone.low, alone.high) == (0.0, math.inf)
    same = root_of_ratio(4 * one, one)
    assert (same.low, same, same.high) == (2.0, 2.0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "tau", "alpha"), [(jax.nn.relu, 0.3, 1.0), (jnp.tanh, 1.0, 3.0)])
def test_the_gap_on_fifty_examples_covers_that_on_twenty_thousand(activation, tau, alpha):
    key_data, key_init = jax.random.split(jax.random.key(0))
    problem = ls.teacher_student(key_data, n=200, d=20, n_test=20_000)
    model = ls.two_layer(50, 20, activation)
    params0 = model.init(key_init, tau=tau, doubled=True)
    trained = by_descent(model.apply, params0, problem, alpha, 500, jax.random.key(1))
    x, y = problem.x_test, problem.y_test
    assert x is not None
    assert y is not None
    f0, f = alpha * model.apply(params0, x), alpha * model.apply(trained.params, x)
    linear = alpha * ls.linearize(model.apply, params0)(trained.params_linear, x)
    whole = float(gap(ls.square_loss, f, linear, f0, y))
    random, hits = np.random.default_rng(0), 0
    for _ in range(200):
        rows = random.choice(len(x), 50, replace=False)
        found = gap(ls.square_loss, f[rows], linear[rows], f0[rows], y[rows])
        hits += found.low <= whole <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_losses_that_are_means_and_others_have_intervals():
    random = np.random.default_rng(1)
    f0, f, linear = (jnp.asarray(random.standard_normal((40, 3))) for _ in range(3))
    y = jnp.asarray(random.integers(0, 3, 40))
    by_mean = gap(ls.cross_entropy, f, linear, f0, y)
    by_groups = gap(lambda f, y: 2.0 * ls.cross_entropy(f, y) ** 1.0001, f, linear, f0, y)
    for found in (by_mean, by_groups):
        assert found.low < found < found.high
    np.testing.assert_allclose(by_groups, by_mean, rtol=1e-2)
    assert 0.5 < (by_groups.high - by_groups) / (by_mean.high - by_mean) < 2.5
