"""What a task has to say, and how its scores are told."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ocnopt_lab.arrays import Arrays

Scores = dict[str, float]
"""Name → value over a set; `loss` is always there, the rest depends on the task."""


@dataclass(frozen=True)
class Measure:
    """The score of the test set that runs are compared by: its key, its words, its format, and `min` or `max`."""

    key: str
    label: str
    format: str
    best: Callable[[float, float], float]

    @property
    def column(self) -> str:
        """Its key in rows of metrics and in the summary."""
        return f"test_{self.key}"

    @property
    def worst(self) -> float:
        """The value of a run that has none that is finite."""
        return -math.inf if self.best is max else math.inf

    def text(self, value: float | None) -> str:
        """A value for a table; None stands for a value that is not finite."""
        return "not finite" if value is None or not math.isfinite(value) else format(value, self.format)


@dataclass(frozen=True)
class Targets:
    """Targets of both sets as tensors, outputs of a network that predicts them, and the task in their units."""

    train: Tensor
    test: Tensor
    outputs: int
    task: Task


class Task(ABC):
    """What is learned. One object serves all data sets, the one in `Targets` may know the units of its data."""

    name: ClassVar[str]
    loss_label: ClassVar[str]
    measure: ClassVar[Measure]

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the samples (B, ...), one number: what is minimised."""

    @abstractmethod
    def counted(self, output: Tensor, target: Tensor) -> float:
        """Sum over the samples (B, ...) of what the measure averages."""

    @abstractmethod
    def scores(self, loss: float, mean: float) -> Scores:
        """The scores of a set with this mean loss and this mean of what was counted."""

    @abstractmethod
    def targets(self, arrays: Arrays) -> Targets:
        """Targets of arrays whose inputs are prepared already."""

    @abstractmethod
    def check(self, path: Path, arrays: Arrays) -> None:
        """Raises a sentence about `path` where its targets are not of this task's kind."""
