"""`lst.diagnose`: the numbers of the JAX way, of the user's own training, with a module's own statistics."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
lst = pytest.importorskip("lazyscope.torch")
nn, F = torch.nn, torch.nn.functional
TensorDataset, DataLoader = torch.utils.data.TensorDataset, torch.utils.data.DataLoader


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def mlp(width=12):
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).double()


def regression(n=40):
    x = torch.randn(n, 3).double()
    return x, torch.stack([torch.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]], 1)


def classes(n=48):
    x = torch.randn(n, 2, 5, 5).double()
    return 3 * x + 1, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 2, 2] > 0.5).long()


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 3)
    ).double()


def fitted(loss, lr=0.1, epochs=6, batch_size=8):
    """A training loop as people write it."""

    def of(data):
        def train(module):
            module.train()
            optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
            for _ in range(epochs):
                for x, y in DataLoader(TensorDataset(*data), batch_size=batch_size, shuffle=True):
                    optimizer.zero_grad()
                    loss(module(x), y).backward()
                    optimizer.step()

        return train

    return of


def state_of(module):
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flags = {name: tensor.requires_grad for name, tensor in tensors.items()}
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    return values, flags, [part.training for part in module.modules()]


def assert_as_before(module, before):
    values, flags, modes = state_of(module)
    assert (flags, modes) == before[1:]
    for name, value in values.items():
        torch.testing.assert_close(value, before[0][name], rtol=0, atol=0, equal_nan=True)


def assert_same(found, expected):
    assert found.regime == expected.regime
    for one, other in ((found.gap, expected.gap), (found.differential, expected.differential)):
        np.testing.assert_allclose([one, one.low, one.high], [other, other.low, other.high], rtol=1e-5)
    np.testing.assert_allclose(found.criterion.kappa, expected.criterion.kappa, rtol=1e-5)
    for name, value in expected.losses.items():
        np.testing.assert_allclose(found.losses[name], value, rtol=1e-5)


def jax_way(model, data, held_out, trained=None, loss=ls.square_loss, **options):
    apply, params0 = ls.adapters.from_torch(model, data[0][:4])
    if trained is not None:
        options["params"] = {name: jnp.asarray(p.detach().numpy()) for name, p in trained.named_parameters()}
    arrays = [part.numpy() for part in (*data, *held_out)]
    return ls.diagnose(apply, params0, ls.Problem(*arrays, loss=loss), key=jax.random.key(0), **options)


@pytest.mark.parametrize("how", ["loader", "batch", "generator"])
def test_weights_trained_elsewhere_give_the_numbers_of_the_way_through_jax(how):
    model, data, held_out = mlp(), regression(), regression(20)
    trained = copy.deepcopy(model)
    fitted(F.mse_loss, epochs=4)(data)(trained)
    pairs = list(zip(data[0].split(7), data[1].split(7), strict=True))
    batches = {"loader": DataLoader(TensorDataset(*data), batch_size=7), "batch": data, "generator": iter(pairs)}[how]
    before = state_of(model.train())
    drawn = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    found = lst.diagnose(model, batches, held_out=held_out, trained=trained.state_dict())
    assert_as_before(model, before)
    torch.testing.assert_close(torch.get_rng_state(), drawn[0])
    assert str(np.random.get_state()) == drawn[1]  # noqa: NPY002
    assert_same(found, jax_way(model, data, held_out, trained))
    assert "all 40 training and all 20 held-out examples" in str(found)
    assert "elsewhere, the state dict given: g compares" in found.how


def test_descent_gives_the_numbers_of_the_way_through_jax():
    model, data, held_out = mlp(), classes(), classes(20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    options = {"num_steps": 60, "groups": {"1.*": "first", "3.*": "last"}}
    found = lst.diagnose(model, data, held_out=held_out, **options)
    assert_same(found, jax_way(model, data, held_out, loss=ls.cross_entropy, **options))
    assert {row.name for row in found.groups} == {"first", "last"}
    assert 0 < found.classification["accuracy, trained"] <= 1


def test_a_training_loop_of_the_user_gives_the_numbers_of_the_same_loop_in_jax():
    model, data, held_out = mlp(), regression(), regression(20)
    step, steps = 0.3, 80

    def train(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=step)
        for _ in range(steps):
            optimizer.zero_grad()
            (0.5 * (module(data[0]) - data[1]).square().sum(1).mean()).backward()
            optimizer.step()

    def train_in_jax(apply, params):
        slope = jax.jit(jax.grad(lambda p: ls.square_loss(apply(p, jnp.asarray(data[0])), jnp.asarray(data[1]))))
        for _ in range(steps):
            params = jax.tree.map(lambda p, g: p - step * g, params, slope(params))
        return params

    before = state_of(model)
    found = lst.diagnose(model, data, held_out=held_out, train=train)
    assert_as_before(model, before)
    assert_same(found, jax_way(model, data, held_out, train=train_in_jax))
    assert found.gap > 0.05
    assert found.how == "your training, of the model and of its linearisation"


class WithLoss(nn.Module):
    """A model whose step of training is its own, in one of the ways that people write it."""

    def __init__(self, way):
        super().__init__()
        self.net, self.way = mlp(), way

    def forward(self, x, y=None):
        f = self.net(x)
        if y is None:
            return f
        loss = F.mse_loss(f, y)
        return {"pair": (f, loss), "named": {"pred": f, "loss": loss}, "alone": loss}.get(self.way, f)


def steps_of(loss_of, data):
    def train(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        x, y = data
        for _ in range(20):
            optimizer.zero_grad()
            loss_of(module, x, y).backward()
            optimizer.step()

    return train


@pytest.mark.parametrize(
    ("way", "loss_of"),
    [("pair", lambda m, x, y: m(x, y)[1]), ("named", lambda m, x, y: m(x, y)["loss"])],
)
def test_a_loss_beside_the_outputs_is_that_of_the_linearised_outputs_whatever_it_is_called(way, loss_of):
    net, data = WithLoss(way), regression()
    found = lst.diagnose(net, data, train=steps_of(loss_of, data), with_kappa=False)
    outside = steps_of(lambda m, x, y: F.mse_loss(m(x), y), data)
    expected = lst.diagnose(net, data, train=outside, with_kappa=False)
    np.testing.assert_allclose(float(found.gap), float(expected.gap), rtol=1e-9)


@pytest.mark.parametrize(
    ("loss_of", "message"),
    [
        (lambda m, x, y: F.mse_loss(m.net(x), y), "called itself in training, got a call of its Sequential"),
        (lambda m, x, y: m(x, y), "beside its loss or alone, got the loss alone"),
    ],
)
def test_training_past_the_linearised_outputs_is_refused(loss_of, message):
    data = regression()
    with pytest.raises(ValueError, match=message):
        lst.diagnose(WithLoss("alone"), data, train=steps_of(loss_of, data), with_kappa=False)


def test_what_a_copy_would_lose_is_refused():
    net, data = WithLoss("outputs"), regression()
    plain = steps_of(lambda m, x, y: F.mse_loss(m(x), y), data)
    net.head = lambda z: net.net(z)
    with pytest.raises(ValueError, match="got the function '<lambda>' in its head, which holds a part of the module"):
        lst.diagnose(net, data, train=plain, with_kappa=False)
    del net.head
    net.net[0].weight.register_hook(torch.zeros_like)
    with pytest.raises(ValueError, match=r"hooks on the gradient of a weight must be set within train\(module\)"):
        lst.diagnose(net, data, train=plain, with_kappa=False)


def test_both_trainings_see_the_same_minibatches_and_what_is_off_in_one_is_said():
    data, seen = classes(), []
    model = conv_net()

    def train(module):
        loader = DataLoader(TensorDataset(*data), 8, shuffle=True)
        seen.append([(x.sum(), torch.rand(1), np.random.rand()) for x, _ in loader])  # noqa: NPY002
        fitted(F.cross_entropy, epochs=1)(data)(module)

    found = lst.diagnose(model, data, train=train, with_kappa=False)
    assert seen[0] == seen[1]
    assert "dropout is off" in found.how
    assert "running statistics of normalisation are fixed" in found.how


# --- BatchNorm


def test_a_trained_conv_net_is_judged_with_its_own_statistics_and_their_part_is_told():
    data, held_out, model = classes(), classes(24), conv_net()
    trained = copy.deepcopy(model)
    fitted(F.cross_entropy)(data)(trained)
    found = lst.diagnose(model, data, held_out=held_out, trained=trained, with_kappa=False)
    refreshed = copy.deepcopy(model)
    for name in ("running_mean", "running_var"):
        getattr(refreshed[1], name).copy_(getattr(trained[1], name))
    at = {name: m.eval()(held_out[0]).detach() for name, m in (("0", model), ("T", trained), ("old", refreshed))}
    for name, outputs in (("loss at start", at["0"]), ("loss, trained", at["T"])):
        np.testing.assert_allclose(found.losses[name], F.cross_entropy(outputs, held_out[1]), rtol=1e-9)
    part = (at["old"] - at["0"]).norm() / (at["T"] - at["0"]).norm()
    assert part > 0.1
    np.testing.assert_allclose(found.indicators["change by buffers"], part, rtol=1e-6)
    same = jax_way(refreshed, data, held_out, trained, loss=ls.cross_entropy, with_kappa=False)
    np.testing.assert_allclose(found.indicators["gap g, new buffers at both ends"], same.gap, rtol=1e-6)
    np.testing.assert_allclose(
        found.indicators["differential j, new buffers at both ends"], same.differential, rtol=1e-6
    )
    assert any("1.running_mean, 1.running_var changed, no weights" in line for line in found.reasons)
    assert "those of a new module" in found.advice[0]
    assert "change by buffers" in str(found)


def test_statistics_that_stay_and_buffers_that_nothing_depends_on_are_not_mentioned():
    data, model = classes(), conv_net()
    trained = copy.deepcopy(model)
    trained[1].eval()
    fitted(F.cross_entropy, epochs=1)(data)(trained.eval())
    with torch.no_grad():
        trained[5].weight.add_(0.1)
    trained[1].num_batches_tracked.add_(3)
    for name in ("running_mean", "running_var"):
        getattr(trained[1], name).copy_(getattr(model[1], name))
    found = lst.diagnose(model, data, trained=trained, with_kappa=False)
    assert "change by buffers" not in found.indicators


# --- losses, targets and batches


class Labelled(nn.Module):
    """Returns its own loss beside its outputs, for labels in the batch."""

    def __init__(self, loss, inner):
        super().__init__()
        self.loss, self.inner = loss, inner

    def forward(self, inputs, labels=None):
        logits = self.inner(inputs)
        return {"logits": logits} | ({} if labels is None else {"loss": self.loss(logits, labels)})


def next_token(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def tokens():
    y = torch.randint(0, 5, (12, 4))
    y[0, 2:] = -100
    return y


def ones(n=12):
    return torch.randint(0, 2, (n, 2)).double()


OWN = {
    "square": (F.mse_loss, lambda: torch.randn(12, 2).double(), "½‖f − y‖²"),
    "classes": (F.cross_entropy, lambda: torch.randint(0, 2, (12,)), "cross-entropy"),
    "several labels": (F.binary_cross_entropy_with_logits, ones, "binary cross-entropy of logits"),
    "next token": (next_token, tokens, "cross-entropy of the next token"),
    "tokens": (
        lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten()),
        tokens,
        "cross-entropy of tokens, labels beside their outputs",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_the_loss_is_that_which_the_model_returns_for_its_labels(name):
    loss, labels, said = OWN[name]
    y = labels()
    if y.ndim == 2 and y.dtype == torch.long:
        inner, x = nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 5)), torch.randint(0, 7, (12, 4))
    else:
        inner, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(12, 3).double()
    model = Labelled(loss, inner).double()
    nn.init.zeros_(inner[-1].weight)  # where many losses have one value
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.1 * torch.randn_like(p))
    found = lst.diagnose(model, {"inputs": x, "labels": y}, trained=trained, with_kappa=False)
    assert f"loss: {said};" in found.model
    value = loss(trained(x)["logits"], y).item()
    np.testing.assert_allclose(found.losses["loss, trained"], value, rtol=1e-6)


LOSSES = {
    "mse": (nn.MSELoss(), False),
    "cross-entropy": (nn.CrossEntropyLoss(), True),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), True),
    "huber": (F.smooth_l1_loss, False),
    "lambda": (lambda f, y: (f - y).abs().pow(3).mean(), False),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_pytorch_has_its_value(name):
    loss, integer = LOSSES[name]
    model, data = mlp(), regression(20)
    data = (data[0], torch.randint(0, 2, (20,))) if integer else data
    found = lst.diagnose(model, data, loss=loss, num_steps=3, with_kappa=False)
    np.testing.assert_allclose(found.losses["loss at start"], loss(model(data[0]), data[1]).item(), rtol=1e-6)


def outliers_last():
    x, y = regression()
    y[4:-4] *= 0.1
    return x, y, lambda f, y: 0.5 * (f - y).clamp(-0.5, 0.5).square().sum(1).mean()


def positives_last():
    x, y = regression()
    return x, (y > 0).double().sort(0).values, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([5.0, 5.0]).double())


def rates():
    x, y = regression()
    return x, y.abs(), lambda f, y: F.poisson_nll_loss(f.square() + 0.1, y, log_input=False)


@pytest.mark.parametrize("data", [outliers_last, positives_last, rates])
def test_a_loss_is_told_from_others_by_all_targets_not_by_the_first(data):
    x, y, loss = data()
    net = mlp()
    found = lst.diagnose(net, (x, y), loss=loss, num_steps=5, with_kappa=False)
    np.testing.assert_allclose(found.losses["loss at start"], loss(net(x), y).item(), rtol=1e-6)


def test_probabilities_are_judged_by_the_loss_that_takes_them_alone():
    x, y = regression()
    net = nn.Sequential(mlp(), nn.Sigmoid())
    found = lst.diagnose(net, (x, (y > 0).double()), loss=nn.BCELoss(), num_steps=5, with_kappa=False)
    np.testing.assert_allclose(found.losses["loss at start"], nn.BCELoss()(net(x), (y > 0).double()).item(), rtol=1e-6)


def test_weights_of_classes_are_refused_where_classes_are_sorted():
    x, y = classes()
    rows = y.sort().indices
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]).double())
    with pytest.raises(ValueError, match=r"mean over examples.*without weights of classes"):
        lst.diagnose(conv_net().eval(), (x[rows], y[rows]), loss=loss, num_steps=5)


def test_classes_of_pixels_by_the_loss_of_pytorch():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)).double()
    x, y = torch.randn(4, 1, 5, 5).double(), torch.randint(0, 3, (4, 5, 5))
    found = lst.diagnose(model, (x, y), loss=nn.CrossEntropyLoss(), num_steps=3, with_kappa=False)
    np.testing.assert_allclose(found.losses["loss at start"], F.cross_entropy(model(x), y).item(), rtol=1e-6)


def test_targets_in_a_column_of_their_own_or_of_a_function():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(20, 3).double()
    flat = lst.diagnose(model, (x, x[:, 0]), num_steps=5, with_kappa=False)
    column = lst.diagnose(model, x, targets=lambda batch: batch[:, :1], num_steps=5, with_kappa=False)
    third = lst.diagnose(model, [(x[:, 0], x)], targets=0, num_steps=5, with_kappa=False)
    assert flat.losses == column.losses == third.losses
    assert len(str(flat)) > 100
    first = lst.diagnose(
        model, [(x[i : i + 4], x[i : i + 4, 0]) for i in range(0, 20, 4)], examples=6, with_kappa=False
    )
    assert "the first 6 training" in first.model
    assert first.num_inputs == 6


class Tokens(nn.Module):
    """Means of tokens that an attention mask leaves in."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask[..., None].to(self.head.weight.dtype)
        return self.head(torch.tanh((self.embed(input_ids) * kept).sum(1) / kept.sum(1)))


