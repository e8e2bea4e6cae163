"""PyTorch modules against hand-written JAX functions of the same weights, and against PyTorch's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    CONV,
    IMAGES,
    MLP,
    TABLE,
    TOKENS,
    X,
    assert_same,
    assert_same_diagnosis,
    conv_net,
    mlp,
    second_derivative,
    tied,
)

import lazyscope as ls
from lazyscope import tree

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


class Of(nn.Module):
    """A module from a function of itself and its input, with one parameter."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)
        self.p = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x):
        return self.function(self, x)


def linear(weight, bias):
    layer = nn.Linear(*weight.shape).double()
    layer.weight.data, layer.bias.data = torch.tensor(weight.T.copy()), torch.tensor(bias)
    return layer


def torch_mlp(*extra):
    return nn.Sequential(linear(MLP["w1"], MLP["b1"]), nn.Tanh(), *extra, linear(MLP["w2"], MLP["b2"]))


def torch_conv():
    conv = nn.Conv2d(2, 4, 3).double()
    conv.weight.data, conv.bias.data = torch.tensor(CONV["k"].transpose(3, 2, 0, 1).copy()), torch.tensor(CONV["b"])
    # Channels first: the rows of the read-out in another order.
    readout = CONV["w"].reshape(2, 2, 4, 3).transpose(2, 0, 1, 3).reshape(16, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear(readout, CONV["c"]))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.readout = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.embed.weight = self.readout.weight = nn.Parameter(torch.tensor(TABLE))

    def forward(self, tokens):
        return self.readout(torch.tanh(self.embed(tokens).mean(1)))


def arrays(weights):
    return {name: jnp.asarray(value) for name, value in weights.items()}


def test_mlp_is_the_plain_function_with_dropout_off_and_the_module_left_as_it_was():
    module = torch_mlp(nn.Dropout(0.5))
    apply, params0 = ls.adapters.from_torch(module, X)
    assert set(params0) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert module.training
    assert_same(apply, params0, mlp)
    assert_same_diagnosis(apply, params0)
    before = np.asarray(params0["0.bias"])
    module[0].bias.data += 1
    np.testing.assert_array_equal(params0["0.bias"], before)


def test_conv_net_is_the_plain_function():
    images = IMAGES.transpose(0, 3, 1, 2)
    apply, params0 = ls.adapters.from_torch(torch_conv(), images)
    assert_same(apply, params0, conv_net, images)


def test_a_shared_table_with_tokens_is_one_leaf():
    apply, params0 = ls.adapters.from_torch(Tied(), torch.tensor(np.asarray(TOKENS)))
    assert list(params0) == ["embed.weight"]
    assert_same(apply, params0, tied)
    np.testing.assert_array_equal(apply(params0, TOKENS.astype(jnp.int32)), apply(params0, TOKENS))


def test_float32_agrees_to_rounding():
    apply, params0 = ls.adapters.from_torch(torch_mlp().float(), X.astype(jnp.float32))
    outputs = apply(params0, X.astype(jnp.float32))
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, mlp(arrays(MLP), X), atol=1e-5)


def test_it_trains():
    apply, params0 = ls.adapters.from_torch(torch_mlp(), X)
    run = ls.gradient_descent(apply, params0, ls.Problem(X, jnp.zeros((5, 2))), step_size=0.05, num_steps=20)
    expected = ls.gradient_descent(mlp, arrays(MLP), ls.Problem(X, jnp.zeros((5, 2))), step_size=0.05, num_steps=20)
    np.testing.assert_allclose(run.train_loss, expected.train_loss, rtol=1e-10)


