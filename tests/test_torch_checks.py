"""The check at conversion: in float64 whatever the model's type, with second derivatives and true causes."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import X

import lazyscope as ls
from lazyscope.adapters.torch.operations import OPERATIONS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn


class Of(nn.Module):
    """A module from a function of its parameter and its input."""

    def __init__(self, function, start=(0.7, 1.1, 0.4)):
        super().__init__()
        self.function, self.p = function, nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return self.function(self.p, x)


class Bottleneck(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.parts = nn.Sequential(
            *(nn.Conv2d(width, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()),
            *(nn.Conv2d(width // 2, width // 2, 3, 1, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()),
            *(nn.Conv2d(width // 2, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x):
        return torch.relu(x + self.parts(x))


def resnet(seed, width=32, depth=2):
    torch.manual_seed(seed)
    stem = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    return nn.Sequential(*stem, *(Bottleneck(width) for _ in range(depth)), *head), torch.randn(4, 3, 64, 64)


@pytest.mark.parametrize("seed", range(4))
def test_no_gate_is_near_enough_to_its_kink_to_refuse_a_residual_net_in_float32(seed):
    module, x = resnet(seed)
    apply, params0 = ls.adapters.from_torch(module, x)
    outputs = module.eval()(x).detach()
    np.testing.assert_allclose(apply(params0, x), outputs, rtol=1e-4, atol=1e-4)


def test_a_gate_that_rounding_closes_in_float32_is_no_disagreement():
    module = Of(lambda p, x: torch.relu((x * p).sum(-1, keepdim=True)) + x @ p[:, None], (1e8, 1.0, -1e8))
    apply, params0 = ls.adapters.from_torch(module, torch.ones(2, 3))
    assert apply(params0, np.ones((2, 3), np.float32)).dtype == jnp.float32


class Less(nn.Module):
    """h(w) − h(w0), by a frozen copy, as moved as `by` makes the weights; with `mean`, of the batch's mean as well."""

    def __init__(self, by=0.0, mean=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 3))
        self.start, self.mean = copy.deepcopy(self.net).requires_grad_(False), mean
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.mul_(1 + by)

    def forward(self, x):
        return (self.net(x) * 1.1 - self.mean * x.mean()) / 1.1 - self.start(x)


@pytest.mark.parametrize(("dtype", "by"), [("float32", 1e-6), ("float32", 0.0), ("float64", 1e-15), ("float64", 0.0)])
def test_outputs_that_cancel_but_for_rounding_are_compared_up_to_it(dtype, by):
    torch.manual_seed(0)
    model, x = Less(by).to(getattr(torch, dtype)), torch.randn(16, 32).to(getattr(torch, dtype))
    with torch.no_grad():
        outputs, largest = model(x), float(model.start(x).abs().max())
    assert float(outputs.abs().max()) < 1e-5 * largest
    apply, params = ls.adapters.from_torch(model, x)
    few = 100 * torch.finfo(x.dtype).eps * largest
    np.testing.assert_allclose(apply(params, x.numpy()), outputs, rtol=0, atol=few)
    with pytest.raises(ValueError, match="must do the same with a row in a batch and alone"):
        ls.adapters.from_torch(Less(by, mean=1.0).to(x.dtype), x)


def test_hardsigmoid_converts_in_float64():
    module = nn.Sequential(nn.Linear(4, 30), nn.Hardsigmoid()).double()
    apply, params0 = ls.adapters.from_torch(module, X)
    inner = X @ params0["0.weight"].T + params0["0.bias"][None]
    np.testing.assert_allclose(apply(params0, X), jnp.clip(inner + 3, 0, 6) / 6, atol=1e-14)


def test_where_pytorch_has_no_second_derivative_it_is_checked_by_differences():
    points = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    module = Of(lambda p, x: torch.cdist((x * p)[:, None], points, p=3.0)[:, 0]).double()
    x = torch.randn(3, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"PyTorch has no second derivative of Of \(.*_cdist_backward"):
        apply, params0 = ls.adapters.from_torch(module, x)
    apart = jnp.asarray((x * module.p)[:, None].detach().numpy()) - jnp.asarray(points.numpy())[None]
    np.testing.assert_allclose(apply(params0, x), jnp.sum(jnp.abs(apart) ** 3, -1) ** (1 / 3), rtol=1e-12)


def test_where_the_second_derivative_of_pytorch_is_not_that_of_its_first_the_differences_decide():
    torch.manual_seed(0)
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)).double()
    x = torch.randn(5, 4).double()
    with pytest.warns(
        UserWarning, match=r"by parametrizations\.weight\.original1 is not what differences of its first"
    ):
        apply, params0 = ls.adapters.from_torch(module, x)

    def by_hand(params, x):
        g, v = (params[f"parametrizations.weight.original{i}"] for i in (0, 1))
        return x @ (g * v / jnp.linalg.norm(v, axis=1, keepdims=True)).T + params["bias"][None]

    v = jax.tree.map(jnp.cos, params0)
    found, expected = (
        jax.jvp(jax.grad(lambda p, h=h: jnp.sum(h(p, x.numpy()) ** 3)), (params0,), (v,))[1] for h in (apply, by_hand)
    )
    for key, leaf in expected.items():
        np.testing.assert_allclose(found[key], leaf, rtol=1e-10, atol=1e-12)


