"""The flow against the matrix exponential, descent with vanishing steps, exact laws, and its own linearisation."""

from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from compiled import compiled

from lazyscope import (
    Problem,
    center,
    cross_entropy,
    gradient_descent,
    gradient_flow,
    kernel_flow,
    linearize,
    teacher_student,
    tree,
    two_layer,
    two_layer_linear,
)
from lazyscope.dynamics import BUDGET, STOPPED

PROBLEM = teacher_student(jax.random.key(0), n=12, d=4, n_test=9)
WIDE, NARROW = two_layer(8, 4, jnp.tanh), two_layer(2, 4, jnp.tanh)  # 40 and 10 parameters for 12 examples
TIMES = (0.0, 0.5, 4.0)
TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


def dense(apply, params, x):
    """Dh as a matrix, from autodiff leaf by leaf."""
    leaves = jax.tree.leaves(jax.jacobian(apply)(params, x))
    return np.concatenate([np.asarray(leaf).reshape(len(x), -1) for leaf in leaves], axis=1)


@pytest.mark.parametrize(
    ("model", "alpha"),
    [pytest.param(m, a, marks=pytest.mark.slow) for m, a in ((WIDE, 3.0), (NARROW, 1), (WIDE, 30))],
)
def test_closed_form_is_the_matrix_exponential_and_the_flow_of_the_linearised_model(model, alpha):
    params0 = model.init(jax.random.key(1))
    closed = kernel_flow(model.apply, params0, PROBLEM, alpha=alpha, times=TIMES)
    flow = gradient_flow(linearize(model.apply, params0), params0, PROBLEM, alpha=alpha, times=TIMES, **TIGHT)

    rows, rows_test = (dense(model.apply, params0, x) for x in (PROBLEM.x, PROBLEM.x_test))
    start, start_test = (alpha * np.asarray(model.apply(params0, x)) for x in (PROBLEM.x, PROBLEM.x_test))
    y, n = np.asarray(PROBLEM.y), len(PROBLEM.y)
    # One exponential of the joint linear system of train and held-out outputs.
    generator = np.zeros((21, 21))
    generator[:12, :12], generator[12:, :12] = -rows @ rows.T / n, -rows_test @ rows.T / n
    for i, t in enumerate(TIMES):
        moved = scipy.linalg.expm(generator * t) @ np.concatenate([start - y, start_test])
        np.testing.assert_allclose(closed.observed[0][i], y + moved[:12], atol=1e-9)
        np.testing.assert_allclose(closed.observed[1][i], moved[12:], atol=1e-9)
    for name in ("train_loss", "test_loss", "best_test_loss", "time", "kernel_time"):
        np.testing.assert_allclose(getattr(flow, name), getattr(closed, name), rtol=1e-7, atol=1e-12)
    gap = max(
        float(jnp.abs(u - v).max()) for u, v in zip(*map(jax.tree.leaves, (flow.params, closed.params)), strict=True)
    )
    assert alpha * gap < 1e-7
    assert int(flow.status.code) == BUDGET


@pytest.mark.slow
def test_limits_of_the_closed_form():
    for model, rank in ((WIDE, 12), (NARROW, 10)):
        params0 = model.init(jax.random.key(1))
        run = kernel_flow(model.apply, params0, PROBLEM, times=[0.0, np.inf])
        rows, start = dense(model.apply, params0, PROBLEM.x), np.asarray(model.apply(params0, PROBLEM.x))
        step, *_ = np.linalg.lstsq(rows, np.asarray(PROBLEM.y) - start)
        projection = start + rows @ step
        np.testing.assert_allclose(run.observed[0], [start, projection], atol=1e-8)
        held_out = np.asarray(model.apply(params0, PROBLEM.x_test)) + dense(model.apply, params0, PROBLEM.x_test) @ step
        np.testing.assert_allclose(run.observed[1][1], held_out, atol=1e-7)
        assert int(run.details.rank) == rank
        assert float(run.details.rcond) == 12 * np.finfo(float).eps


def test_directions_below_rcond_keep_their_initial_residual():
    params0 = WIDE.init(jax.random.key(1))
    values, vectors = np.linalg.eigh(dense(WIDE.apply, params0, PROBLEM.x) @ dense(WIDE.apply, params0, PROBLEM.x).T)
    rcond = float(np.sqrt(values[-4] * values[-5])) / values[-1]
    run = kernel_flow(WIDE.apply, params0, PROBLEM, times=[3.0, np.inf], rcond=rcond)
    assert int(run.details.rank) == 4
    before, after = (
        vectors.T @ np.asarray(f - PROBLEM.y) for f in (WIDE.apply(params0, PROBLEM.x), run.observed[0][1])
    )
    np.testing.assert_allclose(after[:-4], before[:-4], atol=1e-12)
    np.testing.assert_allclose(after[-4:], 0, atol=1e-12)
    outputs = linearize(WIDE.apply, params0)(run.params, PROBLEM.x)
    np.testing.assert_allclose(outputs, run.observed[0][1], atol=1e-9)


