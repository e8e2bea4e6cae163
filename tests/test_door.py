"""The door: parameters among leaves of any kind, programs, data as they come, checks of models."""

import dataclasses
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyscope as ls
from lazyscope import examples, tree
from lazyscope.door import Fixed, concrete, program, sealed, unsealed

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 3)))
W = {"w": jnp.asarray(RNG.standard_normal((3, 2))), "v": jnp.asarray(RNG.standard_normal(2))}


def net(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def one_line(error):
    return isinstance(error, ValueError) and "\n" not in str(error)


# --- what a parameter is ---------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    weight: Any
    rest: Any


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-3, 3),
        st.booleans(),
        st.text(max_size=3),
        st.sampled_from([jnp.tanh, object, jax.random.key(1), jax.random.PRNGKey(1), np.int64(2), np.zeros((2, 0))]),
        st.sampled_from([jnp.zeros((0,)), jnp.arange(3), jnp.asarray(2), jnp.asarray(True), jnp.asarray(0.5), 0.25]),
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "a/b", "b", "0"]), inner, max_size=3),
        st.lists(inner, max_size=2),
        st.builds(Pair, inner, inner),
        st.builds(Layer, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=4)
@given(one=JUNK, two=JUNK, narrow=st.booleans())
def test_a_pytree_gives_the_numbers_of_the_flat_model(one, two, narrow):
    assert_numbers_of_the_flat_model(one, two, narrow)


@pytest.mark.slow
@settings(max_examples=40)
@given(one=JUNK, two=JUNK, narrow=st.booleans())
def test_any_pytree_gives_the_numbers_of_the_flat_model(one, two, narrow):
    assert_numbers_of_the_flat_model(one, two, narrow)


def assert_numbers_of_the_flat_model(one, two, narrow):
    w = W["w"].astype(jnp.float32) if narrow else W["w"]
    params = {"w": w, "again": w, "one": one, "deep": Layer(W["v"], Pair(two, None))}

    def apply(p, x):
        assert str(p["one"]) == str(one) or concrete(p) is False
        return jnp.tanh(x @ (p["w"] + p["again"])) @ p["deep"].weight

    def flat(p, x):
        return jnp.tanh(x @ (p["w"] + p["again"])) @ p["v"]

    plain = {"w": w.astype(float), "again": w.astype(float), "v": W["v"]}
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(ls.tangent_kernel(apply, params, X), ls.tangent_kernel(flat, plain, X), rtol=1e-5)
        product, right = ls.kernel_product(apply, params, X), ls.kernel_product(flat, plain, X)
        np.testing.assert_allclose(product(X[:, 0]), right(X[:, 0]), rtol=1e-5)
        moved = ls.linearize(apply, params)({**params, "w": 2 * w}, X)
        np.testing.assert_allclose(moved, ls.linearize(flat, plain)({**plain, "w": 2 * plain["w"]}, X), rtol=1e-5)
        names = tree.group_names(sealed(params))
        assert len(set(names)) == len(names)


def test_what_is_held_fixed_comes_back_and_is_no_leaf():
    params = {"w": W["w"], "depth": 3, "name": "x", "flag": True, "function": jnp.tanh}
    held = sealed(params)
    assert [leaf.shape for leaf in jax.tree.leaves(held)] == [(3, 2)]
    assert unsealed(held) == params


def test_fixed_values_are_equal_by_value_and_type():
    assert Fixed(1) == Fixed(1)
    assert Fixed(1) != Fixed(True)
    assert Fixed([1]) != Fixed([1])
    assert sealed(W) is W


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_16_bits_are_refused_with_the_cast_that_helps(dtype):
    with pytest.raises(ValueError, match=r"float32.*astype") as refused:
        ls.tangent_kernel(net, jax.tree.map(lambda leaf: leaf.astype(dtype), W), X)
    assert one_line(refused.value)


def test_parameters_come_back_in_the_types_in_which_they_came():
    params = {"w": W["w"].astype(jnp.float32), "v": W["v"], "depth": 3}
    seen = []

    def observe(p):
        seen.append((p["w"].dtype, p["depth"]))
        return p["v"].sum()

    with jax.numpy_dtype_promotion("standard"):
        run = ls.gradient_descent(net, params, ls.Problem(X, X[:, 0]), step_size=0.1, num_steps=2, observe=observe)
    assert (run.params["w"].dtype, run.params["v"].dtype, run.params["depth"]) == (jnp.float32, jnp.float64, 3)
    assert set(seen) == {(jnp.dtype("float32"), 3)}


