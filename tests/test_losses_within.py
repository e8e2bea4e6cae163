"""Losses that a PyTorch model computes within itself: of its linearised outputs, or refused."""

import copy
import functools
from dataclasses import dataclass

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
checkpoint = pytest.importorskip("torch.utils.checkpoint").checkpoint
lst = pytest.importorskip("lazyscope.torch")


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


class Net(nn.Module):
    """Outputs of `of(self, x)`, by name, and with labels the loss that `loss` makes of what `of` gives it."""

    def __init__(self, of, loss, **parts):
        super().__init__()
        self.of, self.loss, self.kept = of, loss, list(parts)
        self.hidden, self.head, self.second = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, y=None):
        outputs = self.of(self, torch.tanh(self.hidden(x)))
        if y is None:
            return outputs
        return outputs | {"loss": self.loss(outputs, y)}


def logits(outputs, y):
    return F.cross_entropy(outputs["logits"], y)


def both(outputs, y):
    return F.cross_entropy(input=outputs["logits"], target=y) + (outputs["other"] ** 2).mean()


def inplace(m, h):
    found = m.head(h)
    return {"logits": found.tanh_()}


def zeroed(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


TAKEN = {
    "head": (lambda m, h: {"logits": m.head(h)}, logits),
    "by hand": (
        lambda m, h: {"logits": m.head(h)},
        lambda o, y: o["logits"].logsumexp(1).mean() - o["logits"][:, 0].mean(),
    ),
    "capped": (lambda m, h: {"logits": 0.3 * torch.tanh(m.head(h) / 0.3)}, logits),
    "capped, from 0": (lambda m, h: {"logits": torch.tanh(m.zero(h))}, logits),
    "an adapter from 0": (lambda m, h: {"logits": m.head(h) + m.zero(h)}, logits),
    "a layer thrice": (lambda m, h: {"logits": m.square(m.square(m.square(h)))}, logits),
    "in place": (inplace, logits),
    "several heads": (lambda m, h: {"logits": m.head(h), "other": m.second(h)}, both),
    "a target of its own": (
        lambda m, h: {"logits": m.head(h), "other": m.second(h)},
        lambda o, y: logits(o, y) + F.mse_loss(o["logits"], o["other"]),
    ),
    "log-probabilities": (
        lambda m, h: {"logits": m.head(h).log_softmax(1)},
        lambda o, y: F.nll_loss(o["logits"], y),
    ),
    "transposed": (
        lambda m, h: {"logits": torch.tanh(m.head(h))[:, None]},
        lambda o, y: F.cross_entropy(o["logits"].transpose(1, 2), y[:, None]),
    ),
}


TAKEN |= {
    "the hidden layer beside": (lambda m, h: {"hidden": h, "logits": m.head(h)}, TAKEN["by hand"][1]),
    "a function from 0": (lambda m, h: {"logits": torch.tanh(F.linear(h, m.zero.weight))}, logits),
    "masked": (
        lambda m, h: {"hidden": h, "logits": m.head(h).masked_fill(torch.arange(3) > 1, -torch.inf)},
        lambda o, y: o["logits"][:, :2].logsumexp(1).mean() - o["logits"][:, 0].mean(),
    ),
    "one by one": (lambda m, h: {"logits": m.head(h)}, lambda o, y: F.cross_entropy(o["logits"], y, reduction="none")),
    "of noise": (
        lambda m, h: {"logits": m.head(h)},
        lambda o, y: logits(o, y) + F.mse_loss(F.dropout(o["logits"], 0.5, training=True), o["logits"]),
    ),
}


def shifted(module, size=0.3):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.cos(torch.arange(parameter.numel()).reshape(parameter.shape).double()))
    return module


def made(name):
    of, loss = TAKEN[name]
    return Net(of, loss, square=nn.Linear(5, 5), zero=zeroed(nn.Linear(5, 3))).double()