def test_token_batches_of_different_lengths_are_filled_up():
    model = Tokens().double()
    batches = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(0, 2, (4,))}
        for ids in (torch.randint(0, 9, (4, length)) for length in (3, 5, 2))
    ]
    found = lst.diagnose(model, batches[:2], held_out=batches[2], num_steps=20, with_kappa=False)
    outputs = model(batches[2]["input_ids"], batches[2]["attention_mask"])
    np.testing.assert_allclose(found.losses["loss at start"], F.cross_entropy(outputs, batches[2]["labels"]).item())


class Tagger(nn.Module):
    """An output for each token, which no other token has a part in."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        return self.head(torch.tanh(self.embed(input_ids))) + 0 * attention_mask[..., None]


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_a_model_gives_at_padding_does_not_count(side):
    model = Tagger().double()
    ids, labels = torch.randint(1, 9, (6, 3)), torch.randint(0, 3, (6, 3))
    pads = (0, 2) if side == "right" else (2, 0)
    padded = [F.pad(part, pads, value=value) for part, value in ((ids, 0), (torch.ones_like(ids), 0), (labels, -100))]
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.1 * torch.randn_like(p))
        trained.embed.weight[0].add_(9.0)  # that of padding
    keys = ("input_ids", "attention_mask", "labels")
    options = {"trained": trained, "with_kappa": False, "loss": "token_cross_entropy"}
    plain = lst.diagnose(model, dict(zip(keys, (ids, torch.ones_like(ids), labels), strict=True)), **options)
    found = lst.diagnose(model, dict(zip(keys, padded, strict=True)), **options)
    assert "padding left out" in found.model
    assert "padding" not in plain.model
    np.testing.assert_allclose(found.losses["loss, trained"], plain.losses["loss, trained"], rtol=1e-9)
    np.testing.assert_allclose([found.gap, found.differential], [plain.gap, plain.differential], rtol=1e-9)
    options["loss"] = "next_token_cross_entropy"
    found = lst.diagnose(model, dict(zip(keys, padded, strict=True)), **options)
    assert "padding left out" in found.model
    assert (abs(found.differential - plain.differential) < 1e-9) == (side == "right")


def test_half_precision_needs_a_type_and_the_model_keeps_its_own():
    model, data = mlp().bfloat16(), [part.bfloat16() for part in regression(20)]
    with pytest.raises(
        ValueError, match=r"needs float32 or float64, got torch\.bfloat16 0\.weight .*add dtype='float32'"
    ):
        lst.diagnose(model, data)
    found = lst.diagnose(model, data, dtype=torch.float64, num_steps=5, with_kappa=False)
    assert model[0].weight.dtype == torch.bfloat16
    assert found.losses["loss at start"] > 0


def refusals():
    x, y = regression(8)
    model = mlp()
    labels = torch.arange(8) % 2

    def none(_module):
        return None

    return {
        "no module": (lambda: lst.diagnose(3, (x, y)), r"needs a torch\.nn\.Module at its start, got int"),
        "no targets": (lambda: lst.diagnose(model, x), "batches must have targets, got a tensor by itself"),
        "no labels": (lambda: lst.diagnose(model, {"input": x}), "must have targets, got a mapping of input"),
        "one entry": (lambda: lst.diagnose(model, [[x]]), "must have targets, got 1 entries"),
        "a dataset": (
            lambda: lst.diagnose(model, TensorDataset(x, y)),
            r"got a TensorDataset of single examples: pass DataLoader\(dataset",
        ),
        "words": (lambda: lst.diagnose(model, ["a", "b"]), "batches must give batches, .* got str"),
        "no iterable": (lambda: lst.diagnose(model, 3), "must be a batch or an iterable of batches, got int"),
        "empty": (lambda: lst.diagnose(model, []), "batches must have an example, got none"),
        "held out": (lambda: lst.diagnose(model, (x, y), held_out=x), "held_out must have targets"),
        "rows": (lambda: lst.diagnose(model, (x, y[:4])), r"a row for each example, got \[4, 8\] rows"),
        "lengths": (
            lambda: lst.diagnose(model, [(x, y), (x[:, :2], y)]),
            r"must have examples of one shape, got \[\(2,\), \(3,\)\]: pad them",
        ),
        "both": (lambda: lst.diagnose(model, (x, y), train=none, trained=model), "takes train or trained, got both"),
        "untrained": (lambda: lst.diagnose(model, (x, y), train=none), "train the module that it is given, in place"),
        "loss name": (lambda: lst.diagnose(model, (x, y), loss="mean"), "loss must be one of cross_entropy, .*'mean'"),
        "loss sum": (
            lambda: lst.diagnose(model, (x, y), loss=nn.MSELoss(reduction="sum")),
            "must be a mean over examples, got .* from MSELoss",
        ),
        "loss fails": (lambda: lst.diagnose(model, (x, labels), loss=nn.NLLLoss2d), "loss must be a function of"),
        "what loss": (lambda: lst.diagnose(model, (x, labels[:, None] * labels)), r"loss must be said for outputs of"),
        "one column": (
            lambda: lst.diagnose(nn.Linear(3, 1).double(), (x, labels)),
            r"loss must be said for outputs of shape \(n, 1\) and torch.int64 .* loss='binary_cross_entropy'",
        ),
        "own loss": (
            lambda: lst.diagnose(Labelled(lambda f, y: f.square().sum(), mlp()), {"inputs": x, "labels": y}),
            "the loss that the model returns is none of cross_entropy",
        ),
        "examples": (lambda: lst.diagnose(model, (x, y), examples=0), "examples must be at least 1, got 0"),
    }


@pytest.mark.parametrize("name", [
    "no module", "no targets", "no labels", "one entry", "a dataset", "words", "no iterable", "empty", "held out",
    "rows", "lengths", "both", "untrained", "loss name", "loss sum", "loss fails", "what loss",
    "one column", "own loss", "examples",
])  # fmt: skip
def test_what_cannot_be_judged_is_refused_in_one_line(name):
    call, message = refusals()[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


CASE = """
import torch
import lazyscope.torch as lst

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
x = torch.randn(20, 3).double()
case = lst.Case(net, (x, x[:, :1]))
module = net.eval()