def test_a_second_derivative_that_jax_has_otherwise_is_seen(monkeypatch):
    def bent(x):  # right in value and slope, with no curvature
        at = jax.lax.stop_gradient(x)
        return jnp.exp(at) * (1 + x - at)

    monkeypatch.setitem(OPERATIONS, "exp", bent)
    module, x = Of(lambda p, x: torch.exp(p * x)).double(), torch.randn(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"got second derivatives by p that differ by .* in float64"):
        ls.adapters.from_torch(module, x)


class Tokens(nn.Module):
    """A patch embedding: PyTorch's derivative of its batch normalisation is wrong for one example."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, bias=False), nn.BatchNorm2d(3))
        self.readout = nn.Linear(3, 2)

    def forward(self, x):
        tokens = nn.functional.layer_norm(self.embed(x).flatten(2).transpose(1, 2), (3,))
        return torch.tanh(self.readout(tokens)).mean(1)


def tokens():
    torch.manual_seed(0)
    return Tokens().double().eval(), torch.randn(2, 2, 6, 6).double()


def test_where_the_derivative_of_pytorch_is_wrong_that_of_the_outputs_differences_is_taken():
    module, x = tokens()
    said = r"derivative of Tokens by embed\.0\.weight, .* is wrong, by .*, which differences of the outputs confirm"
    with pytest.warns(UserWarning, match=said):
        apply, params0 = ls.adapters.from_torch(module, x)
    (slopes,) = jax.vjp(lambda p: apply(p, x), params0)[1](jnp.ones((2, 2)))
    random = np.random.default_rng(0)
    for key, parameter in module.named_parameters():
        way = torch.tensor(random.standard_normal(parameter.shape))

        def moved(t, key=key, parameter=parameter, way=way):
            with torch.no_grad():
                return float(torch.func.functional_call(module, {key: parameter + t * way}, (x,)).sum())

        expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
        np.testing.assert_allclose(np.sum(slopes[key] * way.numpy()), expected, rtol=1e-6, atol=1e-9)


def test_a_wrong_rule_is_refused_where_pytorch_is_wrong_too(monkeypatch):
    def flat(x):  # right in value, a little less steep
        return 0.999 * jnp.tanh(x) + 0.001 * jax.lax.stop_gradient(jnp.tanh(x))

    monkeypatch.setitem(OPERATIONS, "tanh", flat)
    with pytest.raises(ValueError, match=r"must agree on Tokens, got derivatives by embed\.0\.weight"):
        ls.adapters.from_torch(*tokens())


def test_a_derivative_that_pytorch_means_is_refused_where_jax_has_that_of_the_differences():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(12, 1)).double()
    with pytest.raises(ValueError, match=r"must agree on Sequential, got derivatives by 0\.weight"):
        ls.adapters.from_torch(module, torch.tensor([[1, 2, 2, 4], [0, 3, 3, 3]]))


def test_a_derivative_that_tracing_does_not_see_is_refused_as_such():
    module, x = Of(lambda p, x: Halved.apply(p * x)).double(), torch.randn(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must be what torch\.export sees of it, got derivatives by p"):
        ls.adapters.from_torch(module, x)


class Halved(torch.autograd.Function):
    """The identity, with half its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


class Hashed(torch.nn.Module):
    """Pairs of ids by their hash, whose products leave 32 bits."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(101, 4), torch.nn.Linear(8, 2)

    def forward(self, ids):
        return self.out(self.embed((ids[:, 1:] * 50257 + ids[:, :-1]) % 101).flatten(1))


class Phase(torch.nn.Module):
    """The phase of a tone, in double, since its turns are many."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(1, 2)

    def forward(self, seconds):
        return self.out((seconds.double() * 440 * 2 * torch.pi).sin().float())


@pytest.mark.parametrize("module", [Hashed, Phase])
def test_numbers_of_64_bits_inside_a_module_of_float32_are_kept_or_asked_for(module):
    torch.manual_seed(0)
    net = module()
    batch = torch.randint(40_000, 50_000, (20, 3)) if module is Hashed else 3600 * torch.rand(20, 1)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"needs its 64-bit numbers.*jax_enable_x64"):
        ls.adapters.from_torch(net, batch)
    apply, params = ls.adapters.from_torch(net, batch)
    np.testing.assert_allclose(apply(params, batch), net(batch).detach().numpy(), rtol=1e-5, atol=1e-6)