@pytest.mark.parametrize("name", TAKEN)
def test_a_loss_is_that_of_the_outputs_linearised_and_leaves_them_as_they_are(name):
    model, x, y = made(name), torch.randn(6, 4).double(), torch.arange(6) % 3
    first = shifted(lst.linearize(model))
    outputs = shifted(lst.linearize(model))(x)
    weights = dict(model.named_parameters())
    steps = {key: weight.detach() - weights[key].detach() for key, weight in first.named_parameters()}
    plain = functools.partial(torch.func.functional_call, copy.deepcopy(model), args=(x,))
    start, along = torch.func.jvp(lambda w: plain(w), (weights,), (steps,))
    torch.manual_seed(1)
    found, drawn = first(x, y), torch.rand(1)
    for key, output in outputs.items():
        finite = output.isfinite()
        torch.testing.assert_close(output[finite], (start[key] + along[key])[finite])
        torch.testing.assert_close(found[key], output)
    torch.manual_seed(1)
    torch.testing.assert_close(found["loss"], model.loss(outputs, y))
    assert drawn == torch.rand(1)
    found["loss"].sum().backward()
    torch.manual_seed(1)
    slopes = torch.autograd.grad(model.loss(first(x), y).sum(), list(first.parameters()), allow_unused=True)
    for parameter, slope in zip(first.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)