def made():
    return case
"""


def small_net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def test_the_command_takes_a_module_with_its_batches(tmp_path, capsys, monkeypatch):
    from lazyscope.cli import main

    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    (tmp_path / "net.py").write_text(CASE)
    assert main(["diagnose", f"{tmp_path / 'net.py'}:made", "--steps", "20"]) == 0
    assert "output of Sequential on inputs; loss: ½‖f − y‖²; all 20 training examples" in capsys.readouterr().out
    weights = {
        "0.weight": torch.ones(4, 3),
        "0.bias": torch.ones(4),
        "2.weight": torch.ones(1, 4),
        "2.bias": torch.ones(1),
    }
    np.savez(tmp_path / "w.npz", **{name: value.double().numpy() for name, value in weights.items()})
    assert main(["diagnose", f"{tmp_path / 'net.py'}:case", "--after", str(tmp_path / "w.npz"), "--json"]) == 0
    assert "elsewhere, w.npz: g compares" in capsys.readouterr().out
    assert main(["diagnose", f"{tmp_path / 'net.py'}:module"]) == 2
    assert "for a PyTorch module lazyscope.torch.Case(model, batches)" in capsys.readouterr().err


def test_a_case_in_jax_is_diagnosed_as_its_module_is():
    torch.manual_seed(0)
    case = lst.Case(mlp(), regression(), held_out=regression(20))
    of_module = case.diagnose(num_steps=20, with_kappa=False)
    ours = case.in_jax()
    found = ls.diagnose(ours.apply, ours.params0, ours.problem, num_steps=20, with_kappa=False, key=jax.random.key(0))
    assert (found.gap, found.differential) == (of_module.gap, of_module.differential)
    for name, instead in (("train", lambda module: None), ("trained", mlp())):
        with pytest.raises(ValueError, match=f"needs a case without a {name}= of PyTorch's"):
            dataclasses.replace(case, **{name: instead}).in_jax()


def test_commands_that_name_a_case_take_one_of_pytorch(tmp_path, capsys, monkeypatch):
    from lazyscope.cli import main

    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CASE)
    np.savez("w.npz", **{name: value.numpy(force=True) + 0.5 for name, value in small_net().state_dict().items()})
    case = "net.py:case"
    assert main(["landscape", case, "--resolution", "5", "--out", "plane"]) == 0
    assert main(["landscape", case, "--resolution", "5", "--directions", "path", "--steps", "20", "--out", "path"]) == 0
    assert main(["line", case, "start", "w.npz", "--resolution", "5", "--out", "line"]) == 0
    assert capsys.readouterr().out.count("landscape.png") == 2
    assert main(["crossover", case, "--steps", "20"]) == 2
    assert "the outputs are not 0 at the start, add --center" in capsys.readouterr().err
    assert main(["crossover", case, "--steps", "20", "--center", "--tolerance", "1"]) == 0
    assert "training is lazy from" in capsys.readouterr().out
    monkeypatch.setattr("lazyscope.cli.scales.FACTORS", (1.0, 4.0))
    assert main(["diagnose", case, "--steps", "20", "--no-kappa", "--out", "page", "--scales"]) == 0
    assert "alpha = 4: g =" in capsys.readouterr().err
    assert "Other output scales" in (tmp_path / "page" / "index.html").read_text()
    (tmp_path / "net.py").write_text(CASE + "trained = lst.Case(net, (x, x[:, :1]), train=print)\n")
    assert main(["diagnose", "net.py:trained", "--out", "page", "--scales"]) == 2
    refused = capsys.readouterr().err
    assert "name dataclasses.replace(case, train=None), our descent trains then" in refused
    assert refused.count("\n") == 1
