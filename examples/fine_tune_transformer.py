"""Does fine-tuning a transformer stay near its linearisation? LoRA and all weights, in a `transformers.Trainer`.

    pip install 'lazyscope[transformers]' peft && python examples/fine_tune_transformer.py

A small GPT-2 learns to continue eight of the data set descriptions that scikit-learn ships, byte by byte, and is then
fine-tuned to tell which of six others a passage of 64 bytes is from: once with LoRA (Hu et al. 2022) and once with all
weights. `lst.Callback` puts into the trainer's own log how far the model is from its linearisation at the weights it
started from, on 32 held-out passages. The linearisation itself is trained as well, by the same trainer.
"""

import tempfile
import warnings
from importlib.resources import files

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

import lazyscope.torch as lst

LENGTH = 64  # bytes of a passage
TOLD = ("breast_cancer", "california_housing", "diabetes", "digits", "kddcup99", "twenty_newsgroups")


def texts() -> dict[str, np.ndarray]:
    """The descriptions, by name, as bytes."""
    found = sorted(files("sklearn.datasets.descr").iterdir(), key=lambda file: file.name)
    return {f.name[:-4]: np.frombuffer(f.read_bytes(), np.uint8) for f in found if f.name.endswith(".rst")}


def passages(text: np.ndarray, stride: int) -> torch.Tensor:
    """Windows of a text, one every `stride` bytes."""
    windows = np.lib.stride_tricks.sliding_window_view(text, LENGTH)[::stride]
    return torch.tensor(windows.astype(np.int64) % 128)  # a few bytes are no ASCII


def labelled(held_out: bool) -> list[dict[str, torch.Tensor]]:
    """Passages and which description they are from: of the first three quarters of each, or of the last."""
    rows = []
    for label, name in enumerate(TOLD):
        text = texts()[name]
        cut = 3 * len(text) // 4
        part = passages(text[cut:] if held_out else text[:cut], 16)
        rows += [{"input_ids": row, "labels": torch.tensor(label)} for row in part]
    return rows


def train(model, rows, num_steps, learning_rate, *callbacks) -> Trainer:
    """A plain run of AdamW; returns the trainer."""
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=num_steps, learning_rate=learning_rate, seed=0, use_cpu=True,
        per_device_train_batch_size=16, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)  # it prints all that is logged
    trainer.train()
    return trainer


def pretrained(config: GPT2Config) -> GPT2LMHeadModel:
    """After learning to continue the other descriptions."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    rows = [row for name, text in texts().items() if name not in TOLD for row in passages(text, 16)]
    train(model, [{"input_ids": row, "labels": row} for row in rows], 200, 2e-3)
    return model


def classifier(base: GPT2LMHeadModel) -> GPT2ForSequenceClassification:
    """The same blocks with a new head."""
    torch.manual_seed(1)
    model = GPT2ForSequenceClassification(base.config)
    model.transformer.load_state_dict(base.transformer.state_dict())
    return model


def logits(model, rows) -> torch.Tensor:
    """What a model says of passages."""
    with torch.no_grad():
        return model.eval()(input_ids=torch.stack([row["input_ids"] for row in rows])).logits


def accuracy(outputs, rows) -> float:
    """The share of passages that are told right."""
    return float((outputs.argmax(-1) == torch.stack([row["labels"] for row in rows])).float().mean())


def main() -> dict[str, dict[str, float]]:
    """Fine-tune in both ways; print and return what the callback logged last, and what comes out."""
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    config = GPT2Config(
        vocab_size=128, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, num_labels=len(TOLD),
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    base, rows, held_out = pretrained(config), labelled(False), labelled(True)
    batch = torch.utils.data.default_collate(held_out[:: len(held_out) // 32][:32])
    lora = LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], task_type="SEQ_CLS", fan_in_fan_out=True)
    ways = {
        "LoRA": (get_peft_model(classifier(base), lora), 5e-3),
        "all weights": (classifier(base), 5e-4),
    }
    found = {}
    for name, (model, learning_rate) in ways.items():
        linear = lst.linearize(model)
        start = logits(model, held_out)
        trainer = train(model, rows, 80, learning_rate, lst.Callback(batch, every=40))
        train(linear, rows, 80, learning_rate)
        end, straight = logits(model, held_out), logits(linear, held_out)
        logged = [row for row in trainer.state.log_history if "lazyscope/gap" in row]
        found[name] = logged[-1] | {
            "before": accuracy(start, held_out),
            "accuracy": accuracy(end, held_out),
            "linearised": accuracy(straight, held_out),
            "trained gap": float((end - straight).norm() / (end - start).norm()),
        }
        report(name, logged, found[name])
    return found


def report(name, logged, found) -> None:
    """Print one way to fine-tune."""
    print(f"--- {name}: accuracy {found['before']:.2f} before, {found['accuracy']:.2f} after")
    for row in logged:
        gap, j, moved = (row[f"lazyscope/{key}"] for key in ("gap", "differential", "movement"))
        print(f"step {row['step']:3}  gap {gap:.3f}  j {j:.3f}  moved {moved:.3f}")
    groups = {key[23:]: value for key, value in found.items() if key.startswith("lazyscope/differential/")}
    most = max(groups, key=lambda group: groups[group])
    print(f"changed most: {most}, by {groups[most]:.1f}")
    print(f"its linearisation, trained alike: accuracy {found['linearised']:.2f}, g {found['trained gap']:.2f}\n")


if __name__ == "__main__":
    main()
