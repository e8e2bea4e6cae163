"""A Lightning run that logs how lazily it trains: a small convolutional net, narrow and wide, on handwritten digits.

    pip install 'lazyscope[lightning]' && python examples/lightning_run.py

`lst.LightningCallback` gives the measures to the trainer's loggers, here to a CSV file, beside the losses that the
module logs itself. The net has BatchNorm, whose statistics change as well as the weights: the measures are of weights
alone, at the statistics of the moment, and `buffers` is the part of the change of the outputs that the statistics make.
"""

import csv
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lazyscope.torch as lst

WIDTHS, NUM_STEPS = (8, 64), 180


class Net(LightningModule):
    """Two convolutions with BatchNorm and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, _):
        x, y = batch
        self.log("accuracy", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Images to train on, and every fourth held out."""
    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 4 == 0
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


def run(width: int) -> list[dict[str, float]]:
    """Train one net; returns what was logged, a row a step."""
    seed_everything(0, verbose=False)
    training, held_out = digits()
    logger = CSVLogger(tempfile.mkdtemp())
    laziness = lst.LightningCallback(held_out[:32], every=60, groups={"body.*": "body"})
    trainer = Trainer(
        max_steps=NUM_STEPS, logger=logger, callbacks=[laziness], accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Net(width), DataLoader(training, 64, shuffle=True), DataLoader(held_out, 512))
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def main() -> dict[int, list[dict[str, float]]]:
    """Train both nets; print and return what was logged."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    found = {width: run(width) for width in WIDTHS}
    for width, rows in found.items():
        accuracy = [row["accuracy"] for row in rows if "accuracy" in row][-1]
        print(f"--- width {width}: accuracy {accuracy:.3f} on held-out images")
        for row in rows:
            if "lazyscope/gap" in row:
                gap, j, moved, buffers, body, head = (
                    row[f"lazyscope/{key}"]
                    for key in ("gap", "differential", "movement", "buffers", "differential/body", "differential/head")
                )
                print(
                    f"step {int(row['step']):3}  gap {gap:.3f}  j {j:.3f} (body {body:.3f}, head {head:.3f})"
                    f"  moved {moved:.3f}  buffers {buffers:.3f}"
                )
    return found


if __name__ == "__main__":
    main()
