"""What a problem is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from ocnopt_lab.data import LABELS, Augmentation, Recipe
from ocnopt_lab.problems.networks import Factory
from ocnopt_lab.tasks import Task


class Picture(Protocol):
    """What a run draws of its trained model."""

    def draw(self, folder: Path, title: str, model: nn.Module) -> None:
        """Writes a file into the run folder."""
        ...


@dataclass(frozen=True)
class Problem:
    """What is trained on what; `model` takes the shape of one input and the number of outputs.

    `train_samples`: how many are trained on where nothing is said, None for all.
    """

    name: str
    description: str
    data: str
    model: Factory
    batch_size: int
    epochs: int
    recipe: Recipe = LABELS
    train_samples: int | None = None
    pictures: tuple[Picture, ...] = ()
    augmentation: Augmentation | None = None

    @property
    def task(self) -> Task:
        """What is learned, before the units of the data are known."""
        return self.recipe.task
