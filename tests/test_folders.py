"""Checkpoints as Hugging Face's libraries and PyTorch's users leave them on disk, and the names in them."""

import copy
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import lazyscope as ls
from lazyscope.adapters.folders import read

PARAMS = {"a.weight": np.arange(6.0).reshape(2, 3), "b.weight": np.ones(2)}


def shards(folder, **change):
    folder.mkdir(exist_ok=True)
    places = {name: f"model-0000{i + 1}-of-00002.safetensors" for i, name in enumerate(PARAMS)}
    for name, file in places.items():
        save_file({name: PARAMS[name]}, folder / file)
    index = {"metadata": {}, "weight_map": places | change}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def beside(folder):
    """What a trainer leaves beside the weights."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"pickled")
    return folder


def start():
    return {name: np.zeros_like(value) for name, value in PARAMS.items()}


def test_a_folder_has_its_one_file_or_its_shards(tmp_path):
    whole = tmp_path / "checkpoint-500"
    whole.mkdir()
    save_file(PARAMS, whole / "model.safetensors")
    for folder in (beside(whole), beside(shards(tmp_path / "shards"))):
        found = ls.adapters.load_checkpoint(folder, start())
        for name, value in PARAMS.items():
            np.testing.assert_array_equal(found[name], value)


def damaged(tmp_path, name):
    folder = shards(tmp_path / "run")
    index, first = folder / "model.safetensors.index.json", folder / "model-00001-of-00002.safetensors"
    if name == "index":
        index.write_text("{")
    elif name == "no map":
        index.write_text("[]")
    elif name == "missing shard":
        first.unlink()
    elif name == "cut shard":
        first.write_bytes(first.read_bytes()[:-8])
    elif name == "lost weight":
        shards(folder, **{"c.weight": first.name})
    elif name == "elsewhere":
        shards(folder, **{"a.weight": "../model.safetensors"})
    else:
        for file in folder.iterdir():
            file.unlink()
    if name == "pickled":
        (beside(folder) / "pytorch_model.bin").write_bytes(b"pickled")
    elif name == "trainer":
        (beside(folder) / "checkpoint-500").mkdir()
    elif name == "two":
        for file in ("a.safetensors", "b.safetensors"):
            save_file(PARAMS, folder / file)
    return folder


REFUSED = {
    "index": "must be JSON with a weight_map",
    "no map": "must be JSON with a weight_map",
    "missing shard": r"lacks model-00001-of-00002\.safetensors: copy the whole folder",
    "cut shard": "must be a safetensors file",
    "lost weight": r"they lack c\.weight: copy them again",
    "elsewhere": r"must be files beside it, got \.\./model\.safetensors",
    "empty": r"weights in safetensors, .*run has none: save the weights there, model\.save_pretrained",
    "pickled": r"got pytorch_model\.bin, a pickle, .* convert it by  python -c .*torch\.load\('.*weights_only=True",
    "trainer": r"run has none: name one of its folders, checkpoint-500",
    "two": r"one checkpoint, .*run has a\.safetensors, b\.safetensors: name the file",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_holds_no_weights_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=REFUSED[name]) as caught:
        ls.adapters.load_checkpoint(damaged(tmp_path, name), start())
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be an existing file, got .*nothing: check the path"):
        ls.adapters.load_checkpoint(tmp_path / "nothing", start())


def model_folder(folder, **config):
    folder.mkdir(exist_ok=True)
    save_file(PARAMS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], **config}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{here}/before"], "BEFORE AFTER --batch FILE, got {here}/before without --batch: name both"),
        (["{here}/before", "{here}/after"], "got {here}/before {here}/after without --batch"),
        (["two-layer-plain", "{here}/after"], "where the first is no folder"),
        (["{here}/before", "{here}/after", "--batch", "b.npz", "--after", "w.npz"], "got --after w.npz: leave it out"),
        (["{here}/plain", "{here}/after", "--batch", "b.npz"], "{here}/plain has none (an adapter of PEFT)"),
        (["{here}/own", "{here}/after", "--batch", "b.npz"], "no code of a folder is run"),
        (["{here}/several", "{here}/after", "--batch", "b.npz"], "must name one class in architectures, got []"),
        (["{here}/text", "{here}/after", "--batch", "b.npz"], "must be the JSON of a model's settings"),
        (
            ["{here}/before", "{here}/plain", "--batch", "b.npz"],
            "an adapter does not say where its own weights started",
        ),
        (["{here}/before", "{here}/none", "--batch", "b.npz"], "AFTER must be a folder or a file of weights"),
        pytest.param(
            ["{here}/before", "{here}/after", "--batch", "{here}/words.npz"],
            "a batch must hold numbers, got text in",
            marks=pytest.mark.slow,  # with PyTorch
        ),
    ],
)
def test_the_command_refuses_folders_in_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    from lazyscope.cli import main

    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    model_folder(tmp_path / "before")
    model_folder(tmp_path / "after")
    model_folder(tmp_path / "own", auto_map={"AutoModel": "modeling.Own"})
    model_folder(tmp_path / "several", architectures=[])
    (model_folder(tmp_path / "text") / "config.json").write_text("{")
    np.savez(tmp_path / "words.npz", input_ids=np.ones((2, 3), int), text=np.array(["a", "b"]))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "adapter_config.json").write_text("{}")
    assert main(["diagnose", *(a.format(here=tmp_path) for a in arguments)]) == 2
    printed = capsys.readouterr()
    assert message.format(here=tmp_path) in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""


@pytest.fixture(name="torch")
def with_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


@pytest.mark.slow
def test_weights_of_a_type_that_numpy_lacks_are_refused_by_its_name(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors.torch").save_file(
        {"w": torch.ones(3).to(torch.float8_e5m2)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match=r"of types that NumPy has, got 'float8_e5m2' in .*w.safetensors"):
        read(tmp_path / "w.safetensors")


def test_hidden_files_beside_a_checkpoint_are_none(tmp_path):
    save_file(PARAMS, tmp_path / "model.safetensors")
    save_file(PARAMS, tmp_path / "_lazyscope_start.safetensors")  # of our own callback
    (tmp_path / "._model.safetensors").write_bytes(b"of another system")
    assert ls.adapters.load_checkpoint(tmp_path, start())["b.weight"].tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model"])
def test_the_line_that_converts_a_pickle_does(torch, tmp_path, entry):
    import subprocess
    import sys

    weights = {name: torch.from_numpy(value) for name, value in PARAMS.items()}
    state = weights if entry is None else {entry: weights, "optimizer": {"state": {}}, "epoch": 3}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle") as caught:
        ls.adapters.load_checkpoint(tmp_path, start())
    line = str(caught.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", line], check=True)
    assert ls.adapters.load_checkpoint(tmp_path, start())["b.weight"].tolist() == [1, 1]


# --- names


def tied(torch):
    """A model with a buffer, frozen weights and one weight under two names."""
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.tanh(self.body(x)))

    return Model()


def moved(model, torch):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.add_(torch.ones_like(tensor))
    return other


def at_end(model, trained, **options):
    from lazyscope.torch.weights import at_end

    return at_end(model, trained, **options)


def assert_equal(torch, found, expected):
    theirs = expected.state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)
    assert found.head.weight is found.embed.weight


def stored(torch, model, how, tmp_path):
    from safetensors.torch import save_file, save_model

    state = model.state_dict()
    if how == "save_model":
        save_model(model, str(tmp_path / "model.safetensors"))
        return tmp_path
    if how == "file":
        del state["head.weight"]
        save_file(state, tmp_path / "w.safetensors")
        return str(tmp_path / "w.safetensors")
    if how in ("module", "data parallel"):
        return model if how == "module" else torch.nn.DataParallel(model)
    if how == "compiled":
        return torch.compile(model)
    prefix = {"state dict": "", "prefixed": "model.module.", "inner": "_orig_mod."}[how]
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["save_model", "file", "module", "data parallel", "compiled", "state dict", "prefixed", "inner"]
)
def test_weights_and_buffers_are_found_under_whatever_prefix_and_name_of_a_tie(torch, tmp_path, how):
    model = tied(torch)
    trained = moved(model, torch)
    kept = copy.deepcopy(model.state_dict())
    found = at_end(model, stored(torch, trained, how, tmp_path)).module
    assert_equal(torch, found, trained)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)


@pytest.mark.slow
def test_a_model_within_another_takes_its_part_and_a_wrapped_one_its_prefix(torch):
    model = tied(torch)
    trained = moved(model, torch)
    wrapped = torch.nn.ModuleDict({"inner": model})
    found = at_end(wrapped, trained.state_dict()).module["inner"]
    assert_equal(torch, found, trained)
    larger = {f"base.{name}": value for name, value in trained.state_dict().items()} | {"cls.bias": torch.arange(2.0)}
    with pytest.raises(ValueError, match=r"also has cls\.bias: build the model of the checkpoint, or leave them out"):
        at_end(model, larger)
    assert_equal(torch, at_end(model, larger, ignore=["cls.*"]).module, trained)
    parallel = {f"module.{name}": value for name, value in trained.state_dict().items()} | {"module.ema": torch.ones(2)}
    with pytest.raises(ValueError, match="also has ema: build the model"):
        at_end(model, parallel)
    for name in ("ema", "module.ema"):  # as it was said, and as it is stored
        assert_equal(torch, at_end(model, parallel, ignore=[name]).module, trained)


@pytest.mark.slow
def test_other_floats_are_cast_and_said_and_frozen_weights_may_stay_away(torch):
    model = tied(torch)
    trained = moved(model, torch)
    found = at_end(model, {name: value.bfloat16() if value.is_floating_point() else value
                           for name, value in trained.state_dict().items()})  # fmt: skip
    assert found.said == "the state dict given (bfloat16 cast to float32)"
    torch.testing.assert_close(found.module.body[0].weight, trained.body[0].weight.bfloat16().float(), rtol=0, atol=0)
    model.body.requires_grad_(False)
    part = at_end(model, {"embed.weight": trained.embed.weight}).module
    torch.testing.assert_close(part.head.weight, trained.head.weight)
    torch.testing.assert_close(part.body[1].running_mean, model.body[1].running_mean)
    half = {name: value.half() if "weight" in name else value for name, value in model.state_dict().items()}
    assert "float16 cast to float32" in at_end(model, half).said
    with pytest.raises(ValueError, match=r"frozen weights must be the same .* body\.0\.weight in the module given"):
        at_end(model, trained)


def changed(torch, name):
    state = moved(tied(torch), torch).state_dict()
    if name == "missing":
        del state["body.0.bias"]
    elif name == "no statistics":
        del state["body.1.running_mean"]
    elif name == "extra":
        state["body.2.weight"] = torch.arange(3.0)
    elif name == "shape":
        state["body.0.weight"] = torch.ones(4, 2)
    elif name == "quantised":
        state["body.0.weight"] = torch.ones(4, 3, dtype=torch.int8)
    elif name == "untied":
        state["head.weight"] = 2 * state["head.weight"]
    elif name == "nested":
        return {"epoch": 3, "model": state}
    elif name == "foreign":
        return {"x": torch.ones(3)}
    elif name == "nothing":
        return 3
    return state


NO_FIT = {
    "missing": r"must be those of Model, the state dict given lacks body\.0\.bias and has",
    "no statistics": r"lacks body\.1\.running_mean",
    "extra": r"also has body\.2\.weight",
    "shape": r"body\.0\.weight in the state dict given has shape \(4, 2\) where the model has \(4, 3\)",
    "quantised": r"is int8 where the model has float32: load the checkpoint without quantisation",
    "untied": r"(embed|head)\.weight, (embed|head)\.weight are one weight in Model, and differ",
    "nested": r"must map names to tensors, got epoch, model in it: pass the entry",
    "foreign": r"lacks body\.0\.weight, .* and has x",
    "nothing": "must be a folder, a .safetensors file, a state dict or a module, got int",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_FIT)
def test_weights_of_another_model_are_refused_in_one_line(torch, name):
    with pytest.raises(ValueError, match=NO_FIT[name]) as caught:
        at_end(tied(torch), changed(torch, name))
    assert "\n" not in str(caught.value)