def test_leaves_whose_paths_read_alike_have_names_of_their_own_and_kernels_that_sum_to_the_whole():
    def apply(p, x):
        return jnp.tanh(x @ p["a/b"]) + jnp.sin(x @ p["a"]["b"])

    params = {"a/b": jnp.ones(3), "a": {"b": jnp.ones(3)}}
    kernels = ls.group_kernels(apply, params, X)
    assert sorted(kernels) == ["['a']['b']", "['a/b']"]
    np.testing.assert_allclose(sum(kernels.values()), ls.tangent_kernel(apply, params, X))


# --- programs --------------------------------------------------------------------------------------------------------


def test_equal_programs_are_equal_whatever_object_they_come_from():
    assert program(lambda p, x: net(p, x), W, X) == program(net, W, X)
    assert hash(program(lambda p, x: net(p, x), W, X)) == hash(program(net, W, X))


@pytest.mark.parametrize(
    "other",
    [
        lambda p, x: 2 * net(p, x),
        lambda p, x: net(p, x) + jnp.asarray(np.arange(4.0)),
        lambda p, x: jnp.sin(x @ p["w"]) @ p["v"],
        lambda p, x: net(p, x)[::-1],
    ],
)
def test_other_programs_are_not_equal(other):
    assert program(other, W, X) != program(net, W, X)


def test_programs_differ_where_their_constants_or_their_rules_for_derivatives_do():
    def shifted(by):
        return lambda p, x: net(p, x) + by

    assert program(shifted(np.ones(4)), W, X) == program(shifted(np.ones(4)), W, X)
    assert program(shifted(np.ones(4)), W, X) != program(shifted(np.zeros(4)), W, X)

    def ruled(factor):
        @jax.custom_jvp
        def act(z):
            return jnp.tanh(z)

        act.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), factor * tangents[0]))
        return lambda p, x: act(x @ p["w"]) @ p["v"]

    assert program(ruled(1.0), W, X) == program(ruled(1.0), W, X)
    assert program(ruled(1.0), W, X) != program(ruled(2.0), W, X)


def gradient_of_ones_own(slope):
    @jax.custom_gradient
    def act(z):
        return jnp.tanh(z), lambda g: slope * g * (1 - jnp.tanh(z) ** 2)

    return act


def surrogate(slope):
    act = jax.custom_jvp(jnp.sign)
    act.defjvp(lambda p, t: (jnp.sign(p[0]), t[0] * slope / (1 + p[0] ** 2)))
    return act


def activation_with_another_rule(slope):
    act = jax.custom_jvp(jax.nn.relu)
    act.defjvps(lambda g, _, z: slope * g * jax.nn.sigmoid(z))
    return act


def straight_through(slope):
    act = jax.custom_vjp(lambda z: jnp.round(z))
    act.defvjp(lambda z: (jnp.round(z), z), lambda z, g: (slope * g * jnp.cos(z),))
    return act


def root(slope):
    def act(z):
        def solve(f, start):
            return jax.lax.fori_loop(0, 60, lambda _, u: u + f(u), start)

        return jax.lax.custom_root(lambda u: jnp.tanh(u / 2 + z) - u, jnp.zeros_like(z), solve, lambda _, y: -slope * y)

    return act


@pytest.mark.parametrize(
    "rule", [gradient_of_ones_own, surrogate, activation_with_another_rule, straight_through, root]
)
def test_models_that_differ_in_a_rule_around_a_function_of_jax_have_their_own_kernels(rule):
    for slope in (1.0, 3.0):
        act = rule(slope)
        rows = jax.jacrev(lambda w, act=act: act(X @ w) @ W["v"])(W["w"]).reshape(len(X), -1)
        found = ls.tangent_kernel(lambda w, x, act=act: act(x @ w) @ W["v"], W["w"], X)
        np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("act", [jax.nn.relu, jax.nn.relu6, jax.nn.softplus, jax.nn.log_sigmoid, jnp.sinc])
def test_rules_of_jax_itself_cost_no_second_trace(act, monkeypatch):
    module = import_module("lazyscope.door.program")
    monkeypatch.setattr(module, "_derivatives", lambda *_: pytest.fail("a rule of JAX itself was followed"))
    program(lambda p, x: act(x @ p["w"]) @ p["v"], W, X)


