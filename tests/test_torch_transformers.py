"""kappa, g and j of transformers against PyTorch's own double backward, written out densely."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import lazyscope as ls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

TOKENS = torch.tensor([[1, 4, 2, 5], [3, 1, 6, 0]])
TARGETS = torch.tensor([[0.7], [-0.4]], dtype=torch.float64)
STEP, STEPS = 0.05, 30


class Decoder(nn.Module):
    """As GPT-2: norms before causal attention and a GELU of width 4n, the readout tied to the tokens."""

    def __init__(self, width=4, heads=2):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, width), nn.Embedding(4, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens):
        h = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        q, k, v = (self.split(part) for part in self.qkv(self.norms[0](h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = h + self.down(F.gelu(self.up(self.norms[1](h)), approximate="tanh"))
        return (self.norms[2](h)[:, -1] @ self.tokens.weight.T)[:, 2:3]

    def split(self, part):
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """As BERT: norms after attention over what is no padding and after an exact GELU, a pooled first token."""

    def __init__(self, width=4):
        super().__init__()
        self.tokens, self.places, self.norm = nn.Embedding(7, width), nn.Embedding(4, width), nn.LayerNorm(width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, F.gelu, batch_first=True)
        self.pool, self.readout = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, tokens):
        h = self.norm(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])))
        h = self.layer(h, src_key_padding_mask=tokens == 0)
        return self.readout(torch.tanh(self.pool(h[:, 0])))


def by_pytorch(module):
    """kappa, g and j from dense first and second derivatives."""
    named = dict(module.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def h(w):
        parts = {k: part.reshape(p.shape) for (k, p), part in zip(named.items(), w.split(sizes), strict=True)}
        return torch.func.functional_call(module, parts, (TOKENS,))[:, 0]

    y, n = TARGETS[:, 0], len(TARGETS)
    start = torch.cat([p.detach().flatten() for p in named.values()])
    jacobian, f0 = torch.autograd.functional.jacobian(h, start), h(start)
    hessians = [torch.autograd.functional.hessian(lambda w, i=i: h(w)[i], start) for i in range(n)]

    def minus_norm(t):
        return -float(torch.linalg.matrix_norm(np.cos(t) * hessians[0] + np.sin(t) * hessians[1], 2))

    best = min(np.linspace(0, np.pi, 60), key=minus_norm)
    close: Any = minimize_scalar(minus_norm, bounds=(best - 0.1, best + 0.1), method="bounded", options={"xatol": 1e-9})
    second = -close.fun
    kappa = (f0 - y).norm() * second / torch.linalg.matrix_norm(jacobian, 2) ** 2
    w, linear = start.clone(), start.clone()
    for _ in range(STEPS):
        w = w - STEP * torch.autograd.functional.jacobian(lambda v: 0.5 * ((h(v) - y) ** 2).sum() / n, w)
        linear = linear - STEP * jacobian.T @ (f0 + jacobian @ (linear - start) - y) / n
    trained, straight = h(w), f0 + jacobian @ (linear - start)
    gap = (trained - straight).norm() / torch.minimum((trained - f0).norm(), (y - y.mean()).norm())
    change = torch.autograd.functional.jacobian(h, w) - jacobian
    return [float(v.detach()) for v in (kappa, gap, change.norm() / jacobian.norm())]


@pytest.mark.parametrize("build", [Decoder, Encoder])
def test_kappa_gap_and_change_of_the_differential_are_those_of_dense_double_backward(build):
    torch.manual_seed(0)
    module = build().double().eval()
    apply, params0 = ls.adapters.from_torch(module, TOKENS)
    x, y = jnp.asarray(TOKENS.numpy()), jnp.asarray(TARGETS.numpy())
    problem = ls.Problem(x, y)
    kappa = ls.criterion(apply, params0, problem, key=jax.random.key(0)).kappa
    models = apply, ls.linearize(apply, params0)
    runs = [ls.gradient_descent(model, params0, problem, step_size=STEP, num_steps=STEPS) for model in models]
    ends = [model(run.params, x) for model, run in zip(models, runs, strict=True)]
    gap = ls.trained_gap(ends[0], ends[1], apply(params0, x), y)
    change = ls.differential_change(apply, params0, runs[0].params, x).value
    torch.backends.mha.set_fastpath_enabled(False)  # it has no derivatives
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = by_pytorch(module)
    torch.backends.mha.set_fastpath_enabled(True)
    np.testing.assert_allclose([float(kappa), float(gap), float(change)], expected, rtol=1e-6)
