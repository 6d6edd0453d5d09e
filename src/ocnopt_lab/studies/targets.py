"""When a run first reached a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ocnopt_lab.runs import folder
from ocnopt_lab.studies.runner import Run


@dataclass(frozen=True)
class Reached:
    """Steps done and seconds spent until then; infinite where it never was."""

    steps: float = math.inf
    seconds: float = math.inf


def reached(run: Run, target: float) -> Reached:
    """The first time that the loss was at most the target.

    Seen are the mean loss of each group of steps and, after each epoch, the loss over the training set.
    """
    found = (Reached(step, seconds) for step, seconds, loss in _losses(run) if loss is not None and loss <= target)
    return next(found, Reached())


def _losses(run: Run) -> Iterator[tuple[int, float, float | None]]:
    for row in folder.read_rows(run.path / folder.METRICS):
        yield row["step"], row["seconds"], row["loss" if row["kind"] == "steps" else "train_loss"]
