"""Callbacks in real runs of transformers and Lightning: the run is the same, and its log tells how lazy it is."""

import csv
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.gradient_checkpointing. is deprecated:FutureWarning",
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
        "ignore::DeprecationWarning:torch",
        r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated",
    ),
]
torch = pytest.importorskip("torch")
lst = pytest.importorskip("lazyscope.torch")
ONE = {"*": "all"}
GAP = "lazyscope/gap"


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def callback(*given, **options):
    pytest.importorskip("transformers")
    return lst.Callback(*given, **options)


def lightning_callback(*given, **options):
    pytest.importorskip("lightning.pytorch")
    return lst.LightningCallback(*given, **options)


# --- transformers


TOKENS, LABELS = torch.randint(1, 20, (40, 8)), torch.randint(0, 3, (40,))
DATA = [{"input_ids": row, "labels": int(label)} for row, label in zip(TOKENS, LABELS, strict=True)]
BATCH = {"input_ids": TOKENS[:6], "labels": LABELS[:6]}


def gpt():
    """With dropout."""
    transformers = pytest.importorskip("transformers")
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 20, "n_positions": 8, "num_labels": 3}
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, **special))


def lora():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="SEQ_CLS", fan_in_fan_out=True)
    return peft.get_peft_model(gpt(), config)


def run(folder, *callbacks, make=gpt, resume=None, **arguments):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    plain = {"max_steps": 7, "logging_steps": 2, "save_strategy": "no", "learning_rate": 1e-2, "seed": 3}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 4}
    args = transformers.TrainingArguments(str(folder), **{**quiet, **plain, **arguments})
    trainer = transformers.Trainer(make(), args, train_dataset=DATA, eval_dataset=DATA[:8])
    for each in callbacks:
        trainer.add_callback(each)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def measured(trainer):
    return {row["step"]: row for row in trainer.state.log_history if GAP in row}


def others(trainer):
    """What the trainer says by itself, but for how long it took."""
    rows = [row for row in trainer.state.log_history if GAP not in row]
    return [{k: v for k, v in row.items() if "runtime" not in k and "per_second" not in k} for row in rows]


RUNS = {
    "dropout, accumulation, evaluation": {
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "label_smoothing_factor": 0.1,
    },
    "autocast, checkpointing": {"bf16": True, "gradient_checkpointing": True},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
    "LoRA": {"make": lora},
    "weights in bfloat16": {"make": lambda: gpt().bfloat16()},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_trainers_run_is_the_same_run_and_every_integration_hears_of_it(options, tmp_path):
    transformers = pytest.importorskip("transformers")

    class Integration(transformers.TrainerCallback):
        """As those of `report_to`, which come first."""

        rows: list = []  # noqa: RUF012

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.rows.append({"step": state.global_step, **(logs or {})})

    alone = run(tmp_path / "a", **options)
    watched = run(tmp_path / "b", Integration(), callback(BATCH, every=3, groups=ONE), **options)
    assert same(alone.model, watched.model)
    assert others(alone) == others(watched)
    found = measured(watched)
    assert list(found) == [1, 3, 6, 7]
    heard = [row for row in Integration.rows if GAP in row]
    Integration.rows.clear()
    assert heard == list(found.values())
    assert all(type(value) is float for row in found.values() for name, value in row.items() if name != "step")
    assert {"lazyscope/differential", "lazyscope/differential_error", "lazyscope/movement/all"} <= found[7].keys()
    assert not (tmp_path / "b" / "_lazyscope_start.safetensors").exists()


def test_both_factors_of_a_lora_are_one_group_and_the_rest_is_not_measured(tmp_path):
    trainer = run(tmp_path, callback(BATCH), make=lora, max_steps=1)
    names = [name for name in measured(trainer)[1] if name.startswith("lazyscope/movement/")]
    assert [name.rpartition("model.")[2] for name in names] == [
        "score.modules_to_save.default",
        "transformer.h.0.attn.c_attn.lora",
    ]


def test_a_resumed_run_is_measured_from_where_it_started(tmp_path):
    whole = run(tmp_path, callback(BATCH, every=3, groups=ONE), save_strategy="steps", save_steps=4)
    options = {"save_strategy": "steps", "save_steps": 4, "resume": str(tmp_path / "checkpoint-4")}
    again = run(tmp_path, callback(BATCH, every=3, groups=ONE), **options)
    assert same(whole.model, again.model)
    assert list(measured(again)) == list(measured(whole))
    for step, row in measured(again).items():
        assert row == pytest.approx(measured(whole)[step])
    start = tmp_path / "_lazyscope_start.safetensors"
    start.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"start\.safetensors must have the weights that this run started from, got: "):
        run(tmp_path, callback(BATCH), **options)
    start.unlink()
    with pytest.warns(UserWarning, match=r"are not in .*: laziness is measured from step 4"):
        late = run(tmp_path, callback(BATCH, every=3, groups=ONE), **options)
    assert measured(late)[7]["lazyscope/distance"] < 0.7 * measured(whole)[7]["lazyscope/distance"]