ACTIVATIONS = (
    nn.Softplus(), nn.SiLU(), nn.Mish(), nn.CELU(0.7), nn.LeakyReLU(), nn.ELU(), nn.Hardtanh(), nn.Hardswish(),
    nn.SELU(), nn.PReLU(), nn.Softsign(), nn.Tanhshrink(), nn.LogSigmoid(), nn.ReLU6(), nn.GELU(), nn.GELU("tanh"),
    nn.Sigmoid(), nn.Softmax(-1), nn.LogSoftmax(-1), nn.Softshrink(0.1), nn.Hardshrink(0.1),
)  # fmt: skip
MODULES = {
    "activations": lambda: (nn.Sequential(nn.Linear(4, 8), *mixed(ACTIVATIONS), nn.GLU()), (3, 4)),
    "batch_norm": lambda: (nn.Sequential(nn.Conv2d(2, 3, 3), warm(nn.BatchNorm2d(3)), nn.ReLU()), (3, 2, 6, 6)),
    "other_norms": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([3, 3])),
        (3, 2, 6, 6),
    ),
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1, 2, groups=2, padding_mode="circular"),
            nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
            nn.ConvTranspose2d(6, 2, (2, 3), (1, 2), dilation=2),
            nn.PixelShuffle(1),
        ),
        (3, 2, 7, 7),
    ),
    "pooling": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 2, 1),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.MaxPool2d(2, 1, dilation=2),
            nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            nn.AdaptiveAvgPool2d((3, 2)),
        ),
        (3, 2, 12, 12),
    ),
    "resizing": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 2, 1),
            nn.Upsample(scale_factor=2.5),
            nn.Upsample(size=(5, 19), mode="bilinear"),
            nn.Upsample(scale_factor=1.7, mode="bilinear"),
            nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
        ),
        (3, 2, 4, 4),
    ),
    "attention": lambda: (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True, activation="gelu"),
        (3, 5, 4),
    ),
    "causal_attention": lambda: (
        Of(lambda s, x: nn.functional.scaled_dot_product_attention(x * s.p, x, x, is_causal=True)),
        (3, 2, 4, 3),
    ),
    "recurrent": lambda: (Of(lambda s, x: s.parts[0](x)[0][:, -1], nn.LSTM(3, 2, batch_first=True)), (3, 3, 3)),
    "detached": lambda: (Of(lambda s, x: s.p.detach() * x + s.p), (3, 3)),
    "empty_cache": lambda: (Of(lambda s, x: torch.cat([x.new_empty(0), (x * s.p).to(x.dtype)], 1)), (3, 2, 3)),
    "reductions": lambda: (Of(lambda s, x: reductions(x * s.p)), (3, 3)),
    "one_output": lambda: (Of(lambda s, x: s.parts[0](x).squeeze(), nn.Linear(3, 1)), (3, 3)),
}


def mixed(activations):
    return [part for activation in activations for part in (activation, nn.Linear(8, 8))]


def warm(norm):
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def reductions(y):
    parts = [y.std(-1), y.norm(dim=-1), y.max(-1).values, y.logsumexp(-1), y.clamp(0, 1).prod(-1), y.cumsum(-1)[:, 1]]
    parts += [(y.abs() ** 2.5).sum(-1), y.flip(-1)[:, 0], y.roll(1, -1)[:, 0], nn.functional.normalize(y)[:, 0]]
    return torch.stack(parts, -1)


@pytest.mark.parametrize("name", MODULES)
def test_derivatives_of_every_order_are_those_of_pytorch(name):
    module, shape = MODULES[name]()
    module, x = module.double().eval(), torch.randn(shape, dtype=torch.float64)
    apply, params0 = ls.adapters.from_torch(module, x)
    inputs = jnp.asarray(x.numpy())
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention has no forward derivative
    weights = {key: p.detach() for key, p in module.named_parameters()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):

        def function(p):
            return torch.func.functional_call(module, p, (x,))

        value, pushed = torch.func.jvp(function, (weights,), (weights,))
        gradient = torch.func.grad(lambda p: 0.5 * (function(p) ** 2).sum())
        _, pull = torch.func.vjp(gradient, weights)
        curved = sum((weights[k] * v).sum() for k, v in pull(weights)[0].items())
    found, moved = jax.jit(lambda p: jax.jvp(lambda q: apply(q, inputs), (p,), (p,)))(params0)
    np.testing.assert_allclose(found, value.numpy(), atol=1e-12)
    np.testing.assert_allclose(moved, pushed.numpy(), atol=1e-11)
    curvature = jax.jit(lambda p: second_derivative(apply, p, inputs))(params0)
    np.testing.assert_allclose(curvature, float(curved), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(apply(params0, inputs)[:1], apply(params0, inputs[:1]), atol=1e-12)


def test_what_is_computed_without_gradient_is_a_constant():
    def forward(module, x):
        with torch.no_grad():
            fixed = module.p * x
            fixed, other = fixed**2, torch.exp(fixed)
        return fixed * module.p + other

    module, x = Of(forward).double(), torch.randn(3, 3, dtype=torch.float64)
    apply, params0 = ls.adapters.from_torch(module, x)
    inputs, p = jnp.asarray(x.numpy()), params0["p"][None]
    np.testing.assert_allclose(apply(params0, inputs), (p * inputs) ** 2 * p + jnp.exp(p * inputs), atol=1e-12)
    gradient = jax.grad(lambda q: jnp.sum(apply(q, inputs)))(params0)["p"]
    np.testing.assert_allclose(gradient, jnp.sum((p * inputs) ** 2, 0), atol=1e-12)


def test_derivatives_stay_finite_where_an_exponential_overflows():
    activations = nn.Sequential(nn.Linear(3, 3), nn.Softplus(), nn.CELU(), nn.ELU(), nn.Mish()).double()
    with pytest.warns(UserWarning, match="no second derivative of Sequential .* NaN .* differences of the first"):
        apply, params0 = ls.adapters.from_torch(activations, 1e4 * jnp.eye(3))
    gradients = jax.grad(lambda p: jnp.sum(apply(p, 1e4 * jnp.eye(3))))(params0)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients.values())


