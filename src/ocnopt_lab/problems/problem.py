"""What a problem is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import nn

from ocnopt_lab.data import LABELS, Augmentation, Recipe
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems.networks import Factory, Sized
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

    def sized(self, width: float, depth: int) -> Problem:
        """The same with `width` times as wide layers and `depth` times as many. Raises LabError where it cannot be."""
        if width == depth == 1:
            return self
        if not isinstance(self.model, Sized):
            raise LabError(f"{self.name} is built at its own width and depth alone; leave out --widths and --depths.")
        return replace(self, model=self.model.sized(width, depth))