REFUSED = {
    "of the weights": lambda m: lambda o, y: logits(o, y) + m.head.weight.square().sum(),
    "of what is capped, by hand": lambda m: lambda o, y: o["logits"].logsumexp(1).mean(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_of_more_than_outputs_is_refused_at_every_call(name):
    model, x, y = made("capped"), torch.randn(6, 4).double(), torch.arange(6) % 3
    first = lst.linearize(model)
    first(x, y)
    first._base.loss = REFUSED[name](first._base)
    with pytest.raises(
        ValueError, match="the loss of Net must be computed of its linearised outputs alone, got another as"
    ):
        first(x, y)


def test_an_output_that_is_named_is_tried_too():
    model, x, y = made("capped"), torch.randn(6, 4).double(), torch.arange(6) % 3
    with pytest.raises(ValueError, match=r"linearised outputs alone, got another by output="):
        lst.linearize(model, output="head")(x, y)
    whole = shifted(lst.linearize(model, output=""))  # the loss itself, a number as others
    assert whole(x, y)["loss"] != model.loss(whole(x), y)


def test_another_head_later_is_found():
    model, x, y = made("head"), torch.randn(6, 4).double(), torch.arange(6) % 3
    model.loss = lambda o, y: o["logits"].square().mean()
    first = shifted(lst.linearize(model))
    for head in ("head", "second"):
        first._base.of = lambda m, h, name=head: {"logits": getattr(m, name)(h)}
        torch.testing.assert_close(first(x, y)["loss"], model.loss(first(x), y))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_kinds_of_calls_are_not_lifted_where_one_with_a_loss_was(dtype):
    class Tasks(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x, y=None, task="labels"):
            found = self.head(x)
            if task == "directions":
                found = F.normalize(found)
                return found, F.mse_loss(found, y)
            return found.softmax(1) if y is None else (found, F.cross_entropy(found, y))

    model, x, y = Tasks().to(dtype), torch.randn(6, 4).to(dtype), torch.arange(6) % 3
    first, fresh = (shifted(lst.linearize(model)) for _ in range(2))
    expected = fresh(x)
    found = first(x, y)
    torch.testing.assert_close(first(x), expected)
    along, loss = first(x, torch.ones(6, 3).to(dtype), "directions")
    (found[1] + loss).backward()  # that the places were tried in between leaves graphs as they are
    torch.testing.assert_close(along, fresh(x, torch.ones(6, 3).to(dtype), task="directions")[0])
    torch.testing.assert_close(loss, F.mse_loss(along, torch.ones(6, 3).to(dtype)))
    torch.testing.assert_close(found[1], F.cross_entropy(found[0], y))


def test_a_number_beside_several_outputs_is_a_loss_where_one_takes_them():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x, y=None):
            outputs = [self.head(x) ** 2, self.second(x).tanh()]
            return outputs if y is None else (outputs, sum(F.cross_entropy(output, y) for output in outputs))

    model, x, y = Pair().double(), torch.randn(6, 4).double(), torch.arange(6) % 3
    first = shifted(lst.linearize(model))
    torch.testing.assert_close(first(x, y)[1], sum(F.cross_entropy(output, y) for output in first(x)))


@dataclass(frozen=True)
class Record:
    """Outputs as PyTorch does not look into them."""

    logits: torch.Tensor
    more: dict
    said: str = "as it is"


def test_records_are_looked_into_and_other_objects_refused():
    model, x = nn.Linear(4, 3).double(), torch.randn(6, 4).double()

    class Recorded(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.part, self.wrap = copy.deepcopy(model), wrap

        def forward(self, x):
            return self.wrap(self.part(x).tanh())

    expected = shifted(lst.linearize(Recorded(lambda t: t)))(x)
    for found in (shifted(lst.linearize(Recorded(lambda t: Record(t, {"twice": 2 * t}))))(x),):
        torch.testing.assert_close(found.logits, expected)
        torch.testing.assert_close(found.more["twice"], 2 * expected)
        assert found.said == "as it is"
    with pytest.raises(ValueError, match="must be tensors, or tuples, dicts or dataclasses of them, got a Normal"):
        lst.linearize(Recorded(lambda t: torch.distributions.Normal(t, 1.0)))(x)


@pytest.mark.parametrize(
    "of",
    [
        lambda h: F.layer_norm(h, (5,), torch.ones(5).double() * 2, torch.ones(5).double()),
        lambda h: F.instance_norm(h.view(2, 3, 5), weight=torch.ones(3).double() * 2).flatten(0, 1),
        lambda h: F.batch_norm(h, None, None, training=True),
        lambda h: torch.linalg.solve(torch.eye(5).double() + 0.1 * h[:5].T @ h[:5], h.T).T,
        lambda h: F.group_norm(h, 1),
    ],
)
def test_gradients_by_inputs_are_those_of_the_linearised_module(of):
    model, x = Net(lambda m, h: {"logits": m.head(of(h))}, logits).double(), torch.randn(6, 4).double()
    first = shifted(lst.linearize(model))
    assert torch.autograd.gradcheck(lambda x: first(x)["logits"], x.requires_grad_())


def test_a_decoder_of_transformers_keeps_no_keys_and_values():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model, tokens = transformers.GPT2LMHeadModel(config).eval(), torch.randint(3, 50, (2, 4))
    first = shifted(lst.linearize(model), 0.05)
    found = first.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with torch.no_grad():
        assert torch.equal(first(found).logits[:, 3:-1].argmax(-1), found[:, 4:])
    assert model.config.use_cache
    cache = model(tokens, use_cache=True)
    held = {name: value for name, value in cache.items() if hasattr(value, "get_seq_length")}
    with pytest.raises(ValueError, match="takes no keys and values of an earlier call, got"):
        first(tokens[:, :1], **held)


def test_what_changes_the_names_of_weights_comes_before():
    first = lst.linearize(nn.Sequential(nn.Linear(4, 3)))
    nn.utils.parametrizations.weight_norm(first[0])
    with pytest.raises(
        ValueError, match="must keep the names of its weights, got others: linearize the model after what"
    ):
        first(torch.randn(2, 4))


def test_a_reentrant_checkpoint_is_named():
    model = Net(lambda m, h: {"logits": checkpoint(m.head, h, use_reentrant=True)}, logits)
    with pytest.raises(ValueError, match="got a reentrant one: use_reentrant=False"):
        lst.linearize(model)(torch.randn(6, 4, requires_grad=True))


def test_functions_around_a_method_of_the_module_are_refused():
    for wrap in (
        lambda old: lambda x: 2 * old(x),
        lambda old: eval("lambda x: 2 * old(x)", {"old": old}),
        lambda old: functools.wraps(old)(lambda *given: 2 * old(*given)),
    ):
        model = nn.Sequential(nn.Linear(4, 3))
        model[0].forward = wrap(model[0].forward)
        with pytest.raises(ValueError, match="in its forward, which holds a part of the module"):
            lst.linearize(model)


def test_it_can_be_stored_after_a_library_prepared_it(tmp_path, half_precision):
    first, x = shifted(lst.linearize(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))), torch.randn(6, 4)
    expected = first(x)
    torch.save(half_precision.prepare(first), tmp_path / "first.pt")
    torch.testing.assert_close(torch.load(tmp_path / "first.pt", weights_only=False)(x), expected)
