"""Handwritten digits with Lightning: ``python examples/lightning_module.py --precision bf16-mixed``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ocnopt import OCNOpt


class Digits(lightning.LightningDataModule):
    """1,437 images to train on and 360 to test with, 8x8 each."""

    def setup(self, stage: str) -> None:
        x, y = load_digits(return_X_y=True)
        split = train_test_split(x / 16, y, test_size=360, random_state=0)
        x, x_test, y, y_test = (torch.from_numpy(part) for part in split)
        self.training = TensorDataset(x.float(), y)
        self.testing = TensorDataset(x_test.float(), y_test)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.training, batch_size=64, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.testing, batch_size=360)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        self.log("loss", loss)
        return loss

    def test_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("test accuracy", (self.network(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        # The network, not self: OCNOpt listens to the module that training_step calls.
        optimizer = OCNOpt(self.network)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = {"scheduler": CosineAnnealingLR(optimizer, steps), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main(arguments: Sequence[str] | None = None) -> lightning.Trainer:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="32-true", help="or bf16-mixed, bf16-true")
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=options.epochs, precision=options.precision, gradient_clip_val=1.0, **quiet
    )
    model, data = Classifier(), Digits()
    trainer.fit(model, data)
    told = trainer.optimizers[0].diagnostics()
    print(f"feedback on {told['parameters with feedback']} of {told['parameters']} parameters")
    trainer.test(model, data)
    return trainer


if __name__ == "__main__":
    main()
