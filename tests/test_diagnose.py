"""The regimes of design.md, the case in which every indicator misleads, and bad trainers."""

import json
from collections import OrderedDict
from dataclasses import replace
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyscope as ls
from lazyscope.diagnose import Thresholds, regime, regimes
from lazyscope.diagnose.gap import gap as gap_of
from lazyscope.diagnose.regime import near
from lazyscope.dynamics import gradient_descent
from lazyscope.measures import trained_gap

KEY = jax.random.key(2)
PROBLEM = ls.teacher_student(jax.random.key(0), n=60, d=8, n_test=60)
MODEL = ls.two_layer(16, 8)
TANH = ls.two_layer(16, 8, jnp.tanh)


def diagnosed(model, params0, **options):
    return ls.diagnose(model.apply, params0, PROBLEM, key=KEY, **({"num_steps": 300, "with_kappa": False} | options))


@pytest.mark.parametrize(
    ("gap", "change", "expected"),
    [
        (0.05, 0.1, "lazy"),
        (0.051, 0.1, "mixed"),
        (0.05, 0.11, "mixed"),
        (0.15, 0.5, "mixed"),
        (0.151, 0.0, "not lazy"),
        (0.0, 0.51, "not lazy"),
        (float("nan"), 0.0, "not lazy"),
        (0.0, float("nan"), "not lazy"),
    ],
)
def test_regime_follows_from_the_two_deciders(gap, change, expected):
    assert regime(gap, change) == expected


@pytest.mark.parametrize(
    ("gap", "change", "named"),
    [
        (0.02, 0.2, []),
        (0.0451, 0.2, ["g = 0.0451 is within 10 % of the threshold 0.05"]),
        (0.0549, 0.2, ["g = 0.0549 is within 10 % of the threshold 0.05"]),
        (0.0449, 0.1101, []),
        (0.16, 0.46, ["g = 0.16 is within 10 % of the threshold 0.15", "j = 0.46 is within 10 % of the threshold 0.5"]),
    ],
)
def test_deciders_within_a_tenth_of_a_threshold_on_either_side_are_named(gap, change, named):
    assert list(near(gap, change, Thresholds())) == named


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau", "doubled", "expected"),
    [
        (2.0, True, "lazy"),
        (2.0, False, "not lazy"),
        (100.0, False, "not lazy"),
        (0.1, True, "not lazy"),
        (0.3, True, "mixed"),
    ],
)
def test_regimes_of_the_papers_net(tau, doubled, expected):
    problem = ls.teacher_student(jax.random.key(0), n=1000, d=100, n_test=1000)
    model = ls.two_layer(50, 100)
    params0 = model.init(jax.random.key(1), tau=tau, doubled=doubled)
    found = ls.diagnose(
        model.apply, params0, problem, key=KEY, gates=model.gates, with_kappa=tau == 2.0 and not doubled
    )
    assert found.regime == expected
    if found.criterion is not None:
        # The case in which kappa, gate stability and the global kernel cosine all say lazy.
        assert found.criterion.kappa < 0.1
        assert found.indicators["stable gates"] > 0.95
        assert found.indicators["kernel 1 − cosine"] < 0.05
        assert any("center the model" in line for line in found.advice)


def test_a_linear_model_is_lazy_with_no_gap_and_no_kernel_change():
    found = ls.diagnose(lambda w, x: x @ w, jnp.zeros(8), PROBLEM, key=KEY, num_steps=300)
    assert (found.regime, found.kernel_change) == ("lazy", 0.0)
    assert found.gap < 1e-12
    assert found.criterion is not None
    assert found.criterion.kappa == 0


@pytest.mark.slow
def test_a_centred_smooth_net_at_large_alpha_is_lazy_and_at_small_alpha_is_not():
    params0 = TANH.init(jax.random.key(1))
    centred = ls.Model(TANH.init, ls.center(TANH.apply, params0))
    assert diagnosed(centred, params0, alpha=100.0).regime == "lazy"
    assert diagnosed(centred, params0, alpha=0.1).regime == "not lazy"


def in_float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@pytest.mark.parametrize("alpha", [3e3, 1e4])
def test_float32_gives_the_verdict_of_float64_where_single_steps_are_below_its_rounding(alpha):
    params0 = in_float32(TANH.init(KEY))
    x, y, x_test, y_test = in_float32((PROBLEM.x, PROBLEM.y, PROBLEM.x_test, PROBLEM.y_test))
    model = ls.center(TANH.apply, params0)
    found = ls.diagnose(model, params0, ls.Problem(x, y, x_test, y_test), key=KEY, alpha=alpha, with_kappa=False)
    assert found.regime == "lazy"
    assert float(found.gap) < 0.02
    assert not [line for line in found.advice if "float type rounds" in line]


def test_a_step_that_diverges_from_a_small_start_is_taken_smaller_and_said():
    params0 = jax.tree.map(lambda leaf: 0.05 * leaf, TANH.init(jax.random.key(1)))
    found = diagnosed(TANH, params0, num_steps=200)
    step = float(ls.stable_step_size(TANH.apply, params0, PROBLEM))
    over = next(n for n in (4, 16, 64, 256) if f"at the start over {n}: larger steps diverged" in found.how)
    assert found.regime == "not lazy"

    def train(eta):
        return lambda apply, params0: (
            gradient_descent(apply, params0, PROBLEM, step_size=eta, num_steps=200, record=(200,)).params
        )

    same = diagnosed(TANH, params0, train=train(step / over))
    np.testing.assert_allclose((found.gap.value, found.differential.value), (same.gap.value, same.differential.value))
    with pytest.raises(ValueError, match="training diverged"):
        diagnosed(TANH, params0, train=train(4 * step / over))


