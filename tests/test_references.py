"""The small experiments on what the papers build on, and on what was built on them: their parts against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import infinite_width_kernel, stable_rank, two_layer, two_layer_linear
from lazyscope.papers.initialisation import diagonal_nets, random_features
from lazyscope.papers.initialisation.training import reference
from lazyscope.papers.movement import low_rank
from lazyscope.papers.step_size import catapult
from lazyscope.papers.student import Protocol, held_out, setup
from lazyscope.papers.width import infinite
from lazyscope.problems import Problem, teacher_student

KEY = jax.random.key(0)


def test_stable_rank_counts_equal_singular_values_and_forgets_small_ones():
    q = jnp.linalg.qr(jax.random.normal(KEY, (7, 7)))[0]
    np.testing.assert_allclose(stable_rank(3.0 * q[:, :4]), 4, rtol=1e-12)
    np.testing.assert_allclose(stable_rank(q @ jnp.diag(jnp.array([1, 0.5, 0.25, 0, 0, 0, 0]))), 1.3125, rtol=1e-12)
    np.testing.assert_allclose(stable_rank(jnp.outer(jnp.arange(1.0, 4), jnp.ones(5))), 1, rtol=1e-12)
    assert np.isnan(stable_rank(jnp.zeros((3, 2))))


@pytest.mark.parametrize("rate", [1.5, 3.0])
def test_one_example_makes_descent_the_map_of_two_numbers_of_lewkowycz_et_al(rate):
    width, steps = 64, 40
    x = jnp.array([[0.6, -1.1, 0.3]])
    params = two_layer_linear(width, 3).init(KEY)
    found = catapult.follow(
        two_layer_linear(width, 3), params, Problem(x, jnp.zeros(1)), rate=jnp.asarray(rate), num_steps=steps
    )
    square = float(jnp.sum(x**2))
    f = float((params["a"] @ params["b"] @ x.T)[0, 0]) / np.sqrt(width)
    start = curvature = float(jnp.sum(params["a"] ** 2) * square + jnp.sum((params["b"] @ x.T) ** 2))
    losses, eta = [f**2], rate / start
    for _ in range(steps):  # both from the old values
        push = f**2 * square * width
        f, curvature = (
            f * (1 - eta * curvature + eta**2 * push),
            curvature + eta * push * (eta * curvature - 4),
        )
        losses.append(f**2)
    np.testing.assert_allclose(found["peak"], max(losses) / losses[0], rtol=1e-8)
    np.testing.assert_allclose(found["last"], losses[-1] / losses[0], rtol=1e-6, atol=1e-25)
    np.testing.assert_allclose(found["curvature"], eta * curvature, rtol=1e-8)


def test_least_q_lies_between_least_l2_and_least_l1():
    problem, truth = diagonal_nets.sparse_problem(KEY, n=8, d=14, relevant=1)
    x, y = np.asarray(problem.x), np.asarray(problem.y)
    np.testing.assert_allclose(diagonal_nets.least_q(x, y, 1e3), np.linalg.pinv(x) @ y, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(diagonal_nets.least_l1(x, y), truth, atol=1e-9)  # one relevant feature is recovered
    far, near = (np.linalg.norm(diagonal_nets.least_q(x, y, tau) - truth) for tau in (1e-1, 1e-3))
    assert near < 0.1 * far
    beta = diagonal_nets.least_q(x, y, 0.3)
    np.testing.assert_allclose(x @ beta, y, atol=1e-6)
    slope = np.arcsinh(beta / (2 * 0.3**2))  # the gradient of Q, normal to the solutions of Xβ = y
    np.testing.assert_allclose(slope - np.linalg.pinv(x) @ (x @ slope), 0, atol=1e-6)


@pytest.mark.slow
def test_the_flow_of_a_diagonal_net_ends_there_and_keeps_its_product():
    found = diagonal_nets.distances(KEY, tau=0.1, data=diagonal_nets.Data(n=5, d=8, relevant=1, rtol=1e-5))
    assert found["to_least_q"] < 1e-4
    assert found["product"] < 1e-3


@pytest.mark.slow
def test_a_narrow_net_in_the_program_of_a_wide_one_has_its_kernel():
    n, d, width, widest = 6, 3, 5, 12
    found = infinite.against_the_limit(KEY, width=jnp.asarray(5.0), widest=widest, n=n, d=d, num_steps=2, draws=1)
    key_data, _, key_draws = jax.random.split(KEY, 3)
    x = np.asarray(teacher_student(key_data, n=n, d=d, n_test=n).x)
    params = two_layer(widest, d).init(jax.random.split(key_draws, 1)[0])
    a, b = np.asarray(params["a"])[:width], np.asarray(params["b"])[:width]
    hidden = x @ b.T
    gates = (hidden > 0) * a
    kernel = (np.maximum(hidden, 0) @ np.maximum(hidden, 0).T + (gates @ gates.T) * (x @ x.T)) / width
    limit = np.asarray(infinite_width_kernel(jnp.asarray(x)))
    expected = np.linalg.norm(kernel - limit) / np.linalg.norm(limit)
    np.testing.assert_allclose(found["kernel_distance"], expected, rtol=1e-10)


def test_the_linear_map_to_learn_has_the_singular_values_it_says():
    problem = low_rank.linear_problem(KEY, n=20, d=6)
    found = np.linalg.lstsq(np.asarray(problem.x), np.asarray(problem.y), rcond=None)[0]
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), low_rank.SINGULAR_VALUES, rtol=1e-9)
    left, _, right = np.linalg.svd(found.T, full_matrices=False)
    root = np.sqrt(np.array(low_rank.SINGULAR_VALUES))
    balanced = {"a": jnp.asarray(left * root), "b": jnp.asarray(root[:, None] * right)}
    np.testing.assert_allclose(low_rank.invariant(balanced), 0, atol=1e-12)
    np.testing.assert_allclose(stable_rank(balanced["b"]), low_rank.BALANCED_RANK, rtol=1e-9)


@pytest.mark.slow
def test_baselines_as_functions_have_the_losses_of_the_shared_cell():
    protocol = Protocol(n=20, n_test=15, d=5, width=6, num_steps=60, doubled=False)
    _, _, problem = setup(KEY, protocol)
    y = held_out(problem)[1]
    found = random_features.predictors(KEY, protocol=protocol)
    shared = reference(KEY, taus=(1.0,), protocol=protocol)
    for name in ("zero", "least_squares", "random_features"):
        np.testing.assert_allclose(0.5 * jnp.mean((found[name] - y) ** 2), shared[f"{name}_test_loss"], rtol=1e-8)