def test_programs_differ_where_the_derivative_of_a_derivative_does():
    def ruled(factor):
        @jax.custom_jvp
        def slope(z):
            return 1 - jnp.tanh(z) ** 2

        @jax.custom_jvp
        def act(z):
            return jnp.tanh(z)

        slope.defjvp(lambda p, t: (slope(p[0]), factor * t[0]))
        act.defjvp(lambda p, t: (act(p[0]), slope(p[0]) * t[0]))
        return lambda p, x: act(x @ p["w"]) @ p["v"]

    assert program(ruled(1.0), W, X) == program(ruled(1.0), W, X)
    assert program(ruled(1.0), W, X) != program(ruled(2.0), W, X)


def test_new_lambdas_of_one_program_share_what_is_compiled():
    ls.tangent_kernel(lambda p, x: 3 * net(p, x), W, X)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("logging.Logger.handle", lambda self, record: compiled.append(record.getMessage()))
        ls.tangent_kernel(lambda p, x: 3 * net(p, x), W, X)
    assert not [message for message in compiled if "Compiling" in message]


def test_a_model_is_measured_inside_transformations_and_no_tracer_leaks():
    measure = jax.jit(lambda p: ls.linearization_gap(net, W, p, X))
    with jax.check_tracer_leaks():
        inside = measure(jax.tree.map(lambda leaf: 2 * leaf, W))
    np.testing.assert_allclose(inside, ls.linearization_gap(net, W, jax.tree.map(lambda leaf: 2 * leaf, W), X))


# --- models ----------------------------------------------------------------------------------------------------------


def batch_norm(p, x):
    z = x @ p["w"]
    return jnp.tanh((z - z.mean(0, keepdims=True)) / (1e-3 + z.std(0, keepdims=True))) @ p["v"]


def dropout(p, x):
    kept = jax.random.bernoulli(KEY, 0.5, (len(x), 2))
    return jnp.where(kept, jnp.tanh(x @ p["w"]), 0) @ p["v"]


@pytest.mark.parametrize("apply", [batch_norm, dropout])
@pytest.mark.parametrize(
    "measure",
    [
        lambda a: ls.tangent_kernel(a, W, X),
        lambda a: ls.group_kernels(a, W, X),
        lambda a: ls.tangent_kernel(ls.center(a, W), W, X),
        lambda a: ls.kernel_flow(a, W, ls.Problem(X, X[:, 0]), times=[1.0]),
    ],
)
def test_a_model_whose_examples_see_each_other_is_refused_where_they_are_taken_apart(apply, measure):
    with pytest.raises(ValueError, match=r"each example.*batch norm.*dropout") as refused:
        measure(apply)
    assert one_line(refused.value)


def in_bfloat16(p, x):
    hidden = jnp.tanh(x.astype("bfloat16") @ p["w"].astype("bfloat16"))
    return (hidden @ p["v"].astype("bfloat16")).astype("float32")


def test_the_rounding_of_a_centred_models_products_is_no_sight_of_other_examples():
    weights, x = jax.tree.map(lambda leaf: leaf.astype("float32"), (W, X))
    kernel = ls.tangent_kernel(ls.center(in_bfloat16, weights), weights, x)
    np.testing.assert_allclose(kernel, ls.tangent_kernel(net, weights, x), rtol=0.05)
    with pytest.raises(ValueError, match="each example"):
        ls.tangent_kernel(ls.center(lambda p, x: in_bfloat16(p, x - x.mean(0, keepdims=True)), weights), weights, x)


def test_a_model_that_does_not_run_in_its_targets_type_is_told_in_one_line():
    def loop(p, x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ p["w"]), None), x, None, length=2)[0]

    weights, x = {"w": jnp.eye(3, dtype="float32")}, X.astype("float32")
    assert ls.criterion(loop, weights, ls.Problem(x, x[::-1]), key=KEY).kappa > 0
    for promotion, reason in (("standard", "scan"), ("strict", "dtypes")):
        with (
            jax.numpy_dtype_promotion(promotion),
            pytest.raises(ValueError, match=f"run with its parameters in float64.*{reason}.*in one type") as refused,
        ):
            ls.criterion(loop, weights, ls.Problem(x, X), key=KEY)
        assert one_line(refused.value)


