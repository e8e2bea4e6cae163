"""PyTorch modules with the batches that loaders yield and the outputs that they return; exported programs."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn
DataLoader = torch.utils.data.DataLoader


class Classifier(nn.Module):
    """Of token sequences with a mask and a price each; returns a loss, too, where it is given labels."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(5, 3)

    def forward(self, tokens, mask=None, price=None, labels=None):
        hidden = self.embed(tokens)
        mask = torch.ones_like(tokens) if mask is None else mask
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        price = torch.zeros(len(tokens), dtype=pooled.dtype) if price is None else price
        logits = self.head(torch.cat([torch.tanh(pooled), price[:, None]], 1))
        known: Any = None if labels is None else labels[labels >= 0]  # of a number that no graph can know
        loss = None if labels is None else nn.functional.cross_entropy(logits[: len(known)], known)
        return SimpleNamespace(loss=loss, logits=logits, hidden=hidden)


class Product(nn.Linear):
    """Of two inputs."""

    def forward(self, x, y):
        return super().forward(x) * super().forward(y)


class Rows(torch.utils.data.Dataset):
    """Six rows as dicts, with text that no module takes."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        tokens = torch.tensor([i, 1, (i * i) % 7])
        mask = torch.tensor([True, True, i % 2 == 0])
        return {"tokens": tokens, "mask": mask, "price": i / 3, "labels": i % 3, "text": f"row {i}"}


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def assert_is(apply, params0, x, expected):
    np.testing.assert_allclose(jax.jit(apply)(params0, x), expected.detach().numpy(), atol=1e-12)


def test_a_mapping_of_a_loader_is_an_input_and_labels_are_left_out_and_named():
    module = Classifier().double()
    batch = next(iter(DataLoader(Rows(), batch_size=6)))
    apply, params0 = ls.adapters.from_torch(module, batch)
    expected = module(batch["tokens"], batch["mask"], batch["price"]).logits
    assert apply.described == "logits of Classifier on mask, price, tokens; left out: text, labels"
    arrays = {key: batch[key].numpy() for key in ("tokens", "mask", "price")}
    for x in (arrays, {key: jnp.asarray(leaf) for key, leaf in (arrays | {"labels": batch["labels"].numpy()}).items()}):
        assert_is(apply, params0, x, expected)
    np.testing.assert_allclose(apply(params0, batch), expected.detach().numpy(), atol=1e-12)
    problem = ls.Problem(arrays, batch["labels"], loss=ls.cross_entropy)
    found = ls.diagnose(apply, params0, problem, num_steps=2, with_kappa=False, key=jax.random.key(0))
    assert found.model == apply.described
    assert ["model", apply.described] in [line.split(maxsplit=1) for line in str(found).splitlines()]
    with pytest.raises(
        ValueError, match=r"entries of the batch at conversion, mask, price, tokens, got a dict of mask"
    ):
        apply(params0, {"mask": arrays["mask"]})
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(n, 3\)"):
        apply(params0, arrays | {"mask": arrays["mask"][:, :2]})


def test_a_tuple_of_a_loader_is_the_positional_arguments_and_a_tensor_the_only_one():
    module, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double(), torch.randn(5, 3, dtype=torch.float64)
    pairs = torch.utils.data.TensorDataset(x, torch.arange(5))
    for batch, told in (
        (
            next(iter(DataLoader(pairs, batch_size=5))),
            "output of Sequential on entry 0; left out: entry 1",
        ),
        (next(iter(DataLoader(x, batch_size=5))), "output of Sequential on inputs"),
    ):
        apply, params0 = ls.adapters.from_torch(module, batch)
        assert apply.described == told
        for same in (batch, x, x.numpy(), (x,)):
            assert_is(lambda p, _, same=same, apply=apply: apply(p, same), params0, 0, module(x))
    product = Product(3, 2).double()
    apply, params0 = ls.adapters.from_torch(product, (x, x**2, torch.arange(5)))
    assert_is(apply, params0, (x.numpy(), x.numpy() ** 2), product(x, x**2))


def test_an_output_is_chosen_by_name_index_or_function():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return {"first": self.layer(x), "both": (x, self.layer(x) ** 2)}

    module, x = Pair().double(), torch.randn(4, 3, dtype=torch.float64)

    def second(outputs):
        return outputs["both"][1].sum(1)

    for output, expected in (("first", module(x)["first"]), (second, second(module(x)))):
        apply, params0 = ls.adapters.from_torch(module, x, output=output)
        assert_is(apply, params0, x.numpy(), expected)
    assert apply.described == "second(outputs) of Pair on inputs"
    recurrent = nn.GRU(3, 2, batch_first=True).double()
    apply, params0 = ls.adapters.from_torch(recurrent, x[:, None], output=0)
    assert_is(apply, params0, x[:, None].numpy(), recurrent(x[:, None])[0])
    with pytest.raises(ValueError, match="one tensor with a row per example, got dict of first, both: say which"):
        ls.adapters.from_torch(module, x)
    with pytest.raises(ValueError, match="got tuple of Tensor, Tensor for output='logits': say which with output="):
        ls.adapters.from_torch(recurrent, x[:, None], output="logits")


def test_a_module_of_fewer_digits_is_converted_to_more_when_asked():
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    half = nn.Linear(3, 2).bfloat16()
    half.load_state_dict(module.state_dict())
    with pytest.raises(ValueError, match=r"got torch\.bfloat16 weight in Linear: add dtype='float32'"):
        ls.adapters.from_torch(half, x.bfloat16())
    apply, params0 = ls.adapters.from_torch(half, x.bfloat16(), dtype="float32")
    assert half.weight.dtype == torch.bfloat16
    assert params0["weight"].dtype == jnp.float32
    np.testing.assert_allclose(apply(params0, x), half.float()(x).detach().numpy(), atol=1e-6)
    _, params0 = ls.adapters.from_torch(module.half(), x, dtype=torch.float64)
    assert params0["weight"].dtype == jnp.float64
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got bfloat16"):
        ls.adapters.from_torch(module, x, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("module", "batch", "message"),
    [
        (
            Classifier(),
            (torch.zeros(3, 2, dtype=int), torch.zeros(3)),
            r"got entry 1 of 2, which could be .* the mask of",
        ),
        (nn.Linear(3, 2), {"x": torch.zeros(3, 3), "y": torch.zeros(3)}, "entries that Linear takes, input, got x, y"),
        (Classifier(), {"tokens": torch.zeros(3, 2, dtype=int), "price": torch.zeros(2)}, r"tokens \(3, 2\)"),
        (
            nn.Linear(3, 2),
            DataLoader([torch.zeros(3)]),
            r"tensors or arrays of numbers, got other objects for inputs: pass .* next\(iter\(loader\)\)",
        ),
        (nn.Linear(3, 2), torch.zeros(0, 3), r"needs at least one example, .* got inputs \(0, 3\)"),
    ],
)
def test_a_batch_that_says_too_little_is_refused_in_one_line(module, batch, message):
    with pytest.raises(ValueError, match=message) as caught:
        ls.adapters.from_torch(module, batch)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_module_of_torch_jit_is_refused():
    with pytest.raises(ValueError, match=r"got a RecursiveScriptModule of torch\.jit: pass what it was made of"):
        ls.adapters.from_torch(torch.jit.script(nn.Linear(3, 2)), torch.zeros(2, 3))


def test_neither_autocast_nor_inference_mode_around_a_conversion_changes_it():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    expected = net(x).detach()
    for around in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        with around:
            apply, params0 = ls.adapters.from_torch(net, 1 * x)
        np.testing.assert_allclose(apply(params0, x), expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, "any"])
def test_an_exported_program_is_its_module_also_from_a_file(tmp_path, rows):
    module = Classifier().double().eval()
    tokens, price = torch.randint(0, 7, (5, 3)), torch.randn(5, dtype=torch.float64)
    n = 4 if rows == "any" else rows
    batch = torch.export.Dim("batch")
    shapes = {"tokens": {0: batch}, "price": {0: batch}} if rows == "any" else None
    torch.utils._pytree.register_pytree_node(
        SimpleNamespace, lambda s: ([s.logits, s.hidden], None), lambda v, _: SimpleNamespace(logits=v[0], hidden=v[1])
    ) if SimpleNamespace not in torch.utils._pytree.SUPPORTED_NODES else None
    program = torch.export.export(module, (), {"tokens": tokens[:n], "price": price[:n]}, dynamic_shapes=shapes)
    x = {"tokens": tokens.numpy(), "price": price.numpy()}
    expected = module(tokens, price=price).logits
    apply, params0 = ls.adapters.from_exported(program)
    assert set(params0) == {"embed.weight", "head.weight", "head.bias"}
    assert_is(apply, params0, x, expected)
    gradient = jax.grad(lambda p: jnp.sum(apply(p, x)[:, 0] ** 2))(params0)
    expected[:, 0].pow(2).sum().backward()
    np.testing.assert_allclose(gradient["embed.weight"], module.embed.weight.grad.numpy(), atol=1e-12)


def test_a_program_from_a_file_converts_with_its_own_example(tmp_path):
    module, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double().eval(), torch.randn(2, 3, dtype=torch.float64)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "program.pt2")
    apply, params0 = ls.adapters.from_exported(torch.export.load(tmp_path / "program.pt2"))
    x = torch.randn(5, 3, dtype=torch.float64)
    assert_is(apply, params0, x.numpy(), module(x))


def test_what_is_no_program_of_single_examples_is_refused():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    with pytest.raises(ValueError, match=r"needs a torch\.export\.ExportedProgram, got a Linear"):
        ls.adapters.from_exported(nn.Linear(3, 2))
    program = torch.export.export(Centred(3, 2), (torch.randn(4, 3),))
    with pytest.raises(ValueError, match="examples of a batch must not see each other"):
        ls.adapters.from_exported(program)


def test_a_branch_is_taken_for_each_example():
    class Branches(nn.Linear):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda v, w: torch.tanh(v @ w), lambda v, w: v @ w * 2, (x, self.weight))

    module, x = Branches(3, 3).double(), torch.randn(6, 3, dtype=torch.float64)
    apply, params0 = ls.adapters.from_torch(module, x[:1])
    expected = torch.cat([module(row[None]) for row in x])
    assert 0 < int((x.sum(1) > 0).sum()) < 6
    assert_is(apply, params0, x.numpy(), expected)
