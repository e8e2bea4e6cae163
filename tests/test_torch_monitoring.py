"""What is measured of a PyTorch module while somebody else trains it: against the library, and leaving no trace."""

import copy

import fresh
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")
nn = torch.nn
lst = pytest.importorskip("lazyscope.torch")
ONE = {"*": "all"}


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()


def conv():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)).double()


def trained(model, x, y, steps=3):
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    return model


def arrays(model):
    return {name: jnp.asarray(weight.detach().numpy()) for name, weight in model.named_parameters()}


def test_the_measures_are_those_of_the_library_on_the_converted_module_and_0_at_the_start():
    model, x, y = mlp(), torch.randn(6, 3).double(), torch.randn(6, 2).double()
    watch = lst.Monitor(model, x)
    assert set(watch.measure().values()) == {0.0}
    apply, params0 = ls.adapters.from_torch(model, x)
    trained(model, x, y)
    params, found = arrays(model), watch.measure()
    j = ls.differential_change(apply, params0, params, x)
    first = np.sqrt(sum(float(jnp.sum((params[f"0.{k}"] - params0[f"0.{k}"]) ** 2)) for k in ("weight", "bias")))
    size = np.sqrt(sum(float(jnp.sum(params0[f"0.{k}"] ** 2)) for k in ("weight", "bias")))
    expected = {
        "gap": ls.linearization_gap(apply, params0, params, x),
        "differential": j.value,
        "differential_error": 0,
        "movement": ls.relative_change(params0, params).all,
        "distance": ls.distance(params0, params).all,
        "differential/0": j.groups["0"].relative,
        "movement/0": first / size,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"lazyscope/{name}"], value, rtol=1e-9, err_msg=name)
    assert list(found)[:3] == ["lazyscope/gap", "lazyscope/differential", "lazyscope/differential_error"]
    shared = ls.monitor(apply, params0, x, kernel=False)(params)
    assert {f"lazyscope/{name}" for name in shared} | {"lazyscope/differential_error"} == set(found)
    again = lst.Monitor(model, x, start=watch.start).measure()
    assert again == found


def test_many_outputs_are_measured_in_random_directions_with_their_error():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up = nn.Embedding(50, 24), nn.Linear(24, 40)
            self.head = nn.Linear(40, 90000)

        def forward(self, input_ids, labels=None):
            return {"logits": self.head(torch.tanh(self.up(self.embed(input_ids)))), "loss": labels}

    model = Tokens()
    watch = lst.Monitor(model, {"input_ids": torch.arange(8), "labels": torch.arange(8), "idx": [0] * 8}, groups=ONE)
    assert "left out: idx, labels" in watch.described
    with torch.no_grad():
        model.up.weight.mul_(1.1)
    found = watch.measure()
    assert 0 < found["lazyscope/differential_error"] < 0.1 * found["lazyscope/differential"]
    assert found["lazyscope/movement/all"] == found["lazyscope/movement"]


DRAWING = """
import random
import numpy as np
import torch
import lazyscope.torch as lst

class Net(torch.nn.Linear):
    def forward(self, x):
        random.random(), np.random.random(), torch.rand(1)
        return super().forward(x)

model = Net(3, 2)
def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
before = states()
lst.Monitor(model, torch.ones(4, 3)).measure()
print(states() == before)
"""


def test_no_random_state_is_moved(tmp_path):
    done = fresh.python("-c", DRAWING, cwd=tmp_path)
    assert done.stdout == "True\n", done.stderr


def test_padding_is_no_part_of_what_is_measured():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask):
            return self.head(torch.tanh(self.embed(input_ids)) * (1 + attention_mask)[..., None])

    def batch(tokens):
        return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}

    model, tokens = Tokens().double(), torch.tensor([[1, 2, 3]])
    short = lst.Monitor(model, batch(tokens))
    padded = lst.Monitor(model, batch(nn.functional.pad(tokens, (0, 2))))
    assert padded.described == f"{short.described}; padding left out"
    with torch.no_grad():
        model.embed.weight[0] += 1  # the token of padding
    for name in ("gap", "differential"):
        assert padded.measure()[f"lazyscope/{name}"] == 0
    with torch.no_grad():
        model.embed.weight += 0.3
    np.testing.assert_allclose(list(padded.measure().values()), list(short.measure().values()), rtol=1e-9)


def test_a_module_is_left_as_it_was_found():
    model, x = conv().train(), torch.randn(6, 2, 6, 6).double()
    model[0].eval()
    model(x).sum().backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lst.Monitor(model, x).measure()
    assert [part.training for part in model] == [False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(weight.grad, g) for weight, g in zip(model.parameters(), gradients, strict=True))


def test_statistics_of_now_are_used_at_both_ends_and_their_part_is_told_apart():
    model, x, y = conv(), torch.randn(6, 2, 6, 6).double(), torch.randn(6, 2).double()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    params0, watch = arrays(model), lst.Monitor(model, x)
    trained(model, x, y)
    found, params = watch.measure(), arrays(model)
    apply, _ = ls.adapters.from_torch(model, x)  # with the statistics of now
    np.testing.assert_allclose(
        [found["lazyscope/gap"], found["lazyscope/differential"]],
        [
            ls.linearization_gap(apply, params0, params, x),
            ls.differential_change(apply, params0, params, x).value,
        ],
        rtol=1e-9,
    )
    assert lst.Monitor(model, x, start=watch.start).measure() == found  # as in a run that is resumed
    end = {name: value.clone() for name, value in model.state_dict().items()}
    moved = {name: end[name] if "running" in name else value for name, value in start.items()}
    outputs = []
    for state in (start, moved, end):
        model.load_state_dict(state)
        outputs.append(model.eval()(x).detach())
    part = (outputs[1] - outputs[0]).norm() / (outputs[2] - outputs[0]).norm()
    np.testing.assert_allclose(found["lazyscope/buffers"], part, rtol=1e-9)


