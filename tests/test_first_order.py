"""The first-order model of a PyTorch module: against its conversion to JAX, against closed forms, and as a module."""

import copy
import inspect
import io
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls
from lazyscope.dynamics import linearized_descent

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn
checkpoint = pytest.importorskip("torch.utils.checkpoint").checkpoint
pytest.importorskip("torch.nn.utils.prune")
lst = pytest.importorskip("lazyscope.torch")


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


class Decoder(nn.Module):
    """Causal attention over tokens, weights of the readout tied to the embedding, a loss where labels are given.

    The view of what attention gives is one of the layout of PyTorch's fused kernel.
    """

    def __init__(self, vocabulary=7, width=8, cap=None):
        super().__init__()
        self.cap = cap
        self.embed, self.qkv = nn.Embedding(vocabulary, width), nn.Linear(width, 3 * width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids, labels=None):
        h = self.embed(input_ids)
        q, k, v = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in self.qkv(self.norm(h)).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        logits = self.head(h + seen.view(h.shape))
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)  # no submodule gives them
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return found


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["logits"]


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), lambda: torch.randn(5, 3)),
    "conv net with BatchNorm": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)),
        lambda: torch.randn(5, 2, 6, 6),
    ),
    "encoder": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), nn.Linear(8, 2)),
        lambda: torch.randn(3, 4, 8),
    ),
    "decoder": (lambda: Logits(Decoder()), lambda: torch.randint(0, 7, (3, 5))),
    "positions": (
        lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 3)), nn.Linear(3, 5), nn.Sigmoid(), nn.Flatten()),
        lambda: torch.randn(3, 12),
    ),
}
FIXED = {"conv net with BatchNorm": "running statistics", "encoder": "dropout is off"}


def made(name):
    build, inputs = MODELS[name]
    model, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    if name in FIXED:
        model(x)  # so that statistics are not those of the start
        with pytest.warns(UserWarning, match=FIXED[name]):
            return model, lst.linearize(model), x
    return model, lst.linearize(model), x


def shifted(module, size=0.1):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.cos(torch.arange(parameter.numel()).reshape(parameter.shape).double()))


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_linearisation_of_the_conversion_in_value_and_gradient(name):
    model, first, x = made(name)
    apply, params0 = ls.adapters.from_torch(model, x)
    linear = ls.linearize(apply, params0)
    np.testing.assert_allclose(first(x).detach(), model.eval()(x).detach(), rtol=0, atol=1e-12)
    shifted(first)
    params = {key: jnp.asarray(value.detach().numpy()) for key, value in first.named_parameters()}
    assert list(params) == list(params0)
    inputs = x.numpy()
    found = first(x)
    np.testing.assert_allclose(found.detach(), linear(params, inputs), rtol=1e-9, atol=1e-11)
    (found**3).sum().backward()
    slopes = jax.grad(lambda p: jnp.sum(linear(p, inputs) ** 3))(params)
    for key, parameter in first.named_parameters():
        np.testing.assert_allclose(parameter.grad, slopes[key], rtol=1e-8, atol=1e-9)


class Of(nn.Module):
    """The forward pass `of(module, x)` of a module with these parts."""

    def __init__(self, of, *parts, **held):
        super().__init__()
        self.of, self.parts = of, nn.ModuleList(parts)
        for name, value in held.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x):
        return self.of(self, x)


def normalised(module, x):
    h = module.parts[0](x)
    with torch.no_grad():
        size = h.pow(2).mean(1, keepdim=True).sqrt()
    return h / size


@torch.no_grad()
def target(module, x):
    return nn.functional.normalize(module.parts[0](x))


