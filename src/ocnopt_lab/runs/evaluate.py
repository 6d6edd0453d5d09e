"""Loss and accuracy over a whole data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Small enough that an evaluation needs less memory than a training step at the usual batch sizes.
_CHUNK = 128


@dataclass(frozen=True)
class Score:
    """Mean loss per sample and fraction of correct predictions."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Score:
    """Scores `model` on inputs x (samples, ...) and labels y (samples,), in evaluation mode."""
    was_training = model.training
    model.eval()
    total, correct = 0.0, 0
    for inputs, labels in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        output = model(inputs)
        total += loss(output, labels).item() * len(labels)
        correct += int((output.argmax(1) == labels).sum())
    model.train(was_training)
    return Score(total / len(y), correct / len(y))
