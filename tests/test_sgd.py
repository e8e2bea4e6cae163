"""SGD against full-batch descent, an independent NumPy loop, and the rate at which it tends to the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_descent import numpy_descent

from lazyscope import Problem, gradient_descent, minibatches, sgd, square_loss, teacher_student, two_layer
from lazyscope.dynamics import BUDGET, DIVERGED

PROBLEM = teacher_student(jax.random.key(0), n=30, d=6, n_test=20)
MODEL = two_layer(8, 6)
WHOLE, SOME = minibatches(PROBLEM, 30), minibatches(PROBLEM, 7)
PLAIN, HEAVY = optax.sgd(0.05), optax.sgd(0.05, momentum=0.9)
KEY = jax.random.key(5)


def start(doubled=False):
    return MODEL.init(jax.random.key(1), tau=0.7, doubled=doubled)


def run(batches, optimizer=PLAIN, key=KEY, *, alpha=1.0, num_steps=60, params0=None, **options):
    params0 = start() if params0 is None else params0
    return sgd(
        MODEL.apply,
        params0,
        batches,
        alpha=alpha,
        optimizer=optimizer,
        num_steps=num_steps,
        key=key,
        loss=square_loss,
        **options,
    )


@pytest.mark.parametrize(("optimizer", "momentum"), [(PLAIN, 0.0), (HEAVY, 0.9)])
def test_whole_batches_are_full_batch_descent(optimizer, momentum):
    record = (0, 1, 17, 60)
    ours = run(WHOLE, optimizer, alpha=3.7, params0=start(doubled=True), record=record)
    full = gradient_descent(
        MODEL.apply,
        start(doubled=True),
        PROBLEM,
        alpha=3.7,
        step_size=0.05,
        num_steps=60,
        momentum=momentum,
        record=record,
    )
    np.testing.assert_allclose(ours.train_loss, full.train_loss, rtol=1e-12)
    for leaf, other in zip(jax.tree.leaves(ours.params), jax.tree.leaves(full.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-11, atol=1e-12)
    if not momentum:
        np.testing.assert_allclose(ours.time, full.time, rtol=1e-12)
        np.testing.assert_allclose(ours.kernel_time, full.kernel_time, rtol=1e-12)
    assert [bool(a == b) for a, b in zip(ours.status, full.status, strict=True)] == [True] * 4
    assert bool(jnp.all(jnp.isnan(ours.test_loss)))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_minibatches_match_a_numpy_loop_over_the_same_draws(momentum):
    alpha, eta, steps = 1.7, 0.05, 25
    params = {name: np.asarray(value) for name, value in start().items()}
    velocity, losses = {"a": 0.0, "b": 0.0}, []
    for k in range(steps + 1):
        x, y = (np.asarray(v) for v in SOME(jax.random.fold_in(KEY, k)))
        hidden = x @ params["b"].T
        residual = alpha * np.maximum(hidden, 0) @ params["a"] - y
        losses.append(0.5 * np.mean(residual**2))
        back = residual / (alpha * len(y))
        gradient = {
            "a": np.maximum(hidden, 0).T @ back,
            "b": params["a"][:, None] * (((hidden > 0) * back[:, None]).T @ x),
        }
        velocity = {name: momentum * velocity[name] + gradient[name] for name in params}
        params = {name: params[name] - eta * velocity[name] for name in params}
    optimizer = HEAVY if momentum else PLAIN
    ours = run(SOME, optimizer, alpha=alpha, num_steps=steps, record=range(steps + 1))
    np.testing.assert_allclose(ours.train_loss, losses, rtol=1e-10)


def test_the_key_alone_decides_the_numbers():
    first, again, other = (run(SOME, key=key).train_loss for key in (KEY, KEY, jax.random.key(6)))
    assert bool(jnp.all(first == again))
    assert not bool(jnp.any(first == other))


def test_a_minibatch_holds_different_examples_each_as_often():
    index = jnp.arange(30.0)
    batches = minibatches(Problem(index, index), 7)
    drawn = np.asarray(jax.vmap(lambda k: batches(jax.random.key(k))[0])(jnp.arange(2000)))
    assert all(len(set(row)) == 7 for row in drawn)
    counts = np.bincount(drawn.astype(int).reshape(-1), minlength=30)
    expected = 2000 * 7 / 30
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected * 23 / 30))


@pytest.mark.parametrize("size", [0, 31])
def test_a_minibatch_larger_than_the_data_is_refused(size):
    with pytest.raises(ValueError, match=f"holds 1 to 30 of the training examples, got size={size}"):
        minibatches(PROBLEM, size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a positive finite number, got 0"),
        ({"num_steps": 0}, "num_steps must be a positive finite number, got 0"),
        ({"record": [5, 4]}, "record must list increasing steps"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        run(SOME, **options)


@pytest.mark.slow
def test_fresh_data_schedules_and_leaves_that_are_no_parameters():
    def fresh(key):
        x = jax.random.normal(key, (16, 6))
        return x, jnp.sin(x[:, 0])

    def apply(params, x):
        return MODEL.apply(params["net"], x) * params["sign"].astype(x.dtype)

    optimizer = optax.sgd(optax.linear_schedule(0.1, 0.0, 10))
    params0 = {"net": start(), "sign": jnp.array(1)}
    result = sgd(
        apply,
        params0,
        fresh,
        optimizer=optimizer,
        num_steps=10,
        key=KEY,
        loss=square_loss,
        record=range(11),
        observe=lambda p: p["net"]["a"],
    )
    np.testing.assert_allclose(result.time, np.cumsum([0.0, *(0.1 * (1 - k / 10) for k in range(10))]), rtol=1e-6)
    assert result.params["sign"] == 1
    assert result.observed.shape == (11, 8)
    np.testing.assert_array_equal(result.observed[-1], result.params["net"]["a"])
    x, y = fresh(jax.random.fold_in(KEY, 4))
    params4 = sgd(apply, params0, fresh, optimizer=optimizer, num_steps=4, key=KEY, loss=square_loss).params
    np.testing.assert_allclose(result.train_loss[4], square_loss(apply(params4, x), y), rtol=1e-10)
    assert int(result.status.code) == BUDGET


def test_divergence_is_told():
    assert int(run(SOME, optax.sgd(1e4)).status.code) == DIVERGED


@pytest.mark.slow
def test_sgd_tends_to_the_flow_with_the_square_root_of_the_step():
    horizon, steps = 4.0, (10, 20, 40, 80, 160)
    flow, _ = numpy_descent(start(), PROBLEM, alpha=1.0, eta=horizon / 4000, momentum=0.0, steps=4000)
    target = gradient_descent(MODEL.apply, start(), PROBLEM, step_size=horizon / 4000, num_steps=4000)
    np.testing.assert_allclose(target.train_loss[-1], flow[-1], rtol=1e-9)
    outputs = MODEL.apply(target.params, PROBLEM.x)
    rms = []
    for count in steps:
        optimizer = optax.sgd(horizon / count)
        ends = jax.vmap(lambda k, o=optimizer, c=count: run(SOME, o, k, num_steps=c).params)(jax.random.split(KEY, 64))
        values = jax.vmap(MODEL.apply, in_axes=(0, None))(ends, PROBLEM.x)
        rms.append(float(jnp.sqrt(jnp.mean((values - outputs[None]) ** 2))))
    slope = np.polyfit(np.log(horizon / np.array(steps)), np.log(rms), 1)[0]
    assert 0.4 < slope < 0.6
