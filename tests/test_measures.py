"""Measures of what moved: definitions by NumPy, rates, invariances, and their values where they must be 0, 1 or inf."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from compiled import compiled
from hypothesis import given
from hypothesis import strategies as st

from lazyscope import (
    Problem,
    activation_stability,
    cka,
    cross_entropy,
    distance,
    gradient_descent,
    kernel_change,
    kernel_distance,
    linearization_gap,
    linearized_descent,
    mlp,
    relative_change,
    stable_step_size,
    tangent_kernel,
    target_alignment,
    teacher_student,
    trained_gap,
    two_layer,
)

CASE = {case.name: case for case in CASES}
MODEL = two_layer(6, 4)
X = jax.random.normal(jax.random.key(2), (9, 4))
PARAMS0 = MODEL.init(jax.random.key(0))


def away(params, size, seed=7):
    """`params` moved by Gaussian steps of standard deviation `size`; integer leaves stay."""
    keys = iter(jax.random.split(jax.random.key(seed), 20))

    def move(leaf):
        moves = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf + size * jax.random.normal(next(keys), leaf.shape) if moves else leaf

    return jax.tree.map(move, params)


def all_changes(apply, params0, params, x):
    """Every measure that is 0 where nothing has changed."""
    return {
        "distance": distance(params0, params),
        "relative": relative_change(params0, params)._replace(absolute={}),
        "kernel": kernel_change(apply, params0, params, x),
        "cosine": kernel_distance(apply, params0, params, x),
        "gap": linearization_gap(apply, params0, params, x),
    }


def values(result):
    return {jax.tree_util.keystr(path): float(v) for path, v in jax.tree_util.tree_leaves_with_path(result)}


@pytest.mark.parametrize("name", ["two-layer relu", "several outputs", "shared weights", "zero", "linear", "rank one"])
def test_every_change_is_zero_where_nothing_moved(name):
    case = CASE[name]
    result = compiled(partial(all_changes, case.apply))(case.params, case.params, case.problem.x)
    # Within one program two equal kernels may be put together in another order: zero to rounding.
    kernels = {**values(result.pop("kernel")), "cosine": float(result.pop("cosine"))}
    assert set(values(result).values()) == {0.0}
    assert all(0 <= value < 1e-15 for value in kernels.values())


def test_every_change_is_positive_where_a_curved_model_moved():
    result = compiled(partial(all_changes, MODEL.apply))(PARAMS0, away(PARAMS0, 0.5), X)
    assert all(0 < value < np.inf for value in values(result).values())


@pytest.mark.parametrize("name", ["linear", "zero"])
def test_a_linear_model_has_no_gap_and_no_kernel_change_wherever_it_goes(name):
    case = CASE[name]
    result = compiled(partial(all_changes, case.apply))(case.params, away(case.params, 3.0), case.problem.x)
    # For "zero" both gaps are 0/0, which is no change.
    assert float(result["gap"]) < 1e-14
    assert {*values(result["kernel"]).values(), float(result["cosine"])} == {0.0}
    assert float(result["relative"].all) > 1


def test_permuting_hidden_units_changes_no_measure():
    params, order = away(PARAMS0, 0.5), jnp.array([3, 1, 5, 0, 2, 4])
    permuted0, permuted = (jax.tree.map(lambda leaf: leaf[order], p) for p in (PARAMS0, params))
    measure = compiled(partial(all_changes, MODEL.apply))
    before, after = (values(measure(*pair, X)) for pair in ((PARAMS0, params), (permuted0, permuted)))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-11, err_msg=name)
    assert MODEL.gates is not None
    stability = [activation_stability(MODEL.gates, *pair, X) for pair in ((PARAMS0, params), (permuted0, permuted))]
    np.testing.assert_allclose(stability[0], stability[1], rtol=1e-14)


def test_movement_is_that_of_the_flattened_weights_per_group_and_in_all():
    params = away(PARAMS0, 0.5)
    change = {name: np.ravel(params[name] - PARAMS0[name]) for name in ("a", "b")}
    flat0 = {name: np.ravel(PARAMS0[name]) for name in ("a", "b")}
    moved, result = distance(PARAMS0, params), relative_change(PARAMS0, params)
    for name in ("a", "b"):
        np.testing.assert_allclose(moved.groups[name], np.linalg.norm(change[name]), rtol=1e-13)
        expected = np.linalg.norm(change[name]) / np.linalg.norm(flat0[name])
        np.testing.assert_allclose(result.groups[name], expected, rtol=1e-13)
    together, start = (np.concatenate([tree["a"], tree["b"]]) for tree in (change, flat0))
    np.testing.assert_allclose(moved.all, np.linalg.norm(together), rtol=1e-13)
    np.testing.assert_allclose(result.all, np.linalg.norm(together) / np.linalg.norm(start), rtol=1e-13)
    np.testing.assert_allclose(result.entrywise, np.sum(np.abs(together) / np.abs(start)), rtol=1e-12)


def test_a_group_that_starts_at_zero_has_its_movement_reported_as_absolute():
    model = mlp((4, 5, 1), bias=True)
    params0 = model.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 1, params0)
    result = compiled(relative_change)(params0, params)
    assert {name: bool(value) for name, value in result.absolute.items()} == {
        "layers/0/b": True,
        "layers/0/w": False,
        "layers/1/b": True,
        "layers/1/w": False,
    }
    np.testing.assert_allclose(result.groups["layers/0/b"], np.sqrt(5), rtol=1e-14)
    weights = [layer["w"] for layer in params0["layers"]]
    np.testing.assert_allclose(result.entrywise, sum(float(jnp.sum(1 / jnp.abs(w))) for w in weights), rtol=1e-12)
    # Nothing at all to divide by: everything is absolute.
    zero = jax.tree.map(jnp.zeros_like, params0)
    np.testing.assert_allclose(relative_change(zero, params).all, distance(zero, params).all, rtol=1e-14)


@pytest.mark.slow
def test_kernel_change_is_the_frobenius_ratio_with_the_floor_of_a_hundredth():
    params = away(PARAMS0, 0.5)
    # A readout a thousand times too small: the b-part of the kernel starts at a millionth of the whole.
    for start in (PARAMS0, {"a": 1e-3 * PARAMS0["a"], "b": PARAMS0["b"]}):
        result = kernel_change(MODEL.apply, start, params, X)

        def part(p, name):
            other = {k: v for k, v in p.items() if k != name}
            return np.asarray(tangent_kernel(lambda w, x: MODEL.apply({name: w} | other, x), p[name], X))

        parts0, parts = ({name: part(p, name) for name in ("a", "b")} for p in (start, params))
        whole0, whole = (q["a"] + q["b"] for q in (parts0, parts))
        norm = np.linalg.norm
        np.testing.assert_allclose(result.all, norm(whole - whole0) / norm(whole0), rtol=1e-11)
        for name in ("a", "b"):
            scale = max(norm(parts0[name]), norm(whole0) / 100)
            np.testing.assert_allclose(result.groups[name], norm(parts[name] - parts0[name]) / scale, rtol=1e-11)
    assert norm(parts0["b"]) < norm(whole0) / 100


def test_kernel_change_sees_the_group_that_the_total_hides():
    params = PARAMS0 | {"a": jnp.zeros(6)}
    start = PARAMS0 | {"a": 0.2 * PARAMS0["a"]}
    result = kernel_change(MODEL.apply, start, params, X)
    np.testing.assert_allclose(result.groups["b"], 1, rtol=1e-12)
    assert float(result.groups["a"]) == 0
    assert float(result.all) < 0.2


def test_kernel_distance_is_one_minus_the_cosine_and_blind_to_scale():
    params = away(PARAMS0, 0.5)
    k0, k = (np.asarray(tangent_kernel(MODEL.apply, p, X)) for p in (PARAMS0, params))
    expected = 1 - np.sum(k0 * k) / np.linalg.norm(k0) / np.linalg.norm(k)
    np.testing.assert_allclose(kernel_distance(MODEL.apply, PARAMS0, params, X), expected, rtol=1e-12)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, PARAMS0)
    assert float(kernel_distance(MODEL.apply, PARAMS0, doubled, X)) < 1e-30
    np.testing.assert_allclose(kernel_change(MODEL.apply, PARAMS0, doubled, X).all, 3, rtol=1e-13)


def test_kernel_change_is_of_first_and_kernel_distance_of_second_order_in_the_movement():
    case, sizes = CASE["two-layer tanh"], np.array([1e-2, 1e-4, 1e-6])

    def measure(size):
        params = away(case.params, size)
        change = kernel_change(case.apply, case.params, params, case.problem.x)
        return change.all, kernel_distance(case.apply, case.params, params, case.problem.x)

    change, cosine = compiled(jax.vmap(measure))(jnp.asarray(sizes))
    assert abs(np.polyfit(np.log(sizes), np.log(change), 1)[0] - 1) < 0.01
    # 1 − cos as written would be rounding at 1e-6, where this is about 1e-12.
    assert abs(np.polyfit(np.log(sizes), np.log(cosine), 1)[0] - 2) < 0.02


def test_the_gap_at_the_same_weights_is_of_first_order_and_alpha_drops_out():
    case, sizes = CASE["several outputs"], np.array([1e-1, 1e-2, 1e-3])
    x = case.problem.x

    def gaps(size):
        params = away(case.params, size)
        gap = linearization_gap(case.apply, case.params, params, x)
        return gap, linearization_gap(lambda p, x: 1e3 * case.apply(p, x), case.params, params, x)

    plain, scaled = compiled(jax.vmap(gaps))(jnp.asarray(sizes))
    np.testing.assert_allclose(plain, scaled, rtol=1e-10)
    assert abs(np.polyfit(np.log(sizes), np.log(plain), 1)[0] - 1) < 0.05


def test_the_gap_of_a_known_curve():
    # h = w³ x from 1 to 1 + e: (h − h0) = 3e + 3e² + e³ and the linear part 3e.
    e = 0.1
    gap = linearization_gap(lambda w, x: w["w"] ** 3 * x[:, 0], {"w": jnp.array(1.0)}, {"w": jnp.array(1 + e)}, X)
    np.testing.assert_allclose(gap, (3 * e**2 + e**3) / (3 * e + 3 * e**2 + e**3), rtol=1e-12)


def test_a_gap_without_movement_of_the_outputs_is_infinite_not_nan():
    # (w − 1)² is 1 at 0 and at 2, while its linearisation at 0 goes on.
    apply = lambda w, x: (w - 1) ** 2 * x[:, 0]  # noqa: E731
    assert np.isposinf(linearization_gap(apply, jnp.array(0.0), jnp.array(2.0), X))
    zero = CASE["zero"]
    changed = kernel_change(lambda w, x: w**2 * x[:, 0], jnp.array(0.0), jnp.array(1.0), zero.problem.x)
    assert np.isposinf(changed.all)


def test_the_trained_gap_divides_by_the_smaller_of_movement_and_spread():
    rng = np.random.default_rng(0)
    f, g, f0, y = (jnp.asarray(rng.standard_normal(9)) for _ in range(4))
    norm = np.linalg.norm
    movement, spread = norm(f - f0), norm(y - jnp.mean(y))
    np.testing.assert_allclose(trained_gap(f, g, f0), norm(f - g) / movement, rtol=1e-13)
    np.testing.assert_allclose(trained_gap(f, g, f0, y), norm(f - g) / min(movement, spread), rtol=1e-13)
    np.testing.assert_allclose(trained_gap(f, g, f0, 1e-3 * y), norm(f - g) / spread * 1e3, rtol=1e-12)
    # A large initial output must not dilute it, a shift of the targets must not change it.
    np.testing.assert_allclose(trained_gap(f, g, f0 + 1e6, y + 5), norm(f - g) / spread, rtol=1e-12)
    np.testing.assert_allclose(trained_gap(f, g, f0, jnp.ones(9)), norm(f - g) / movement, rtol=1e-13)
    assert float(trained_gap(f0, f0, f0, y)) == 0
    assert np.isposinf(trained_gap(f0, g, f0))


def test_the_trained_gap_takes_the_mean_of_each_output():
    y = jnp.array([[1.0, 10.0], [3.0, 10.0]])
    zero = jnp.zeros((2, 2))
    np.testing.assert_allclose(trained_gap(zero + 9, zero + 8, zero, y), 2 / np.sqrt(2), rtol=1e-13)


def test_target_alignment_is_the_rayleigh_quotient_of_the_targets():
    problem = Problem(X, jax.random.normal(jax.random.key(1), (9,)))
    k, y = np.asarray(tangent_kernel(MODEL.apply, PARAMS0, X)), np.asarray(problem.y)
    expected = y @ k @ y / np.linalg.norm(k) / (y @ y)
    np.testing.assert_allclose(target_alignment(MODEL.apply, PARAMS0, problem), expected, rtol=1e-12)


@pytest.mark.slow
def test_target_alignment_is_one_for_the_target_in_a_rank_one_kernel_and_zero_without_kernel_or_targets():
    case, zero = CASE["quadratic, rank one"], CASE["zero"]
    column = tangent_kernel(case.apply, case.params, case.problem.x)[:, 0]
    aligned = target_alignment(case.apply, case.params, Problem(case.problem.x, column))
    np.testing.assert_allclose(aligned, 1, rtol=1e-12)
    assert float(target_alignment(zero.apply, zero.params, zero.problem)) == 0
    assert float(target_alignment(case.apply, case.params, Problem(case.problem.x, 0 * column))) == 0


def test_labels_stand_for_their_one_hot_vectors_in_the_alignment():
    case = CASE["cross-entropy"]
    hot = Problem(case.problem.x, jax.nn.one_hot(case.problem.y, 3))
    assert case.problem.loss is cross_entropy
    expected = target_alignment(case.apply, case.params, hot)
    np.testing.assert_allclose(target_alignment(case.apply, case.params, case.problem), expected, rtol=1e-14)
    with pytest.raises(ValueError, match=r"outputs' shape \(10, 3\) or class labels, got \(10, 2\)"):
        target_alignment(case.apply, case.params, Problem(case.problem.x, hot.y[:, :2]))


@given(st.integers(0, 100), st.floats(0.1, 10), st.floats(-3, 3))
def test_cka_is_one_for_a_kernel_and_its_shifts_and_scalings_and_below_one_otherwise(seed, scale, shift):
    rng = np.random.default_rng(seed)
    features, others = rng.standard_normal((2, 7, 3))
    k, other = jnp.asarray(features @ features.T), jnp.asarray(others @ others.T)
    moved = jnp.asarray((scale * features + shift) @ (scale * features + shift).T)
    np.testing.assert_allclose(cka(k, moved), 1, rtol=1e-10)
    h = np.eye(7) - 1 / 7
    a, b = h @ np.asarray(k) @ h, h @ np.asarray(other) @ h
    expected = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(cka(k, other), expected, rtol=1e-10)
    assert 0 <= float(cka(k, other)) < 1


def test_cka_traces_over_outputs_and_is_zero_for_a_constant_kernel():
    case = CASE["several outputs"]
    kernel = tangent_kernel(case.apply, case.params, case.problem.x)
    traced = jnp.trace(kernel, axis1=2, axis2=3)
    np.testing.assert_allclose(cka(kernel, traced), 1, rtol=1e-12)
    assert float(cka(jnp.zeros((4, 4)), jnp.eye(4))) == 0
    with pytest.raises(ValueError, match=r"same examples, got shapes \(3, 3\) and \(4, 4\)"):
        cka(jnp.eye(3), jnp.eye(4))


@pytest.mark.parametrize("doubled", [False, True])
def test_activation_stability_is_one_at_the_start_and_counts_equal_signs_per_layer(doubled):
    model = mlp((4, 5, 3, 1))
    params0 = model.init(jax.random.key(0), doubled=doubled)
    assert model.gates is not None
    assert {float(v) for v in jax.tree.leaves(activation_stability(model.gates, params0, params0, X))} == {1.0}
    # Opposite first layers flip every first gate (no pre-activation is exactly 0).
    halves = (lambda p: p.plus) if doubled else (lambda p: p)
    flipped = jax.tree.map(jnp.negative, params0)
    first, second = halves(activation_stability(model.gates, params0, flipped, X))
    assert float(first) == 0
    before, after = (halves(model.gates(p, X))[1] for p in (params0, flipped))
    assert float(second) == np.mean(np.asarray(before) == np.asarray(after))


def test_no_measure_changes_along_the_scale_law_except_the_distance():
    tau = 10.0
    start, end = PARAMS0, away(PARAMS0, 0.3)
    scaled = [jax.tree.map(lambda leaf: tau * leaf, p) for p in (start, end)]
    measure = compiled(partial(all_changes, MODEL.apply))
    here, there = values(measure(start, end, X)), values(measure(scaled[0], scaled[1], X))
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value * (tau if "distance" in name else 1), rtol=1e-11, err_msg=name)


def test_checkpoints_of_different_models_are_refused():
    other = two_layer(7, 4).init(jax.random.key(0))
    for function in (distance, relative_change):
        with pytest.raises(ValueError, match=r"equal shapes, got \[\(6,\), \(6, 4\)\] and \[\(7,\), \(7, 4\)\]"):
            function(PARAMS0, other)


@pytest.mark.slow
def test_the_measures_order_the_scales_of_a_doubled_net_as_the_definition_of_laziness_does():
    # Trained net against trained linearisation, held out, at equal kernel time: less lazy at small tau.
    problem = teacher_student(jax.random.key(0), n=200, d=20, n_test=200)
    model = two_layer(40, 20)
    base = model.init(jax.random.key(1), doubled=True)
    x, y = problem.x_test, problem.y_test
    assert x is not None
    gaps, kernels = [], []
    for tau in (0.1, 0.3, 1.0, 3.0):
        params0 = jax.tree.map(lambda leaf: tau * leaf, base)  # noqa: B023
        step_size = float(stable_step_size(model.apply, params0, problem))
        run = gradient_descent(model.apply, params0, problem, step_size=step_size, num_steps=1000)
        lazy = linearized_descent(model.apply, params0, problem, step_size=step_size, steps=[1000.0])
        outputs0, outputs = (model.apply(p, x) for p in (params0, run.params))
        gaps.append(float(trained_gap(outputs, lazy.observed[1][-1], outputs0, y)))
        kernels.append(max(float(v) for v in kernel_change(model.apply, params0, run.params, x).groups.values()))
    assert gaps == sorted(gaps, reverse=True)
    assert kernels == sorted(kernels, reverse=True)
    assert gaps[-1] < 0.05
    assert kernels[-1] < 0.1
    assert gaps[0] > 0.15
    assert kernels[0] > 0.5