def test_a_step_that_is_too_large_where_the_loss_curves_more_is_named():
    labels = jnp.where(PROBLEM.x[:, 0] > 0, 1.0, 0.0)
    advice = {}
    # Where shift times factor is 20 the loss curves by 1e-9 until it is learnt, which a loss of logits is known to do.
    for shift, factor in ((0.0, 2), (10.0, 2), (20.0, 1)):
        problem = ls.Problem(
            PROBLEM.x, labels, loss=lambda f, y, by=factor: optax.sigmoid_binary_cross_entropy(by * f, y).mean()
        )
        found = ls.diagnose(
            lambda p, x, shift=shift: TANH.apply(p, x) / 10 + shift,
            TANH.init(jax.random.key(1)), problem, key=KEY, num_steps=50, with_kappa=False,
        )  # fmt: skip
        advice[shift] = found.advice[0] if found.advice else ""
    assert "the step is stable at the start and was not further on" in advice[10.0]
    assert "stable at the start" not in advice[0.0] + advice[20.0]


def test_a_model_that_is_linear_in_its_parameters_gets_no_scale_as_advice():
    found = ls.diagnose(lambda p, x: x @ p, jnp.ones(8), PROBLEM, key=KEY, num_steps=50)
    assert found.regime == "lazy"
    assert found.advice[0].startswith("the model is linear in its parameters as far as training went: lazy at this and")


def test_targets_that_are_all_0_leave_the_initial_output_to_be_unlearnt():
    problem = ls.Problem(PROBLEM.x, jnp.zeros_like(PROBLEM.y))
    found = ls.diagnose(TANH.apply, TANH.init(jax.random.key(1)), problem, key=KEY, num_steps=300, with_kappa=False)
    assert found.regime != "lazy"
    assert (
        "the initial output, where nothing else is to be learnt, has to be unlearnt: center the model" in found.advice
    )


X_TEST, Y_TEST = (jnp.asarray(rows)[:20] for rows in (PROBLEM.x_test, PROBLEM.y_test))
SMALL = ls.Problem(PROBLEM.x[:20], PROBLEM.y[:20], X_TEST, Y_TEST)
SIGNS = jnp.where(jnp.arange(16) % 2 == 0, 0.25, -0.25)


def followed(apply, params0, problem, found: Any, **options):
    best = found.recommendation
    advised = ls.center(apply, params0) if best.center else apply
    return ls.diagnose(advised, params0, problem, alpha=best.alpha, key=KEY, **options)


@pytest.mark.parametrize("target", [10.0, 100.0, 1e4])
def test_the_scale_that_is_advised_for_large_targets_is_lazy_when_followed(target):
    # The initial output is small beside them now, and not at that scale.
    net = ls.two_layer(8, 8, jnp.tanh)
    params0, problem = net.init(KEY), replace(SMALL, y=target * SMALL.y, y_test=target * Y_TEST)
    found: Any = ls.diagnose(net.apply, params0, problem, key=KEY, num_steps=200)
    assert found.regime == "not lazy"
    assert found.recommendation.center
    assert any("has to be unlearnt: center the model" in line for line in found.advice)
    assert followed(net.apply, params0, problem, found, num_steps=200).regime == "lazy"
    # Steps that end far above the start are no descent, whether or not they overflow.
    assert found.trajectory.train[-1] < found.trajectory.train[0]


@pytest.mark.parametrize(
    ("apply", "params0", "change"),
    [
        (lambda p, x: jax.nn.relu(x @ p) @ SIGNS, jax.random.normal(KEY, (8, 16)), 0.0),
        (lambda p, x: jax.nn.sigmoid(x @ p), jnp.zeros(8), 1.0),
    ],
    ids=["gates alone", "a point of inflection"],
)
def test_a_second_derivative_of_0_at_the_start_is_no_linear_model(apply, params0, change):
    problem = replace(SMALL, y=SMALL.y + change, y_test=Y_TEST + change)
    found: Any = ls.diagnose(apply, params0, problem, key=KEY, num_steps=200)
    assert found.criterion.hessian_norm.value == 0
    assert found.regime != "lazy"
    assert not any("linear in its parameters" in line for line in found.advice)
    assert followed(apply, params0, problem, found, num_steps=200).regime == "lazy"


def test_a_loss_below_0_has_no_kappa_and_no_scale_is_recommended():
    problem = replace(SMALL, loss=lambda f, y: ls.square_loss(f, y) - 5.0)
    params0 = TANH.init(KEY)
    found = ls.diagnose(TANH.apply, params0, problem, key=KEY, num_steps=200)
    assert found.criterion is None
    assert found.recommendation is None
    assert "kappa is left out: it presumes a loss whose least value is 0, and this one falls below" in found.reasons
    assert any("the loss falls below 0" in line for line in found.advice)
    with pytest.raises(
        ValueError, match=r"kappa must have a loss whose least value is 0, got -\d\.\d+ at the start: add a"
    ):
        ls.criterion(TANH.apply, params0, problem, key=KEY)


