"""The regimes of design.md, the case in which every indicator misleads, and bad trainers."""

import json
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls
from lazyscope.diagnose import regime
from lazyscope.dynamics import gradient_descent

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
        assert any("center or double" in line for line in found.advice)


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
    np.testing.assert_allclose(by_tau.kernel_change, by_alpha.kernel_change, rtol=1e-6)


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


def test_the_diagnosis_is_plain_json():
    found = diagnosed(MODEL, MODEL.init(jax.random.key(1), doubled=True), with_kappa=True)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["regime"] == found.regime


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
    zero = ("distance", "movement", "gap", "differential", "differential/a", "differential/b")
    assert {found.pop(name) for name in zero} == {0.0}
    assert set(found) == {"kernel_change", "kernel_change/a", "kernel_change/b"}
    assert max(found.values()) < 1e-15  # two programs of one kernel: zero to rounding
    moved = measure(jax.tree.map(lambda leaf: 1.1 * leaf, params0))
    np.testing.assert_allclose(moved["movement"], 0.1, rtol=1e-12)


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


def test_crossover_of_a_plain_net_says_to_center_it():
    case = ls.Case(MODEL.apply, MODEL.init(jax.random.key(1), tau=3.0), PROBLEM)
    with pytest.raises(ValueError, match="center or double the model first"):
        ls.crossover(case, key=KEY, num_steps=100, largest=100.0)
