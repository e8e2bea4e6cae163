"""Gradient descent against an independent NumPy loop, the closed form, and the scale law."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyscope import (
    Doubled,
    EarlyStop,
    Problem,
    gradient_descent,
    linearize,
    linearized_descent,
    minibatches,
    sgd,
    square_loss,
    teacher_student,
    tree,
    two_layer,
)
from lazyscope.dynamics import BUDGET, DIVERGED, STOPPED, default_record

STEPS = 300
PROBLEM = teacher_student(jax.random.key(0), n=30, d=6, n_test=20)
MODEL = two_layer(8, 6)
EVERY = range(STEPS + 1)


def numpy_descent(params, problem, *, alpha, eta, momentum, steps):
    """The iteration written out by hand: signed units, explicit gradients, heavy ball."""
    if isinstance(params, Doubled):
        sign = np.repeat([1.0, -1.0], params.plus["a"].shape[0])
        a = np.concatenate([params.plus["a"], params.minus["a"]])
        b = np.concatenate([params.plus["b"], params.minus["b"]])
    else:
        sign, a, b = np.ones(params["a"].shape[0]), np.array(params["a"]), np.array(params["b"])
    x, y, x_test, y_test = (np.asarray(v) for v in (problem.x, problem.y, problem.x_test, problem.y_test))
    va, vb = np.zeros_like(a), np.zeros_like(b)
    train, test = [], []
    for _ in range(steps + 1):
        hidden = x @ b.T
        residual = alpha * np.maximum(hidden, 0) @ (sign * a) - y
        train.append(0.5 * np.mean(residual**2))
        test.append(0.5 * np.mean((alpha * np.maximum(x_test @ b.T, 0) @ (sign * a) - y_test) ** 2))
        back = residual / (alpha * len(y))
        ga = sign * (np.maximum(hidden, 0).T @ back)
        gb = (sign * a)[:, None] * (((hidden > 0) * back[:, None]).T @ x)
        va, vb = momentum * va + ga, momentum * vb + gb
        a, b = a - eta * va, b - eta * vb
    return np.array(train), np.array(test)


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("alpha", [1.0, 3.7])
def test_descent_matches_a_plain_numpy_loop_iterate_by_iterate(doubled, momentum, alpha):
    params0 = MODEL.init(jax.random.key(1), tau=0.7, doubled=doubled)
    run = gradient_descent(
        MODEL.apply, params0, PROBLEM, alpha=alpha, step_size=0.05, num_steps=STEPS, momentum=momentum, record=EVERY
    )
    train, test = numpy_descent(params0, PROBLEM, alpha=alpha, eta=0.05, momentum=momentum, steps=STEPS)
    np.testing.assert_allclose(run.train_loss, train, rtol=1e-10)
    np.testing.assert_allclose(run.test_loss, test, rtol=1e-10)
    np.testing.assert_allclose(run.best_test_loss, np.minimum.accumulate(test), rtol=1e-10)
    np.testing.assert_allclose(run.time, 0.05 * np.arange(STEPS + 1), rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 3.7])
def test_closed_form_matches_descent_on_the_linearised_model(doubled, alpha):
    params0 = MODEL.init(jax.random.key(1), doubled=doubled)
    iterated = gradient_descent(
        linearize(MODEL.apply, params0), params0, PROBLEM, alpha=alpha, step_size=0.3, num_steps=STEPS, record=EVERY
    )
    closed = linearized_descent(MODEL.apply, params0, PROBLEM, alpha=alpha, step_size=0.3, steps=list(EVERY))
    for name in ("train_loss", "test_loss", "best_test_loss", "time", "kernel_time"):
        np.testing.assert_allclose(getattr(closed, name), getattr(iterated, name), rtol=1e-10, atol=1e-14)
    difference = jax.tree.map(lambda u, v: float(jnp.abs(u - v).max()), closed.params, iterated.params)
    assert max(jax.tree.leaves(difference)) < 1e-10


@pytest.mark.slow
def test_closed_form_matches_descent_with_several_outputs():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    y = jax.random.normal(jax.random.key(1), (5, 2))

    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    params0 = {
        k: jax.random.normal(jax.random.key(i), s) for i, (k, s) in enumerate({"w": (3, 4), "v": (4, 2)}.items())
    }
    problem = Problem(x, y, x + 0.1, y)
    run = gradient_descent(linearize(apply, params0), params0, problem, step_size=0.2, num_steps=50, record=[0, 7, 50])
    closed = linearized_descent(apply, params0, problem, step_size=0.2, steps=[0, 7, 50])
    np.testing.assert_allclose(closed.train_loss, run.train_loss, rtol=1e-10)
    np.testing.assert_allclose(closed.test_loss, run.test_loss, rtol=1e-10)


def test_closed_form_beyond_the_stability_limit_alternates_and_grows():
    params0 = MODEL.init(jax.random.key(1), doubled=True)
    eta = 2.2 / float(linearized_descent(MODEL.apply, params0, PROBLEM, step_size=1.0, steps=[1]).kernel_time[0])
    closed = linearized_descent(MODEL.apply, params0, PROBLEM, step_size=eta, steps=[0, 1, 2, 31, 32])
    run = gradient_descent(
        linearize(MODEL.apply, params0), params0, PROBLEM, step_size=eta, num_steps=32, record=[0, 1, 2, 31, 32]
    )
    np.testing.assert_allclose(closed.train_loss, run.train_loss, rtol=1e-9)
    assert bool(closed.status.unstable)


def test_limit_interpolates_when_the_kernel_has_full_rank():
    model = two_layer(60, 6)
    params0 = model.init(jax.random.key(1), doubled=True)
    closed = linearized_descent(model.apply, params0, PROBLEM, step_size=0.05, steps=[10, np.inf])
    assert float(closed.train_loss[-1]) < 1e-20
    outputs = linearize(model.apply, params0)(closed.params, PROBLEM.x)
    np.testing.assert_allclose(outputs, PROBLEM.y, atol=1e-8)


def test_limit_is_the_projection_residual_when_it_has_not():
    x = jax.random.normal(jax.random.key(0), (12, 3))
    y = jax.random.normal(jax.random.key(1), (12,))
    problem = Problem(x, y)
    closed = linearized_descent(lambda w, x: x @ w, jnp.zeros(3), problem, step_size=0.1, steps=[0, np.inf])
    residual = np.linalg.lstsq(np.asarray(x), np.asarray(y))[1][0]
    np.testing.assert_allclose(closed.train_loss[-1], 0.5 * residual / 12, rtol=1e-12)


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("exponent", [-3, 2, 5])
def test_scale_law_is_bit_exact_for_powers_of_two(doubled, exponent):
    tau = 2.0**exponent
    params0 = MODEL.init(jax.random.key(1), doubled=doubled)
    scaled = jax.tree.map(lambda leaf: tau * leaf, params0)
    runs = [
        gradient_descent(MODEL.apply, p, PROBLEM, alpha=a, step_size=s, num_steps=200)
        for p, a, s in ((scaled, 0.5 / tau**2, 0.25 / tau**2), (params0, 0.5, 0.25))
    ]
    assert bool(jnp.isfinite(runs[0].train_loss[-1]))
    assert bool(jnp.all(runs[0].train_loss == runs[1].train_loss))
    assert bool(jnp.all(runs[0].test_loss == runs[1].test_loss))


@pytest.mark.slow
@given(st.floats(0.1, 10), st.floats(0.05, 1.0), st.booleans())
def test_scale_law_holds_for_general_tau(tau, rate, doubled):
    params0 = MODEL.init(jax.random.key(1), doubled=doubled)
    top = float(linearized_descent(MODEL.apply, params0, PROBLEM, step_size=1.0, steps=[1]).kernel_time[0])
    scaled = jax.tree.map(lambda leaf: tau * leaf, params0)
    eta = rate / top
    runs = [
        gradient_descent(MODEL.apply, p, PROBLEM, alpha=a, step_size=s, num_steps=50)
        for p, a, s in ((scaled, 1.3, eta / tau**2), (params0, 1.3 * tau**2, eta))
    ]
    # After 100 steps one rounding of the start alone changes losses by 1.4e-9.
    np.testing.assert_allclose(runs[0].train_loss, runs[1].train_loss, rtol=1e-9)
    np.testing.assert_allclose(runs[0].kernel_time, runs[1].kernel_time, rtol=1e-8)


def test_large_tau_in_v_units_agrees_with_raw_float64():
    tau, params0 = 1e3, MODEL.init(jax.random.key(1), doubled=True)
    raw = gradient_descent(
        MODEL.apply, jax.tree.map(lambda leaf: tau * leaf, params0), PROBLEM, step_size=0.3 / tau**2, num_steps=200
    )
    unit = gradient_descent(MODEL.apply, params0, PROBLEM, alpha=tau**2, step_size=0.3, num_steps=200)
    np.testing.assert_allclose(raw.train_loss, unit.train_loss, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "alpha"), [(jnp.float64, 1e13), (jnp.float32, 1e4)])
@pytest.mark.parametrize("stochastic", [False, True])
def test_steps_below_the_rounding_of_the_weights_are_not_lost(dtype, alpha, stochastic):
    """Weights of size 1 move by 1/alpha in all: descent still ends where the linearised model does."""
    problem = jax.tree.map(lambda v: v.astype(dtype), (PROBLEM.x, PROBLEM.y, PROBLEM.x_test))
    params0 = jax.tree.map(lambda v: v.astype(dtype), MODEL.init(jax.random.key(1), doubled=True))
    x, y, x_test = problem
    eta, steps = 0.3, 3000
    if stochastic:
        run = sgd(
            MODEL.apply,
            params0,
            minibatches(Problem(x, y), len(x)),
            alpha=alpha,
            optimizer=optax.sgd(eta),
            num_steps=steps,
            key=jax.random.key(2),
            loss=square_loss,
        )
    else:
        run = gradient_descent(MODEL.apply, params0, Problem(x, y), alpha=alpha, step_size=eta, num_steps=steps)
    wide = jax.tree.map(lambda v: v.astype(float), params0)
    exact = linearized_descent(
        MODEL.apply, wide, PROBLEM, alpha=alpha, step_size=eta, steps=np.array([0.0, float(steps)])
    ).observed[1][-1]
    outputs = alpha * np.asarray(MODEL.apply(run.params, x_test), float)
    movement = float(tree.norm(tree.sub(run.params, params0)) / tree.norm(params0))
    assert movement < 200 * float(jnp.finfo(dtype).eps)
    assert np.linalg.norm(outputs - exact) < 0.02 * np.linalg.norm(exact)
    assert bool(run.status.precision_limited) == (movement < 100 * float(jnp.finfo(dtype).eps))


@pytest.mark.slow
def test_kernel_time_counts_in_units_of_the_largest_eigenvalue():
    params0 = MODEL.init(jax.random.key(1))
    run = gradient_descent(MODEL.apply, params0, PROBLEM, step_size=0.1, num_steps=5)
    rows = np.concatenate(
        [np.asarray(j).reshape(30, -1) for j in jax.tree.leaves(jax.jacobian(MODEL.apply)(params0, PROBLEM.x))], axis=1
    )
    top = np.linalg.eigvalsh(rows @ rows.T / 30)[-1]
    np.testing.assert_allclose(run.kernel_time[-1], 0.5 * top, rtol=1e-9)


def test_default_record_starts_at_zero_and_ends_at_the_budget():
    for num_steps in (1, 2, 17, 10_000):
        record = default_record(num_steps)
        assert (record[0], record[-1]) == (0, num_steps)
        assert list(record) == sorted(set(record))


def test_observe_is_evaluated_at_the_recorded_steps():
    params0 = MODEL.init(jax.random.key(1))
    run = gradient_descent(
        MODEL.apply, params0, PROBLEM, step_size=0.1, num_steps=9, record=[0, 4, 9], observe=lambda p: {"a": p["a"]}
    )
    assert run.observed["a"].shape == (3, 8)
    np.testing.assert_array_equal(run.observed["a"][0], params0["a"])
    np.testing.assert_array_equal(run.observed["a"][-1], run.params["a"])


@pytest.mark.parametrize("every", [1, 3])
def test_best_test_loss_is_the_running_minimum_at_the_given_stride(every):
    params0 = MODEL.init(jax.random.key(1))
    run = gradient_descent(MODEL.apply, params0, PROBLEM, step_size=0.3, num_steps=60, record=[0, 60], test_every=every)
    _, test = numpy_descent(params0, PROBLEM, alpha=1.0, eta=0.3, momentum=0.0, steps=60)
    np.testing.assert_allclose(run.best_test_loss[-1], test[[*range(0, 60, every), 60]].min(), rtol=1e-10)


@pytest.mark.parametrize("on_test", [False, True])
def test_early_stopping_waits_for_patience_and_keeps_the_parameters_it_judged(on_test):
    params0 = MODEL.init(jax.random.key(1), doubled=True)
    stop = EarlyStop(patience=20, min_delta=1e-3, on_test=on_test)
    run = gradient_descent(MODEL.apply, params0, PROBLEM, step_size=0.3, num_steps=STEPS, record=EVERY, stop=stop)
    losses = numpy_descent(params0, PROBLEM, alpha=1.0, eta=0.3, momentum=0.0, steps=STEPS)[on_test]
    best, waited, end = np.inf, 0, STEPS
    for i, loss in enumerate(losses):
        best, waited = (loss, 0) if loss < best - 1e-3 else (best, waited + 1)
        if waited == 20:
            end = i
            break
    recorded = np.asarray(run.test_loss if on_test else run.train_loss)
    assert end < STEPS
    assert int(run.status.code) == STOPPED
    np.testing.assert_allclose(recorded[: end + 1], losses[: end + 1], rtol=1e-10)
    assert np.isnan(recorded[end + 1 :]).all()
    x = PROBLEM.x_test if on_test else PROBLEM.x
    y = PROBLEM.y_test if on_test else PROBLEM.y
    assert x is not None
    assert y is not None
    np.testing.assert_allclose(PROBLEM.loss(MODEL.apply(run.params, x), y), losses[end], rtol=1e-10)


def test_status_tells_divergence_and_instability():
    params0 = MODEL.init(jax.random.key(1))
    run = gradient_descent(MODEL.apply, params0, PROBLEM, step_size=1e3, num_steps=100)
    assert int(run.status.code) == DIVERGED
    assert str(run.status).startswith("diverged, unstable")


def test_status_of_a_calm_run_is_budget():
    params0 = MODEL.init(jax.random.key(1), doubled=True)
    run = gradient_descent(MODEL.apply, params0, PROBLEM, step_size=0.3, num_steps=STEPS)
    assert int(run.status.code) == BUDGET
    assert not bool(run.status.unstable | run.status.precision_limited)
    still = (
        run.train_loss[-1]
        < 0.99 * gradient_descent(MODEL.apply, params0, PROBLEM, step_size=0.3, num_steps=270).train_loss[-1]
    )
    assert bool(run.status.still_improving) == bool(still)


def test_status_tells_when_the_start_is_too_large_for_the_float_type():
    problem = Problem(jnp.ones((4, 1)), jnp.array([1.0, 2.0, 3.0, 4.0]))
    small, large = (
        gradient_descent(lambda w, x: w * x[:, 0], jnp.array(w0), problem, step_size=0.5, num_steps=100)
        for w0 in (10.0, 1e15)
    )
    assert not bool(small.status.precision_limited)
    assert bool(large.status.precision_limited)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be a positive finite number, got 0"),
        ({"step_size": float("nan")}, "step_size must be a positive finite number, got nan"),
        ({"alpha": -1.0}, "alpha must be a positive finite number, got -1"),
        ({"num_steps": 0}, "num_steps must be a positive finite number, got 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1"),
        ({"record": [3, 3]}, "record must list increasing steps"),
        ({"record": [0, 11]}, "record must stay within num_steps=10, got step 11"),
        ({"test_every": 0}, "test_every must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, message):
    params0 = MODEL.init(jax.random.key(1))
    with pytest.raises(ValueError, match=message) as caught:
        gradient_descent(MODEL.apply, params0, PROBLEM, **({"step_size": 0.1, "num_steps": 10} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [complex, int])
def test_outputs_that_have_no_descent_are_refused_in_one_line(dtype):
    params0 = MODEL.init(jax.random.key(1))
    with pytest.raises(ValueError, match=f"real floating-point numbers, got {dtype.__name__}") as caught:
        gradient_descent(lambda w, x: MODEL.apply(w, x).astype(dtype), params0, PROBLEM, step_size=0.1, num_steps=3)
    assert "\n" not in str(caught.value)


def test_stopping_on_the_test_loss_needs_held_out_data():
    problem = Problem(PROBLEM.x, PROBLEM.y)
    params0 = MODEL.init(jax.random.key(1))
    with pytest.raises(ValueError, match="needs held-out data"):
        gradient_descent(
            MODEL.apply, params0, problem, step_size=0.1, num_steps=5, stop=EarlyStop(patience=2, on_test=True)
        )
    run = gradient_descent(MODEL.apply, params0, problem, step_size=0.1, num_steps=5)
    assert bool(jnp.all(jnp.isnan(run.test_loss)))


@pytest.mark.parametrize("steps", [[2, 1], [], [-1, 3], [0, np.nan]])
def test_closed_form_refuses_steps_that_do_not_increase(steps):
    params0 = MODEL.init(jax.random.key(1))
    with pytest.raises(ValueError, match="steps must be an increasing list"):
        linearized_descent(MODEL.apply, params0, PROBLEM, step_size=0.1, steps=steps)