def test_the_last_step_is_measured_when_a_run_stops_early_before_its_best_weights_are_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 9, "max_steps": -1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 0.1}
    stop = transformers.EarlyStoppingCallback(1, early_stopping_threshold=9.0)
    trainer = run(tmp_path, stop, callback(BATCH, every=1000, groups=ONE), **options)
    last = trainer.state.global_step
    assert last < 90
    assert list(measured(trainer)) == [1, last]
    model = gpt()
    watch = lst.Monitor(model, BATCH, groups=ONE)
    safetensors = pytest.importorskip("safetensors.torch")
    watch.restart(safetensors.load_file(tmp_path / "_lazyscope_start.safetensors"))
    model.load_state_dict(safetensors.load_file(tmp_path / f"checkpoint-{last}" / "model.safetensors"))
    found = watch.measure()
    assert found == pytest.approx({name: value for name, value in measured(trainer)[last].items() if name in found})


def test_only_the_first_process_measures(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "two.py"]
    kept = fresh.environment(tmp_path) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert said == ["same True rows [1, 2]", "same True rows []"]


TWO_PROCESSES = """
import os
import pathlib
import torch
import transformers
import lazyscope.torch as lst

torch.manual_seed(0)
data = [{"input_ids": torch.randint(1, 20, (8,)), "labels": i % 3} for i in range(16)]
batch = {"input_ids": torch.stack([row["input_ids"] for row in data[:4]])}

def run(*callbacks):
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20, n_positions=8, num_labels=3,
                                     pad_token_id=0, bos_token_id=0, eos_token_id=0)
    args = transformers.TrainingArguments("out", use_cpu=True, ddp_backend="gloo", report_to="none", max_steps=2,
                                          disable_tqdm=True, per_device_train_batch_size=2, save_strategy="no")
    model = transformers.GPT2ForSequenceClassification(config)
    trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=list(callbacks))
    trainer.train()
    return trainer

alone, watched = run(), run(lst.Callback(batch))
pairs = zip(alone.model.parameters(), watched.model.parameters())
rows = [row["step"] for row in watched.state.log_history if "lazyscope/gap" in row]
said = f"same {all(torch.equal(a, b) for a, b in pairs)} rows {rows}"
pathlib.Path("rank" + os.environ["RANK"]).write_text(said)
"""


def test_a_callback_needs_steps_and_a_trainer():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="every must be a number of steps of at least 1, got 0: every=100"):
        callback(BATCH, every=0)
    state = transformers.TrainerState()
    with pytest.raises(
        ValueError, match=r"Callback must be called by a transformers\.Trainer, got none: use .*Monitor"
    ):
        callback(BATCH).on_train_begin(None, state, None, model=gpt())


