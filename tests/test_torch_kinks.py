"""Converted PyTorch functions at 0 and at kinks: closed forms where they are smooth, PyTorch's choice where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Row(nn.Module):
    """A list of functions of one number, its parameter, side by side."""

    def __init__(self, functions, start):
        super().__init__()
        self.functions, self.z = functions, nn.Parameter(torch.full((1, 1), start, dtype=torch.float64))

    def forward(self, x):
        z = self.z + 0 * x
        return torch.cat([function(z) for function in self.functions], -1)


def converted(functions, start=0.3):
    """The row of functions in JAX, as a function of the number; converted at `start`."""
    apply, _ = ls.adapters.from_torch(Row(functions, start), torch.zeros(2, 1, dtype=torch.float64))
    return lambda z: apply({"z": z.reshape(1, 1)}, jnp.zeros((1, 1)))[0]


def pair(z, other=None):
    return torch.cat([z, -z if other is None else other], -1)


PHI = 1 / np.sqrt(2 * np.pi)
SMOOTH = {  # first, second and fourth derivative at 0
    "log sigmoid": (F.logsigmoid, 1 / 2, -1 / 4, 1 / 8),
    "softplus": (F.softplus, 1 / 2, 1 / 4, -1 / 8),
    "silu": (F.silu, 1 / 2, 1 / 2, -1 / 2),
    "gelu": (F.gelu, 1 / 2, 2 * PHI, -4 * PHI),
    "sinc": (torch.sinc, 0, -(np.pi**2) / 3, np.pi**4 / 5),
    "logaddexp": (lambda z: torch.logaddexp(z, -z), 0, 1, -2),
    "logsumexp": (lambda z: torch.logsumexp(pair(z), -1, keepdim=True), 0, 1, -2),
    "log_softmax": (lambda z: F.log_softmax(pair(z), -1)[:, :1], 1, -1, 2),
    "huber": (lambda z: F.huber_loss(z, 0 * z, reduction="none"), 0, 1, 0),
    "smooth l1": (lambda z: F.smooth_l1_loss(z, 0 * z, reduction="none", beta=0.5), 0, 2, 0),
    "cross-entropy of a logit": (
        lambda z: F.binary_cross_entropy_with_logits(z, torch.ones_like(z), reduction="none"),
        -1 / 2,
        1 / 4,
        -1 / 8,
    ),
    "soft margin": (lambda z: F.soft_margin_loss(z, torch.ones_like(z), reduction="none"), -1 / 2, 1 / 4, -1 / 8),
    "square of abs": (lambda z: z.abs() ** 2, 0, 2, 0),
    "square of a norm": (lambda z: torch.linalg.vector_norm(pair(z), dim=-1, keepdim=True) ** 2, 0, 4, 0),
    "norm by norm": (lambda z: (n := pair(z).norm(dim=-1).unsqueeze(-1)) * n, 0, 4, 0),
    "norm to the fourth": (lambda z: pair(z).norm(dim=-1, keepdim=True).pow(4), 0, 0, 96),
    "square of a root": (lambda z: torch.sqrt(z * z).square(), 0, 2, 0),
    "square of std": (lambda z: pair(z).std(-1, keepdim=True) ** 2, 0, 4, 0),
    "hypot": (lambda z: torch.hypot(z, torch.ones_like(z)), 0, 1, -3),
    "xlogy": (lambda z: torch.xlogy(z, 1 + z), 0, 2, 8),
    "xlog1py": (lambda z: torch.special.xlog1py(z, z), 0, 2, 8),
}


def test_smooth_functions_are_right_at_every_order_at_0():
    functions, first, second, fourth = zip(*SMOOTH.values(), strict=True)
    row, zero = converted(functions), jnp.zeros(())
    twice = jax.jacfwd(jax.jacfwd(row))
    np.testing.assert_allclose(jax.jacrev(row)(zero), first, atol=1e-12)
    np.testing.assert_allclose(jax.jacrev(jax.jacrev(row))(zero), second, atol=1e-12)
    np.testing.assert_allclose(twice(zero), second, atol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(jax.jacfwd(twice))(zero), fourth, atol=1e-10)


def test_smooth_functions_have_pytorchs_second_derivative_elsewhere():
    functions = [smooth for smooth, *_ in SMOOTH.values()]
    second = jax.jit(jax.jacrev(jax.jacrev(converted(functions))))
    for place in (-0.7, 1e-3, 2.3):
        expected = [twice(function, place) for function in functions]
        np.testing.assert_allclose(second(jnp.asarray(place)), expected, rtol=1e-7, atol=1e-7)


def twice(function, place):
    z = torch.full((1, 1), place, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(z), z, create_graph=True)
    return float(torch.autograd.grad(slope, z)[0])


def test_sinc_keeps_its_digits_near_0():
    second = jax.jacrev(jax.jacrev(converted([torch.sinc])))
    for z in (1e-9, 1e-4, 0.05):  # -π²/3 + π⁴z²/10 − …
        expected = -(np.pi**2) / 3 + np.pi**4 * z**2 / 10 - np.pi**6 * z**4 / 168
        np.testing.assert_allclose(second(jnp.asarray(z))[0], expected, rtol=1e-7)


KINKS = [  # at z = 0
    torch.abs, F.relu, F.relu6, F.hardtanh, F.selu, F.leaky_relu, F.softsign, F.relu,
    lambda z: F.relu6(z + 6), lambda z: (z + 1).clamp(-1, 1), lambda z: (z - 1).clamp(-1, 1),
    lambda z: F.hardtanh(z + 1), lambda z: F.hardsigmoid(z + 3), lambda z: F.hardsigmoid(z - 3),
    lambda z: F.hardswish(z + 3), lambda z: F.hardswish(z - 3), lambda z: F.elu(z, 0.7), lambda z: F.celu(z, 0.5),
    lambda z: F.softshrink(z + 0.5), lambda z: F.softshrink(z - 0.5), lambda z: F.hardshrink(z + 0.5),
    lambda z: F.threshold(z, 0.0, 0.0), lambda z: F.l1_loss(z, 0 * z, reduction="none"),
    lambda z: torch.maximum(z, -z), lambda z: torch.minimum(z, 3 * z), lambda z: pair(z).amax(-1, keepdim=True),
    lambda z: pair(z).max(-1, keepdim=True).values, lambda z: pair(z).norm(dim=-1, keepdim=True),
    lambda z: pair(z).norm(1, dim=-1, keepdim=True), lambda z: pair(z).std(-1, keepdim=True),
    lambda z: sum(torch.std_mean(pair(z, 2 * z), -1, keepdim=True)), lambda z: F.normalize(1e-3 + pair(z), dim=-1),
    lambda z: torch.xlogy(z, 2 + 0 * z), lambda z: z.abs() ** 2.5, lambda z: pair(z, 2 + z).prod(-1, keepdim=True),
    lambda z: F.max_pool1d(pair(z)[:, None], 2)[:, 0], lambda z: F.layer_norm(pair(z), (2,)),
    *(
        lambda z, at=at: F.binary_cross_entropy(torch.sigmoid(z + at), 0.3 + 0 * z.detach(), reduction="none")
        for at in (40.0, -800.0)
    ),
]  # fmt: skip


def test_at_kinks_the_derivative_is_pytorchs():
    zero = torch.zeros((), dtype=torch.float64)
    expected = torch.func.jacrev(lambda v: torch.cat([f(v.reshape(1, 1)) for f in KINKS], -1)[0])(zero)
    row = converted(KINKS)
    np.testing.assert_allclose(jax.jacrev(row)(jnp.zeros(())), expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(row)(jnp.zeros(())), expected, rtol=1e-7, atol=1e-12)


def test_kappa_of_a_zero_initialised_log_sigmoid_is_that_of_its_closed_form():
    module = nn.Sequential(nn.Linear(3, 1, bias=False), nn.LogSigmoid()).double()
    module[0].weight.data.zero_()
    x = np.array([[3.0, 0, 4]])
    apply, params0 = ls.adapters.from_torch(module, x)
    found = ls.criterion(apply, params0, ls.Problem(jnp.asarray(x), jnp.zeros((1, 1))), key=jax.random.key(0))
    values = found.jacobian_norm.value, found.hessian_norm.value, found.kappa
    np.testing.assert_allclose(values, [2.5, 6.25, np.log(2)], rtol=1e-6)  # ‖x‖/2, ‖x‖²/4, ln 2 · 6.25/6.25


class Padded(nn.Module):
    """Causal attention over the tokens that are not 0, by PyTorch's function or its module."""

    def __init__(self, module):
        super().__init__()
        self.embed, self.readout = nn.Embedding(9, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True) if module else None

    def forward(self, tokens):
        h = self.embed(tokens)
        if self.attention is not None:
            return self.readout(self.attention(h, h, h, key_padding_mask=tokens == 0, need_weights=False)[0].mean(1))
        size = tokens.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool).tril() & (tokens != 0)[:, None, :]
        return self.readout(F.scaled_dot_product_attention(h, h, h, attn_mask=mask).mean(1))


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_a_query_without_a_key_has_pytorchs_finite_kernel(module, first):
    torch.manual_seed(0)
    net = Padded(module).double().eval()
    tokens = torch.tensor([[0, 0, 0, 0] if module else [0, 0, 3, 4], [1, 2, 3, 4]])
    apply, params0 = ls.adapters.from_torch(net, tokens[first:])
    weights = dict(net.named_parameters())
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, list(weights.values()), retain_graph=True)])
        for value in net(tokens).flatten()
    ]
    jacobian = torch.stack(gradients).reshape(2, 2, -1).numpy()
    expected = np.einsum("icp,jdp->ijcd", jacobian, jacobian)
    found = ls.tangent_kernel(apply, params0, jnp.asarray(tokens.numpy()))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