def test_a_squeeze_that_takes_the_examples_away_from_one_alone_is_named():
    with pytest.raises(ValueError, match="one row per example, got none for an example alone: name the axes"):
        ls.tangent_kernel(lambda p, x: jnp.squeeze(net(p, x)[:, None]), W, X)


@pytest.mark.slow
@pytest.mark.parametrize("apply", [dropout, pytest.param(batch_norm, marks=pytest.mark.slow)])
def test_products_are_right_for_the_whole_batch_where_examples_see_each_other(apply):
    rows = jax.jacrev(lambda p: apply(p, X))(W)
    dh = jnp.concatenate([rows[name].reshape(4, -1) for name in W], axis=1)
    np.testing.assert_allclose(ls.kernel_product(apply, W, X)(X[:, 0]), dh @ dh.T @ X[:, 0], rtol=1e-9, atol=1e-12)
    step = ls.stable_step_size(apply, W, ls.Problem(X, X[:, 0]))
    np.testing.assert_allclose(step, 4 / jnp.linalg.eigvalsh(dh @ dh.T)[-1], rtol=1e-7)


@pytest.mark.parametrize("power", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_derivative_that_is_nan_is_named(power):
    def apply(w, x):
        return jnp.linalg.norm(x @ w["w"], axis=1) ** power

    zero, problem = {"w": jnp.zeros((3, 2))}, ls.Problem(X, X[:, 0])
    for measure in (ls.stable_step_size, partial(ls.criterion, key=KEY)):
        with pytest.raises(ValueError, match=r"derivative.*NaN.* w, though the outputs are finite") as refused:
            measure(apply, zero, problem)
        assert one_line(refused.value)


def test_a_model_of_one_number_of_examples_is_told_what_to_write():
    def fixed(w, x):
        return net(w, x).reshape(len(X))

    moved = jax.tree.map(lambda leaf: 2 * leaf, W)
    for measure in (
        lambda: ls.criterion(fixed, W, ls.Problem(X, X[:, 0]), key=KEY),
        lambda: ls.differential_change(fixed, W, moved, X),
        lambda: ls.diagnose(fixed, W, ls.Problem(X, X[:, 0]), key=KEY),
    ):
        with pytest.raises(ValueError, match=r"fixed must take any number of examples, got from a batch of \d: cannot"):
            measure()
    with pytest.raises(ValueError, match=r"outputs must have numbers in them, got none in shape \(\d+, 0\)"):
        ls.criterion(lambda w, x: net(w, x)[:, None][:, :0], W, ls.Problem(X, X[:, :0]), key=KEY)


def test_a_loop_without_reverse_mode_is_refused_in_one_line():
    def loop(p, x):
        end = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1])), (0, x @ p["w"]))
        return end[1] @ p["v"]

    with pytest.raises(ValueError, match=r"reverse mode.*scan") as refused:
        ls.tangent_kernel(loop, W, X)
    assert one_line(refused.value)
    by_hand = jnp.tanh(jnp.tanh(jnp.tanh(X @ W["w"]))) @ W["v"]
    np.testing.assert_allclose(ls.linearize(loop, W)(W, X), by_hand)


# --- data ------------------------------------------------------------------------------------------------------------


class Frame:
    """What a data frame shows of itself."""

    def to_numpy(self):
        return np.asarray(X)


@pytest.mark.parametrize("value", [np.asarray(X), np.asarray(X).tolist(), tuple(np.asarray(X).tolist()), Frame()])
def test_data_of_one_meaning_become_arrays(value):
    np.testing.assert_array_equal(examples.as_batch("x", value), X)


@pytest.mark.parametrize(
    "value",
    [1.0, [[1.0], [1.0, 2.0]], [X, X], {"a": X, "b": X[:2]}, ["a", "b"], None, object(), {}, np.array([object()])],
)
def test_data_of_no_or_several_meanings_are_refused_in_one_line(value):
    with pytest.raises(ValueError, match=r"^x") as refused:
        examples.as_batch("x", value)
    assert one_line(refused.value)


def test_inputs_are_counted_taken_and_cut_alike():
    batch = {"a": X, "b": (X[:, 0], X[:, :1])}
    assert examples.count(batch) == 4
    np.testing.assert_array_equal(examples.take(batch, np.array([2]))["b"][0], X[2:3, 0])
    cut, number = examples.blocks(batch, 3)
    assert number == 2
    np.testing.assert_array_equal(cut["a"][1], X[np.array([3, 3, 3])])