@pytest.mark.slow
def test_descent_tends_to_the_flow_with_slope_one_in_the_step():
    params0, horizon, counts = WIDE.init(jax.random.key(1)), 4.0, [50, 100, 200]

    def end(run, i):
        return jax.tree.map(lambda leaf: leaf[i], run.observed)

    @compiled
    def descent(step_size):
        settings = {"alpha": 2.0, "num_steps": 200, "record": counts, "observe": lambda params: params}
        return gradient_descent(WIDE.apply, params0, PROBLEM, step_size=step_size, **settings)

    flow = compiled(lambda: gradient_flow(WIDE.apply, params0, PROBLEM, alpha=2.0, times=[horizon], **TIGHT))()
    ends = [end(descent(horizon / count), i) for i, count in enumerate(counts)]
    errors = [float(tree.norm(tree.sub(params, flow.params))) for params in ends]
    np.testing.assert_allclose(np.diff(np.log2(errors)), -1, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("doubled", [False, True])
def test_scale_law_of_the_flow(doubled):
    # h(tau·v) = tau²h(v): time runs tau² times as fast from tau·v0 (docs/design.md, the scale law).
    model, tau = two_layer(8, 4), 1.7
    params0 = model.init(jax.random.key(1), doubled=doubled)
    scaled = jax.tree.map(lambda leaf: tau * leaf, params0)
    times = np.array([0.3, 2.0])
    raw = gradient_flow(model.apply, scaled, PROBLEM, alpha=0.8, times=times / tau**2, rtol=1e-8, atol=1e-10)
    unit = gradient_flow(model.apply, params0, PROBLEM, alpha=0.8 * tau**2, times=times, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(raw.train_loss, unit.train_loss, rtol=1e-6)
    np.testing.assert_allclose(raw.kernel_time, unit.kernel_time, rtol=1e-9)


@pytest.mark.slow
def test_two_layer_linear_flow_conserves_the_difference_of_grams():
    model = two_layer_linear(3, 4, outputs=2)
    params0 = model.init(jax.random.key(2))
    problem = Problem(PROBLEM.x, jax.random.normal(jax.random.key(3), (12, 2)))

    def difference(params):
        return params["b"] @ params["b"].T - params["a"].T @ params["a"]

    run = gradient_flow(model.apply, params0, problem, times=[1.0, 10.0], observe=difference, **TIGHT)
    np.testing.assert_allclose(run.observed, np.broadcast_to(difference(params0), (2, 3, 3)), atol=1e-8)
    assert float(tree.norm(tree.sub(run.params, params0))) > 0.5


@pytest.mark.slow
def test_tolerances_bound_the_error_of_a_lazy_run_as_they_do_at_alpha_one():
    # The movement is 1e-6 of the weights at alpha = 1e6: relative to w, rtol = 1e-6 would see nothing of it.
    model = WIDE
    params0 = model.init(jax.random.key(1))
    apply = linearize(center(model.apply, params0), params0)
    for alpha in (1.0, 1e6):
        loose, tight = (
            gradient_flow(apply, params0, PROBLEM, alpha=alpha, times=[4.0], rtol=r, atol=r / 100)
            for r in (1e-6, 1e-11)
        )
        np.testing.assert_allclose(loose.train_loss, tight.train_loss, rtol=1e-5)
        assert int(loose.details.steps) < 60


@pytest.mark.slow
def test_an_implicit_solver_reaches_a_stiff_time_that_costs_an_explicit_one_thousands_of_steps():
    # Two features, of kernel eigenvalues 1 and 1e-4, until the slower one is learnt.
    x = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((6, 2)))[0] * np.sqrt(6) * [1, 1e-2])
    problem = Problem(x, x @ jnp.array([1.0, 1.0]))
    run = partial(gradient_flow, lambda w, x: x @ w, jnp.zeros(2), problem, times=[3e4])
    explicit, implicit = run(), run(solver=diffrax.Kvaerno5())
    exact = 0.5 * 1e-4 * np.exp(-2 * 1e-4 * 3e4)
    for each in (explicit, implicit):
        np.testing.assert_allclose(each.train_loss, exact, rtol=1e-4)
    assert int(implicit.details.steps) < 200 < 5000 < int(explicit.details.steps)
    assert int(explicit.details.accepted) + int(explicit.details.rejected) == int(explicit.details.steps)