def test_outputs_that_are_probabilities_are_told_to_be_logits():
    def signs(y):
        return (y > 0).astype(float)

    def entropy(f, y):
        return -jnp.mean(y * jnp.log(f) + (1 - y) * jnp.log(1 - f))

    problem = replace(SMALL, y=signs(SMALL.y), y_test=signs(Y_TEST), loss=entropy)
    found = ls.diagnose(lambda p, x: jax.nn.sigmoid(TANH.apply(p, x)), TANH.init(KEY), problem, key=KEY, num_steps=50)
    assert found.recommendation is None
    assert any("let the model give logits, and the loss take them" in line for line in found.advice)
    assert not any("center the model" in line for line in found.advice)


def test_what_is_to_be_learnt_is_told_by_the_training_data():
    params0 = TANH.init(KEY)
    other = replace(SMALL, y_test=Y_TEST / 10)
    found, same = (ls.diagnose(TANH.apply, params0, one, key=KEY, num_steps=50) for one in (other, SMALL))
    assert found.recommendation == same.recommendation


def test_a_loss_that_is_done_falls_no_more_and_one_of_0_teaches_nothing():
    few = replace(SMALL, x=SMALL.x[:4], y=SMALL.y[:4])
    done = ls.diagnose(lambda p, x: x @ p, jnp.ones(8), few, key=KEY, num_steps=2000)
    assert not any("still falling" in line for line in done.advice)
    params0 = TANH.init(KEY)
    nothing = replace(SMALL, y=TANH.apply(params0, SMALL.x), y_test=TANH.apply(params0, X_TEST))
    found = ls.diagnose(TANH.apply, params0, nothing, key=KEY, num_steps=50)
    assert found.advice == ("the loss was 0 at the start: nothing was to be learnt, and nothing tells how lazily",)


def test_training_inputs_are_not_called_held_out():
    found = ls.diagnose(TANH.apply, TANH.init(KEY), ls.Problem(SMALL.x[:1], SMALL.y[:1]), key=KEY, num_steps=50)
    assert "(1 training example" in found.verdict


def test_parameters_in_another_container_are_refused_by_its_name():
    params0 = TANH.init(jax.random.key(1))
    with pytest.raises(ValueError, match=r"like params0 for .*, got OrderedDict for dict: keep the same pytree"):
        diagnosed(TANH, params0, train=lambda apply, params: OrderedDict(params))


def test_weights_that_moved_by_less_than_their_type_resolves_are_named_in_place_of_other_advice():
    params0 = in_float32(TANH.init(KEY))
    moved = jax.tree.map(lambda leaf: leaf * (1 + jnp.float32(1e-6)), params0)
    problem = ls.Problem(*in_float32((PROBLEM.x, PROBLEM.y)))
    found = ls.diagnose(TANH.apply, params0, problem, params=moved, key=KEY, with_kappa=False)
    assert found.advice[0].startswith("the weights moved by 9e-07 of their size, which their float type rounds")
    assert found.recommendation is None


def test_weights_that_move_by_less_than_the_products_of_the_model_resolve_are_named():
    net = ls.two_layer(16, 8, jnp.tanh)
    params0 = in_float32(net.init(jax.random.key(1), doubled=True))
    problem = ls.Problem(*in_float32((SMALL.x, SMALL.y, X_TEST, Y_TEST)))

    def coarse(p, x):
        p, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (p, x))
        return net.apply(p, x).astype(jnp.float32)

    options = {"key": KEY, "num_steps": 100, "with_kappa": False}
    with jax.numpy_dtype_promotion("standard"):
        for alpha in (1.0, 100.0):
            found = ls.diagnose(coarse, params0, problem, alpha=alpha, **options)
            fine = ls.diagnose(net.apply, params0, problem, alpha=alpha, **options)
            told = [line for line in found.advice if "which the model's bfloat16 rounds: g and j may be that" in line]
            assert bool(told) == (alpha > 1)
            assert not any("rounds" in line for line in fine.advice)
        assert found.recommendation is None


def test_a_trainer_whose_batches_are_used_up_is_refused_and_one_with_a_model_of_its_own_named():
    batches = iter([PROBLEM])

    def used_up(apply, params):
        for batch in batches:
            slope = jax.grad(lambda p, batch=batch: ls.square_loss(apply(p, batch.x), batch.y))(params)
            params = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, params, slope)
        return params

    def of_its_own(_, params):
        slope = jax.grad(lambda p: ls.square_loss(TANH.apply(p, PROBLEM.x), PROBLEM.y))(params)
        return jax.tree.map(lambda leaf, change: leaf - change, params, slope)

    with pytest.raises(
        ValueError, match="got a linearisation that did not move, though the model did: make its batches"
    ):
        diagnosed(TANH, TANH.init(KEY), train=used_up)
    found = diagnosed(TANH, TANH.init(KEY), train=of_its_own)
    assert found.how.endswith("which ended at the same weights for both: does it call the apply that it is given?")


def test_a_gap_of_a_linear_model_is_that_of_two_runs_which_differ():
    draws = np.random.default_rng(0)

    def train(apply, params):
        rows = draws.integers(0, len(PROBLEM.x), 20)
        slope = jax.grad(lambda p: ls.square_loss(apply(p, PROBLEM.x[rows]), PROBLEM.y[rows]))(params)
        return jax.tree.map(lambda leaf, change: leaf - 0.3 * change, params, slope)

    found = ls.diagnose(lambda p, x: x @ p, jnp.ones(8), PROBLEM, train=train, key=KEY)
    assert found.regime != "lazy"
    assert found.advice[0].startswith("the model did not change (j = 0), so g is what your two runs differ by")