def test_a_problem_keeps_data_of_its_own():
    x, y = np.array(X), np.array(X[:, 0])
    problem = ls.Problem(x, y)
    x += 1
    y += 1
    np.testing.assert_array_equal(problem.x, X)
    np.testing.assert_array_equal(problem.y, X[:, 0])


def test_a_key_that_is_none_is_refused_with_the_one_to_pass():
    seed: Any = 0
    with pytest.raises(ValueError, match=r"jax\.random\.key\(0\)") as refused:
        ls.criterion(net, W, ls.Problem(X, X[:, 0]), key=seed)
    assert one_line(refused.value)


def logits(p, x):
    return jnp.tanh(x @ p["w"])


@pytest.mark.parametrize(
    "measure",
    [
        lambda problem: ls.gradient_descent(logits, W, problem, step_size=0.1, num_steps=2),
        lambda problem: ls.criterion(logits, W, problem, key=KEY),
        lambda problem: ls.stable_step_size(logits, W, problem),
        lambda problem: ls.target_alignment(logits, W, problem),
        lambda problem: ls.diagnose(logits, W, problem, key=KEY),
    ],
)
@pytest.mark.parametrize(("labels", "got"), [([1, 2, 1, 2], "2"), ([-1, 0, 1, 0], "-1"), ([-100, 0, 1, 0], "-100")])
def test_labels_that_are_no_columns_of_the_outputs_are_refused_by_all_that_take_the_problem(measure, labels, got):
    good = jnp.array([0, 1, 1, 0])
    for train, held_out in ((jnp.array(labels), good), (good, jnp.array(labels))):
        with pytest.raises(ValueError, match=f"needs labels from 0 to 1, one a column of the outputs, got {got}: ren"):
            measure(ls.Problem(X, train, X, held_out, loss=ls.cross_entropy))


@dataclasses.dataclass
class Halved:
    """A loss that is equal by value, hence without a hash."""

    factor: float

    def __call__(self, f, y):
        return self.factor * jnp.mean((f - y) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        lambda problem: ls.gradient_descent(net, W, problem, step_size=0.1, num_steps=2).train_loss,
        lambda problem: ls.criterion(net, W, problem, key=KEY).kappa,
        lambda problem: ls.stable_step_size(net, W, problem),
        lambda problem: ls.diagnose(net, W, problem, key=KEY, num_steps=2, with_kappa=False).gap,
    ],
)
def test_a_loss_without_a_hash_gives_the_numbers_of_the_function(measure):
    y = jnp.sin(X[:, 0])
    right = measure(ls.Problem(X, y, loss=lambda f, y: 0.5 * jnp.mean((f - y) ** 2)))
    np.testing.assert_allclose(measure(ls.Problem(X, y, loss=Halved(0.5))), right, rtol=1e-12)


@pytest.mark.parametrize(
    "measure",
    [
        lambda a: ls.tangent_kernel(a, W, X),
        lambda a: ls.kernel_product(a, W, X)(X[:, 0]),
        lambda a: ls.linearize(a, W)(W, X),
        lambda a: ls.stable_step_size(a, W, ls.Problem(X, X[:, 0])),
    ],
)
def test_products_are_taken_in_full_precision_whatever_the_caller_has_set(measure):
    seen = []

    def apply(p, x):
        seen.append(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
        return net(p, x)

    with jax.default_matmul_precision("bfloat16"):
        measure(apply)
    assert set(seen) == {"highest"}


def test_arrays_may_be_sharded_over_automatic_axes_and_explicit_ones_are_named():
    params, x = {"w": jnp.ones((3, 2))}, jnp.linspace(-1, 1, 12).reshape(4, 3)
    placed = {}
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        placed[kind] = [jax.device_put(value, where) for value in (params, x)]

    def apply(p, x):
        return jnp.tanh(x @ p["w"])

    auto, explicit = placed.values()
    np.testing.assert_array_equal(ls.tangent_kernel(apply, *auto), ls.tangent_kernel(apply, params, x))
    for placed_so, name in (((explicit[0], x), "params"), ((params, explicit[1]), "x")):
        with pytest.raises(
            ValueError, match=rf"{name} must not be sharded over Explicit axes of a mesh, got \['data'\]"
        ):
            ls.tangent_kernel(apply, *placed_so)
