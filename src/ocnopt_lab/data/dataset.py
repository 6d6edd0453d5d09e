"""What every source ends in: inputs as the recipe prepares them, and targets as the task wants them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ocnopt_lab.arrays import Arrays, Inputs, standardised
from ocnopt_lab.tasks import Classification, Task


@dataclass(frozen=True)
class Recipe:
    """What a problem makes of raw arrays: its task, and how the inputs are prepared."""

    task: Task
    inputs: Inputs = standardised


LABELS = Recipe(Classification())


@dataclass(frozen=True)
class Dataset:
    """Prepared inputs (samples, ...), targets (samples, ...), outputs of a network, the task in the data's units."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    outputs: int
    task: Task

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the sample dimension."""
        return tuple(self.x_train.shape[1:])

    def first(self, samples: int | None) -> Dataset:
        """With so many training samples only; None for all of them."""
        return replace(self, x_train=self.x_train[:samples], y_train=self.y_train[:samples])

    def to(self, device: torch.device) -> Dataset:
        """With all tensors on that device."""
        names = "x_train", "y_train", "x_test", "y_test"
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def build(name: str, arrays: Arrays, recipe: Recipe = LABELS) -> Dataset:
    """Prepares inputs, then targets."""
    x_train, x_test = recipe.inputs(arrays.x_train, arrays.x_test)
    targets = recipe.task.targets(replace(arrays, x_train=x_train, x_test=x_test))
    tensors = torch.from_numpy(x_train), targets.train, torch.from_numpy(x_test), targets.test
    return Dataset(name, *tensors, targets.outputs, targets.task)