@pytest.mark.parametrize("target", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("n", [3, 7, 10, 20])
def test_equal_targets_have_no_spread_whatever_their_mean_is_rounded_to(target, n):
    y = jnp.full(n, target)
    f, linear, f0 = y + jnp.linspace(0, 0.1, n), y + jnp.linspace(0, 0.11, n), jnp.zeros(n)
    expected = float(jnp.linalg.norm(f - linear) / jnp.linalg.norm(f - f0))
    np.testing.assert_allclose(trained_gap(f, linear, f0, y), expected, rtol=1e-12)
    np.testing.assert_allclose(float(gap_of(ls.square_loss, f, linear, f0, y)), expected, rtol=1e-12)


@pytest.mark.parametrize("kappa_examples", [None, 10])
def test_targets_of_several_parts_are_those_in_columns(kappa_examples):
    weights = jnp.where(jnp.arange(60) % 3 == 0, 2.0, 0.5)

    def judged(loss, join):
        y, y_test = (join(targets, weights) for targets in (PROBLEM.y, PROBLEM.y_test))
        problem = ls.Problem(PROBLEM.x, y, PROBLEM.x_test, y_test, loss=loss)
        if kappa_examples:
            options = {"key": KEY, "examples": kappa_examples}
            found = ls.criterion(TANH.apply, TANH.init(KEY), problem, **options).subsampling
            assert found is not None
            return found.kappa_error
        return float(ls.diagnose(TANH.apply, TANH.init(KEY), problem, key=KEY, num_steps=50).gap)

    parts = judged(lambda f, y: jnp.mean(y["w"] * (f - y["t"]) ** 2), lambda t, w: {"t": t, "w": w})
    columns = judged(lambda f, y: jnp.mean(y[:, 1] * (f - y[:, 0]) ** 2), lambda t, w: jnp.stack([t, w], 1))
    np.testing.assert_allclose(parts, columns, rtol=1e-9)


def test_a_loss_without_curvature_at_the_start_is_told_from_a_model_without_derivative():
    def absolute(f, y):
        return jnp.mean(jnp.abs(f - y))

    problem = ls.Problem(PROBLEM.x, PROBLEM.y, loss=absolute)
    with pytest.raises(ValueError, match=r"without curvature in the outputs there.*pass train="):
        ls.diagnose(MODEL.apply, MODEL.init(KEY), problem, key=KEY, with_kappa=False)
    with pytest.raises(ValueError, match="the derivative of the model is 0"):
        ls.diagnose(lambda p, x: 0 * MODEL.apply(p, x), MODEL.init(KEY), PROBLEM, key=KEY, with_kappa=False)


@pytest.mark.slow
def test_the_own_trainer_is_called_with_the_model_and_with_its_linearisation():
    params0 = TANH.init(jax.random.key(1), tau=0.5, doubled=True)
    seen = []

    def train(apply, start):
        seen.append(apply)
        return gradient_descent(apply, start, PROBLEM, step_size=0.5, num_steps=200, record=[200]).params

    found = diagnosed(TANH, params0, train=train)
    away = jax.tree.map(lambda leaf: leaf + 0.5, params0)
    np.testing.assert_allclose(seen[1](away, PROBLEM.x), ls.linearize(TANH.apply, params0)(away, PROBLEM.x), rtol=1e-12)
    ends = [train(apply, params0) for apply in (TANH.apply, ls.linearize(TANH.apply, params0))]
    assert PROBLEM.x_test is not None
    assert PROBLEM.y_test is not None
    f, f_linear = TANH.apply(ends[0], PROBLEM.x_test), ls.linearize(TANH.apply, params0)(ends[1], PROBLEM.x_test)
    spread = jnp.linalg.norm(PROBLEM.y_test - jnp.mean(PROBLEM.y_test))
    np.testing.assert_allclose(found.gap, jnp.linalg.norm(f - f_linear) / min(jnp.linalg.norm(f), spread), rtol=1e-9)
    assert "your trainer" in found.how


def test_weights_alone_are_compared_at_the_same_weights():
    params0 = TANH.init(jax.random.key(1), doubled=True)
    still = diagnosed(TANH, params0, params=params0)
    assert (still.regime, still.gap, still.kernel_change) == ("lazy", 0.0, 0.0)
    moved = params0._replace(plus=jax.tree.map(lambda leaf: 2.0 * leaf, params0.plus))
    found = diagnosed(TANH, params0, params=moved)
    assert found.gap > 0.15
    assert "same weights" in found.how


@pytest.mark.slow
def test_alpha_and_tau_squared_give_the_same_diagnosis():
    params0 = MODEL.init(jax.random.key(1), doubled=True)
    by_alpha = diagnosed(MODEL, params0, alpha=9.0)
    by_tau = diagnosed(MODEL, jax.tree.map(lambda leaf: 3.0 * leaf, params0))
    np.testing.assert_allclose(by_tau.gap, by_alpha.gap, rtol=1e-6)
    np.testing.assert_allclose(by_tau.differential, by_alpha.differential, rtol=1e-6)


@pytest.mark.slow
def test_cross_entropy_takes_the_worse_of_outputs_and_losses():
    labels = (PROBLEM.y > 0).astype(int)
    problem = ls.Problem(PROBLEM.x, labels, PROBLEM.x, labels, loss=ls.cross_entropy)

    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    params0 = {"w": jax.random.normal(KEY, (8, 12)), "v": jax.random.normal(KEY, (12, 2))}
    found = ls.diagnose(apply, params0, problem, key=KEY, num_steps=200, with_kappa=False)
    drop = found.losses["loss at start"] - found.losses["loss, trained"]
    by_loss = abs(found.losses["loss, trained"] - found.losses["loss, linearised"]) / drop
    assert found.gap >= by_loss * (1 - 1e-9)
    assert found.regime in ("lazy", "mixed", "not lazy")


def test_the_printed_table_names_regime_thresholds_and_how_it_was_trained():
    text = str(diagnosed(MODEL, MODEL.init(jax.random.key(1), tau=2.0, doubled=True), gates=MODEL.gates))
    for words in ("regime", "g <= 0.05 and j <= 0.1", "half the stability limit", "held-out inputs", "stable gates"):
        assert words in text


@pytest.mark.slow
def test_the_diagnosis_is_plain_json():
    found = diagnosed(MODEL, MODEL.init(jax.random.key(1), doubled=True), with_kappa=True)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["regime"] == found.regime
    assert repr(ls.Diagnosis.from_json(found.to_json()).criterion) == repr(found.criterion)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": lambda apply, p: jax.tree.map(lambda leaf: leaf * jnp.nan, p)}, "training diverged, lower its step"),
        (
            {"train": lambda apply, p: {"a": p["a"]}},
            "train must return finite parameters like params0 for the model, got shapes",
        ),
        ({"train": lambda apply, p: None}, "like params0 for the model, got none: parameters must be"),
        (
            {"params": {"a": jnp.ones(3), "b": jnp.ones((3, 8))}},
            "trained weights must be finite and like params0, got shapes",
        ),
        ({"train": lambda apply, p: p, "params": {}}, "train or params, got both"),
    ],
)
def test_bad_trainers_and_weights_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        diagnosed(MODEL, MODEL.init(jax.random.key(1)), **options)
    assert "\n" not in str(caught.value)


