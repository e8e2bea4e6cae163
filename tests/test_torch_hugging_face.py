"""Models of transformers, adapters of PEFT and the folders that they write."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
lst = pytest.importorskip("lazyscope.torch")


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def gpt2():
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=19, n_positions=12, attn_implementation="eager"
    )
    return transformers.GPT2LMHeadModel(config)


def bert(layers=2):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24, vocab_size=19,
        max_position_embeddings=12, num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def text(n=6, length=5):
    ids = torch.randint(0, 19, (n, length))
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def causal(n=6, length=5):
    batch = text(n, length)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def labelled(n=6, length=5):
    return text(n, length) | {"labels": torch.randint(0, 3, (n,))}


def shifted(model, size=0.02):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn_like(p) * p.requires_grad)
    return other


@pytest.mark.parametrize("build", [gpt2, bert])
def test_linearize_is_the_linearisation_of_the_conversion(build):
    model, batch = build().double(), text()
    first = lst.linearize(model)
    apply, params0 = ls.adapters.from_torch(model, batch)
    linear = ls.linearize(apply, params0)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    params = {name: jnp.asarray(p.detach().numpy()) for name, p in first.named_parameters()}
    x = {name: jnp.asarray(value.numpy()) for name, value in batch.items()}
    x = apply.taken.batch(apply.taken.leaves(x))
    outputs = first(**batch).logits
    scale = outputs.abs().max().item()
    np.testing.assert_allclose(outputs.detach(), linear(params, x), rtol=0, atol=1e-6 * scale)
    (outputs**3).sum().backward()
    slopes = jax.grad(lambda p: jnp.sum(linear(p, x) ** 3))(params)
    for name, parameter in first.named_parameters():
        size = max(float(jnp.max(jnp.abs(v))) for v in slopes.values())
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        np.testing.assert_allclose(found, slopes[name], rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize(("build", "data", "said"), [
    (gpt2, causal, "cross-entropy of the next token"),
    (bert, labelled, "loss: cross-entropy;"),
])  # fmt: skip
def test_a_folder_of_shards_is_judged_with_the_loss_that_the_model_has(build, data, said, tmp_path):
    model, held_out = build(), data(3, 4)
    model.gradient_checkpointing_enable()
    trained = shifted(model)
    trained.save_pretrained(tmp_path / "checkpoint-7", max_shard_size="8KB")
    assert len(list((tmp_path / "checkpoint-7").glob("*.safetensors"))) > 1
    settings = model.config.to_dict()
    batches, options = [data(4), data(2, 7)], {"trained": tmp_path / "checkpoint-7", "with_kappa": False}
    found = lst.diagnose(model.train(), batches, held_out=held_out, **options)
    assert model.training
    assert model.config.to_dict() == settings
    assert said in found.model
    assert "checkpoint-7" in found.how
    np.testing.assert_allclose(found.losses["loss, trained"], trained.eval()(**held_out).loss.item(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_labels_of_other_kinds(kind):
    model = bert(layers=1).double()
    model.config.problem_type = kind
    batch = text() | {"labels": torch.randint(0, 2, (6, 3)).double()}
    found = lst.diagnose(model, batch, trained=shifted(model), with_kappa=False)
    assert ("½‖f − y‖²" if kind == "regression" else "binary cross-entropy") in found.model
    expected = model.eval()(**batch).loss.item() * (1.5 if kind == "regression" else 1)
    np.testing.assert_allclose(found.losses["loss at start"], expected, rtol=1e-9)


def test_a_base_model_without_its_prefix_and_bfloat16_on_disk(tmp_path):
    from lazyscope.torch.weights import at_end

    model = gpt2()
    base = shifted(model).transformer
    base.bfloat16().save_pretrained(tmp_path)
    found = at_end(model, tmp_path)
    assert "bfloat16 cast to float32" in found.said
    torch.testing.assert_close(found.module.transformer.wte.weight, base.wte.weight.float())
    assert found.module.lm_head.weight is found.module.transformer.wte.weight


@pytest.mark.parametrize("modules_to_save", [None, ["classifier"]])
def test_an_adapter_of_peft_fits_the_model_with_its_adapter(modules_to_save, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, target_modules=["query", "value"], modules_to_save=modules_to_save, task_type="SEQ_CLS"
    )
    plain = bert()
    model = peft.get_peft_model(copy.deepcopy(plain), config)
    trained, batch = shifted(model, 0.1), labelled()
    trained.save_pretrained(tmp_path / "adapter")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = lst.diagnose(model, batch, trained=tmp_path / "adapter", with_kappa=False)
    expected = trained.eval()(**batch).loss.item()
    np.testing.assert_allclose(found.losses["loss, trained"], expected, rtol=1e-5)
    assert any("lora" in row.name and row.trained for row in found.groups)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="is an adapter of PEFT, and BertForSequenceClassification has none"):
        lst.diagnose(plain, batch, trained=tmp_path / "adapter")
    whole = lst.diagnose(model, batch, trained=trained, with_kappa=False)
    np.testing.assert_allclose(whole.gap, found.gap, rtol=1e-5)


def test_a_trainer_of_the_user_trains_both():
    model, batch = bert(layers=1).double(), labelled(16)

    def train(module):
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
        module.train()
        for _ in range(5):
            optimizer.zero_grad()
            module(**batch).loss.backward()
            optimizer.step()

    found = lst.diagnose(model, batch, train=train, with_kappa=False)
    assert "dropout is off" in found.how
    assert found.losses["loss, trained"] < found.losses["loss at start"]
    assert found.losses["loss, linearised"] < found.losses["loss at start"]


def test_the_command_judges_two_folders_on_a_batch(tmp_path, capsys, monkeypatch):
    from safetensors.torch import save_file

    from lazyscope.cli import main

    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    model, batch = bert(layers=1), labelled(4)
    trained = shifted(model)
    model.save_pretrained(tmp_path / "before")
    trained.save_pretrained(tmp_path / "after")
    save_file(batch, tmp_path / "batch.safetensors")
    np.savez(tmp_path / "words.npz", input_ids=batch["input_ids"].numpy())
    folders = ["diagnose", str(tmp_path / "before"), str(tmp_path / "after"), "--batch"]
    assert main([*folders, str(tmp_path / "batch.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = trained.eval()(**batch).loss.item()
    np.testing.assert_allclose(found["losses"]["loss, trained"], expected, rtol=1e-5)
    assert "elsewhere, after: g compares" in found["how"]
    assert main([*folders, str(tmp_path / "words.npz")]) == 2
    assert "batches must have targets, got a mapping of input_ids" in capsys.readouterr().err
    model.bert.save_pretrained(tmp_path / "before")
    config = json.loads((tmp_path / "before" / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "before" / "config.json").write_text(json.dumps(config))
    assert main([*folders, str(tmp_path / "batch.safetensors")]) == 2
    assert "BEFORE must have every weight at its start" in capsys.readouterr().err
