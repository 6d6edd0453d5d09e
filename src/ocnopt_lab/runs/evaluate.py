"""The scores of a task over a whole data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocnopt_lab.tasks import Task
from ocnopt_lab.tasks.base import Scores

# Small enough that an evaluation needs less memory than a training step at the usual batch sizes.
_CHUNK = 128


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, x: Tensor, y: Tensor) -> Scores:
    """Scores `model` on inputs x (samples, ...) and targets y (samples, ...), in evaluation mode."""
    was_training = model.training
    model.eval()
    total, counted = 0.0, 0.0
    for inputs, targets in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        output = model(inputs)
        total += task.loss(output, targets).item() * len(inputs)
        counted += task.counted(output, targets)
    model.train(was_training)
    return task.scores(total / len(x), counted / len(x))
