"""What scale does: the scale law run by run, steps at and beyond the edge of stability, grids with equal cells."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from compiled import compiled
from hypothesis import given
from hypothesis import strategies as st

from lazyscope import (
    Problem,
    collapse,
    cross_entropy,
    distinct_runs,
    gradient_descent,
    kernel_time,
    mlp,
    stable_step_size,
    tangent_kernel,
    teacher_student,
    two_layer,
)
from lazyscope.curvature import curvature_bound
from lazyscope.scaling import bounded_step_size

PROBLEM = teacher_student(jax.random.key(0), n=12, d=4, n_test=6)
MODEL = two_layer(6, 4)
CASE = {case.name: case for case in CASES}
X = PROBLEM.x


def scaled(factor, params):
    return jax.tree.map(lambda leaf: factor * leaf, params)


def descent(model, params0, alpha, step_size):
    return gradient_descent(
        model.apply, params0, PROBLEM, alpha=alpha, step_size=step_size, num_steps=80, record=(0, 1, 5, 20, 80)
    )


run = compiled(descent, static_argnums=0)


@pytest.mark.parametrize(
    ("model", "degree", "doubled"),
    [(MODEL, 2, False), (MODEL, 2, True), (mlp((4, 5, 4, 1)), 3, False)],
    ids=["two-layer", "doubled", "three-layer"],
)
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0.05, 0.95))
def test_a_run_is_its_collapsed_run_up_to_the_scale_of_the_weights(
    model, degree, doubled, log_tau, log_scale, fraction
):
    # alpha·tau^q >= 1: far below, the sharpness outgrows 2/η on the way and rounding errors grow with the run.
    tau = 10**log_tau
    alpha = 10**log_scale / tau**degree
    params0 = model.init(jax.random.key(1), doubled=doubled)
    step_size = fraction * float(stable_step_size(model.apply, scaled(tau, params0), PROBLEM))
    there = run(model, scaled(tau, params0), alpha, step_size)
    here = run(model, params0, *collapse(tau, alpha, step_size, degree=degree))
    for field in ("train_loss", "test_loss", "kernel_time"):
        np.testing.assert_allclose(getattr(there, field), getattr(here, field), rtol=1e-9, atol=1e-13)
    for leaf, other in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True):
        np.testing.assert_allclose(leaf / tau, other, rtol=1e-9, atol=1e-9)


def test_collapse_moves_along_the_rule_of_the_papers_code_at_degree_two():
    # Chizat et al. 2019: step 0.1/tau² is the constant step 0.1 at tau = 1.
    tau = np.array([0.1, 1.0, 30.0])
    alpha, step_size = collapse(tau, 2.0, 0.1 / tau**2, degree=2)
    np.testing.assert_allclose(alpha, 2 * tau**2)
    np.testing.assert_allclose(step_size, 0.1, rtol=1e-14)
    np.testing.assert_allclose(collapse(3.0, 2.0, 0.5, degree=1), (6.0, 0.5))
    with pytest.raises(ValueError, match="degree >= 1, got 0"):
        collapse(3.0, 2.0, 0.5, degree=0)


@pytest.mark.parametrize("name", ["two-layer relu", "several outputs", "rank one"])
def test_the_stable_step_is_one_over_the_largest_eigenvalue(name):
    case = CASE[name]
    kernel = np.asarray(tangent_kernel(case.apply, case.params, case.problem.x))
    n = kernel.shape[0]
    if kernel.ndim == 4:
        kernel = kernel.transpose(0, 2, 1, 3).reshape(n * kernel.shape[2], -1)
    for key in (None, jax.random.key(3)):
        step_size = compiled(lambda params: stable_step_size(case.apply, params, case.problem, key=key))(case.params)  # noqa: B023
        np.testing.assert_allclose(step_size, n / np.linalg.norm(kernel, ord=2), rtol=1e-8)


@pytest.mark.parametrize("factor", [1.9, 2.1])
def test_twice_the_stable_step_is_the_edge_of_stability_in_the_lazy_regime(factor):
    model = two_layer(6, 4, jnp.tanh)
    params0 = model.init(jax.random.key(1), doubled=True)
    step_size = factor * stable_step_size(model.apply, params0, PROBLEM)
    # So large an alpha that the kernel stands still: the top mode shrinks or grows by the factor 1 − ηλ.
    losses = run(model, params0, 1e6, step_size).train_loss
    assert bool(losses[-1] < losses[0]) == (factor < 2)


def test_the_stable_step_does_not_depend_on_alpha_for_losses_of_known_curvature():
    case = CASE["cross-entropy"]
    steps = [stable_step_size(case.apply, case.params, case.problem, alpha=alpha) for alpha in (1.0, 100.0)]
    square = stable_step_size(case.apply, case.params, CASE["several outputs"].problem)
    np.testing.assert_allclose(steps, [2 * square, 2 * square], rtol=1e-12)


@pytest.mark.slow
@given(st.integers(0, 1000), st.floats(0, 20))
def test_half_bounds_the_curvature_of_the_cross_entropy(seed, scale):
    outputs = scale * jax.random.normal(jax.random.key(seed), (2, 4))
    labels = jnp.array([0, 3])
    hessian = jax.hessian(lambda f: 2 * cross_entropy(f.reshape(2, 4), labels))(outputs.reshape(-1))
    assert np.linalg.eigvalsh(np.asarray(hessian)).max() <= 0.5 + 1e-12


def logistic(outputs, y):
    return jnp.mean(jnp.logaddexp(0.0, -y * outputs))


def quartic(outputs, y):
    return jnp.mean((outputs - y) ** 4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [quartic, pytest.param(logistic, marks=pytest.mark.slow)])
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_other_losses_give_the_largest_eigenvalue_of_their_hessian_at_the_outputs(loss, alpha):
    case = CASE["two-layer tanh"]
    problem = Problem(case.problem.x, jnp.sign(case.problem.y), loss=loss)
    outputs = alpha * case.apply(case.params, problem.x)
    hessian = len(outputs) * jax.hessian(loss)(outputs, problem.y)
    square = stable_step_size(case.apply, case.params, case.problem)
    step_size = stable_step_size(case.apply, case.params, problem, alpha=alpha, key=jax.random.key(0))
    np.testing.assert_allclose(step_size, square / np.linalg.norm(np.asarray(hessian), ord=2), rtol=1e-8)


def shares(outputs, y):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(outputs), axis=1))


K = 5
LABELS = jnp.arange(12) % K
OF_LOGITS = {
    "of another library": (optax.softmax_cross_entropy_with_integer_labels, LABELS, 1 / 2),
    "smoothed labels": (shares, 0.9 * jax.nn.one_hot(LABELS, K) + 0.1 / K, 1 / 2),
    "weights of classes": (
        lambda f, y: y.astype(f.dtype) * optax.softmax_cross_entropy_with_integer_labels(f, y) / 2,
        LABELS,
        1.0,
    ),
    "summed, not averaged": (lambda f, y: 12 * optax.softmax_cross_entropy_with_integer_labels(f, y), LABELS, 6.0),
    "binary": (lambda f, y: optax.sigmoid_binary_cross_entropy(f, y).sum(1), jax.nn.one_hot(LABELS, K), 1 / 4),
    "ignored entries": (lambda f, y: jnp.where(y < 0, 0, jax.nn.softplus(-y * f)).sum(1), jnp.eye(12, K) * 2 - 1, None),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_losses_of_logits_have_their_bound_at_every_start(name, dtype):
    each, y, bound = OF_LOGITS[name]
    outputs = 30 * jax.random.normal(jax.random.key(1), (12, K)).astype(dtype)
    found = curvature_bound(lambda f, y: jnp.mean(each(f, y)), outputs, y.astype(dtype) if y.ndim == 2 else y)
    np.testing.assert_allclose(found, 1 / 4 if bound is None else bound, rtol=1e-3 if dtype == "float32" else 1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        quartic,
        lambda f, y: jnp.mean((1 - jax.nn.softmax(f)[:, 0]) ** 2),
        lambda f, y: jnp.mean(jax.nn.softplus(-2 * y * f)),
        lambda f, y: jnp.mean(jnp.log(f)),
        lambda f, y: logistic(f, y) + 0.1 * jnp.mean(f**2),
        lambda f, y: shares(f.T, jnp.abs(y).T),
        lambda f, y: jnp.sum(f),
    ],
)
def test_other_losses_have_no_bound_of_logits(loss):
    outputs = jax.random.normal(jax.random.key(1), (12, K))
    assert np.isposinf(curvature_bound(loss, outputs, jnp.sign(outputs)))


def test_a_step_of_descent_does_not_depend_on_who_wrote_the_loss():
    case = CASE["cross-entropy"]
    own = replace(case.problem, loss=lambda f, y: optax.softmax_cross_entropy_with_integer_labels(f, y).mean())
    steps = [bounded_step_size(case.apply, case.params, problem) for problem in (case.problem, own)]
    np.testing.assert_allclose(*steps, rtol=1e-6)


@pytest.mark.slow
def test_the_curvature_of_a_loss_over_many_examples_is_found_within_a_thousandth():
    problem = teacher_student(jax.random.key(0), n=2000, d=4, n_test=1)
    problem = Problem(problem.x, jnp.sign(problem.y), loss=logistic)
    model = MODEL
    params = model.init(jax.random.key(0))
    p = jax.nn.sigmoid(model.apply(params, problem.x))
    square = stable_step_size(model.apply, params, Problem(problem.x, problem.y))
    step_size = stable_step_size(model.apply, params, problem)
    np.testing.assert_allclose(square / step_size, np.max(np.asarray(p * (1 - p))), rtol=1e-3)


def test_a_zero_model_has_no_largest_step():
    case = CASE["zero"]
    assert np.isposinf(stable_step_size(case.apply, case.params, case.problem))


def test_kernel_time_is_that_of_the_run_and_does_not_change_with_scale():
    model, params0 = MODEL, MODEL.init(jax.random.key(1))
    result = run(model, params0, 1.0, 0.01)
    np.testing.assert_allclose(kernel_time(model.apply, params0, X, result.time), result.kernel_time, rtol=1e-12)
    top = np.linalg.norm(np.asarray(tangent_kernel(model.apply, params0, X)), ord=2)
    np.testing.assert_allclose(kernel_time(model.apply, params0, X, 2.0), 2 * top / len(X), rtol=1e-9)
    _, step_size = collapse(10.0, 1.0, 0.3, degree=2)
    there, here = (
        kernel_time(model.apply, scaled(tau, params0), X, 7 * step) for tau, step in ((10.0, 0.3), (1.0, step_size))
    )
    np.testing.assert_allclose(there, here, rtol=1e-9)


def brute_force_classes(cells, degree):
    """Each cell's class by comparing all pairs, numbered in order of appearance."""
    collapsed = [(alpha * tau**degree, step * tau ** (2 * degree - 2)) for tau, alpha, step in cells]
    first = [next(j for j, other in enumerate(collapsed) if np.allclose(mine, other, rtol=1e-8)) for mine in collapsed]
    return [sorted(set(first)).index(j) for j in first]


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=30),
)
def test_distinct_runs_are_those_of_a_comparison_of_all_pairs(degree, exponents):
    cells = [(1.7**i, 1.7**j, 0.1 * 1.7**k) for i, j, k in exponents]
    runs = distinct_runs(*np.array(cells).T, degree=degree)
    assert runs.run_of.tolist() == brute_force_classes(cells, degree)
    assert runs.run_of[runs.cells].tolist() == list(range(len(runs.cells)))


