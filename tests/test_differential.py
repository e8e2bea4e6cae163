"""j against dense Jacobians, its estimate and error, what it does not depend on; first-order expansions of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import lazyscope as ls
from lazyscope import tree
from lazyscope.differential import differential_change, partial_gap
from lazyscope.groups import grouped
from lazyscope.tangent import blocks, jacobian, squares
from lazyscope.tangent.derivatives import Factors

BY_NAME = {case.name: case for case in CASES}


def moved(params, size=0.1, seed=0):
    theta, merge = tree.split(params)
    random = np.random.default_rng(seed)
    return merge([leaf + size * jnp.asarray(random.standard_normal(leaf.shape)) for leaf in theta])


def dense(case, params):
    start, end = (jacobian(case.apply, p, case.problem.x) for p in (case.params, params))
    return float(jnp.linalg.norm(end - start)), float(jnp.linalg.norm(start))


FAST = ("two-layer relu", "two-layer tanh, doubled", "several outputs", "zero", "one parameter, one example")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in BY_NAME])
def test_j_is_that_of_the_dense_jacobians(name):
    case = BY_NAME[name]
    params = moved(case.params)
    found = differential_change(case.apply, case.params, params, case.problem.x)
    change, start = dense(case, params)
    expected = change / start if start > 0 else 0.0
    np.testing.assert_allclose(found.value, expected, rtol=1e-9, atol=1e-14)
    assert float(found.error) == 0
    shares = [(float(g.start_share), float(g.change_share)) for g in found.groups.values()]
    if change > 0:
        np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "several outputs",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("two trailing axes", "conv net", "attention")),
    ],
)
def test_the_estimate_keeps_to_its_error(name):
    case = BY_NAME[name]
    params = moved(case.params)
    change, start = dense(case, params)
    keys = jax.random.split(jax.random.key(3), 100)
    estimate = jax.jit(
        lambda key: differential_change(case.apply, case.params, params, case.problem.x, key=key, probes=32)[:2]
    )
    values, errors = (np.asarray(v) for v in jax.lax.map(estimate, keys))
    off = np.abs(values - change / start)
    assert np.sum(off <= 3 * errors + 1e-12) >= 99
    if values.std() > 1e-12:  # with one output ±1 is no matter of chance
        assert 0.8 <= values.std() / np.sqrt(np.mean(errors**2)) <= 1.25


def test_many_outputs_are_estimated_and_need_a_key():
    model = ls.mlp((6, 32, 80))
    params0 = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (20, 6))
    params = moved(params0, 0.05)
    exact = differential_change(model.apply, params0, params, x)
    found = differential_change(model.apply, params0, params, x, key=jax.random.key(2), probes=16)
    assert (exact.probes, found.probes) == (0, 16)
    assert abs(float(found.value - exact.value)) < 3 * float(found.error) < 0.2 * float(exact.value)
    for name, group in exact.groups.items():
        np.testing.assert_allclose(found.groups[name].change_share, group.change_share, atol=0.05)


@pytest.mark.parametrize(("n", "outputs", "probes"), [(4, 20, 16), (10, 20, 7), (50, 20, 4), (50, 4, 0)])
def test_directions_are_four_an_example_and_64_in_all_at_least_or_all_outputs(n, outputs, probes, monkeypatch):
    monkeypatch.setattr("lazyscope.differential.EXACT", 1)
    model = ls.mlp((3, outputs))
    params0 = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (n, 3))
    assert differential_change(model.apply, params0, params0, x, key=jax.random.key(2)).probes == probes


def test_all_directions_are_taken_up_to_the_stated_number_of_derivatives(monkeypatch):
    model = ls.mlp((3, 20))
    params0, x = model.init(jax.random.key(0)), jnp.ones((50, 3))
    numbers = 50 * 20 * tree.size(tree.split(params0)[0])
    monkeypatch.setattr("lazyscope.differential.EXACT", numbers)
    assert differential_change(model.apply, params0, params0, x).probes == 0
    monkeypatch.setattr("lazyscope.differential.EXACT", numbers - 1)
    assert differential_change(model.apply, params0, params0, x, key=jax.random.key(2)).probes == 4


def test_nothing_moved_is_no_change_and_a_linear_model_never_changes():
    case = BY_NAME["attention"]
    assert float(differential_change(case.apply, case.params, case.params, case.problem.x).value) == 0
    linear = BY_NAME["linear"]
    assert float(differential_change(linear.apply, linear.params, 7 * linear.params, linear.problem.x).value) == 0


@pytest.mark.slow
def test_leaves_may_be_split_merged_reshaped_and_rotated():
    x = jax.random.normal(jax.random.key(0), (12, 5))
    w, v = jax.random.normal(jax.random.key(1), (5, 6)), jax.random.normal(jax.random.key(2), (6, 3))
    q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (30, 30)))

    def net(w, v, x):
        return jnp.tanh(x @ w) @ v

    forms = {
        "leaves": (lambda w, v: {"w": w, "v": v}, lambda p, x: net(p["w"], p["v"], x)),
        "one vector": (
            lambda w, v: jnp.concatenate([w.ravel(), v.ravel()]),
            lambda p, x: net(p[:30].reshape(5, 6), p[30:].reshape(6, 3), x),
        ),
        "units": (
            lambda w, v: [(w[:, i], v[i]) for i in range(6)],
            lambda p, x: net(jnp.stack([a for a, _ in p], axis=1), jnp.stack([b for _, b in p]), x),
        ),
        "rotated": (
            lambda w, v: {"w": q @ w.ravel(), "v": v.T},
            lambda p, x: net((q.T @ p["w"]).reshape(5, 6), p["v"].T, x),
        ),
    }
    end = [leaf + 0.2 * jax.random.normal(jax.random.key(5), leaf.shape) for leaf in (w, v)]
    found = {
        name: differential_change(apply, store(w, v), store(*end), x).value for name, (store, apply) in forms.items()
    }
    np.testing.assert_allclose(list(found.values()), float(found["leaves"]), rtol=1e-9)


def test_the_scale_law_leaves_j_as_it_is():
    problem = ls.teacher_student(jax.random.key(0), n=30, d=6, n_test=30)
    model = ls.two_layer(10, 6)
    start = model.init(jax.random.key(1), doubled=True)
    found = []
    for tau, alpha, eta in ((3.0, 0.7, 0.02), (1.0, 0.7 * 9, 0.18)):
        params0 = tree.scale(tau, start)
        run = ls.gradient_descent(model.apply, params0, problem, alpha=alpha, step_size=eta, num_steps=100)
        found.append(float(differential_change(model.apply, params0, run.params, problem.x_test).value))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    assert found[0] > 1e-3


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_unit_of_the_outputs_drops_out_in_float32(scale):
    w0, w = jnp.asarray([0.5, -1.0, 0.25], jnp.float32), jnp.asarray([0.6, -0.7, 0.5], jnp.float32)
    x = jax.random.normal(jax.random.key(0), (8, 3), jnp.float32)
    plain = differential_change(lambda w, x: jnp.tanh(x @ w), w0, w, x)
    found = differential_change(lambda w, x: jnp.float32(scale) * jnp.tanh(x @ w), w0, w, x)
    np.testing.assert_allclose(found.value, plain.value, rtol=1e-5)
    assert found.interval.low < found.value < found.interval.high


def test_blocks_of_examples_give_the_numbers_of_one(monkeypatch):
    case = BY_NAME["several outputs"]
    params = moved(case.params)
    whole = differential_change(case.apply, case.params, params, case.problem.x)
    monkeypatch.setattr("lazyscope.differential.BLOCK", 300)
    for found in (
        differential_change(case.apply, case.params, params, case.problem.x),
        jax.jit(lambda p: differential_change(case.apply, case.params, p, case.problem.x))(params),
    ):
        np.testing.assert_allclose(found.value, whole.value, rtol=1e-12)
        ratios = found.examples[:, 1] / found.examples[:, 0]
        np.testing.assert_allclose(ratios, whole.examples[:, 1] / whole.examples[:, 0], rtol=1e-10)


def test_groups_are_modules_globs_and_the_pairs_of_low_rank_updates():
    params0 = {
        "encoder": {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}, "scale": jnp.ones(4)},
        "head": {
            "kernel": jnp.ones((4, 2)),
            "lora_A": {"weight": jnp.ones((4, 1))},
            "lora_B": {"weight": jnp.zeros((1, 2))},
        },
    }
    assert list(grouped(params0)) == ["encoder/dense", "encoder", "head", "head/lora"]
    named = grouped(params0, {"*/kernel": "kernels", "head/*": "head"})
    assert {name: len(leaves) for name, leaves in named.items()} == {
        "kernels": 2,
        "encoder/dense": 1,
        "encoder": 1,
        "head": 2,
    }
    assert list(grouped({"a": jnp.ones(2), "b": jnp.ones(3)})) == ["a", "b"]
    assert list(grouped({"net.0.weight": jnp.ones(2), "net.0.bias": jnp.ones(3)})) == ["net.0"]
    with pytest.raises(
        ValueError, match="a group must hold a parameter, got 'tail/\\*' that matches none: the paths are"
    ):
        grouped(params0, ["tail/*"])


def test_partial_gap_is_that_of_the_explicit_expansion():
    case = BY_NAME["several outputs"]
    params, x = moved(case.params, 0.3), case.problem.x
    found = partial_gap(case.apply, case.params, params, x)
    ends = case.apply(params, x)
    scale = jnp.linalg.norm(ends - case.apply(case.params, x))
    for i, name in enumerate(found):
        at = [case.params[j] if j == i else params[j] for j in range(2)]
        rows = jax.jacfwd(lambda group: case.apply([group if j == i else at[j] for j in range(2)], x))(at[i])  # noqa: B023
        first = case.apply(at, x)
        for leaf in range(2):
            first = first + jnp.tensordot(rows[leaf], params[i][leaf] - case.params[i][leaf], axes=params[i][leaf].ndim)
        np.testing.assert_allclose(found[name], jnp.linalg.norm(ends - first) / scale, rtol=1e-10, atol=1e-14)


def test_a_group_in_which_the_model_is_linear_has_no_partial_gap():
    model = ls.two_layer(10, 4, jnp.tanh)
    params0 = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (9, 4))
    found = partial_gap(model.apply, params0, moved(params0, 0.5), x)
    assert float(found["a"]) < 1e-14
    assert float(found["b"]) > 1e-3


def test_checkpoints_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="two checkpoints of one model must have equal shapes, got"):
        differential_change(lambda w, x: x @ w, jnp.ones(3), jnp.ones(4), jnp.ones((2, 3)))


def test_too_many_derivatives_without_a_key_say_to_pass_one(monkeypatch):
    monkeypatch.setattr("lazyscope.differential.EXACT", 1)
    model = ls.mlp((4, 8, 40))
    params0 = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"too many to take each: pass key=jax.random.key\(0\)"):
        differential_change(model.apply, params0, params0, jnp.ones((50, 4)))


@pytest.fixture
def without_jacobians(monkeypatch):
    monkeypatch.setattr("lazyscope.differential.DENSE", 0)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in BY_NAME])
def test_j_without_jacobians_is_that_of_the_dense_ones(name, without_jacobians):
    test_j_is_that_of_the_dense_jacobians(name)


def test_a_scalar_of_weak_type_at_one_end_alone_changes_nothing(without_jacobians):
    def apply(params, x):
        return jnp.tanh(x @ (params["t"] * params["w"])) / params["t"]

    x, w = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.normal(jax.random.key(1), (3, 2))
    starts = [{"t": t, "w": w} for t in (jnp.asarray(1.3), jnp.asarray(1.3, w.dtype))]
    assert [start["t"].weak_type for start in starts] == [True, False]
    found = [differential_change(apply, start, moved(starts[1], 0.1), x).value for start in starts]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.parametrize(("apart", "precise"), [(1e-6, 1e-8), (1.0, 1e-10)])
def test_squares_of_convolutions_products_and_embeddings_are_those_of_jacobians(apart, precise):
    tokens = jnp.asarray([[0, 2, 2, 5], [1, 4, 0, 0], [3, 3, 1, 5]])
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "tokens": jax.random.normal(keys[0], (6, 8)),
        "kernel": jax.random.normal(keys[1], (3, 8, 5)),
        "head": jax.random.normal(keys[2], (5, 3)),
        "scale": jnp.ones(3),
    }

    def apply(params, ids):
        x = params["tokens"][ids]
        x = jnp.tanh(
            jax.lax.conv_general_dilated(x, params["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        )
        return params["scale"][None] * (x.mean(axis=1) @ params["head"])

    end = moved(params, apart)
    assert [isinstance(leaf, Factors) for leaf in blocks.each_leaf(apply, params, tokens)] == [True, True, False, True]
    unit, starts, changes = squares.squares(apply, params, end, tokens)
    theta, merge = tree.split(params)
    before, after = (
        jax.vmap(jax.jacrev(lambda th, one: apply(merge(th), one[None])[0]), in_axes=(None, 0))(at, tokens)
        for at in (theta, tree.split(end)[0])
    )
    for leaf, (b, a) in enumerate(zip(before, after, strict=True)):
        b, a = (np.asarray(rows).reshape(3, 3, -1) for rows in (b, a))
        np.testing.assert_allclose(unit**2 * starts[:, :, leaf], np.sum(b**2, axis=2), rtol=1e-12)
        np.testing.assert_allclose(
            unit**2 * changes[:, :, leaf], np.sum((a - b) ** 2, axis=2), rtol=precise, atol=1e-30
        )


def test_random_directions_without_jacobians_are_those_with_them(monkeypatch):
    model = ls.mlp((6, 16, 20))
    params0 = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 6))
    options = {"key": jax.random.key(2), "probes": 3}
    formed = differential_change(model.apply, params0, moved(params0), x, **options)
    monkeypatch.setattr("lazyscope.differential.DENSE", 0)
    found = differential_change(model.apply, params0, moved(params0), x, **options)
    np.testing.assert_allclose((found.value, found.error), (formed.value, formed.error), rtol=1e-9)


def test_small_changes_keep_the_digits_of_float32(without_jacobians):
    model = ls.mlp((6, 32, 3))
    params0 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0)))
    params = jax.tree.map(lambda leaf: leaf * jnp.float32(1 + 2.0**-10), params0)  # exactly representable factors
    x = jax.random.normal(jax.random.key(1), (9, 6), jnp.float32)
    double = [jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p) for p in (params0, params)]
    exact = differential_change(model.apply, double[0], double[1], x.astype(jnp.float64)).value
    np.testing.assert_allclose(differential_change(model.apply, params0, params, x).value, exact, rtol=1e-3)