class Rounded(torch.autograd.Function):
    """Rounding, passed over by its derivative."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, slope):
        return slope


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return slope * s * (1 + x * (1 - s))


def again(module, x):
    return module.parts[1](checkpoint(lambda h: torch.tanh(module.parts[0](h)), x, use_reentrant=False))


def warped(module, x):
    grid = nn.functional.affine_grid(module.parts[0](x.flatten(1)).view(-1, 2, 3), x.shape, align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False).flatten(1)


def spectral(module, x):
    return torch.fft.irfft(torch.fft.rfft(x) * module.w, n=8)


def pruned():
    torch.nn.utils.prune.l1_unstructured(layer := nn.Linear(4, 5), "weight", 0.4)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 2))


def used(build):
    """The model after a pass, whose normalised weights are no leaves."""
    model = nn.Sequential(build(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))
    model(torch.randn(2, 4))
    return model


def rows(*shape):
    return lambda: torch.randn(6, *shape, dtype=torch.float64)


AS_TRAINED = {
    "no_grad around a normalisation": (lambda: Of(normalised, nn.Linear(4, 3)), rows(4)),
    "no_grad around a target": (lambda: Of(lambda m, x: m.parts[0](x) * target(m, x), nn.Linear(4, 3)), rows(4)),
    "a Function that rounds": (
        lambda: Of(lambda m, x: m.parts[1](Rounded.apply(m.parts[0](x))), nn.Linear(4, 5), nn.Linear(5, 2)),
        rows(4),
    ),
    "weight normalisation": (lambda: used(nn.utils.parametrizations.weight_norm), rows(4)),
    "weight normalisation by a hook": (lambda: used(torch.nn.utils.weight_norm), rows(4)),
    "spectral normalisation by a hook": (lambda: used(torch.nn.utils.spectral_norm), rows(4)),
    "pruned": (pruned, rows(4)),
    "GLU": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2)), rows(4)),
    "a checkpoint": (lambda: Of(again, nn.Linear(4, 5), nn.Linear(5, 2)), rows(4)),
    "a warped image": (lambda: Of(warped, nn.Linear(50, 6)), rows(2, 5, 5)),
    "LSTM": (lambda: Of(lambda m, x: m.parts[0](x)[0][:, -1], nn.LSTM(4, 3, batch_first=True)), rows(5, 4)),
    "bags": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 3, padding_idx=0), nn.Linear(3, 2)),
        lambda: torch.randint(0, 7, (6, 3)),
    ),
    "gradients of a tensor within it": (
        lambda: Of(
            lambda m, x: m.parts[1](torch.softmax(m.parts[0](x).requires_grad_(), -1)), nn.Linear(4, 5), nn.Linear(5, 2)
        ),
        rows(4),
    ),
    "complex weights": (lambda: Of(spectral, w=torch.randn(5, dtype=torch.complex128)), rows(8)),
}


@pytest.mark.parametrize("name", AS_TRAINED)
def test_its_derivatives_are_those_of_the_backward_pass(name):
    build, inputs = AS_TRAINED[name]
    model, x = build().double().eval(), inputs()
    first = lst.linearize(model)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        moved = [w - w0 for w, w0 in zip(first.parameters(), model.parameters(), strict=True)]
    outputs, rows_of_j = model(x), list(rows_of_jacobian(model, x))
    steps = [sum((j.conj() * step).sum().real for j, step in zip(row, moved, strict=True)) for row in rows_of_j]
    expected = outputs.detach() + torch.stack(steps).view(outputs.shape)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            torch.testing.assert_close(first(x), expected, rtol=1e-10, atol=1e-12)
    (first(x) ** 3).sum().backward()
    for parameter, slopes in zip(first.parameters(), zip(*rows_of_j, strict=True), strict=True):
        along = sum(3 * value**2 * slope for value, slope in zip(expected.flatten(), slopes, strict=True))
        torch.testing.assert_close(parameter.grad, along, rtol=1e-9, atol=1e-11)


def rows_of_jacobian(model, x):
    """For every output its derivatives by the weights, by one backward pass."""
    weights = list(model.parameters())
    for one in model(x).flatten():
        yield torch.autograd.grad(one, weights, retain_graph=True, materialize_grads=True)


def test_inputs_have_their_derivative_without_forward_mode_too():
    parts = (nn.Linear(4, 5), nn.Linear(5, 2))
    models = [
        Of(lambda m, x, f=f: m.parts[1](f(m.parts[0](x))), *parts).double() for f in (nn.functional.silu, Swish.apply)
    ]
    found = []
    for model in models:
        first = lst.linearize(model)
        shifted(first)
        x = torch.linspace(-1, 1, 24).double().view(6, 4).requires_grad_()
        (first(x) ** 3).sum().backward()
        found.append((x.grad, *(parameter.grad for parameter in first.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_loss_of_it_has_second_derivatives_without_forward_mode_too():
    parts, x, v = (nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(3, 2)), rows(4)(), None
    found = []
    for f in (nn.functional.silu, Swish.apply):
        first = lst.linearize(Of(lambda m, x, f=f: m.parts[1](f(m.parts[0](x))), *parts).double())
        shifted(first)
        weights = list(first.parameters())[:4]  # the last part is not used
        slopes = torch.autograd.grad((first(x) ** 3).sum(), weights, create_graph=True)
        v = v or [torch.randn_like(slope) for slope in slopes]
        products = torch.autograd.grad(sum((s * each).sum() for s, each in zip(slopes, v, strict=True)), weights)
        found.append((*slopes, *products))
    assert first._by_backward == {False: True}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_inputs_have_their_derivative_after_a_pass_without():
    first, x = lst.linearize(Of(lambda m, x: torch.softmax(m.parts[0](x), -1), nn.Linear(4, 3)).double()), rows(4)()
    first(x).sum().backward()
    shifted(first)
    x.requires_grad_()
    for parameter in first.parameters():
        parameter.grad = None
    (first(x) ** 3).sum().backward()
    assert torch.autograd.gradcheck(lambda x: (first(x) ** 3).sum(), x)


def test_a_forward_pass_of_the_instance_is_linearised_too(half_precision):
    class Shifted(nn.Linear):
        def forward(self, x, scale=1.0):
            return scale * torch.tanh(super().forward(x))

    own, plain, x = Shifted(4, 3), nn.Linear(4, 3), torch.randn(6, 4)
    plain.load_state_dict(own.state_dict())
    expected = lst.linearize(own)
    plain.forward = types.MethodType(
        lambda self, x, scale=1.0: scale * torch.tanh(nn.functional.linear(x, self.weight, self.bias)), plain
    )
    prepared = half_precision.prepare(nn.Sequential(own))
    first, of_prepared = lst.linearize(plain), lst.linearize(prepared)
    for linear in (expected, first, of_prepared):
        shifted(linear, 0.5)
    torch.testing.assert_close(first(x, scale=2.0), expected(x, scale=2.0))
    assert inspect.signature(first.forward) == inspect.signature(plain.forward)
    torch.testing.assert_close(of_prepared(x), expected(x), rtol=0.02, atol=0.02)
    shifted(own, 0.5)
    assert not torch.allclose(of_prepared(x), own(x), rtol=0.05, atol=0.05)


def test_a_library_may_wrap_and_unwrap_it(half_precision):
    model, first, x = made("mlp")
    model, first, x = model.float(), first.float(), x.float()
    for each in (model, first):
        shifted(each, 0.5)
    expected = first(x)
    assert not torch.allclose(expected, model(x), rtol=0.1, atol=0.1)
    again = copy.deepcopy(half_precision.prepare(copy.deepcopy(first)))
    torch.testing.assert_close(again(x), expected, rtol=0.02, atol=0.02)
    for keep in (True, False):
        inner = half_precision.unwrap_model(half_precision.prepare(copy.deepcopy(first)), keep_fp32_wrapper=keep)
        torch.testing.assert_close(inner(x), expected, rtol=0.02, atol=0.02)
    compiled = torch.compile(first, backend="eager")
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_a_loss_in_the_model_is_that_of_the_linearised_logits_without_forward_mode_too(cap):
    model, tokens = Decoder(cap=cap).double(), torch.randint(0, 7, (3, 5))
    slopes = []
    for norm in (model.norm, nn.utils.parametrizations.weight_norm(copy.deepcopy(model.norm))):
        model.norm = norm  # the same function, of the second there is no forward mode
        first = lst.linearize(model)
        with torch.no_grad():
            first.head.weight.mul_(1.2)
            first.qkv.weight.mul_(1.3)
        found = first(tokens, labels=tokens)
        logits = first(tokens)["logits"]
        torch.testing.assert_close(found["loss"], nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()))
        found["loss"].backward()
        slopes.append((found["loss"].detach(), first.embed.weight.grad, first.qkv.weight.grad))
    assert all(first._by_backward.values())
    torch.testing.assert_close(*slopes)


def test_its_first_pass_draws_what_the_model_draws():
    model = Of(lambda m, x: m.parts[0](x) + torch.randn(6, 2).double(), nn.Linear(4, 2)).double()
    first, x = lst.linearize(model), rows(4)()
    for _ in range(2):
        torch.manual_seed(3)
        expected = model(x), torch.rand(1)
        torch.manual_seed(3)
        torch.testing.assert_close((first(x), torch.rand(1)), expected)


def test_trained_by_sgd_it_ends_where_linearised_descent_ends():
    model, first, x = made("mlp")
    y = torch.randn(5, 2).double()
    apply, params0 = ls.adapters.from_torch(model, x)
    # Half the mean squared error, as in lazyscope.
    optimizer = torch.optim.SGD(first.parameters(), lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        (((first(x) - y) ** 2).sum(1).mean() / 2).backward()
        optimizer.step()
    run = linearized_descent(apply, params0, ls.Problem(jnp.asarray(x), jnp.asarray(y)), step_size=0.2, steps=[40])
    for key, parameter in first.named_parameters():
        np.testing.assert_allclose(parameter.detach(), run.params[key], rtol=1e-9, atol=1e-11)


def test_it_is_a_module_of_the_same_kind_with_weights_of_its_own():
    model, first, x = made("mlp")
    before = copy.deepcopy(model.state_dict())
    assert isinstance(first, nn.Sequential)
    assert inspect.signature(first.forward) == inspect.signature(model.forward)
    assert list(first.state_dict()) == list(model.state_dict())
    shifted(first)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    stream = io.BytesIO()
    torch.save(first, stream)
    stream.seek(0)
    for again in (torch.load(stream, weights_only=False), copy.deepcopy(first)):
        torch.testing.assert_close(again(x), first(x), rtol=0, atol=0)
    third = lst.linearize(model)
    third.load_state_dict(first.state_dict())
    torch.testing.assert_close(third(x), first(x), rtol=0, atol=0)
    single = first.float()
    assert single(x.float()).dtype == torch.float32


def test_frozen_weights_stay_frozen_and_buffers_stay_as_they_are():
    model, _, x = made("conv net with BatchNorm")
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="running statistics"):
        first = lst.linearize(model)
    statistics = first[1].running_mean.clone()
    first.train()
    first(x).sum().backward()
    assert first[0].weight.grad is None
    assert first[4].weight.grad is not None
    torch.testing.assert_close(first[1].running_mean, statistics, rtol=0, atol=0)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_a_loss_beside_logits_is_that_of_the_linearised_logits(cap):
    model = Decoder(cap=cap).double()
    first, tokens = lst.linearize(model), torch.randint(0, 7, (3, 5))
    assert len(list(first.parameters())) == len(list(model.parameters()))
    assert first.head.weight is first.embed.weight
    shifted(first, 0.3)
    logits = first(tokens)["logits"]
    found = first(input_ids=tokens, labels=tokens)
    torch.testing.assert_close(found["logits"], logits)
    torch.testing.assert_close(found["loss"], nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()))
    found["loss"].backward()
    own = first.embed.weight.grad.clone()
    first.zero_grad()
    nn.functional.cross_entropy(first(tokens)["logits"].flatten(0, 1), tokens.flatten()).backward()
    torch.testing.assert_close(own, first.embed.weight.grad)


class Spans(nn.Module):
    """Where answers start and end, as models of questions give it, and their loss."""

    def __init__(self, loss=nn.functional.cross_entropy, decay=0.0):
        super().__init__()
        self.embed, self.both, self.loss, self.decay = nn.Embedding(7, 4), nn.Linear(4, 2), loss, decay

    def forward(self, input_ids, starts=None, ends=None):
        start, end = (part.squeeze(-1) for part in self.both(self.embed(input_ids).tanh()).split(1, -1))
        found = {"start_logits": start, "end_logits": end}
        if starts is not None:
            found["loss"] = (self.loss(start, starts) + self.loss(end, target=ends)) / 2
            if self.decay:
                found["loss"] = found["loss"] + self.decay * self.both.weight.square().sum()
        return found


def test_a_loss_of_several_outputs_is_that_of_the_linearised_ones():
    model, tokens = Spans().double(), torch.randint(0, 7, (3, 5))
    starts, ends = torch.randint(0, 5, (2, 3))
    first = lst.linearize(model)
    shifted(first, 0.5)
    found, outputs = first(tokens, starts, ends), first(tokens)
    losses = [nn.functional.cross_entropy(outputs[k], y) for k, y in (("start_logits", starts), ("end_logits", ends))]
    torch.testing.assert_close(found["loss"], sum(losses) / 2)
    assert not torch.allclose(outputs["start_logits"], copy.deepcopy(model)(tokens)["start_logits"])
    by_hand = lst.linearize(copy.deepcopy(model))
    by_hand.load_state_dict(first.state_dict())
    object.__setattr__(by_hand._base, "loss", lambda f, target: f.logsumexp(1).mean() - f[range(3), target].mean())
    torch.testing.assert_close(by_hand(tokens, starts, ends)["loss"], found["loss"])
    for refused in (lst.linearize(Spans(decay=0.1)), lst.linearize(Spans(), output="embed")):
        with pytest.raises(ValueError, match="the loss of Spans must be computed of its linearised outputs alone"):
            refused(tokens, starts, ends)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"linearize needs a torch\.nn\.Module, got int"):
        lst.linearize(3)
    with pytest.raises(ValueError, match="needs floating parameters, got none in Flatten"):
        lst.linearize(nn.Flatten())
    with pytest.raises(ValueError, match="output must name a submodule of Linear, got 'head'"):
        lst.linearize(nn.Linear(2, 2), output="head")
    with pytest.raises(ValueError, match="linearised already"):
        lst.linearize(lst.linearize(nn.Linear(2, 2)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_what_cannot_be_linearised_or_copied_is_refused():
    def hooked(held):
        model = nn.Sequential(nn.Linear(4, 3))
        model[0].register_forward_hook(held(model))
        return model

    def distances(module, x):
        return torch.cdist(module.parts[0](x)[None], x[None])

    model = nn.Sequential(nn.Linear(4, 4))
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        with pytest.raises(ValueError, match=r"needs the model itself, got it within .*: pass the Sequential in it"):
            lst.linearize(wrapped)
    with pytest.raises(ValueError, match=r"needs a module in Python, got one of torch\.jit"):
        lst.linearize(torch.jit.script(model))
    with pytest.raises(ValueError, match="an embedding with max_norm"):
        lst.linearize(nn.Embedding(4, 3, max_norm=1.0))
    with pytest.raises(ValueError, match=r"can differentiate twice, got: .*cdist"):
        lst.linearize(Of(distances, nn.Linear(4, 4)))(torch.randn(6, 4))
    weight = nn.Parameter(torch.ones(3))
    for held in (
        lambda model: lambda *call, m=model: call[-1] * len(m),
        lambda model: lambda *call: call[-1] * len(model),
    ):
        with pytest.raises(ValueError, match="'<lambda>' in its _forward_hooks, which holds a part of the module"):
            lst.linearize(hooked(held))
    lst.linearize(hooked(lambda _: lambda *call: call[-1] * weight))