class Annealed(nn.Module):
    """What a training sets beside its weights: a temperature, a mask."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.tau = nn.Linear(3, 8), nn.Linear(8, 2), 1.0
        self.register_buffer("kept", torch.ones(8, dtype=torch.bool))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x) / self.tau) * self.kept)


def cooled(model):
    model.tau = 0.3


def masked(model):
    model.kept[:4] = False


def hooked(model):
    model.first.register_forward_hook(lambda *call: 2 * call[-1])


@pytest.mark.parametrize("change", [cooled, masked, hooked])
def test_a_module_that_computes_something_else_now_is_traced_anew(change):
    model, x, y = Annealed().double(), torch.randn(6, 3).double(), torch.randn(6, 2).double()
    params0, watch = arrays(model), lst.Monitor(model, x, groups=ONE)
    trained(model, x, y)
    change(model)
    with pytest.warns(UserWarning, match="Annealed computes something else than when it was traced"):
        found = watch.measure()
    apply, params = ls.adapters.from_torch(model, x)
    assert watch.measure() == found  # traced once
    np.testing.assert_allclose(
        (found["lazyscope/gap"], found["lazyscope/differential"]),
        (
            ls.linearization_gap(apply, params0, params, x),
            ls.differential_change(apply, params0, params, x).value,
        ),
        rtol=1e-9,
    )


def test_a_centred_module_that_hardly_moved_computes_what_it_did():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 3))
            self.start = copy.deepcopy(self.net).requires_grad_(False)

        def forward(self, x):
            return 10 * (self.net(x) - self.start(x))

    model, x = Centred(), torch.randn(16, 32)
    watch = lst.Monitor(model, x, groups=ONE)
    with torch.no_grad():
        for weight in model.net.parameters():
            weight.add_(1e-7 * torch.randn_like(weight).sign())
    assert watch.measure()["lazyscope/movement"] > 0  # a warning of another trace would be an error


def test_half_precision_is_measured_in_float32_and_float64_without_a_switch():
    model, x = mlp().to(torch.bfloat16), torch.randn(6, 3).to(torch.bfloat16)
    watch = lst.Monitor(model, x, groups=ONE)
    full = mlp().float()
    full.load_state_dict(model.state_dict())
    same = lst.Monitor(full, x.float(), groups=ONE)
    for module in (model, full):
        with torch.no_grad():
            module[0].weight.mul_(2)  # exact in bfloat16
    np.testing.assert_allclose(list(watch.measure().values()), list(same.measure().values()), rtol=1e-6)
    assert model[0].weight.dtype == torch.bfloat16
    wide = mlp()
    with jax.enable_x64(False):
        watch = lst.Monitor(wide, torch.randn(6, 3).double(), groups=ONE)
        with torch.no_grad():
            wide[0].weight.mul_(1 + 1e-12)  # nothing in float32
        assert 0 < watch.measure()["lazyscope/movement"] < 1e-11


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_a_loop_is_under_when_it_measures_changes_nothing(around):
    model, x, y = mlp().float(), torch.randn(6, 3), torch.randn(6, 2)
    with around():
        watch = lst.Monitor(model, x, groups=ONE)
    plain = lst.Monitor(model, x, groups=ONE)
    trained(model, x, y)
    with around():
        found = watch.measure()
    assert found == plain.measure()


def test_the_module_is_found_in_what_wraps_it():
    model, x = mlp(), torch.randn(6, 3).double()
    compiled = torch.compile(model, backend="eager")
    for wrapped in (nn.DataParallel(model), compiled, nn.DataParallel(compiled)):
        assert set(lst.Monitor(wrapped, [x, torch.zeros(6)]).start) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_frozen_weights_are_no_weights_and_one_that_thaws_is_told():
    model, x = mlp(), torch.randn(6, 3).double()
    model[0].requires_grad_(False)
    watch = lst.Monitor(model, x)
    assert set(watch.start) == {"3.weight", "3.bias"}
    model[0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"2 weights train that were frozen when measuring began, 0\.weight first"):
        watch.measure()
    watch.measure()  # told once


def test_what_cannot_be_measured_is_refused_in_one_line():
    model, x = mlp(), torch.randn(6, 3).double()
    with pytest.raises(ValueError, match=r"Monitor needs a torch\.nn\.Module, got int"):
        lst.Monitor(3, x)
    with pytest.raises(ValueError, match=r"start must have the trainable weights and buffers .* got others in 3\.bias"):
        lst.Monitor(model, x, start={**lst.Monitor(model, x).start, "3.bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"whole weights in this process, got a part of 0\.weight"):
        lst.Monitor(mlp().to("meta"), x)
    watch = lst.Monitor(model, x)
    model[3] = nn.Linear(8, 5).double()
    with pytest.raises(ValueError, match=r"must keep its weights while it is measured, 3\.weight has another shape"):
        watch.measure()
    model[3] = nn.Identity()
    with pytest.raises(ValueError, match=r"must keep its weights while it is measured, 3\.weight is gone"):
        watch.measure()