def pure(apply, params):
    return params | {"w": params["w"] - 0.1}


def in_place(apply, params):
    params["w"] = params["w"] - 0.1
    return params


def donating(apply, params):
    return jax.jit(lambda p: pure(apply, p), donate_argnums=0)(params)


@pytest.mark.slow
@pytest.mark.parametrize("train", [in_place, donating])
def test_a_trainer_may_change_or_donate_what_it_is_given(train):
    def apply(p, x):
        return jnp.tanh(x @ p["w"])

    params0 = {"w": jnp.ones(8)}
    found, right = (ls.diagnose(apply, params0, PROBLEM, train=one, key=KEY, with_kappa=False) for one in (train, pure))
    assert (found.gap, found.differential, found.kernel_change) == (right.gap, right.differential, right.kernel_change)
    np.testing.assert_array_equal(params0["w"], np.ones(8))


@pytest.mark.slow
def test_a_derivative_that_is_nan_is_named_for_weights_trained_elsewhere():
    def apply(w, x):
        return jnp.linalg.norm(x @ w, axis=1)

    zero = jnp.zeros((8, 2))
    with pytest.raises(ValueError, match=r"derivative of the outputs is NaN.* though the outputs are finite"):
        ls.diagnose(apply, zero, PROBLEM, params=zero + 0.1, key=KEY, with_kappa=False)


@pytest.mark.slow
def test_the_regime_needs_no_kernel_where_none_is_affordable(monkeypatch):
    verdict = import_module("lazyscope.diagnose.verdict")
    affordable = diagnosed(TANH, TANH.init(KEY), num_steps=5)
    for limit in ("KERNEL_NUMBERS", "MEMORY_BUDGET"):
        monkeypatch.setattr(verdict, limit, 1)
    found = diagnosed(TANH, TANH.init(KEY), num_steps=5)
    assert (found.kernel_change, found.kernel_examples) == (None, 0)
    assert (found.regime, found.differential) == (affordable.regime, affordable.differential)
    assert found.regime in str(found)


@pytest.mark.slow
def test_monitor_is_zero_at_the_start_and_jits():
    params0 = TANH.init(jax.random.key(1))
    measure = jax.jit(ls.monitor(TANH.apply, params0, PROBLEM.x[:10]))
    found = {name: float(value) for name, value in measure(params0).items()}
    exact = (
        "distance",
        "movement",
        "gap",
        "differential",
        "differential/a",
        "differential/b",
        "movement/a",
        "movement/b",
    )
    assert {found.pop(name) for name in exact} == {0.0}
    assert set(found) == {"kernel_change", "kernel_change/a", "kernel_change/b"}
    assert max(found.values()) < 1e-15  # two programs of one kernel: zero to rounding
    moved = measure(jax.tree.map(lambda leaf: 1.1 * leaf, params0))
    movements = [moved[name] for name in ("movement", "movement/a", "movement/b")]
    np.testing.assert_allclose(movements, 0.1, rtol=1e-12)
    from_zero = ls.monitor(TANH.apply, {**params0, "a": 0 * params0["a"]}, PROBLEM.x[:10], kernel=False)(params0)
    np.testing.assert_allclose(from_zero["movement/a"], jnp.linalg.norm(params0["a"]), rtol=1e-12)