class Config:
    """An object with attributes."""

    def __init__(self):
        self.kind: str | None = None


class Careless(nn.Module):
    """Counts, caches and draws in forward."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.scale, self.table, self.calls, self.seen = None, {}, 0, []
        self.config = Config()  # as Hugging Face's models note which loss their labels ask for
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("gap", torch.full((2,), torch.nan))

    def forward(self, x):
        self.calls += 1
        self.config.kind = "regression"
        self.seen.append(len(x))
        if self.scale is None:
            self.scale = torch.arange(3.0, dtype=x.dtype)
        if "shift" not in self.table:
            self.table["shift"] = torch.ones(3, dtype=x.dtype)
        if not torch.compiler.is_exporting():
            self.count.add_(1)
            self.gap.data[:1] = torch.rand(())
        return self.drop(self.norm(self.layer(x))) * self.scale + self.table["shift"]


def test_a_module_is_left_exactly_as_it_was_found():
    module = Careless().double().train()
    module.layer.bias.requires_grad_(False)
    module(torch.tensor(np.asarray(X))).sum().backward()
    module.norm.eval()
    module.scale, module.calls, module.config.kind = None, 0, None
    module.table.clear()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found, flags = dict(vars(module)), [part.training for part in module.modules()]
    gradient = module.layer.weight.grad
    expected, numbers = gradient.clone(), torch.get_rng_state()
    apply, params0 = ls.adapters.from_torch(module, X)
    assert vars(module) == found
    assert (module.scale, module.table, module.calls, module.seen) == (None, {}, 0, [5])
    assert module.config.kind is None
    assert [part.training for part in module.modules()] == flags
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert module.layer.weight.grad is gradient
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    torch.testing.assert_close(dict(module.state_dict()), state, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), numbers)
    outputs = module.eval()(torch.tensor(np.asarray(X))).detach()
    np.testing.assert_allclose(apply(params0, X), outputs, atol=1e-12)


def test_tensors_and_lists_are_inputs_like_arrays():
    apply, params0 = ls.adapters.from_torch(torch_mlp(), X)
    tensor = torch.tensor(np.asarray(X))
    for x in (tensor, tensor.requires_grad_(), np.asarray(X), X.tolist()):
        np.testing.assert_allclose(apply(params0, x), mlp(arrays(MLP), X), atol=1e-12)
    with pytest.raises(ValueError, match=r"got a torch\.bfloat16 tensor: use x\.float\(\)"):
        apply(params0, tensor.bfloat16())
    with pytest.raises(ValueError, match="must keep the names and types"):
        apply([1.0], X)


def test_frozen_parameters_are_set_aside():
    module = torch_mlp()
    module[0].requires_grad_(False)
    apply, params0 = ls.adapters.from_torch(module, X)
    assert list(params0) == ["2.weight", "2.bias"]
    np.testing.assert_allclose(apply(params0, X), mlp(arrays(MLP), X), atol=1e-12)
    with pytest.raises(ValueError, match="a parameter with requires_grad, got none in Sequential"):
        ls.adapters.from_torch(module.requires_grad_(False), X)


def test_a_tied_model_is_loaded_under_any_of_its_names(tmp_path):
    from safetensors.torch import save_file, save_model

    module = Tied()
    _, params0 = ls.adapters.from_torch(module, torch.tensor(np.asarray(TOKENS)))
    with torch.no_grad():
        module.embed.weight += 1
    save_model(module, str(tmp_path / "model.safetensors"))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    save_file(state, tmp_path / "both.safetensors")
    np.savez(tmp_path / "both.npz", **state)
    for name in ("model.safetensors", "both.safetensors", "both.npz"):
        params = ls.adapters.load_checkpoint(tmp_path / name, params0)
        np.testing.assert_array_equal(params["embed.weight"], TABLE + 1)


def test_a_state_dict_in_safetensors_is_a_checkpoint(tmp_path):
    from safetensors.torch import save_file

    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    _, params0 = ls.adapters.from_torch(module, X)
    module[0].weight.data *= 2
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    ignore = ["*.running_*", "*.num_batches_tracked"]
    params = ls.adapters.load_checkpoint(tmp_path / "w.safetensors", params0, ignore=ignore)
    np.testing.assert_allclose(params["0.weight"], 2 * params0["0.weight"])
    assert tree.group_names(params) == ["0.bias", "0.weight", "1.bias", "1.weight"]


class Straight(torch.autograd.Function):
    """Rounding, with the derivative of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Of(lambda s, x: torch.mode(x * s.p, keepdim=True)[0]), r"no JAX rule for mode\.default in Of"),
        (lambda: Of(lambda s, x: nn.functional.dropout(x * s.p)), r"no JAX rule for native_dropout\.default"),
        (lambda: nn.LazyLinear(2), "needs initialised parameters, got lazy weight in LazyLinear"),
        (lambda: nn.Linear(3, 2).bfloat16(), r"needs float32 or float64, got torch\.bfloat16 weight"),
        (lambda: nn.Linear(4, 2), "Linear must run on the example of shape .*, got: mat1 and mat2"),
        (lambda: Of(lambda s, x: (x * s.p, x)), "must return one tensor with a row per example, got tuple"),
        (lambda: Of(lambda s, x: (x * s.p).sum()), r"a row per example, got shape \(\) for 3 examples"),
        (
            lambda: Of(lambda s, x: torch.igamma((x * s.p).abs(), x.abs() + 1)),
            "PyTorch must have derivatives of Of, got: .*igamma",
        ),
        (lambda: Of(lambda s, x: x), "must depend on its trained parameters, got none that takes part in them"),
        (lambda: Of(lambda s, x: (x * s.p).detach()), "on its trained parameters, got them detached: leave out"),
        (lambda: Of(lambda s, x: (x * s.p).argsort(-1).to(x.dtype)), r"their derivatives lost in sort\.\w+, which has"),
        (lambda: Of(lambda s, x: (x * s.p).argsort(-1)), r"must return floating-point numbers, got torch\.int64"),
        (lambda: Of(lambda s, x: x * s.p if x.sum() > 0 else s.p - x), "that torch.export can trace, got from Of"),
        (
            lambda: Of(lambda s, x: (x * s.p).bfloat16()),
            r"float32 or float64, got outputs in torch\.bfloat16: leave out",
        ),
        (lambda: Of(lambda s, x: (x - x.mean(0)) * s.p), "examples of a batch must not see each other"),
        (lambda: Of(lambda s, x: Straight.apply(x * s.p)), r"derivatives by p that differ by .* custom derivatives"),
        (lambda: Of(lambda s, x: torch.log(0 * x * s.p)), r"outputs of Of must be finite on the example, got 9 of 9"),
        (lambda: Of(lambda s, x: torch.sqrt(0 * x * s.p)), r"derivatives of Of must be finite .* got 3 of 3 .* by p"),
    ],
)
def test_a_module_that_cannot_be_converted_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        ls.adapters.from_torch(build(), torch.randn(3, 3))
    assert "\n" not in str(caught.value)


def test_inputs_of_another_type_or_shape_are_refused():
    apply, params0 = ls.adapters.from_torch(torch_mlp().float(), X.astype(jnp.float32))
    for x in (X, X[:, :2].astype(jnp.float32)):
        with pytest.raises(ValueError, match=r"inputs must be float32 of shape \(n, 4\)"):
            apply(params0, x)
    wide = {name: leaf.astype(float) for name, leaf in params0.items()}
    with pytest.raises(ValueError, match="must keep the names and types"):
        apply(wide, X.astype(jnp.float32))


def test_float64_needs_64_bit_jax():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 needs 64-bit JAX"):
        ls.adapters.from_torch(torch_mlp(), np.asarray(X))