@pytest.mark.slow
def test_kinks_cost_rejected_steps_at_tight_tolerances_and_smooth_nets_do_not():
    def tried(activation, rtol):
        model = two_layer(8, 4, activation)
        params0 = model.init(jax.random.key(1), tau=0.3)
        return gradient_flow(model.apply, params0, PROBLEM, times=[20.0], rtol=rtol, atol=rtol / 100).details

    relu, tanh = tried(jax.nn.relu, 1e-9), tried(jnp.tanh, 1e-9)
    assert int(relu.rejected) > 5 * int(tanh.rejected) + 50


@pytest.mark.slow
def test_flow_of_another_loss_is_the_limit_of_its_descent():
    problem = Problem(PROBLEM.x, jnp.arange(12) % 3, loss=cross_entropy)
    params0 = 0.1 * jax.random.normal(jax.random.key(1), (4, 3))

    def apply(w, x):
        return jnp.sin(x @ w)

    flow = gradient_flow(apply, params0, problem, times=[1.0, 5.0])
    run = gradient_descent(apply, params0, problem, step_size=1e-3, num_steps=5000, record=[1000, 5000])
    np.testing.assert_allclose(flow.train_loss, run.train_loss, rtol=1e-4)


@pytest.mark.slow
def test_it_can_be_compiled_and_mapped_over_alpha_and_times():
    params0 = WIDE.init(jax.random.key(1))

    @compiled
    def losses(alpha, last):
        times = jnp.stack([0.5 * last, last])
        flow = gradient_flow(WIDE.apply, params0, PROBLEM, alpha=alpha, times=times)
        return flow.train_loss, kernel_flow(WIDE.apply, params0, PROBLEM, alpha=alpha, times=times).train_loss

    alphas = jnp.array([1.0, 3.0])
    for mapped, alone in zip(
        jax.vmap(losses, in_axes=(0, None))(alphas, jnp.asarray(2.0)),
        zip(*(losses(alpha, jnp.asarray(2.0)) for alpha in alphas), strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(mapped, jnp.stack(alone), rtol=1e-9)


def test_out_of_steps_inside_a_transformation_the_status_tells():
    params0 = WIDE.init(jax.random.key(1))
    flow = partial(gradient_flow, WIDE.apply, params0, PROBLEM, times=[0.01, 50.0], max_steps=8)
    run = compiled(lambda alpha: flow(alpha=alpha))(1.0)
    assert int(run.status.code) == STOPPED
    assert np.isfinite(run.train_loss[0])
    assert np.isnan(run.train_loss[1])
    assert 0.01 < float(run.details.reached) < 50


@pytest.mark.slow
def test_a_flow_that_leaves_the_floats_is_told():
    problem = Problem(jnp.ones((1, 1)), jnp.zeros(1), loss=lambda f, y: -jnp.sum(f**4))
    with pytest.raises(ValueError, match=r"must stay finite|must reach") as caught:
        gradient_flow(lambda w, x: x @ w, jnp.ones(1), problem, times=[10.0], max_steps=500)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flow", [gradient_flow, kernel_flow])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a positive finite number, got 0"),
        ({"times": [1.0, 1.0]}, "times must be an increasing list"),
        ({"times": [-1.0, 1.0]}, "times must be an increasing list"),
        ({"times": []}, "times must be an increasing list"),
        ({"times": 3.0}, r"times must be an increasing list .* got shape \(\)"),
        ({"times": [0.0, np.nan]}, "times must be an increasing list"),
    ],
)
def test_bad_settings_are_refused_in_one_line(flow, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        flow(WIDE.apply, WIDE.init(jax.random.key(1)), PROBLEM, **({"times": [1.0]} | options))
    assert "\n" not in str(caught.value)


def test_errors_say_what_to_loosen_and_what_is_not_exact():
    params0 = WIDE.init(jax.random.key(1))
    with pytest.raises(ValueError, match=r"must reach t = 50 .*loosen rtol=1e-06 and atol=1e-08") as caught:
        gradient_flow(WIDE.apply, params0, PROBLEM, times=[50.0], max_steps=8)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="finite numbers"):
        gradient_flow(WIDE.apply, params0, PROBLEM, times=[1.0, np.inf])
    with pytest.raises(ValueError, match="rtol must be a positive"):
        gradient_flow(WIDE.apply, params0, PROBLEM, times=[1.0], rtol=0.0)
    with pytest.raises(ValueError, match="rcond must be a positive"):
        kernel_flow(WIDE.apply, params0, PROBLEM, times=[1.0], rcond=-1.0)
    problem = Problem(PROBLEM.x, PROBLEM.y, loss=lambda f, y: jnp.mean(jnp.abs(f - y)))
    with pytest.raises(ValueError, match="exact for the square loss"):
        kernel_flow(WIDE.apply, params0, problem, times=[1.0])