@pytest.mark.slow
def test_crossover_separates_lazy_from_not_lazy():
    params0 = TANH.init(jax.random.key(1), doubled=True)
    found = ls.crossover(ls.Case(TANH.apply, params0, PROBLEM), key=KEY, num_steps=200)
    assert found.low < found.alpha < found.high <= found.low * 1.02
    assert diagnosed(TANH, params0, alpha=1.05 * found.alpha, num_steps=200).regime == "lazy"
    assert diagnosed(TANH, params0, alpha=found.alpha / 1.05, num_steps=200).regime != "lazy"


@pytest.mark.slow
def test_crossover_agrees_with_a_fine_grid_to_five_percent():
    params0 = TANH.init(jax.random.key(1), doubled=True)
    found = ls.crossover(ls.Case(TANH.apply, params0, PROBLEM), key=KEY, num_steps=200)
    # Neighbours 5 % apart, none at the crossover itself: one change of regime, between the two around it.
    places = np.arange(-4.5, 5)
    lazy = [diagnosed(TANH, params0, alpha=found.alpha * 1.05**i, num_steps=200).regime == "lazy" for i in places]
    np.testing.assert_array_equal(lazy, places > 0)


@pytest.mark.slow
def test_crossover_of_a_linear_model_is_refused():
    with pytest.raises(ValueError, match="it is as good as linear, there is nothing to change"):
        ls.crossover(ls.Case(lambda w, x: x @ w, jnp.zeros(8), PROBLEM), key=KEY, num_steps=20, largest=100.0)


@pytest.mark.slow
def test_crossover_of_a_plain_net_says_to_center_it():
    case = ls.Case(MODEL.apply, MODEL.init(jax.random.key(1), tau=3.0), PROBLEM)
    with pytest.raises(ValueError, match="center or double the model first"):
        ls.crossover(case, key=KEY, num_steps=100, largest=100.0)


def classifier(loss=ls.cross_entropy, **options):
    assert PROBLEM.y_test is not None
    labels = (PROBLEM.y > 0).astype(int)
    problem = ls.Problem(PROBLEM.x, labels, PROBLEM.x_test, (PROBLEM.y_test > 0).astype(int), loss=loss)

    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    params0 = {"w": jax.random.normal(KEY, (8, 12)), "v": jax.random.normal(KEY, (12, 2))}
    options = {"key": KEY, "num_steps": 50, "with_kappa": False} | options
    return apply, params0, problem, ls.diagnose(apply, params0, problem, **options)


def test_classifiers_are_compared_by_what_they_answer():
    apply, params0, problem, found = classifier(params={"w": jnp.ones((8, 12)), "v": jax.random.normal(KEY, (12, 2))})
    end = {"w": jnp.ones((8, 12)), "v": jax.random.normal(KEY, (12, 2))}
    answers = [jnp.argmax(f(end, problem.x_test), axis=1) for f in (apply, ls.linearize(apply, params0))]
    expected = [jnp.mean(a == problem.y_test) for a in answers] + [jnp.mean(answers[0] == answers[1])]
    assert list(found.classification) == ["accuracy, trained", "accuracy, linearised", "same answer"]
    np.testing.assert_allclose(list(found.classification.values()), expected)
    assert "same answer" in str(found)


def test_token_cross_entropy_is_that_of_the_counted_tokens():
    outputs = jax.random.normal(KEY, (4, 3, 5))
    y = jnp.asarray([[0, 1, -100], [4, -100, -100], [2, 2, 2], [-100, 3, 0]])
    rows = [(outputs[i, t], int(y[i, t])) for i in range(4) for t in range(3) if y[i, t] != -100]
    expected = ls.cross_entropy(jnp.stack([row for row, _ in rows]), jnp.asarray([label for _, label in rows]))
    np.testing.assert_allclose(ls.token_cross_entropy(outputs, y), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(ls.token_cross_entropy)(outputs, y), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "outputs", "y", "message"),
    [
        (
            ls.cross_entropy,
            (2, 3),
            [0, 3],
            "cross_entropy needs labels from 0 to 2, one a column of the outputs, got 3",
        ),
        (ls.cross_entropy, (2, 3), [-1, 1], "got -1: renumber them"),
        (ls.token_cross_entropy, (1, 2, 3), [[7, -100]], "token_cross_entropy needs labels from 0 to 2, .* got 7"),
        (ls.token_cross_entropy, (1, 2, 3), [[-100, -100]], "needs a token that counts, got labels that are all -100"),
        (ls.token_cross_entropy, (2, 3), [0, 1], r"needs outputs \(n, t, v\) and integer labels \(n, t\), got outputs"),
    ],
)
def test_labels_that_do_not_fit_are_named(loss, outputs, y, message):
    with pytest.raises(ValueError, match=message) as caught:
        loss(jnp.zeros(outputs), jnp.asarray(y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (ls.cross_entropy, "needs labels from 0 to 1, one a column of the outputs, got 5"),
        (lambda f, y: jnp.sum(f, axis=1), r"a loss must return one real number, got float64 of shape \(60,\) from"),
        (lambda f, y: (jnp.sum(f), y), "a loss must return one real number, got tuple"),
    ],
)
def test_losses_and_labels_are_refused_before_anything_is_trained(loss, message):
    problem = ls.Problem(PROBLEM.x, jnp.full(60, 5), loss=loss)
    with pytest.raises(ValueError, match=message):
        ls.diagnose(lambda w, x: jnp.tanh(x @ w), jnp.ones((8, 2)), problem, key=KEY, train=lambda *given: 1 / 0)


