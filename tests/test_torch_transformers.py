"""kappa, g and j of Hugging Face's models against PyTorch's own double backward, written out densely."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import lazyscope as ls
from lazyscope.adapters.torch.graph import rule
from lazyscope.criterion import THOROUGH

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
nn, F = torch.nn, torch.nn.functional

TOKENS = torch.tensor([[1, 4, 2, 5], [3, 1, 6, 0]])
TARGETS = torch.tensor([[0.7], [-0.4]], dtype=torch.float64)
STEP, STEPS = 0.05, 10


SIZES = {"vocab_size": 7, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NARROW = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def gpt2():
    config = transformers.GPT2Config(n_embd=4, n_layer=1, n_head=2, n_positions=4, **SIZES)
    return transformers.GPT2LMHeadModel(config)


def bert():
    config = transformers.BertConfig(max_position_embeddings=4, num_labels=1, **NARROW, **SIZES)
    return transformers.BertForSequenceClassification(config)


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, **NARROW, **SIZES))


def lora_gpt2():
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, bias="none")
    return peft.get_peft_model(gpt2(), config)


class OneNumber(nn.Module):
    """A logit of the last token, or of the whole sequence, by attention written out."""

    def __init__(self, model):
        super().__init__()
        model.set_attn_implementation("eager")
        self.model = model

    def forward(self, tokens):
        logits = self.model(input_ids=tokens).logits
        return logits[:, -1, 2:3] if logits.ndim == 3 else logits


class InFloat64(torch.overrides.TorchFunctionMode):
    """float64 where a model says float32, as norms and rotations do: else there are no digits to compare."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = jax.tree.map(lambda v: torch.float64 if v is torch.float32 else v, (args, kwargs or {}))
        return func(*args, **kwargs)


def by_pytorch(module):
    """kappa, g and j from dense first and second derivatives."""
    named = {key: p for key, p in module.named_parameters() if p.requires_grad}
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


@pytest.mark.parametrize("build", [gpt2, bert, llama, lora_gpt2])
def test_kappa_gap_and_change_of_the_differential_are_those_of_dense_double_backward(build):
    torch.manual_seed(0)
    module = OneNumber(build()).double().eval()
    with InFloat64():
        apply, params0 = ls.adapters.from_torch(module, TOKENS)
        expected = by_pytorch(module)
    x, y = jnp.asarray(TOKENS.numpy()), jnp.asarray(TARGETS.numpy())
    problem = ls.Problem(x, y)
    budget = THOROUGH if build is lora_gpt2 else None  # its ‖D²h‖ is known to 3e-6 only with less
    kappa = ls.criterion(apply, params0, problem, key=jax.random.key(0), budget=budget).kappa
    models = apply, ls.linearize(apply, params0)
    runs = [ls.gradient_descent(model, params0, problem, step_size=STEP, num_steps=STEPS) for model in models]
    ends = [model(run.params, x) for model, run in zip(models, runs, strict=True)]
    gap = ls.trained_gap(ends[0], ends[1], apply(params0, x), y)
    change = ls.differential_change(apply, params0, runs[0].params, x).value
    np.testing.assert_allclose([float(kappa), float(gap), float(change)], expected, rtol=1e-6)


def mixtral():
    sizes = {"num_local_experts": 3, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": None}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**{**NARROW, "hidden_size": 8}, **SIZES, **sizes))


def test_a_mixture_of_experts_converts_as_it_is_by_grouped_products_of_float32():
    torch.manual_seed(0)
    module = mixtral().eval()
    assert module.config._experts_implementation == "grouped_mm"
    batch = {"input_ids": TOKENS}
    apply, params0 = ls.adapters.from_torch(module, batch)  # which compares derivatives of both orders
    np.testing.assert_allclose(apply(params0, batch), module(**batch).logits.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shapes", [((8, 4), (3, 4, 8)), ((3, 4, 8), (8, 4)), ((4, 8), (8, 4))])
def test_grouped_products_are_those_of_pytorch(shapes):
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=random) for shape in shapes)
    if shapes[0] == (4, 8) or len(shapes[0]) == 3:
        b = b.T.contiguous().T  # PyTorch wants the grouped axis last in memory
    ends = torch.tensor([2, 2, a.shape[-1] if a.ndim == b.ndim == 2 else 8 if a.ndim == 2 else 4], dtype=torch.int32)
    expected = F.grouped_mm(a, b, offs=ends)
    with jax.numpy_rank_promotion("allow"):  # as a converted model runs
        found = rule("_grouped_mm.default")(*(jnp.asarray(v.numpy()) for v in (a, b, ends)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
