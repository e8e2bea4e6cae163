"""Modules of JAX libraries against hand-written functions of the same weights, and weights from files."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import CONV, IMAGES, MLP, TABLE, X, assert_same, assert_same_diagnosis, conv_net, mlp, tied
from safetensors.numpy import save_file

import lazyscope as ls
from lazyscope import tree


@pytest.fixture(autouse=True)
def promotion_as_the_libraries_expect():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def arrays(weights):
    return {name: jnp.asarray(value) for name, value in weights.items()}


# --- Flax linen


class LinenConv(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), padding="VALID", param_dtype=float)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(3, param_dtype=float)(x.reshape(x.shape[0], -1))


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, param_dtype=float)(nn.Dense(3, param_dtype=float)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


class LinenTied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 3, param_dtype=float)
        return embed.attend(jnp.tanh(embed(tokens).mean(1)))


def dense(kernel, bias):
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def test_linen_mlp_is_the_plain_function():
    module = nn.Sequential([nn.Dense(6, param_dtype=float), jnp.tanh, nn.Dense(2, param_dtype=float)])
    params = {"layers_0": dense(MLP["w1"], MLP["b1"]), "layers_2": dense(MLP["w2"], MLP["b2"])}
    apply, params0 = ls.adapters.from_linen(module, {"params": params})
    assert_same(apply, params0, mlp)


def test_linen_conv_net_is_the_plain_function():
    params = {"Conv_0": dense(CONV["k"], CONV["b"]), "Dense_0": dense(CONV["w"], CONV["c"])}
    apply, params0 = ls.adapters.from_linen(LinenConv(), {"params": params})
    assert_same(apply, params0, conv_net)


def test_linen_shared_table_with_tokens_is_one_leaf():
    apply, params0 = ls.adapters.from_linen(LinenTied(), {"params": {"Embed_0": {"embedding": jnp.asarray(TABLE)}}})
    assert_same(apply, params0, tied)


def test_linen_statistics_are_set_aside_and_training_mode_is_refused():
    variables = LinenNorm().init(jax.random.key(0), X, train=False)
    statistics = {"mean": jnp.arange(3.0), "var": jnp.array([0.5, 1, 2])}
    variables = {"params": variables["params"], "batch_stats": {"BatchNorm_0": statistics}}
    apply, params0 = ls.adapters.from_linen(LinenNorm(), variables, train=False)
    assert tree.group_names(params0) == ["BatchNorm_0/bias", "BatchNorm_0/scale", "Dense_0/bias", "Dense_0/kernel"]
    p = params0["Dense_0"]
    expected = (X @ p["kernel"] + p["bias"] - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5)
    np.testing.assert_allclose(apply(params0, X), expected, rtol=1e-6)
    np.testing.assert_allclose(apply(params0, X)[:1], apply(params0, X[:1]))
    apply, _ = ls.adapters.from_linen(LinenNorm(), variables, train=True)
    with pytest.raises(ValueError, match=r"must be in evaluation mode, got .* from LinenNorm"):
        apply(params0, X)


def test_linen_variables_without_params_are_refused():
    with pytest.raises(ValueError, match=r'with "params", got .*kernel'):
        ls.adapters.from_linen(nn.Dense(2), dense(MLP["w1"], MLP["b1"]))


# --- Flax nnx


def fill(layer: Any, kernel, bias):
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)


class NnxMlp(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 6, param_dtype=float, rngs=rngs)
        self.norm = nnx.BatchNorm(6, param_dtype=float, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(6, 2, param_dtype=float, rngs=rngs)
        for layer, kernel, bias in ((self.first, "w1", "b1"), (self.second, "w2", "b2")):
            fill(layer, MLP[kernel], MLP[bias])
        self.norm.var[...] = jnp.full(6, 1 - 1e-5)  # the identity, in evaluation mode

    def __call__(self, x):
        return self.second(self.drop(jnp.tanh(self.norm(self.first(x)))))


class NnxTied(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(7, 3, param_dtype=float, rngs=nnx.Rngs(0))
        self.embed.embedding[...] = jnp.asarray(TABLE)
        self.readout = self.embed

    def __call__(self, tokens):
        return self.readout.attend(jnp.tanh(self.embed(tokens).mean(1)))


class NnxConv(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(2, 4, (3, 3), padding="VALID", param_dtype=float, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(16, 3, param_dtype=float, rngs=nnx.Rngs(0))
        fill(self.conv, CONV["k"], CONV["b"])
        fill(self.dense, CONV["w"], CONV["c"])

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


def test_nnx_module_in_evaluation_mode_is_the_plain_function():
    module = NnxMlp()
    apply, params0 = ls.adapters.from_nnx(module)
    names = ["first/bias", "first/kernel", "norm/bias", "norm/scale", "second/bias", "second/kernel"]
    assert tree.group_names(params0) == names
    np.testing.assert_allclose(apply(params0, X), mlp(arrays(MLP), X), rtol=1e-6)
    assert not module.drop.deterministic  # the user's module stays in training mode
    np.testing.assert_allclose(apply(params0, X), apply(params0, X), rtol=0)


def test_nnx_conv_net_is_the_plain_function():
    apply, params0 = ls.adapters.from_nnx(NnxConv())
    assert_same(apply, params0, conv_net)


def test_nnx_shared_table_with_tokens_is_one_leaf():
    apply, params0 = ls.adapters.from_nnx(NnxTied())
    assert tree.size(params0) == TABLE.size
    assert_same(apply, params0, tied)


def test_an_nnx_module_trains():
    apply, params0 = ls.adapters.from_nnx(NnxMlp())
    run = ls.gradient_descent(apply, params0, ls.Problem(X, jnp.zeros((5, 2))), step_size=0.05, num_steps=20)
    assert run.train_loss[-1] < 0.5 * run.train_loss[0]


def test_an_nnx_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match=r"with nnx\.Param, got Dropout"):
        ls.adapters.from_nnx(nnx.Dropout(0.5))


# --- Equinox


def equinox_linear(weight, bias):
    blank = eqx.nn.Linear(weight.shape[0], weight.shape[1], key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), blank, (jnp.asarray(weight).T, jnp.asarray(bias)))


class EquinoxTied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self):
        embed = eqx.nn.Embedding(weight=jnp.asarray(TABLE))
        readout = eqx.nn.Linear(3, 7, use_bias=False, key=jax.random.key(0))
        self.shared = eqx.nn.Shared((embed, readout), lambda pair: pair[1].weight, lambda pair: pair[0].weight)

    def __call__(self, tokens):
        embed, readout = self.shared()
        return readout(jnp.tanh(jax.vmap(embed)(tokens).mean(0)))


class EquinoxBuffer(eqx.Module):
    weight: jax.Array
    table: jax.Array

    def __call__(self, x):
        return self.weight * jnp.dot(self.table, x)


def test_equinox_mlp_is_the_plain_function_with_dropout_off():
    layers = [
        equinox_linear(MLP["w1"], MLP["b1"]),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Dropout(0.5),
        equinox_linear(MLP["w2"], MLP["b2"]),
    ]
    apply, params0 = ls.adapters.from_equinox(eqx.nn.Sequential(layers))
    assert_same(apply, params0, mlp)


def test_equinox_conv_net_is_the_plain_function():
    conv = eqx.nn.Conv2d(2, 4, 3, key=jax.random.key(0))
    kernel, bias = jnp.asarray(CONV["k"]).transpose(3, 2, 0, 1), jnp.asarray(CONV["b"]).reshape(4, 1, 1)
    conv = eqx.tree_at(lambda m: (m.weight, m.bias), conv, (kernel, bias))
    relu, flat = eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(lambda v: v.transpose(1, 2, 0).reshape(-1))
    module = eqx.nn.Sequential([conv, relu, eqx.nn.MaxPool2d(2, 2), flat, equinox_linear(CONV["w"], CONV["c"])])
    apply, params0 = ls.adapters.from_equinox(module)
    assert_same(apply, params0, conv_net, IMAGES.transpose(0, 3, 1, 2))


def test_equinox_shared_table_with_tokens_is_one_leaf():
    apply, params0 = ls.adapters.from_equinox(EquinoxTied())
    assert tree.size(params0) == TABLE.size
    assert_same(apply, params0, tied)


def test_equinox_buffers_are_set_aside_by_the_filter():
    module = EquinoxBuffer(jnp.array(2.0), jnp.array([1.0, 2, 3, 4]))
    apply, params0 = ls.adapters.from_equinox(module, filter_spec=EquinoxBuffer(True, False))  # type: ignore[arg-type]
    assert tree.size(params0) == 1
    np.testing.assert_allclose(apply(params0, X), 2 * X @ np.array([1.0, 2, 3, 4]))


def test_equinox_state_is_set_aside():
    class Normed(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __call__(self, x, state):
            return self.norm(x, state)

    make = eqx.nn.make_with_state(lambda: Normed(eqx.nn.BatchNorm(4, "batch", mode="ema", dtype=float)))
    module, state = make()
    norm: Any = module.norm
    state = state.set(norm.ema_state_index, (jnp.arange(4.0), jnp.array([0.5, 1, 2, 3])))
    state = state.set(norm.ema_first_time_index, jnp.array(False))
    apply, params0 = ls.adapters.from_equinox(module, state)
    assert tree.size(params0) == 8
    expected = (X - jnp.arange(4.0)) / jnp.sqrt(jnp.array([0.5, 1, 2, 3]) + 1e-5)
    np.testing.assert_allclose(apply(params0, X), expected, rtol=1e-6)
    np.testing.assert_allclose(apply(params0, X[:1]), apply(params0, X)[:1])


# --- one diagnosis in every framework (tests/test_torch.py has PyTorch's)


def linen_mlp():
    module = nn.Sequential([nn.Dense(6, param_dtype=float), jnp.tanh, nn.Dense(2, param_dtype=float)])
    params = {"layers_0": dense(MLP["w1"], MLP["b1"]), "layers_2": dense(MLP["w2"], MLP["b2"])}
    return ls.adapters.from_linen(module, {"params": params})


def nnx_mlp():
    rngs = nnx.Rngs(0)
    first, second = (nnx.Linear(*sizes, param_dtype=float, rngs=rngs) for sizes in ((4, 6), (6, 2)))
    fill(first, MLP["w1"], MLP["b1"])
    fill(second, MLP["w2"], MLP["b2"])
    return ls.adapters.from_nnx(nnx.Sequential(first, jnp.tanh, second))


def equinox_mlp():
    layers = [equinox_linear(MLP["w1"], MLP["b1"]), eqx.nn.Lambda(jnp.tanh), equinox_linear(MLP["w2"], MLP["b2"])]
    return ls.adapters.from_equinox(eqx.nn.Sequential(layers))


@pytest.mark.slow
@pytest.mark.parametrize("build", [linen_mlp, nnx_mlp, equinox_mlp])
def test_kappa_gap_and_kernel_change_are_those_of_the_plain_function(build):
    assert_same_diagnosis(*build())


# --- weights from files

NESTED = {"layers": [{"w": jnp.arange(6.0).reshape(2, 3), "steps": jnp.array(3)}, {"w": jnp.ones(2)}]}
FILED = {"layers/0/w": -np.arange(6.0).reshape(2, 3), "layers/1/w": np.zeros(2)}


def write(path, contents):
    (save_file if path.suffix == ".safetensors" else lambda a, p: np.savez(p, **a))(contents, path)
    return path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("separator", ["/", "."])
def test_a_checkpoint_fills_the_parameters_and_leaves_the_rest(tmp_path, suffix, separator):
    contents = {name.replace("/", separator): value for name, value in FILED.items()}
    params = ls.adapters.load_checkpoint(write(tmp_path / f"w.{suffix}", contents), NESTED)
    assert jax.tree.structure(params) == jax.tree.structure(NESTED)
    np.testing.assert_array_equal(params["layers"][0]["w"], FILED["layers/0/w"])
    assert int(params["layers"][0]["steps"]) == 3


def test_names_that_are_no_parameters_can_be_ignored(tmp_path):
    path = write(tmp_path / "w.npz", {**FILED, "bn.running_mean": np.ones(3)})
    with pytest.raises(ValueError, match=r"nothing but parameters, .* also has bn\.running_mean: name those in ignore"):
        ls.adapters.load_checkpoint(path, NESTED)
    params = ls.adapters.load_checkpoint(path, NESTED, ignore=["*.running_mean"])
    np.testing.assert_array_equal(params["layers"][1]["w"], np.zeros(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers/1/w": np.zeros(3)}, r"layers\.1\.w in .* is float64 of shape \(3,\) where the model has .* \(2,\)"),
        ({"layers/1/w": np.zeros(2, np.float32)}, r"layers\.1\.w in .* is float32 where the model has float64: cast"),
        ({"layers/1/w": None}, r"lacks layers\.1\.w"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change, message):
    contents = {name: value for name, value in {**FILED, **change}.items() if value is not None}
    path = write(tmp_path / "w.npz", contents)
    with pytest.raises(ValueError, match=message):
        ls.adapters.load_checkpoint(path, NESTED)


def test_names_of_a_tie_are_filled_in_and_left_out(tmp_path):
    table = np.arange(6.0).reshape(3, 2)
    save_file({"c": table}, tmp_path / "noted.safetensors", metadata={"a": "c", "b": "c", "format": "pt"})
    for path in (tmp_path / "noted.safetensors", write(tmp_path / "both.npz", {"a": table, "b": table, "c": table})):
        np.testing.assert_array_equal(ls.adapters.load_checkpoint(path, {"a": jnp.zeros((3, 2))})["a"], table)
    save_file({"c": 0 * table}, tmp_path / "zeros.safetensors", metadata={"a": "c"})
    assert not ls.adapters.load_checkpoint(tmp_path / "zeros.safetensors", {"a": jnp.ones((3, 2))})["a"].any()


@pytest.mark.parametrize("factor", [2.0, 0.0])
def test_values_that_differ_and_equal_zeros_are_no_tie(tmp_path, factor):
    table = np.arange(6.0) * (factor != 0)
    path = write(tmp_path / "w.npz", {"a": table, "b": factor * table})
    with pytest.raises(ValueError, match=r"equal values under the names of a tie, .* also has b: name those in ignore"):
        ls.adapters.load_checkpoint(path, {"a": jnp.zeros(6)})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_short_floats_are_read_as_they_were_written(tmp_path, dtype):
    params = {"w": jnp.asarray([0.5, 1.0, -0.3], dtype), "v": jnp.asarray([[3.0]], dtype)}
    contents = dict(zip(tree.group_names(params), tree.split(params)[0], strict=True))
    for path in (tmp_path / "w.npz", tmp_path / "w.safetensors"):
        found = ls.adapters.load_checkpoint(write(path, jax.tree.map(np.asarray, contents)), params)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        assert found["w"].dtype == dtype


def test_names_that_agree_with_dots_for_slashes_are_refused(tmp_path):
    path = write(tmp_path / "w.npz", {"a.b": np.ones(3), "a/b": np.zeros(3)})
    with pytest.raises(ValueError, match=r"the model has several a\.b: rename"):
        ls.adapters.load_checkpoint(path, {"a.b": jnp.ones(3), "a": {"b": jnp.zeros(3)}})
    with pytest.raises(ValueError, match=r"w\.npz has several a\.b: rename"):
        ls.adapters.load_checkpoint(path, {"a": {"b": jnp.zeros(3)}})


def test_a_missing_or_foreign_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be an existing file, got .*none\.npz"):
        ls.adapters.load_checkpoint(tmp_path / "none.npz", NESTED)
    for name in ("w.npz", "w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ValueError, match="must be") as caught:
            ls.adapters.load_checkpoint(tmp_path / name, NESTED)
        assert "\n" not in str(caught.value)


def test_a_pickle_in_an_npz_is_refused(tmp_path):
    write(tmp_path / "w.npz", {"layers/0/w": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="npz file of plain arrays"):
        ls.adapters.load_checkpoint(tmp_path / "w.npz", NESTED)