@pytest.mark.slow
def test_several_starts_give_the_spread_and_the_median():
    found = ls.diagnose(TANH.apply, TANH.init, PROBLEM, key=KEY, num_steps=50, with_kappa=False, seeds=3)
    gaps = sorted(float(seed.gap) for seed in found.seeds)
    assert len(set(gaps)) == 3
    assert float(found.gap) == gaps[1]
    assert "3 seeds" in str(found)
    assert f"g {gaps[0]:.2g} to {gaps[2]:.2g}" in str(found)
    with pytest.raises(ValueError, match="pass params0 as a function of a key"):
        diagnosed(TANH, TANH.init(KEY), seeds=2)


def test_a_trainer_that_takes_a_scale_is_told_alpha_and_the_factors_of_its_step():
    params0 = TANH.init(jax.random.key(1), doubled=True)
    seen = []

    def train(apply, start, scale):
        seen.append((scale.alpha, scale.sgd, scale.adam))
        return jax.tree.map(lambda leaf: leaf + 1e-3, start)

    found = diagnosed(TANH, params0, train=train, alpha=4.0)
    assert seen == [(4.0, 1 / 16, 1 / 4)] * 2
    assert found.alpha == 4.0
    with pytest.raises(
        ValueError, match=r"train must take \(apply, params0\) or \(apply, params0, scale\), got train\(a\)"
    ):
        diagnosed(TANH, params0, train=lambda a: a)
    with pytest.raises(ValueError, match="train must return the parameters alone, got a tuple of 2"):
        diagnosed(TANH, params0, train=lambda apply, start: (start, [0.1]))


def test_a_third_argument_with_a_default_is_a_setting_of_the_trainers_own():
    seen = []

    def train(apply, start, steps=7):
        seen.append(steps)
        return jax.tree.map(lambda leaf: leaf + 1e-3, start)

    def scaled(apply, start, scale: Any = None):
        seen.append(scale.alpha)
        return jax.tree.map(lambda leaf: leaf + 1e-3, start)

    for trainer in (train, scaled):
        diagnosed(TANH, TANH.init(KEY), train=trainer, alpha=4.0)
    assert seen == [7, 7, 4.0, 4.0]