def test_a_grid_that_keeps_the_step_rule_has_one_run_per_level_of_alpha_tau_squared():
    tau, alpha = np.meshgrid(10 ** np.linspace(-1, 1, 9), 10 ** np.linspace(-2, 2, 9))
    runs = distinct_runs(tau, alpha, 0.1 / tau**2, degree=2)
    assert len(runs.cells) == 17
    # The note's grid: 2·0.578 decades of tau² are no multiple of 0.333 decades of alpha.
    tau, alpha = np.meshgrid(np.logspace(-2.2, 3, 10), np.logspace(0, 3, 10))
    assert len(distinct_runs(tau, alpha, 0.1 / tau**2, degree=2).cells) == 100


def test_cells_with_a_common_step_are_equal_at_degree_one_only_where_alpha_tau_is():
    tau, alpha = np.array([1.0, 2.0, 4.0]), np.array([4.0, 2.0, 1.0])
    assert len(distinct_runs(tau, alpha, 0.1, degree=1).cells) == 1
    assert len(distinct_runs(tau, alpha, 0.1, degree=2).cells) == 3


def test_equal_cells_have_equal_losses():
    model = MODEL
    params0 = model.init(jax.random.key(1))
    tau, alpha = (values.reshape(-1) for values in np.meshgrid([0.5, 1.0, 2.0], [0.25, 1.0, 4.0]))
    step_size = 0.05 / tau**2
    runs = distinct_runs(tau, alpha, step_size, degree=2)
    assert len(runs.cells) == 5
    losses = [run(model, scaled(t, params0), a, s).train_loss for t, a, s in zip(tau, alpha, step_size, strict=True)]
    for cell, label in enumerate(runs.run_of):
        np.testing.assert_allclose(losses[cell], losses[runs.cells[label]], rtol=1e-10)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_settings_without_a_logarithm_are_refused(bad):
    with pytest.raises(ValueError, match="must be positive and finite to be compared"):
        distinct_runs([1.0, bad], 1.0, 0.1, degree=2)
