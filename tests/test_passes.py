"""Passes in blocks give the numbers of one pass: values, products, gradients, descent; and keep to their budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import lazyscope as ls
from lazyscope import passes, tree
from lazyscope.dynamics.parts import descent_in_parts, loss_and_gradient

BY_NAME = {case.name: case for case in CASES}
NAMES = [
    "several outputs",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("conv net", "attention", "shared weights", "cross-entropy")
    ),
]


def small_budget(case):
    """Bytes that three examples need."""
    return 3.5 * passes._example_bytes(case.apply, case.params, case.problem.x)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_give_the_numbers_of_one_pass(name):
    case = BY_NAME[name]
    x, budget = case.problem.x, small_budget(case)
    assert passes.block_size(case.apply, case.params, x, budget) in (2, 3)
    assert passes.block_size(case.apply, case.params, x) == len(x)
    theta, merge = tree.split(case.params)
    whole, pull = jax.vjp(lambda th: case.apply(merge(th), x), theta)
    np.testing.assert_allclose(passes.outputs(case.apply, case.params, x, budget), whole, rtol=1e-12, atol=1e-15)
    z = jnp.cos(jnp.arange(whole.size, dtype=float)).reshape(whole.shape)
    for found, expected in zip(passes.pull(case.apply, case.params, x, z, budget), pull(z)[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    v = [jnp.sin(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape) for leaf in theta]
    pushed = jax.jvp(lambda th: case.apply(merge(th), x), (theta,), (v,))[1]
    np.testing.assert_allclose(passes.push(case.apply, case.params, x, v, budget), pushed, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_blocks_is_the_model_with_all_its_derivatives(name):
    case = BY_NAME[name]
    x = case.problem.x
    blocked = passes.in_blocks(case.apply, case.params, x, small_budget(case))
    assert passes.in_blocks(case.apply, case.params, x) is case.apply
    assert isinstance(blocked, passes.InBlocks)
    assert blocked == passes.InBlocks(case.apply, blocked.size)
    theta, merge = tree.split(case.params)

    def total(apply, th):
        return jnp.sum(jnp.sin(apply(merge(th), x)))

    def products(apply):
        gradient = jax.grad(lambda th: total(apply, th))
        return jax.jit(lambda th: (total(apply, th), *jax.jvp(gradient, (th,), (gradient(th),))))(theta)

    for found, expected in zip(jax.tree.leaves(products(blocked)), jax.tree.leaves(products(case.apply)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [ls.square_loss, ls.cross_entropy, lambda f, y: jnp.mean((f - y) ** 4) ** 0.5])
@pytest.mark.parametrize("linear", [False, True])
def test_descent_in_parts_is_gradient_descent(loss, linear):
    case = BY_NAME["several outputs"]
    y = jnp.arange(len(case.problem.x)) % 3 if loss is ls.cross_entropy else case.problem.y
    problem = ls.Problem(case.problem.x, y, loss=loss)
    settings = {"alpha": 2.0, "step_size": 0.1, "num_steps": 20}
    model = ls.linearize(case.apply, case.params) if linear else case.apply
    record = (0, 3, 18, 20)
    run = ls.gradient_descent(model, case.params, problem, record=record, **settings)
    for budget in (passes.BUDGET, small_budget(case)):
        seen = []
        options = {"record": record, "look": lambda *what: seen.append(what)}  # noqa: B023
        found, losses = descent_in_parts(
            case.apply, case.params, problem, linear=linear, memory_budget=budget, **options, **settings
        )
        assert [step for step, _, _ in seen] == list(record)
        np.testing.assert_allclose([value for _, _, value in seen], run.train_loss, rtol=1e-10)
        np.testing.assert_allclose([float(problem.loss(2.0 * model(params, problem.x), y)) for _, params, _ in seen],
                                   run.train_loss, rtol=1e-10)  # fmt: skip
        np.testing.assert_allclose(losses, run.train_loss[np.array([0, 2, 3])], rtol=1e-10)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(run.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_weights_alone_do_not_make_blocks_small():
    x = jnp.ones((100, 4))

    def apply(params, x):
        return x @ jnp.tanh(params["w"] @ params["w"].T)[:4, 0]

    params = {"w": jnp.ones((300, 300))}
    assert passes.block_size(apply, params, x, 10_000) == 100


def test_loss_and_gradient_are_those_of_autodiff():
    case = BY_NAME["cross-entropy"]
    theta, merge = tree.split(case.params)
    expected = jax.value_and_grad(
        lambda th: ls.cross_entropy(3.0 * case.apply(merge(th), case.problem.x), case.problem.y)
    )(theta)
    found = loss_and_gradient(case.apply, case.params, theta, case.problem, 3.0, memory_budget=small_budget(case))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_kappa_and_the_stable_step_of_blocks_are_those_of_one_pass(monkeypatch):
    case = BY_NAME["conv net"]
    key = jax.random.key(0)
    budget = ls.Budget(300, 12, 2, 4, 4, 2, 1, 8)

    def measured():
        crit = ls.criterion(case.apply, case.params, case.problem, alpha=2.0, key=key, budget=budget)
        norms = crit.jacobian_norm.value, crit.hessian_norm.value, crit.residual_norm, crit.kappa_exact
        return *norms, float(ls.stable_step_size(case.apply, case.params, case.problem, alpha=2.0, key=key))

    whole = measured()
    monkeypatch.setattr(passes, "block_size", lambda *given: 3)
    np.testing.assert_allclose(measured(), whole, rtol=1e-8)


def test_gradient_descent_in_blocks_is_gradient_descent(monkeypatch):
    case = BY_NAME["attention"]
    settings = {"step_size": 0.1, "num_steps": 15}
    whole = ls.gradient_descent(case.apply, case.params, case.problem, **settings)
    monkeypatch.setattr(passes, "block_size", lambda *given: 4)
    found = ls.gradient_descent(case.apply, case.params, case.problem, **settings)
    np.testing.assert_allclose(found.train_loss, whole.train_loss, rtol=1e-10)