def test_the_rows_of_the_layers_add_up_and_say_what_did_not_train():
    params0 = {"a": {"w": jnp.ones((8, 4))}, "b": {"w": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, "c": jnp.ones((3,))}

    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"]["w"]) @ p["b"]["w"] + p["b"]["bias"][None]) @ p["c"]

    def train(apply, start):
        return start | {"b": jax.tree.map(lambda leaf: leaf + 0.5, start["b"])}

    found = ls.diagnose(apply, params0, PROBLEM, train=train, key=KEY, with_kappa=False)
    np.testing.assert_allclose(sum(row.change_share for row in found.groups), 1, atol=1e-12)
    np.testing.assert_allclose(sum(row.start_share for row in found.groups), 1, atol=1e-12)
    assert {row.name: row.trained for row in found.groups} == {"a": False, "b": True, "c": False}
    assert any("did not train at all:" in reason for reason in found.reasons)
    merged = ls.diagnose(apply, params0, PROBLEM, train=train, key=KEY, with_kappa=False, groups={"[ab]/*": "ab"})
    assert [row.name for row in merged.groups] == ["ab", "c"]
    np.testing.assert_allclose(merged.differential, found.differential, rtol=1e-12)


@pytest.mark.slow
def test_wide_intervals_allow_several_regimes_and_the_table_says_so():
    low, high = ls.Interval(0.04, 0.02, 0.2), ls.Interval(0.05, 0.04, 0.06)
    assert regimes(low, high) == ("lazy", "mixed", "not lazy")
    assert regimes(ls.Interval(0.04, 0.02, 0.06), high) == ("lazy", "mixed")
    assert regimes(high, high) == ("lazy", "mixed")
    assert regimes(ls.Interval(0.01, 0.01, 0.02), high) == ("lazy",)
    assert PROBLEM.x_test is not None
    assert PROBLEM.y_test is not None
    few = ls.Problem(PROBLEM.x, PROBLEM.y, PROBLEM.x_test[:3], PROBLEM.y_test[:3])
    found = ls.diagnose(TANH.apply, TANH.init(KEY, doubled=True), few, key=KEY, num_steps=50, with_kappa=False)
    assert found.regimes[0] != found.regimes[-1]
    assert " or " in found.verdict
    assert "(3 held-out examples: more would tell)" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_crossover_with_a_trainer_of_ones_own_needs_a_step_that_follows_alpha(told):
    params0 = TANH.init(jax.random.key(1), doubled=True)

    def train(apply, start, rate):
        optimizer = optax.adam(rate)

        @jax.jit
        def step(carry, _):
            params, memory = carry
            gradient = jax.grad(lambda p: ls.square_loss(apply(p, PROBLEM.x), PROBLEM.y))(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, (start, optimizer.init(start)), None, length=200)[0][0]

    if told:
        case = ls.Case(TANH.apply, params0, PROBLEM, train=lambda a, p, scale: train(a, p, 0.02 * scale.adam))
        found = ls.crossover(case, key=KEY)

        def lazy(alpha):
            options = {"train": case.train, "alpha": alpha, "key": KEY, "with_kappa": False}
            return ls.diagnose(case.apply, params0, PROBLEM, **options).regime == "lazy"

        # One change of regime, between neighbours of a grid that are 5 % apart around what was found.
        places = np.arange(-1.5, 2)
        np.testing.assert_array_equal([lazy(found.alpha * 1.05**i) for i in places], places > 0)
    else:
        case = ls.Case(TANH.apply, params0, PROBLEM, train=lambda a, p: train(a, p, 0.02))
        with pytest.raises(ValueError, match=r"the step of your trainer does not follow alpha, let it be train\(apply"):
            ls.crossover(case, key=KEY)


@pytest.mark.slow
def test_regimes_of_two_layer_nets_are_those_of_the_design():
    """The (g, j) measured when j was chosen as a decider; seed 0, g on 200 held-out inputs, j on 100 of them."""
    measured = {
        ("plain", 2.0): (7.9, 0.66),
        ("plain", 100.0): (2e4, 0.66),
        ("plain", 0.1): (0.38, 1.7),
        ("symmetrised", 0.1): (0.36, 1.7),
        ("symmetrised", 0.2): (0.22, 0.63),
        ("symmetrised", 0.3): (0.14, 0.28),
        ("symmetrised", 0.5): (0.076, 0.125),
        ("symmetrised", 1.0): (0.037, 0.061),
        ("symmetrised", 2.0): (0.013, 0.042),
        ("symmetrised", 3.0): (0.0071, 0.0195),
        ("tanh", 0.3): (0.112, 0.096),
        ("tanh", 1.0): (0.034, 0.028),
        ("tanh", 3.0): (0.011, 0.0095),
    }
    key_data, key_init = jax.random.split(jax.random.key(0))
    problem = ls.teacher_student(key_data, n=500, d=50, n_test=200)
    for (kind, scale), expected in measured.items():
        model = ls.two_layer(50, 50, jnp.tanh if kind == "tanh" else jax.nn.relu)
        params0 = model.init(key_init, tau=1.0 if kind == "tanh" else scale, doubled=kind == "symmetrised")
        apply, alpha = (ls.center(model.apply, params0), scale) if kind == "tanh" else (model.apply, 1.0)
        options = {"key": KEY, "num_steps": 1000, "examples": 100, "with_kappa": False, "alpha": alpha}
        found = ls.diagnose(apply, params0, problem, **options)
        np.testing.assert_allclose((found.gap, found.differential), expected, rtol=0.15, err_msg=f"{kind} {scale}")
        assert found.regime == regime(*expected)


@pytest.mark.slow
def test_a_low_rank_update_that_starts_at_zero_is_lazy_at_a_large_scale():
    keys = jax.random.split(jax.random.key(4), 3)
    frozen = jax.random.normal(keys[0], (8, 16))

    def apply(p, x):
        return jnp.tanh(x @ (frozen + p["lora_A"] @ p["lora_B"])) @ p["head"]

    params0 = {
        "lora_A": jax.random.normal(keys[1], (8, 2)),
        "lora_B": jnp.zeros((2, 16)),
        "head": jax.random.normal(keys[2], (16,)),
    }
    found = ls.diagnose(ls.center(apply, params0), params0, PROBLEM, alpha=1000.0, key=KEY, with_kappa=False)
    assert found.regime == "lazy"
    assert [row.name for row in found.groups if "lora" in row.name] == ["lora"]


@pytest.mark.slow
def test_how_weights_are_stored_changes_no_decider():
    def net(w, v, x):
        return jnp.tanh(x @ w) @ v

    w, v = jax.random.normal(jax.random.key(1), (8, 6)), jax.random.normal(jax.random.key(2), (6,))
    q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (48, 48)))
    forms = {
        "leaves": ({"w": w, "v": v}, lambda p, x: net(p["w"], p["v"], x)),
        "one vector": (
            jnp.concatenate([w.ravel(), v]),
            lambda p, x: net(p[:48].reshape(8, 6), p[48:], x),
        ),
        "rows": ([*w, v], lambda p, x: net(jnp.stack(p[:-1]), p[-1], x)),
        "units": (
            [{"in": w[:, i], "out": v[i]} for i in range(6)],
            lambda p, x: net(jnp.stack([u["in"] for u in p], axis=1), jnp.stack([u["out"] for u in p]), x),
        ),
        "rotated": ({"w": q @ w.ravel(), "v": v}, lambda p, x: net((q.T @ p["w"]).reshape(8, 6), p["v"], x)),
    }
    found = []
    for params0, apply in forms.values():
        centred = ls.center(apply, params0)
        one = ls.diagnose(centred, params0, PROBLEM, alpha=4.0, key=KEY, num_steps=200, with_kappa=False)
        found.append((float(one.gap), float(one.differential), one.regime))
    for gap, differential, verdict in found:
        np.testing.assert_allclose((gap, differential), found[0][:2], rtol=1e-9)
        assert verdict == found[0][2]