def test_neither_library_is_imported_before_it_is_used(tmp_path):
    code = "import sys, lazyscope.torch; print(sorted({'transformers', 'lightning', 'peft'} & set(sys.modules)))"
    done = fresh.python("-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lst.nothing  # noqa: B018


# --- Lightning


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.utils.data.TensorDataset(
        torch.randn(64, 1, 8, 8, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    )


def net(lightning):
    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
                torch.nn.Dropout(0.2), torch.nn.Linear(144, 10),
            )  # fmt: skip

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log("held out", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    return Net()


def fit(folder, *callbacks, resume=None, epochs=2, build=net, **options):
    lightning = pytest.importorskip("lightning.pytorch")
    lightning.seed_everything(1, verbose=False)
    model, data = build(lightning), images()
    logger = pytest.importorskip("lightning.pytorch.loggers").CSVLogger(folder)
    trainer = lightning.Trainer(
        max_epochs=epochs, accumulate_grad_batches=2, logger=logger, callbacks=list(callbacks), accelerator="cpu",
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=3, **options,
    )  # fmt: skip
    loaders = (torch.utils.data.DataLoader(data, 8, shuffle=True), torch.utils.data.DataLoader(data, 32))
    trainer.fit(model, *loaders, ckpt_path=resume)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return model, trainer, {int(row["step"]): row for row in rows if row.get(GAP)}


def test_a_lightning_run_is_the_same_run_and_its_loggers_hear_of_it(tmp_path):
    batch = list(images()[:6])
    alone, _, _ = fit(tmp_path / "a")
    watched, trainer, rows = fit(tmp_path / "b", lightning_callback(batch, every=5))
    assert same(alone, watched)
    assert list(rows) == [1, 5, 8]
    assert float(rows[5]["lazyscope/gap"]) == pytest.approx(float(trainer.callback_metrics[GAP]), rel=1e-6)
    assert {"lazyscope/buffers", "lazyscope/movement/net.0", "lazyscope/differential/net.5"} <= rows[1].keys()
    inside, _, again = fit(tmp_path / "c", lightning_callback(batch, every=5, model="net"))
    assert same(alone, inside)
    assert [float(row[GAP]) for row in again.values()] == pytest.approx([float(row[GAP]) for row in rows.values()])


def logging_net(lightning):
    class Net(type(net(lightning))):
        def forward(self, x):
            self.log("mean input", x.mean())
            return self.net(x)

    return Net()


def test_in_the_precision_of_the_run_and_without_what_its_forward_logs(tmp_path):
    options = {"build": logging_net, "epochs": 1, "precision": "64-true"}
    alone, one, _ = fit(tmp_path / "a", **options)
    watched, other, rows = fit(tmp_path / "b", lightning_callback(list(images()[:6]), every=2), **options)
    assert same(alone, watched)
    assert float(rows[1][GAP]) > 0
    names = [trainer.callback_metrics.keys() for trainer in (one, other)]
    assert {name for name in names[1] if not name.startswith("lazyscope/")} == set(names[0])
    assert float(one.callback_metrics["mean input"]) == float(other.callback_metrics["mean input"])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_lightning_run_that_is_resumed_is_measured_from_where_it_started(tmp_path):
    lightning, batch = pytest.importorskip("lightning.pytorch"), list(images()[:6])
    _, first, _ = fit(tmp_path / "b", lightning_callback(batch, every=5), epochs=1)
    path = first.checkpoint_callback.best_model_path
    model, _, rest = fit(tmp_path / "c", lightning_callback(batch, every=5), epochs=2, resume=path)
    assert list(rest) == [5, 8]
    lightning.seed_everything(1, verbose=False)
    pairs = zip(model.parameters(), net(lightning).parameters(), strict=True)
    distance = sum(float(((w - w0).detach() ** 2).sum()) for w, w0 in pairs) ** 0.5
    assert float(rest[8]["lazyscope/distance"]) == pytest.approx(distance, rel=1e-5)


def test_a_submodule_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model must name a submodule, got 'body': Net has net"):
        fit(tmp_path, lightning_callback(torch.zeros(4, 1, 8, 8), model="body"))


def test_either_name_of_lightning_does(tmp_path):
    pytest.importorskip("pytorch_lightning")
    code = "import pytorch_lightning, lazyscope.torch as lst; print(lst.LightningCallback.__mro__[1].__module__)"
    done = fresh.python("-c", code, cwd=tmp_path)
    assert done.stdout.startswith("pytorch_lightning."), done.stderr
