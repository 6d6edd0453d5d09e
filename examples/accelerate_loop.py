"""Handwritten digits with accelerate: ``python examples/accelerate_loop.py``, or ``accelerate launch`` in its place."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ocnopt import OCNOpt


def digits() -> tuple[TensorDataset, TensorDataset]:
    """1,437 images to train on and 360 to test with, 8x8 each."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=360, random_state=0)
    x, x_test, y, y_test = (torch.from_numpy(part) for part in parts)
    return TensorDataset(x.float(), y), TensorDataset(x_test.float(), y_test)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="no", help="or bf16")
    options = parser.parse_args(arguments)
    accelerator = Accelerator(cpu=True, mixed_precision=options.precision, gradient_accumulation_steps=2)
    set_seed(0)
    training, testing = digits()
    model, loader = network(), DataLoader(training, batch_size=32, shuffle=True)
    optimizer = OCNOpt(model)  # of the model, before prepare wraps it
    scheduler = CosineAnnealingLR(optimizer, options.epochs * len(loader) // 2)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for _ in range(options.epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    told = optimizer.optimizer.diagnostics()
    x, y = testing.tensors
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    accelerator.print(f"feedback on {told['parameters with feedback']} of {told['parameters']} parameters")
    accelerator.print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
